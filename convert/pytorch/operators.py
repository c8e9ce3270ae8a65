"""PyTorch's operators that its exporter lacks, or writes so that they give something else.

The exporter asks this table first. What it writes of a division of whole numbers goes through
float32, a log of a sum of exponentials overflows, and log(1 + x) cancels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from onnx import TensorProto
from onnx.helper import tensor_dtype_to_np_dtype

from onnxgraft.stages.convert import formulas, writing
from onnxgraft.stages.convert.pytorch.formula import Formula, Writer, by
from onnxgraft.stages.convert.pytorch.ordering import ordering
from onnxgraft.stages.convert.pytorch.pooling import pooling
from onnxgraft.stages.convert.pytorch.quantizing import quantizing
from onnxgraft.stages.convert.writing import Value

__all__ = ["WRONG", "operators"]

# What it writes overflows beyond 9 or so, and there are no other operators of ONNX's for it.
WRONG = ("aten.special_erfcx.default", "aten.special_log_ndtr.default")


def _log1p(self: Any) -> Any:
    return by(formulas.log1p, self)


def _expm1(self: Any) -> Any:
    return by(formulas.expm1, self)


def _log_sigmoid(self: Any) -> Any:
    return by(formulas.log_sigmoid, self)


def _logaddexp(self: Any, other: Any) -> Any:
    return by(formulas.log_add_exp, self, other)


def _logaddexp2(self: Any, other: Any) -> Any:
    return by(formulas.log_add_exp2, self, other)


def _atan2(self: Any, other: Any) -> Any:
    return by(formulas.atan2, self, other)


def _remainder(self: Any, other: Any) -> Any:
    return by(formulas.floor_mod, self, other)


def _floor_divide(self: Any, other: Any) -> Any:
    return by(_floor_div, self, other)


def _div_mode(self: Any, other: Any, rounding_mode: Any = None) -> Any:
    formula = {"floor": _floor_div, "trunc": _trunc_div}.get(rounding_mode, _true_div)
    return by(formula, self, other)


def _floor_div(w: writing.Writer, x: Sequence[Value]) -> Value:
    """Write floor(a / b); of floats as c10's `div_floor_floating`, from what is left exactly."""
    a, b = x
    if a.whole:
        return formulas.floor_div(w, x)
    left = w.op("Mod", a, b, fmod=1)
    found = (a - left) / b
    found = formulas.other_side(w, left, b).where(found - 1, found)
    floor = w.op("Floor", found)
    near = (found - floor) > 0.5
    return b.equals(0).where(a / b, near.where(floor + 1, floor))


def _trunc_div(w: writing.Writer, x: Sequence[Value]) -> Value:
    """Write a / b, rounded towards 0."""
    a, b = x
    return a / b if a.whole else _trunc(w, a / b)


def _true_div(w: writing.Writer, x: Sequence[Value]) -> Value:
    kind = TensorProto.FLOAT if x[0].whole else x[0].dtype
    return x[0].to(kind) / x[1].to(kind)


def _fmax(self: Any, other: Any) -> Any:
    return by(_but_nan("Max"), self, other)


def _fmin(self: Any, other: Any) -> Any:
    return by(_but_nan("Min"), self, other)


def _but_nan(kind: str) -> Formula:
    """Return what writes the larger or smaller of two, of which one may be NaN."""

    def formula(w: writing.Writer, x: Sequence[Value]) -> Value:
        a, b = x
        found = w.op(kind, a, b)
        if a.whole:
            return found
        one, other = (w.op("IsNaN", value, dtype=TensorProto.BOOL) for value in x)
        return one.where(b, other.where(a, found))

    return formula


def _copy(self: Any, src: Any, non_blocking: bool = False) -> Any:
    """Write one tensor in the type and shape of the other; the exporter leaves the shape."""
    w = Writer()
    target = w.value(self)
    return w.tensor(w.op("Expand", w.value(src).to(target.dtype), target.shape()))


def _copysign(self: Any, other: Any) -> Any:
    return by(_signed_as, self, other)


def _signed_as(w: writing.Writer, x: Sequence[Value]) -> Value:
    """Write |a| with the sign of b; of 0, onnxruntime's Neg would make no -0."""
    sign = formulas.negative(w, x[1]).where(w.const(-1, x[0].dtype), 1)
    return w.op("Abs", x[0]) * sign


def _hypot(self: Any, other: Any) -> Any:
    return by(_hypotenuse, self, other)


