"""The arithmetic of folds: what a step does to a channel, and how weights take it over."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnxgraft.graph.operators import is_op, set_op
from onnxgraft.graph.tensors import Array
from onnxgraft.stages.surgery.running.rewrite import Context, constant

__all__ = [
    "Affine",
    "Vector",
    "affine_of",
    "channels_out",
    "is_affine",
    "layer_weights",
    "loses_digits",
    "per_channel",
    "put_weights",
    "rounds",
    "scaled_out",
    "weights_of",
]

_ARITHMETIC = frozenset({"Add", "Div", "Mul", "Sub"})
# What the first of two sums may have rounded off: beyond, it may be what is wanted.
_LOST = 2.0**-14

Vector = NDArray[np.float64]
# (a, b), each (channels,): x becomes a*x + b.
Affine = tuple[Vector, Vector]


def is_affine(node: gs.Node) -> bool:
    """Tell whether a node may be a batch norm, or a step of one that is spelled out."""
    return is_op(node, *_ARITHMETIC, "BatchNormalization", "Neg")


def rounds(node: gs.Node, context: Context) -> bool:
    """Tell whether a sum and the one before or after it round, as x + 2^23 - 2^23 does.

    So do two sums by constants, about as large as each other, of which the first may round off more
    than 2^-14.
    """
    c = _summand(node)
    if c is None:
        return False
    before = [context.producer(tensor) for tensor in node.inputs]
    others = [_summand(other) for other in (*before, *node.outputs[0].outputs) if other is not None]
    return any(_cancel(c, d) for d in others if d is not None)


def _summand(node: gs.Node) -> Array | None:
    """Return the constant that a node adds or takes away, if it is of a floating-point type."""
    if not is_op(node, "Add", "Sub"):
        return None
    found = [value for value in map(constant, node.inputs) if value is not None]
    return found[0] if len(found) == 1 and found[0].dtype.kind == "f" else None


def _cancel(c: Array, d: Array) -> bool:
    a, b = np.abs(c.astype(np.float64)), np.abs(d.astype(np.float64))
    larger = np.maximum(a, b)
    return bool(((2 * np.abs(a - b) < larger) & (larger * np.finfo(c.dtype).eps > _LOST)).any())


def affine_of(node: gs.Node, position: int, layout: tuple[int, int, int]) -> Affine | str:
    """Return (a, b) such that ``node`` computes a*x + b of its input ``position``; or why not.

    Args:
        node: A BatchNormalization, Neg, Add, Sub, Mul or Div; the other operand is a constant.
        position: Which input x is.
        layout: Rank, channel axis and number of channels of x.
    """
    if is_op(node, "BatchNormalization"):
        if node.attrs.get("training_mode", 0) or len(node.outputs) > 1:
            return "it runs in training mode: it uses the batch's own statistics"
        if layout[1] != 1:
            return "its channels are not the layer's"
        terms = [constant(tensor) for tensor in node.inputs[1:]]
        if any(term is None for term in terms):
            return "its parameters are not constants"
        gamma, beta, mean, var = (np.asarray(term, np.float64) for term in terms)
        a = gamma / np.sqrt(var + node.attrs.get("epsilon", 1e-5))
        return a, beta - mean * a
    if is_op(node, "Neg"):
        return np.full(layout[2], -1.0), np.zeros(layout[2])
    value = np.asarray(constant(node.inputs[1 - position]))
    if value.dtype.kind != "f":
        return "the constant is not of a floating-point type"
    c = per_channel(value, *layout)
    if c is None:
        return "the constant is not one value a channel"
    one, zero = np.ones_like(c), np.zeros_like(c)
    if is_op(node, "Mul"):
        return c, zero
    if is_op(node, "Add"):
        return one, c
    if is_op(node, "Sub"):
        return (one, -c) if position == 0 else (-one, c)
    if position == 1:
        return "the layer's output is the divisor"
    return (1 / c, zero) if c.all() else "a divisor is zero"


def per_channel(value: Array, rank: int, axis: int, channels: int) -> Vector | None:
    """Return a constant as (channels,) if it broadcasts along the channel axis only."""
    if value.size == 1 and value.ndim <= rank:
        return np.full(channels, float(value.reshape(())), np.float64)
    full = (1,) * (rank - value.ndim) + value.shape
    if full != tuple(channels if at == axis else 1 for at in range(rank)):
        return None
    return np.asarray(value, np.float64).ravel()


def layer_weights(layer: gs.Node) -> Array | None:
    """Return the weights of a layer all of whose parameters are constants, or None."""
    parameters = [constant(tensor) for tensor in layer.inputs[1:]]
    if not parameters or any(value is None for value in parameters):
        return None
    weight = parameters[0]
    assert weight is not None
    if is_op(layer, "MatMul") and weight.ndim != 2:
        return None
    return weight if weight.dtype.kind == "f" else None


def channels_out(layer: gs.Node) -> int:
    """Return the number of output channels."""
    shape = layer.inputs[1].shape
    if is_op(layer, "ConvTranspose"):
        return int(shape[1] * layer.attrs.get("group", 1))
    if is_op(layer, "MatMul") or (is_op(layer, "Gemm") and not layer.attrs.get("transB", 0)):
        return int(shape[1])
    return int(shape[0])


def weights_of(layer: gs.Node) -> Vector:
    """Return a layer's weights in float64; a Gemm's alpha goes into them."""
    w: Vector = np.asarray(layer.inputs[1].values, np.float64) * layer.attrs.get("alpha", 1.0)
    return w


def scaled_out(layer: gs.Node, a: Vector) -> Vector:
    """Return the weights times ``a`` along their output channels."""
    w = weights_of(layer)
    if is_op(layer, "Conv"):
        return w * a.reshape(-1, *[1] * (w.ndim - 1))
    if is_op(layer, "ConvTranspose"):
        # (Cin, Cout/group, ...): the rows of group g make the output channels of group g.
        group = layer.attrs.get("group", 1)
        split = w.reshape(group, w.shape[0] // group, *w.shape[1:])
        return (split * a.reshape(group, 1, -1, *[1] * (w.ndim - 2))).reshape(w.shape)
    return w * (a[:, np.newaxis] if layer.attrs.get("transB", 0) else a)


def put_weights(layer: gs.Node, w: Vector, a: Vector, b: Vector, context: Context) -> str | None:
    """Give a layer weights that have its alpha in them, and the bias ``B * a + b``; or say why not.

    A MatMul that gets a bias becomes a Gemm.

    Args:
        layer: A layer of constant parameters, whose weights nobody shares.
        w: The weights, shaped like those it has.
        a: What the bias it has is multiplied by, (output channels,).
        b: What is added to its output, (output channels,).
        context: Makes the constant of a bias that it did not have, or has with others.

    Returns:
        None, or why the weights' type can't hold the result; the layer is then as it was.
    """
    weight = layer.inputs[1]
    kind = weight.values.dtype
    biased = len(layer.inputs) > 2
    bias: Any = layer.inputs[2].values if biased else 0.0
    beta = layer.attrs.get("beta", 1.0) if biased else 1.0
    shift = np.broadcast_to(np.asarray(bias, np.float64).reshape(-1) * beta, a.shape) * a + b
    with np.errstate(over="ignore", under="ignore"):
        values, shifts = np.ascontiguousarray(w.astype(kind)), shift.astype(kind)
    if loses_digits(values, w, weight.values) or not np.isfinite(shifts).all():
        return f"{kind} does not hold the weights that {layer.name!r} would have"
    layer.inputs[1] = gs.Constant(weight.name, values)
    layer.attrs.pop("alpha", None)
    layer.attrs.pop("beta", None)
    if biased and context.is_shared(layer.inputs[2]):
        layer.inputs[2] = context.constant(f"{layer.name}/bias", shifts)
    elif biased:
        layer.inputs[2] = gs.Constant(layer.inputs[2].name, shifts)
    elif b.any():
        if is_op(layer, "MatMul"):
            set_op(layer, "Gemm")
        layer.inputs.append(context.constant(f"{layer.name}/bias", shifts))
    return None


def loses_digits(rounded: Array, w: Vector, before: Array) -> bool:
    """Tell whether weights, rounded to their type, lose digits that they had before.

    So do those that become infinite, 0 or subnormal; in float16 that begins at 6e-5. What counts is
    the largest weight of each slice of the first two axes (the channels), so that a small weight
    beside large ones may become 0. Weights that were subnormal before may stay as coarse.

    Args:
        rounded: The new weights in their type.
        w: The same in float64.
        before: The weights that they are made of, of that shape and type.
    """
    limits = np.finfo(rounded.dtype)
    error = np.abs(rounded - w)
    for axis in range(min(2, w.ndim)):
        others = tuple(other for other in range(w.ndim) if other != axis)
        largest = np.abs(before.astype(np.float64)).max(axis=others)
        with np.errstate(divide="ignore"):
            coarse = np.maximum(float(limits.eps), float(limits.smallest_subnormal) / largest)
        coarse[largest == 0] = 0.0
        if not (error.max(axis=others) <= coarse * np.abs(w).max(axis=others)).all():
            return True
    return False
