"""Fold a batch normalization, fused or spelled out, into the layer after it.

Given:  L(BatchNormalization(x))   or   L(x * c),  L(x / c),  L(x + c),  L(x - c),  L(c - x),
        L(-x)
        with L a Conv, ConvTranspose, Gemm or MatMul, and c one constant a channel or one for all
Result: L'(x), with, for BatchNormalization(x) = a*x + b in each channel,

    W' = W * a, along W's input channels         B' = B + sum of W * b over all but the outputs

computed in float64 and rounded once.

A layer pads with 0 after the batch norm, where L' would pad before it: with a shift b and a
padding the fold is refused. So it is for a ConvTranspose with a shift, whose taps overlap unevenly
at the edges, for weights that are shared, where somebody else reads the step's result, where two
sums round (x + 2^23 - 2^23), and where the weights' type can't hold the product. The half of a
GELU stays too, x (1 + erf(x / sqrt 2)) / 2: runtimes have one kernel for all of it.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.graph.operators import WEIGHTED, is_op
from onnxgraft.graph.walk import detach
from onnxgraft.stages.surgery.passes.fold._affine import (
    Vector,
    affine_of,
    channels_out,
    is_affine,
    layer_weights,
    put_weights,
    rounds,
    weights_of,
)
from onnxgraft.stages.surgery.running.rewrite import Context, Result, constant


def apply(graph: gs.Graph, context: Context) -> Result:
    """Fold every affine step before a layer into it."""
    result = Result()
    for node in graph.nodes:
        if not node.outputs or not is_affine(node):
            continue
        position = _operand(node)
        shape = None if position is None else context.shapes.shape(node.inputs[position])
        users = node.outputs[0].outputs
        if position is None or shape is None or not users or not _layer(users[0], node):
            continue
        layer = context.single_consumer(node.outputs[0])
        if layer is None:
            result.refuse(node, "what it computes has another user than the layer after it")
            continue
        if _halves_gelu(node, position, context):
            result.refuse(node, "it is a part of a GELU, which runtimes compute in one kernel")
            continue
        if rounds(node, context):
            result.refuse(node, "with the step beside it, it rounds")
            continue
        rank, axis, channels = len(shape), *_channels_in(layer, len(shape))
        if context.shapes.shape(node.outputs[0]) != shape:
            result.refuse(node, "the constant is not one value a channel")
            continue
        affine = affine_of(node, position, (rank, axis, channels))
        if isinstance(affine, str):
            result.refuse(node, affine.replace("layer's output", "operand"))
            continue
        reason = _wrong(layer, affine[1], rank, context)
        if reason is not None:
            result.refuse(node, reason)
            continue
        reason = _fold(layer, *affine, context)
        if reason is not None:
            result.refuse(node, reason)
            continue
        layer.inputs[0] = node.inputs[position]
        detach(node)
        result.did(node, f"folded into {layer.name!r}, which follows it")
    return result


def _operand(node: gs.Node) -> int | None:
    """Return which input the step works on; None where it is no step by a constant."""
    if is_op(node, "BatchNormalization", "Neg"):
        return 0
    fixed = [constant(tensor) is not None for tensor in node.inputs]
    return fixed.index(False) if fixed in ([True, False], [False, True]) else None


def _halves_gelu(node: gs.Node, position: int, context: Context) -> bool:
    """Tell whether a step is the last one of x (1 + erf(...)) / 2, or of that with a tanh."""
    producer = context.producer
    product = producer(node.inputs[position])
    return (
        is_op(node, "Mul", "Div")
        and is_op(product, "Mul")
        and any(
            is_op(term, "Add") and any(is_op(producer(part), "Erf", "Tanh") for part in term.inputs)
            for term in map(producer, product.inputs)
        )
    )


def _layer(node: gs.Node, before: gs.Node) -> bool:
    return (
        is_op(node, *WEIGHTED)
        and node.inputs[0] is before.outputs[0]
        and not node.attrs.get("transA", 0)
        and layer_weights(node) is not None
    )


def _channels_in(layer: gs.Node, rank: int) -> tuple[int, int]:
    """Return the channel axis of the layer's operand, and the number of channels."""
    shape = layer.inputs[1].shape
    if is_op(layer, "Gemm", "MatMul"):
        return rank - 1, int(shape[1] if layer.attrs.get("transB", 0) else shape[0])
    return 1, int(shape[0] if is_op(layer, "ConvTranspose") else shape[1] * _groups(layer))


def _groups(layer: gs.Node) -> int:
    return int(layer.attrs.get("group", 1))


def _wrong(layer: gs.Node, b: Vector, rank: int, context: Context) -> str | None:
    """Return why a fold into the layer would be wrong, or None."""
    if context.is_shared(layer.inputs[1]):
        return f"{layer.inputs[1].name!r} of {layer.name!r} is shared with another user"
    if not b.any():
        return None
    if is_op(layer, "ConvTranspose"):
        return f"{layer.name!r} adds up more taps in the middle than at the edges"
    padded = any(layer.attrs.get("pads", ())) or layer.attrs.get("auto_pad", "NOTSET") in (
        "SAME_LOWER", "SAME_UPPER",
    )  # fmt: skip
    if padded:
        return f"{layer.name!r} pads with 0 what the shift has moved"
    if is_op(layer, "MatMul") and rank != 2:
        return f"{layer.name!r} has no bias to take the shift"
    bias = layer.inputs[2].values if len(layer.inputs) > 2 else np.zeros(1)
    channels = channels_out(layer)
    if bias.size > 1 and bias.shape not in ((channels,), (1, channels)):
        return f"the bias of {layer.name!r} is not one value a channel"
    return None


def _fold(layer: gs.Node, a: Vector, b: Vector, context: Context) -> str | None:
    w = weights_of(layer)
    if is_op(layer, "Gemm", "MatMul"):
        turned = bool(layer.attrs.get("transB", 0))
        # The rows of W, or its columns where it is transposed.
        matrix = w.T if turned else w
        shift = b @ matrix
        w = (matrix * a[:, np.newaxis]).T if turned else matrix * a[:, np.newaxis]
    elif is_op(layer, "ConvTranspose"):
        shift = np.zeros(channels_out(layer))
        w = w * a.reshape(-1, *[1] * (w.ndim - 1))
    else:
        group = _groups(layer)
        # (group, Cout/group, Cin/group, taps)
        split = w.reshape(group, w.shape[0] // group, w.shape[1], -1)
        shift = (split * b.reshape(group, 1, -1, 1)).sum(axis=(2, 3)).ravel()
        w = (split * a.reshape(group, 1, -1, 1)).reshape(w.shape)
    return put_weights(layer, w, np.ones(channels_out(layer)), shift, context)