def _hypotenuse(w: writing.Writer, x: Sequence[Value]) -> Value:
    """Write sqrt(a^2 + b^2) by the larger side, so that no square overflows."""
    sides = [w.op("Abs", value) for value in x]
    most = w.op("Max", *sides)
    ratio = w.op("Min", *sides) / most
    long = most * w.op("Sqrt", ratio * ratio + 1)
    plain = w.op("Or", most.equals(0), most.equals(np.inf))
    return plain.where(most, long)


def _addmm(self: Any, mat1: Any, mat2: Any, beta: Any = 1, alpha: Any = 1) -> Any:
    """Let the exporter write it; of whole numbers, of which onnxruntime has no Gemm, a MatMul."""
    from onnxscript.function_libs.torch_lib.ops.core import aten_addmm

    w = Writer()
    added, left, right = (w.value(given) for given in (self, mat1, mat2))
    if not left.whole:
        return aten_addmm(self, mat1, mat2, beta, alpha)
    product = w.op("MatMul", left, right)
    product = product if alpha == 1 else product * alpha
    added = added if beta == 1 else added * beta
    return w.tensor(product + added)


def _shift_left(self: Any, other: Any) -> Any:
    return by(_shifted_left, self, other)


def _shift_right(self: Any, other: Any) -> Any:
    return by(_shifted_right, self, other)


def _shifted_left(w: writing.Writer, x: Sequence[Value]) -> Value:
    """Write a << n, which is 0 where n is none of the bits."""
    return _kept_bits(w, x, formulas.left_shift(w, x), 0)


def _shifted_right(w: writing.Writer, x: Sequence[Value]) -> Value:
    """Write a >> n; where n is none of the bits, the sign is all that stays."""
    signed = tensor_dtype_to_np_dtype(x[0].dtype).kind == "i"
    gone = formulas.right_shift(w, [x[0], w.longs(63)]).to(TensorProto.INT64) if signed else 0
    return _kept_bits(w, x, formulas.right_shift(w, x), gone)


def _kept_bits(
    w: writing.Writer, x: Sequence[Value], shifted: Value, gone: writing.Operand
) -> Value:
    a, n = x[0], x[1].to(TensorProto.INT64)
    outside = w.op("Or", n < 0, n > 8 * tensor_dtype_to_np_dtype(a.dtype).itemsize - 1)
    return outside.where(gone, shifted.to(TensorProto.INT64)).to(a.dtype)


def _trunc(w: writing.Writer, value: Value) -> Value:
    return (value < 0).where(w.op("Ceil", value), w.op("Floor", value))


def _rounded(kind: str) -> Callable[[Any], Any]:
    """Return what writes a rounding; whole numbers, of which ONNX has none, stay as they are."""

    def formula(w: writing.Writer, x: Sequence[Value]) -> Value:
        if x[0].whole:
            return w.op("Identity", x[0])
        return _trunc(w, x[0]) if kind == "Trunc" else w.op(kind, x[0])

    def written(self: Any) -> Any:
        return by(formula, self)

    return written


def _most(kind: str) -> Callable[..., Any]:
    def formula_of(dim: Sequence[int], keepdim: bool) -> Formula:
        def formula(w: writing.Writer, x: Sequence[Value]) -> Value:
            axes = [w.longs(*dim)] if dim else []
            return w.op(kind, x[0], *axes, keepdims=int(keepdim))

        return formula

    def written(self: Any, dim: Any = (), keepdim: bool = False) -> Any:
        axes = [dim] if isinstance(dim, int) else list(dim)
        return by(formula_of(axes, keepdim), self)

    return written


def _scatter(self: Any, dim: int, index: Any, src: Any) -> Any:
    """Write a ScatterElements of as much of the source as there are indices."""
    import onnxscript

    onnx: Any = onnxscript.opset18
    index, src = (
        t if len(t.shape) else onnx.Reshape(t, onnx.Constant(value_ints=[1])) for t in (index, src)
    )
    zeros = onnx.Constant(value_ints=[0] * len(self.shape))
    return onnx.ScatterElements(self, index, onnx.Slice(src, zeros, onnx.Shape(index)), axis=dim)


