"""Fold a batch normalization, fused or spelled out, into the layer before it.

Given:  BatchNormalization(L(x))   or   L(x) * c,  L(x) / c,  L(x) + c,  L(x) - c,  c - L(x)
        with L a Conv, ConvTranspose or Gemm, and c one constant a channel or one for all
Result: L'(x), with

    a = gamma / sqrt(var + epsilon)     b = beta - mean * a        (a and b of the others likewise)
    W' = W * a, along W's output channels        B' = B * a + b

computed in float64 and rounded once. Source of the first line: Ioffe and Szegedy, "Batch
Normalization" (2015), algorithm 2.

The layer's own output then no longer exists, so the fold is refused where somebody else wants it,
and where the weights are shared with another layer.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnxgraft.runtime import Array
from onnxgraft.surgery._rewrite import Context, Result, constant, free_name, single_consumer

LAYERS = frozenset({"Conv", "ConvTranspose", "Gemm"})
_ARITHMETIC = frozenset({"Add", "Div", "Mul", "Sub"})

Affine = tuple[NDArray[np.float64], NDArray[np.float64]]


def apply(graph: gs.Graph, context: Context) -> Result:
    """Fold every affine step after a layer into it."""
    result = Result()
    for node in graph.nodes:
        if node.op not in _ARITHMETIC | {"BatchNormalization"} or not node.outputs:
            continue
        found = _layer(node)
        if found is None:
            continue
        layer, position = found
        if node.op in _ARITHMETIC and constant(node.inputs[1 - position]) is None:
            continue  # a residual addition, a gate: no part of a batch norm
        affine = _affine(node, position, layer)
        if isinstance(affine, str):
            result.refuse(node, affine)
            continue
        if single_consumer(graph, layer.outputs[0]) is None:
            result.refuse(node, f"the output of {layer.name!r} has another user")
            continue
        shared = [t.name for t in layer.inputs[1:] if len(t.outputs) > 1]
        if shared:
            result.refuse(node, f"{shared[0]!r} of {layer.name!r} is shared with another node")
            continue
        bias = layer.inputs[2].values if len(layer.inputs) > 2 else None
        channels = len(affine[0])
        if bias is not None and bias.size > 1 and bias.shape not in ((channels,), (1, channels)):
            result.refuse(node, f"the bias of {layer.name!r} is not one value a channel")
            continue
        _fold(graph, layer, *affine)
        layer.outputs = [node.outputs[0]]
        node.outputs.clear()
        node.inputs.clear()
        result.did(node, f"folded into {layer.name!r}")
    return result


def _layer(node: gs.Node) -> tuple[gs.Node, int] | None:
    """Return the layer whose output ``node`` consumes, and as which input; None: it does not."""
    operands = node.inputs[:1] if node.op == "BatchNormalization" else node.inputs
    for position, tensor in enumerate(operands):
        producer = tensor.inputs[0] if tensor.inputs else None
        if producer is not None and producer.op in LAYERS:
            weights = [constant(t) for t in producer.inputs[1:]]
            if all(value is not None for value in weights):
                return producer, position
    return None


def _affine(node: gs.Node, position: int, layer: gs.Node) -> Affine | str:
    """Return (a, b), each (channels,), such that the node computes a*x + b; or why not."""
    channels = _channels(layer)
    if node.op == "BatchNormalization":
        if node.attrs.get("training_mode", 0) or len(node.outputs) > 1:
            return "it runs in training mode: it uses the batch's own statistics"
        terms = [constant(tensor) for tensor in node.inputs[1:]]
        if any(term is None for term in terms):
            return "its parameters are not constants"
        gamma, beta, mean, var = (np.asarray(term, np.float64) for term in terms)
        a = gamma / np.sqrt(var + node.attrs.get("epsilon", 1e-5))
        return a, beta - mean * a
    c = _per_channel(np.asarray(constant(node.inputs[1 - position])), layer, channels)
    if c is None:
        return "the constant is not one value a channel"
    one, zero = np.ones(channels), np.zeros(channels)
    if node.op == "Mul":
        return c, zero
    if node.op == "Add":
        return one, c
    if node.op == "Sub":
        return (one, -c) if position == 0 else (-one, c)
    if position == 1:
        return "the layer's output is the divisor"
    return (1 / c, zero) if c.all() else "a divisor is zero"


def _channels(layer: gs.Node) -> int:
    shape = layer.inputs[1].shape
    if layer.op == "ConvTranspose":
        return int(shape[1] * layer.attrs.get("group", 1))
    if layer.op == "Gemm" and not layer.attrs.get("transB", 0):
        return int(shape[1])
    return int(shape[0])


def _per_channel(value: Array, layer: gs.Node, channels: int) -> NDArray[np.float64] | None:
    """Return the constant as (channels,) if it broadcasts along the layer's channel axis only."""
    rank = 2 if layer.op == "Gemm" else len(layer.inputs[1].shape)
    if value.size == 1 and value.ndim <= rank:
        return np.full(channels, float(value.reshape(())), np.float64)
    full = (1,) * (rank - value.ndim) + value.shape
    if full != tuple(channels if axis == 1 else 1 for axis in range(rank)):
        return None
    return np.asarray(value, np.float64).ravel()


def _fold(graph: gs.Graph, layer: gs.Node, a: NDArray[np.float64], b: NDArray[np.float64]) -> None:
    weight = layer.inputs[1]
    dtype = weight.values.dtype
    w = np.asarray(weight.values, np.float64)
    if layer.op == "Conv":
        w = w * a.reshape(-1, *[1] * (w.ndim - 1))
    elif layer.op == "ConvTranspose":
        # (Cin, Cout/group, ...): the rows of group g make the output channels of group g.
        group = layer.attrs.get("group", 1)
        split = w.reshape(group, w.shape[0] // group, *w.shape[1:])
        w = (split * a.reshape(group, 1, -1, *[1] * (w.ndim - 2))).reshape(w.shape)
    else:
        w = w * layer.attrs.pop("alpha", 1.0)
        w = w * (a[:, np.newaxis] if layer.attrs.get("transB", 0) else a)
    bias: Any = layer.inputs[2].values if len(layer.inputs) > 2 else 0.0
    factor = layer.attrs.pop("beta", 1.0) if layer.op == "Gemm" else 1.0
    shift = np.broadcast_to(np.asarray(bias, np.float64).reshape(-1) * factor, a.shape) * a + b
    biased = len(layer.inputs) > 2
    name = layer.inputs[2].name if biased else free_name(graph, f"{layer.name}/bias")
    layer.inputs = [
        layer.inputs[0],
        gs.Constant(weight.name, np.ascontiguousarray(w.astype(dtype))),
        gs.Constant(name, shift.astype(dtype)),
    ]
