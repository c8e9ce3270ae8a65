"""Fold a batch normalization, fused or spelled out, into the layer before it.

Given:  BatchNormalization(L(x))   or   L(x) * c,  L(x) / c,  L(x) + c,  L(x) - c,  c - L(x),
        -L(x)
        with L a Conv, ConvTranspose, Gemm or MatMul, and c one constant a channel or one for all
Result: L'(x), with

    a = gamma / sqrt(var + epsilon)     b = beta - mean * a        (a and b of the others likewise)
    W' = W * a, along W's output channels        B' = B * a + b

computed in float64 and rounded once. Source of the first line: Ioffe and Szegedy, "Batch
Normalization" (2015), algorithm 2.

The layer's own output then no longer exists, so the fold is refused where somebody else wants it,
where the weights are shared with another layer, where two sums round (x + 2^23 - 2^23), and where
the weights' type can't hold the product: in float16, below 6e-5 it has fewer digits. A MatMul has
no bias: it takes a factor, and what shifts it stays (`fuse_gemm` takes that where the operand has
two axes).
"""

from __future__ import annotations

import onnx_graphsurgeon as gs

from onnxgraft.graph.operators import WEIGHTED, is_op
from onnxgraft.graph.walk import detach
from onnxgraft.stages.surgery.passes.fold._affine import (
    affine_of,
    channels_out,
    is_affine,
    layer_weights,
    put_weights,
    rounds,
    scaled_out,
)
from onnxgraft.stages.surgery.running.rewrite import Context, Result, constant


def apply(graph: gs.Graph, context: Context) -> Result:
    """Fold every affine step after a layer into it."""
    result = Result()
    for node in graph.nodes:
        if not node.outputs or not is_affine(node):
            continue
        found = _layer(node, context)
        if found is None:
            continue
        layer, position = found
        alone = is_op(node, "BatchNormalization", "Neg")
        if not alone and constant(node.inputs[1 - position]) is None:
            continue  # a residual addition, a gate: no part of a batch norm
        if rounds(node, context):
            result.refuse(node, "with the step beside it, it rounds")
            continue
        rank = _rank(layer, context)
        if rank is None:
            continue
        channels = channels_out(layer)
        axis = rank - 1 if is_op(layer, "MatMul") else 1
        affine = affine_of(node, position, (rank, axis, channels))
        if isinstance(affine, str):
            result.refuse(node, affine)
            continue
        if is_op(layer, "MatMul") and affine[1].any():
            continue
        if context.single_consumer(layer.outputs[0]) is None:
            result.refuse(node, f"the output of {layer.name!r} has another user")
            continue
        weights = layer.inputs[1]
        if context.is_shared(weights):
            result.refuse(node, f"{weights.name!r} of {layer.name!r} is shared with another user")
            continue
        bias = layer.inputs[2].values if len(layer.inputs) > 2 else None
        if bias is not None and bias.size > 1 and bias.shape not in ((channels,), (1, channels)):
            result.refuse(node, f"the bias of {layer.name!r} is not one value a channel")
            continue
        reason = put_weights(layer, scaled_out(layer, affine[0]), *affine, context)
        if reason is not None:
            result.refuse(node, reason)
            continue
        output = node.outputs[0]
        detach(node)
        layer.outputs = [output]
        result.did(node, f"folded into {layer.name!r}")
    return result


def _layer(node: gs.Node, context: Context) -> tuple[gs.Node, int] | None:
    """Return the layer whose output ``node`` consumes, and as which input; None: it does not."""
    operands = node.inputs[:1] if is_op(node, "BatchNormalization") else node.inputs
    for position, tensor in enumerate(operands):
        producer = context.producer(tensor)
        if is_op(producer, *WEIGHTED) and layer_weights(producer) is not None:
            return producer, position
    return None


def _rank(layer: gs.Node, context: Context) -> int | None:
    if not is_op(layer, "MatMul"):
        return 2 if is_op(layer, "Gemm") else len(layer.inputs[1].shape)
    shape = context.shapes.shape(layer.inputs[0])
    return None if shape is None or len(shape) < 2 else len(shape)