def _scatter_reduce(
    self: Any, dim: int, index: Any, src: Any, reduce: str, include_self: bool = True
) -> Any:
    """Let the exporter write it, but for the mean: the sum by the count.

    ONNX wants as many values as there are indices.
    """
    import onnxscript
    from onnxscript.function_libs.torch_lib.ops.core import aten_scatter_reduce

    onnx: Any = onnxscript.opset18
    if len(self.shape):
        begin, dtype = onnx.Constant(value_ints=[0] * len(self.shape)), src.dtype
        src = onnx.Slice(src, begin, onnx.Shape(index))
        src.dtype = dtype
    if reduce != "mean":
        return aten_scatter_reduce(self, dim, index, src, reduce, include_self)
    total = aten_scatter_reduce(self, dim, index, src, "sum", include_self)
    total.dtype = self.dtype
    w, kind = Writer(), int(self.dtype)
    one, first = (w.tensor(w.const(n, kind)) for n in (1, int(include_self)))
    if not len(self.shape):
        self, index = (onnx.Reshape(t, onnx.Constant(value_ints=[-1])) for t in (self, index))
    counts = onnx.ScatterElements(
        onnx.Expand(first, onnx.Shape(self)), index, onnx.Expand(one, onnx.Shape(index)),
        axis=dim, reduction="add",
    )  # fmt: skip
    counts.dtype = total.dtype
    # What nothing was put to stays as it was.
    count = w.op("Max", w.value(counts), 1)
    return w.tensor(
        _floor_div(w, [w.value(total), count]) if count.whole else w.value(total) / count
    )


def _index(self: Any, indices: Sequence[Any]) -> Any:
    """Let the exporter write it, of indices in int64: ONNX takes no others."""
    import onnxscript
    from onnxscript.function_libs.torch_lib.ops.core import aten_index

    def whole(index: Any) -> Any:
        if index is None or int(index.dtype) != TensorProto.INT32:
            return index
        shape = index.shape
        made: Any = onnxscript.opset18.Cast(index, to=TensorProto.INT64)
        made.shape, made.dtype = shape, type(index.dtype)(TensorProto.INT64)
        return made

    return aten_index(self, [*map(whole, indices)])


def _attention(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: Any = None,
    enable_gqa: bool = False,
) -> Any:
    """Let the exporter write it, but for the rows that a mask hides whole: PyTorch's are 0."""
    import onnxscript
    from onnxscript.function_libs.torch_lib.ops.nn import aten_scaled_dot_product_attention

    w, kind, shown = Writer(), int(query.dtype), None
    if attn_mask is not None:
        mask = w.value(attn_mask)
        if mask.dtype == TensorProto.BOOL:
            lowest = float(query.dtype.min)
            attn_mask = w.tensor(mask.where(w.const(0, kind), w.const(lowest, kind)))
            most = w.op("ReduceMax", mask.to(TensorProto.INT32), w.longs(-1), keepdims=1)
            shown = w.tensor(most > 0)
        else:
            most = w.op("ReduceMax", mask, w.longs(-1), keepdims=1)
            shown = w.tensor(most > w.const(-np.inf, mask.dtype))
    found = aten_scaled_dot_product_attention(
        query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa
    )
    if shown is None:
        return found
    return onnxscript.opset18.Where(shown, found, w.tensor(w.const(0, kind)))


def _scalar_tensor(
    s: Any, dtype: Any = -1, layout: Any = None, device: Any = None, pin_memory: Any = None
) -> Any:
    """Write a number in its own type; the exporter's way there is float32."""
    w = Writer()
    kind = TensorProto.FLOAT if dtype in (-1, None) else int(dtype)
    return w.tensor(w.value(s).to(kind) if hasattr(s, "dtype") else w.const(s, kind))


def _angle(self: Any) -> Any:
    """Write 0 or pi by the sign, in float32 where it is a whole number, and NaN where it is NaN."""
    w = Writer()
    value = w.value(self)
    if value.whole or value.dtype == TensorProto.BOOL:
        value = value.to(TensorProto.FLOAT)
    sign = (value < 0).where(w.const(math.pi, value.dtype), w.const(0, value.dtype))
    return w.tensor(w.op("IsNaN", value, dtype=TensorProto.BOOL).where(value, sign))


def _is(*kinds: str, otherwise: bool = False) -> Callable[[Any], Any]:
    """Return what tells whether numbers are of some kinds; whole ones are of none."""

    def written(self: Any) -> Any:
        w = Writer()
        value = w.value(self)
        if value.whole or value.dtype == TensorProto.BOOL:
            same = value.equals(value)
            return w.tensor(same if otherwise else w.op("Not", same))
        value = value if value.dtype == TensorProto.DOUBLE else value.to(TensorProto.FLOAT)
        found = [w.op(kind, value, dtype=TensorProto.BOOL) for kind in kinds]
        one = found[0] if len(found) == 1 else w.op("Or", *found)
        return w.tensor(w.op("Not", one) if otherwise else one)

    return written


