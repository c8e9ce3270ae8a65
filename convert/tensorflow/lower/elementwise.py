"""Operators that are a formula of their inputs, element by element or nearly so."""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import TensorProto

from onnxgraft.stages.convert.formulas import log1p
from onnxgraft.stages.convert.tensorflow.lower.writing import (
    Handler,
    NewerOpset,
    Value,
    Writer,
    replace,
    theirs,
)

__all__ = [
    "add_all",
    "bitwise_and",
    "bitwise_or",
    "bitwise_xor",
    "bucketize",
    "erfc",
    "fake_quantize",
    "invert",
    "lower_bound",
    "mul_no_nan",
    "ones_like",
    "rank",
    "select",
    "shape_n",
    "tfl_gelu",
    "trunc_mod",
    "upper_bound",
    "xdivy",
    "xlog1py",
    "xlogy",
    "zeros_like",
]

# TensorFlow's operators whose inputs are brought to one shape.
_BROADCASTING = frozenset("SelectV2 Maximum Minimum Add AddV2 Sub Mul Greater Less Equal".split())


def select(ctx: Any, node: Any, name: str, args: Any) -> None:
    """Let tf2onnx write a Where."""
    node.set_attr("handles_nan", True)  # tf2onnx then writes a Where
    theirs(ctx, node)


def add_all(ctx: Any, node: Any, name: str, args: Any) -> None:
    """Write the sum of several tensors; Sum, which onnxruntime has of floats."""
    first = Writer(ctx, node).value(node.input[0])
    if not first.whole:
        theirs(ctx, node)
        return
    replace(ctx, node, lambda w, x: functools.reduce(operator.add, x))


def erfc(w: Writer, x: Sequence[Value]) -> Value:
    """Write 1 - erf(x)."""
    return w.const(1, x[0].dtype) - w.op("Erf", x[0])


def rank(w: Writer, x: Sequence[Value]) -> Value:
    """Write the number of dimensions: the size of the shape."""
    return w.op("Size", x[0].shape()).to(TensorProto.INT32)


def tfl_gelu(ctx: Any, node: Any, name: str, args: Any) -> None:
    """Write TFLite's Gelu: x / 2 (1 + erf(x / sqrt 2)), or its tanh approximation."""
    approximate = bool(node.get_attr_value("approximate", 0))

    def formula(w: Writer, inputs: Sequence[Value]) -> Value:
        x = inputs[0]
        if approximate:
            gate = w.op("Tanh", (x + x * x * x * 0.044715) * np.sqrt(2 / np.pi))
        else:
            gate = w.op("Erf", x * np.sqrt(0.5))
        return x * 0.5 * (gate + 1)

    replace(ctx, node, formula)


def xdivy(w: Writer, x: Sequence[Value]) -> Value:
    """Write x / y, and 0 where x is 0."""
    return x[0].equals(0).where(0, x[0] / x[1])


def xlogy(w: Writer, x: Sequence[Value]) -> Value:
    """Write x log(y), and 0 where x is 0."""
    return x[0].equals(0).where(0, x[0] * w.op("Log", x[1]))


def xlog1py(w: Writer, x: Sequence[Value]) -> Value:
    """Write x log(1 + y), and 0 where x is 0."""
    return x[0].equals(0).where(0, x[0] * log1p(w, x[1:]))


def trunc_mod(w: Writer, x: Sequence[Value]) -> Value:
    """Write what is left of a division towards 0, which has the sign of a."""
    return w.op("Mod", x[0], x[1], fmod=1)


def mul_no_nan(w: Writer, x: Sequence[Value]) -> Value:
    """Write x y, and 0 where y is 0."""
    return x[1].equals(0).where(0, x[0] * x[1])


def bucketize(ctx: Any, node: Any, name: str, args: Any) -> None:
    """Write how many boundaries are not above each value."""
    edges = np.array(node.get_attr_value("boundaries"), np.float32)

    def formula(w: Writer, x: Sequence[Value]) -> Value:
        below = w.const(edges, TensorProto.FLOAT) > x[0].to(TensorProto.FLOAT).unsqueeze(-1)
        counted = w.op("Not", below).to(TensorProto.INT64).sum(-1, keepdims=False)
        return counted.to(TensorProto.INT32)

    replace(ctx, node, formula)


