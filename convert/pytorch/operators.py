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

from onnxgraft.graph.tensors import Array
from onnxgraft.stages.convert import formulas, writing
from onnxgraft.stages.convert.writing import Operand, Value

__all__ = ["WRONG", "operators"]

# What it writes overflows beyond 9 or so, and there are no other operators of ONNX's for it.
WRONG = ("aten.special_erfcx.default", "aten.special_log_ndtr.default")

_HALVES = (TensorProto.FLOAT16, TensorProto.BFLOAT16)

Formula = Callable[[writing.Writer, Sequence[Value]], Value]


class _Writer(writing.Writer):
    """Adds nodes to what the exporter is writing just now."""

    def __init__(self) -> None:
        from onnxscript import opset18

        self._onnx = opset18
        self._tensors: dict[str, Any] = {}

    def value(self, tensor: Any) -> Value:
        """Return a tensor of the exporter's."""
        return self._named(tensor, int(tensor.dtype))

    def tensor(self, value: Value) -> Any:
        """Return the exporter's tensor."""
        return self._tensors[value.name]

    def op(self, kind: str, *inputs: Operand, dtype: int = 0, **attributes: Any) -> Value:
        """Write a node and return its first output; see the base class."""
        given = self.given(inputs)
        made = getattr(self._onnx, kind)(*map(self.tensor, given), **attributes)
        first = made[0] if isinstance(made, Sequence) else made
        return self._named(first, dtype or given[0].dtype)

    def const(self, value: float | Array, dtype: int) -> Value:
        """Return a constant of an ONNX type."""
        import onnx_ir as ir

        array = np.asarray(value, tensor_dtype_to_np_dtype(dtype))
        tensor: Any = ir.tensor(array)
        return self._named(self._onnx.Constant(value=tensor), dtype)

    def _named(self, tensor: Any, dtype: int) -> Value:
        name = str(len(self._tensors))
        self._tensors[name] = tensor
        return Value(self, name, dtype)


def _by(formula: Formula, *inputs: Any) -> Any:
    """Return what a formula makes of tensors and numbers, of which one is a tensor."""
    w = _Writer()
    kind = next(int(given.dtype) for given in inputs if hasattr(given, "dtype"))
    tensors = {at: w.value(v) for at, v in enumerate(inputs) if hasattr(v, "dtype")}
    if any(isinstance(v, float) for v in inputs) and tensors[min(tensors)].whole:
        kind = TensorProto.FLOAT  # what PyTorch makes of whole numbers beside a fraction
        tensors = {at: value.to(kind) for at, value in tensors.items()}
    values = [tensors[at] if at in tensors else w.const(v, kind) for at, v in enumerate(inputs)]
    if kind not in _HALVES:
        return w.tensor(formula(w, values))
    # As PyTorch does it, in float32, of which the result alone is rounded.
    return w.tensor(formula(w, [value.to(TensorProto.FLOAT) for value in values]).to(kind))


def _log1p(self: Any) -> Any:
    return _by(formulas.log1p, self)


def _expm1(self: Any) -> Any:
    return _by(formulas.expm1, self)


def _log_sigmoid(self: Any) -> Any:
    return _by(formulas.log_sigmoid, self)


def _logaddexp(self: Any, other: Any) -> Any:
    return _by(formulas.log_add_exp, self, other)


def _logaddexp2(self: Any, other: Any) -> Any:
    return _by(formulas.log_add_exp2, self, other)


def _atan2(self: Any, other: Any) -> Any:
    return _by(formulas.atan2, self, other)


def _remainder(self: Any, other: Any) -> Any:
    return _by(formulas.floor_mod, self, other)


def _floor_divide(self: Any, other: Any) -> Any:
    return _by(_floor_div, self, other)


def _div_mode(self: Any, other: Any, rounding_mode: Any = None) -> Any:
    by = {"floor": _floor_div, "trunc": _trunc_div}.get(rounding_mode, _true_div)
    return _by(by, self, other)


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
    return _by(_but_nan("Max"), self, other)


def _fmin(self: Any, other: Any) -> Any:
    return _by(_but_nan("Min"), self, other)


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


def _copysign(self: Any, other: Any) -> Any:
    return _by(_signed_as, self, other)


def _signed_as(w: writing.Writer, x: Sequence[Value]) -> Value:
    """Write |a| with the sign of b; of 0, onnxruntime's Neg would make no -0."""
    sign = formulas.negative(w, x[1]).where(w.const(-1, x[0].dtype), 1)
    return w.op("Abs", x[0]) * sign


def _hypot(self: Any, other: Any) -> Any:
    return _by(_hypotenuse, self, other)


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

    w = _Writer()
    added, left, right = (w.value(given) for given in (self, mat1, mat2))
    if not left.whole:
        return aten_addmm(self, mat1, mat2, beta, alpha)
    product = w.op("MatMul", left, right)
    product = product if alpha == 1 else product * alpha
    added = added if beta == 1 else added * beta
    return w.tensor(product + added)