def _softmax(kind: str) -> Callable[..., Any]:
    """Return what writes a softmax, of a tensor in the type that it is asked for."""

    def written(self: Any, dim: int, dtype: int | None = None) -> Any:
        w = Writer()
        value = w.value(self)
        value = value if dtype in (None, -1) else value.to(int(dtype))
        if not len(self.shape):
            return w.tensor(w.op(kind, value.reshape(1), axis=0).reshape())
        return w.tensor(w.op(kind, value, axis=dim))

    return written


# So many rows, and more, PyTorch multiplies for their distances.
_MULTIPLIED = 26


def _cdist(x1: Any, x2: Any, p: float = 2.0, compute_mode: int | None = None) -> Any:
    """Write the distances of all rows, as PyTorch computes them: many by a product of matrices."""
    w = Writer()
    one, other = w.value(x1), w.value(x2)
    rows = [tensor.shape[-2] for tensor in (x1, x2)]
    many = any(isinstance(size, int) and size >= _MULTIPLIED for size in rows)
    if p == 2 and (compute_mode == 1 or (compute_mode in (None, 0) and many)):
        squares = [(value * value).sum(-1, keepdims=True) for value in (one, other)]
        last = [*range(len(x2.shape) - 2), len(x2.shape) - 1, len(x2.shape) - 2]
        product = w.op("MatMul", one, other.transpose(*last))
        apart = squares[0] + squares[1].transpose(*last) - product * 2
        return w.tensor(w.op("Sqrt", w.op("Max", apart, 0)))
    apart = w.op("Abs", one.unsqueeze(-2) - other.unsqueeze(-3))
    if p == math.inf:
        return w.tensor(w.op("ReduceMax", apart, w.longs(-1), keepdims=0))
    if p == 0:
        return w.tensor((apart > 0).to(apart.dtype).sum(-1, keepdims=False))
    if p == 2:
        return w.tensor(w.op("Sqrt", (apart * apart).sum(-1, keepdims=False)))
    total = (apart if p == 1 else w.op("Pow", apart, p)).sum(-1, keepdims=False)
    return w.tensor(total if p == 1 else w.op("Pow", total, 1 / p))


def operators() -> dict[Any, Callable[..., Any]]:
    """Return what writes an operator, by PyTorch's name of it."""
    import torch

    aten = torch.ops.aten
    return (
        ordering(aten)
        | pooling(aten)
        | quantizing()
        | {
            aten.__lshift__.Scalar: _shift_left,
            aten.__lshift__.Tensor: _shift_left,
            aten.__rshift__.Scalar: _shift_right,
            aten.__rshift__.Tensor: _shift_right,
            aten.addmm.default: _addmm,
            aten.amax.default: _most("ReduceMax"),
            aten.amin.default: _most("ReduceMin"),
            aten.angle.default: _angle,
            aten.atan2.default: _atan2,
            aten.bitwise_left_shift.Tensor: _shift_left,
            aten.bitwise_left_shift.Tensor_Scalar: _shift_left,
            aten.bitwise_right_shift.Tensor: _shift_right,
            aten.bitwise_right_shift.Tensor_Scalar: _shift_right,
            aten.cdist.default: _cdist,
            aten.ceil.default: _rounded("Ceil"),
            aten.copy.default: _copy,
            aten.copysign.Scalar: _copysign,
            aten.copysign.Tensor: _copysign,
            aten.div.Scalar_mode: _div_mode,
            aten.div.Tensor_mode: _div_mode,
            aten.expm1.default: _expm1,
            aten.floor.default: _rounded("Floor"),
            aten.floor_divide.Scalar: _floor_divide,
            aten.floor_divide.default: _floor_divide,
            aten.fmax.default: _fmax,
            aten.fmin.default: _fmin,
            aten.hypot.default: _hypot,
            aten.index.Tensor: _index,
            aten.isfinite.default: _is("IsNaN", "IsInf", otherwise=True),
            aten.isinf.default: _is("IsInf"),
            aten.isnan.default: _is("IsNaN"),
            aten.log1p.default: _log1p,
            aten.log_sigmoid.default: _log_sigmoid,
            aten.log_softmax.int: _softmax("LogSoftmax"),
            aten.logaddexp.default: _logaddexp,
            aten.logaddexp2.default: _logaddexp2,
            aten.remainder.Scalar: _remainder,
            aten.remainder.Scalar_Tensor: _remainder,
            aten.remainder.Tensor: _remainder,
            aten.round.default: _rounded("Round"),
            aten.scalar_tensor.default: _scalar_tensor,
            aten.scaled_dot_product_attention.default: _attention,
            aten.scatter.src: _scatter,
            aten.scatter_reduce.two: _scatter_reduce,
            aten.softmax.int: _softmax("Softmax"),
            aten.trunc.default: _rounded("Trunc"),
        }
    )