def _bound(upper: bool) -> Handler:
    """Write how many of the sorted numbers are below each value, or not above it."""

    def handler(ctx: Any, node: Any, name: str, args: Any) -> None:
        kind = ctx.get_dtype(node.output[0])

        def formula(w: Writer, x: Sequence[Value]) -> Value:
            numbers, value = x[0].unsqueeze(1), x[1].unsqueeze(2)
            counted = w.op("Not", numbers > value) if upper else numbers < value
            return counted.to(TensorProto.INT64).sum(-1, keepdims=False).to(kind)

        replace(ctx, node, formula)

    return handler


lower_bound = _bound(False)
upper_bound = _bound(True)


def _bitwise(kind: str) -> Handler:
    def handler(ctx: Any, node: Any, name: str, args: Any) -> None:
        if ctx.opset < 18:
            raise NewerOpset(f"{node.type} ({node.name})", 18)
        replace(ctx, node, lambda w, x: w.op(kind, *x))

    return handler


bitwise_and = _bitwise("BitwiseAnd")
bitwise_or = _bitwise("BitwiseOr")
bitwise_xor = _bitwise("BitwiseXor")
invert = _bitwise("BitwiseNot")


def fake_quantize(ctx: Any, node: Any, name: str, args: Any) -> None:
    """Write the rounding of fake quantization; as QuantizeLinear where tf2onnx knows it.

    TensorFlow moves the range until 0 is one of the steps, and rounds ties upwards.
    """
    bits, narrow = node.get_attr_value("num_bits", 8), node.get_attr_value("narrow_range", 0)
    plain = node.type == "FakeQuantWithMinMaxVars" and bits == 8 and not narrow
    low, high = Writer(ctx, node), Writer(ctx, node)
    ends = [low.known(low.value(node.input[1])), high.known(high.value(node.input[2]))]
    if plain and ends[0] is not None and ends[1] is not None and ends[0] <= 0 <= ends[1]:
        theirs(ctx, node)
        return

    def formula(w: Writer, x: Sequence[Value]) -> Value:
        value, least, largest = x
        first, last = w.const(int(bool(narrow)), value.dtype), w.const(2**bits - 1, value.dtype)
        step = (largest - least) / (last - first)
        at = first - least / step
        # Rounded half away from 0, which is upwards here.
        zero = w.op("Min", w.op("Max", w.op("Floor", at + 0.5), first), last)
        bottom, top = (first - zero) * step, (last - zero) * step
        held = w.op("Max", w.op("Min", value, top), bottom)
        return w.op("Floor", (held - bottom) / step + 0.5) * step + bottom

    replace(ctx, node, formula)


def _like(value: int) -> Handler:
    """Write a scalar where who reads it has the tensor itself, and so its shape, beside it."""

    def handler(ctx: Any, node: Any, name: str, args: Any) -> None:
        readers = ctx.find_output_consumers(node.output[0])
        if node.output[0] in ctx.outputs or not all(
            reader.type in _BROADCASTING and node.input[0] in reader.input for reader in readers
        ):
            theirs(ctx, node)
            return
        scalar = Writer(ctx, node).const(value, ctx.get_dtype(node.output[0]))
        ctx.replace_all_inputs(node.output[0], scalar.name, ops=readers)
        ctx.remove_node(node.name)

    return handler


zeros_like = _like(0)
ones_like = _like(1)


def shape_n(ctx: Any, node: Any, name: str, args: Any) -> None:
    """Write a Shape for each of the tensors."""
    given, made = list(node.input), list(node.output)
    kind = ctx.get_dtype(made[0])
    writer = Writer(ctx, node)
    ctx.remove_node(node.name)
    for source, output in zip(given, made, strict=True):
        known = ctx.get_shape(source)
        if known is not None and -1 not in known:
            shape = writer.const(np.array(known), kind)
        else:
            shape = writer.value(source).shape().to(kind)
        ctx.make_node("Identity", [shape.name], outputs=[output], dtypes=[kind])