def _avg_pool(axes: int) -> Callable[..., Any]:
    """Return what lets the exporter write a pool, which leaves a divisor of its own out."""

    def written(
        self: Any,
        kernel_size: Sequence[int],
        stride: Sequence[int] = (),
        padding: Sequence[int] = (0,),
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> Any:
        from onnxscript.function_libs.torch_lib.ops import nn

        theirs = nn.aten_avg_pool2d if axes == 2 else nn.aten_avg_pool3d
        whole = count_include_pad or divisor_override is not None
        pads = list(padding) if len(padding) > 1 else list(padding) * axes
        found = theirs(self, kernel_size, stride, pads, ceil_mode, whole)
        if divisor_override is None:
            return found
        sides = list(kernel_size) if len(kernel_size) > 1 else list(kernel_size) * axes
        w = _Writer()
        found.dtype = self.dtype
        return w.tensor(w.value(found) * (math.prod(sides) / divisor_override))

    return written


def _shift_left(self: Any, other: Any) -> Any:
    return _by(_shifted_left, self, other)


def _shift_right(self: Any, other: Any) -> Any:
    return _by(_shifted_right, self, other)


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
        return _by(formula, self)

    return written


def _logcumsumexp(self: Any, dim: Any) -> Any:
    """Write, for each place, the log of the sum of the exponentials up to it."""
    rank = len(self.shape)

    def formula(w: writing.Writer, x: Sequence[Value]) -> Value:
        if not rank:
            return w.op("Identity", x[0])
        axis = dim % rank
        last = [*(at for at in range(rank) if at != axis), axis]
        value = x[0].transpose(*last)
        places = w.range(w.op("Gather", x[0].shape(), w.const(axis, TensorProto.INT64)))
        later = w.op("Greater", places.unsqueeze(0), places.unsqueeze(1), dtype=TensorProto.BOOL)
        kept = later.where(w.const(-np.inf, value.dtype), value.unsqueeze(-2))
        found = w.op("ReduceLogSumExp", kept, w.longs(-1), keepdims=0)
        return found.transpose(*np.argsort(last).tolist())

    return _by(formula, self)


def _most(kind: str) -> Callable[..., Any]:
    def formula_of(dim: Sequence[int], keepdim: bool) -> Formula:
        def formula(w: writing.Writer, x: Sequence[Value]) -> Value:
            axes = [w.longs(*dim)] if dim else []
            return w.op(kind, x[0], *axes, keepdims=int(keepdim))

        return formula

    def written(self: Any, dim: Any = (), keepdim: bool = False) -> Any:
        axes = [dim] if isinstance(dim, int) else list(dim)
        return _by(formula_of(axes, keepdim), self)

    return written


def _sort(self: Any, stable: Any = None, dim: int = -1, descending: bool = False) -> Any:
    """Write a TopK of all, which leaves equal ones in their order."""
    import onnxscript

    onnx: Any = onnxscript.opset18
    if not len(self.shape):
        return onnx.Identity(self), onnx.Constant(value_int=0)
    size = onnx.Gather(onnx.Shape(self), onnx.Constant(value_ints=[dim]))
    return onnx.TopK(self, size, axis=dim, largest=int(descending), sorted=1)


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
    w, kind = _Writer(), int(self.dtype)
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

    w, kind, shown = _Writer(), int(query.dtype), None
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
    w = _Writer()
    kind = TensorProto.FLOAT if dtype in (-1, None) else int(dtype)
    return w.tensor(w.value(s).to(kind) if hasattr(s, "dtype") else w.const(s, kind))


def operators() -> dict[Any, Callable[..., Any]]:
    """Return what writes an operator, by PyTorch's name of it."""
    import torch

    aten = torch.ops.aten
    return {
        aten.__lshift__.Scalar: _shift_left,
        aten.__lshift__.Tensor: _shift_left,
        aten.__rshift__.Scalar: _shift_right,
        aten.__rshift__.Tensor: _shift_right,
        aten.addmm.default: _addmm,
        aten.amax.default: _most("ReduceMax"),
        aten.amin.default: _most("ReduceMin"),
        aten.atan2.default: _atan2,
        aten.avg_pool2d.default: _avg_pool(2),
        aten.avg_pool3d.default: _avg_pool(3),
        aten.bitwise_left_shift.Tensor: _shift_left,
        aten.bitwise_left_shift.Tensor_Scalar: _shift_left,
        aten.bitwise_right_shift.Tensor: _shift_right,
        aten.bitwise_right_shift.Tensor_Scalar: _shift_right,
        aten.ceil.default: _rounded("Ceil"),
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
        aten.log1p.default: _log1p,
        aten.log_sigmoid.default: _log_sigmoid,
        aten.logaddexp.default: _logaddexp,
        aten.logaddexp2.default: _logaddexp2,
        aten.logcumsumexp.default: _logcumsumexp,
        aten.remainder.Scalar: _remainder,
        aten.remainder.Scalar_Tensor: _remainder,
        aten.remainder.Tensor: _remainder,
        aten.round.default: _rounded("Round"),
        aten.scalar_tensor.default: _scalar_tensor,
        aten.scaled_dot_product_attention.default: _attention,
        aten.scatter.src: _scatter,
        aten.scatter_reduce.two: _scatter_reduce,
        aten.sort.stable: _sort,
        aten.trunc.default: _rounded("Trunc"),
    }
