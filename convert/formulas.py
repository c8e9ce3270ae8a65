"""Operators that several frameworks have, as formulas: exact for whole numbers, stable for others.

Each takes the writer of a graph and the operator's inputs, and returns what it computes of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import TensorProto
from onnx.helper import tensor_dtype_to_np_dtype

from onnxgraft.stages.convert.writing import Value, Writer

__all__ = [
    "atan2",
    "expm1",
    "floor_div",
    "floor_mod",
    "left_shift",
    "log1p",
    "log_add_exp",
    "log_add_exp2",
    "log_sigmoid",
    "negative",
    "other_side",
    "right_shift",
]

# Of whole numbers, those that ONNX Runtime compares.
_COMPARED = (TensorProto.INT32, TensorProto.INT64)
_NARROW = (TensorProto.INT8, TensorProto.INT16)


def expm1(w: Writer, x: Sequence[Value]) -> Value:
    """Write e^x - 1, which does not cancel near 0."""
    return w.op("Tanh", x[0] * 0.5) * (w.op("Exp", x[0]) + 1)


def log1p(w: Writer, x: Sequence[Value]) -> Value:
    """Write log(1 + x), which does not cancel near 0."""
    (value,) = x
    sum_ = value + 1
    if value.dtype == TensorProto.DOUBLE:
        # onnxruntime has no Atanh of it. What the sum lost of the value is in both factors
        # (theorem 4 of Goldberg's What Every Computer Scientist Should Know About Floating-Point
        # Arithmetic); a library that joins the two sums undoes that.
        small = sum_.equals(1).where(value, w.op("Log", sum_) * (value / (sum_ - 1)))
    else:
        small = w.op("Atanh", value / (value + 2)) * 2
    return (w.op("Abs", value) < 0.5).where(small, w.op("Log", sum_))


def log_sigmoid(w: Writer, x: Sequence[Value]) -> Value:
    """Write log(1 / (1 + e^-x)) as min(x, 0) - log(1 + e^-|x|), which is finite where x is."""
    distance = w.const(0, x[0].dtype) - w.op("Abs", x[0])
    return w.op("Min", x[0], 0) - log1p(w, [w.op("Exp", distance)])


def log_add_exp(w: Writer, x: Sequence[Value]) -> Value:
    """Write log(e^a + e^b) as max(a, b) + log(1 + e^-|a - b|)."""
    return w.op("Max", *x) + log1p(w, [w.op("Exp", _below(w, x))])


def log_add_exp2(w: Writer, x: Sequence[Value]) -> Value:
    """Write log2(2^a + 2^b), likewise."""
    far = log1p(w, [w.op("Exp", _below(w, x) * float(np.log(2)))])
    return w.op("Max", *x) + far * float(1 / np.log(2))


def _below(w: Writer, x: Sequence[Value]) -> Value:
    """Write -|a - b|, which is 0 of equal infinities."""
    a, b = x
    return a.equals(b).where(0, w.const(0, a.dtype) - w.op("Abs", a - b))


def floor_div(w: Writer, x: Sequence[Value]) -> Value:
    """Write floor(a / b); ONNX divides whole numbers towards 0."""
    a, b = x
    if not a.whole:
        return w.op("Floor", a / b)
    if a.dtype in _NARROW:  # the difference below may be too large for them
        return floor_div(w, [value.to(TensorProto.INT32) for value in x]).to(a.dtype)
    if a.dtype not in _COMPARED:
        return (a - w.op("Mod", a, b)) / b
    found = a / b
    left = a - found * b
    return found - other_side(w, left, b).to(a.dtype)


def floor_mod(w: Writer, x: Sequence[Value]) -> Value:
    """Write what is left of a division downwards, with the sign of b; ONNX has it of integers."""
    a, b = x
    if a.whole:
        return w.op("Mod", a, b)
    left = w.op("Mod", a, b, fmod=1)  # towards 0, exactly
    return other_side(w, left, b).where(left + b, left)


def left_shift(w: Writer, x: Sequence[Value]) -> Value:
    """Write a * 2^n of whole numbers, n bits further left; n is taken as 0 to the last bit."""
    a, n = x
    n = _bits(w, a, n)
    if not _signed(a):
        return _shifted(w, a, n, "LEFT")
    wide = a.to(TensorProto.INT64) * w.op("Gather", _powers(w), n)
    return wide.to(a.dtype)


def right_shift(w: Writer, x: Sequence[Value]) -> Value:
    """Write floor(a / 2^n) of whole numbers; n is taken as 0 to the last bit."""
    a, n = x
    n = _bits(w, a, n)
    if not _signed(a):
        return _shifted(w, a, n, "RIGHT")
    wide = a.to(TensorProto.INT64)
    # 2^63 is none of the numbers: two steps.
    once = w.op("Min", n, 62)
    found = floor_div(w, [wide, w.op("Gather", _powers(w), once)])
    if a.dtype == TensorProto.INT64:
        found = floor_div(w, [found, (n > 62).where(w.const(2, n.dtype), 1)])
    return found.to(a.dtype)


def _bits(w: Writer, a: Value, n: Value) -> Value:
    last = 8 * tensor_dtype_to_np_dtype(a.dtype).itemsize - 1
    return w.op("Clip", n.to(TensorProto.INT64), 0, last)


def _signed(value: Value) -> bool:
    return bool(tensor_dtype_to_np_dtype(value.dtype).kind == "i")


def _powers(w: Writer) -> Value:
    """Write 2^0 to 2^63; the last one is the lowest number, as which products wrap."""
    return w.const((2 ** np.arange(64, dtype=np.uint64)).astype(np.int64), TensorProto.INT64)


def _shifted(w: Writer, a: Value, n: Value, direction: str) -> Value:
    # onnxruntime has no BitShift of 16 bits.
    kind = TensorProto.UINT32 if a.dtype == TensorProto.UINT16 else a.dtype
    return w.op("BitShift", a.to(kind), n.to(kind), direction=direction).to(a.dtype)


def other_side(w: Writer, left: Value, b: Value) -> Value:
    """Write where something is left that has not the sign of b."""
    some = w.op("Not", left.equals(0))
    return w.op("And", some, w.op("Xor", left < 0, b < 0))


def atan2(w: Writer, x: Sequence[Value]) -> Value:
    """Write the angle of (x, y) for inputs y, x: atan(y / x), and pi further where x is negative.

    Zeros have signs, and two infinities a ratio of 1, as C's atan2 has it.
    """
    y, x_ = x
    signs = w.op("Sign", y) * w.op("Sign", x_)
    ratio = w.op("Abs", y).equals(w.op("Abs", x_)).where(signs, y / x_)
    angle = w.op("Atan", ratio)
    side = negative(w, y).where(w.const(-np.pi, y.dtype), np.pi)
    return negative(w, x_).where(angle + side, angle)


def negative(w: Writer, value: Value) -> Value:
    """Write where a number is below 0, or the zero with a sign."""
    return value.equals(0).where(w.const(1, value.dtype) / value, value) < 0
