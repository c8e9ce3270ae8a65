"""Operators of PyTorch's that go along an axis: they order it, or combine what came before."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from onnx import TensorProto
from onnx.helper import tensor_dtype_to_np_dtype

from onnxgraft.stages.convert import writing
from onnxgraft.stages.convert.pytorch.formula import HALVES, Writer, by
from onnxgraft.stages.convert.writing import Value

__all__ = ["ordering"]

# So many products are written one after the other.
_MOST = 512


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

    return by(formula, self)


def _cumprod(self: Any, dim: int, dtype: int | None = None) -> Any:
    """Write one product after the other: in another order they may overflow.

    As PyTorch does it, halves are multiplied in float32 and floats in float64.
    """
    w, rank = Writer(), len(self.shape)
    value = w.value(self)
    if dtype in (None, -1):
        small = value.whole or value.dtype == TensorProto.BOOL
        dtype = TensorProto.INT64 if small else value.dtype
    kind = int(dtype)
    value = value.to(kind)
    if not value.whole:
        value = value.to(TensorProto.FLOAT if kind in HALVES else TensorProto.DOUBLE)
    size = _size(self, dim)
    if size > _MOST:
        raise ValueError(f"a product along an axis of {size}; at most {_MOST} are written")
    if size < 2:
        return w.tensor(w.op("Identity", value.to(kind)))
    factors = w.parts(value, size, dim % rank)
    found = factors[:1]
    for factor in factors[1:]:
        found.append(found[-1] * factor)
    return w.tensor(w.op("Concat", *found, axis=dim % rank).to(kind))


def _most_so_far(kind: str) -> Callable[..., Any]:
    """Return what writes the largest, or smallest, up to each place, and the last that is it."""

    def written(self: Any, dim: int) -> Any:
        w = Writer()
        value = w.value(self)
        rank = len(self.shape)
        if not rank:
            return self, w.tensor(w.const(0, TensorProto.INT64))
        low, high = -math.inf, math.inf
        if value.whole:
            ends = np.iinfo(tensor_dtype_to_np_dtype(value.dtype))
            low, high = ends.min, ends.max
        found = _running(w, value, self, dim, kind, low if kind == "Max" else high)
        here = value.equals(found)
        if not value.whole:
            here = w.op("Or", here, w.op("IsNaN", value, dtype=TensorProto.BOOL))
        places = w.range(w.op("Gather", value.shape(), w.const(dim, TensorProto.INT64)))
        places = places.reshape(*(-1 if axis == dim % rank else 1 for axis in range(rank)))
        last = _running(w, here.where(places, w.longs(0)), self, dim, "Max", 0)
        return w.tensor(found), w.tensor(last)

    return written


def _size(of: Any, dim: int) -> int:
    """Return the size of an axis; 1 of a scalar."""
    size = of.shape[dim] if len(of.shape) else 1
    if not isinstance(size, int):
        raise ValueError("it goes along an axis of any size; export it with a fixed one")
    return size


def _running(w: Writer, value: Value, of: Any, dim: int, kind: str, neutral: float) -> Value:
    """Combine each place with all before it, twice as far in each step."""
    rank = len(of.shape)
    if not rank:
        return w.op("Identity", value)
    axis, size, reach = dim % rank, _size(of, dim), 1
    while reach < size:
        kept = w.op("Slice", value, w.longs(0), w.longs(size - reach), w.longs(axis))
        pads = [reach if at == axis else 0 for at in range(rank)] + [0] * rank
        value = w.op(kind, value, w.op("Pad", kept, w.longs(*pads), w.const(neutral, value.dtype)))
        reach *= 2
    return value


def _sort(self: Any, stable: Any = None, dim: int = -1, descending: bool = False) -> Any:
    """Write a TopK of all, which leaves equal ones in their order."""
    import onnxscript

    onnx: Any = onnxscript.opset18
    if not len(self.shape):
        return onnx.Identity(self), onnx.Constant(value_int=0)
    size = onnx.Gather(onnx.Shape(self), onnx.Constant(value_ints=[dim]))
    return onnx.TopK(self, size, axis=dim, largest=int(descending), sorted=1)


def _kth(
    w: Writer, value: Value, rank: int, count: Value, dim: int, keepdim: bool
) -> tuple[Value, Value]:
    """Return the last of so many that are the smallest along an axis, and where it is.

    NaN is larger than all.
    """
    if not rank:
        return w.op("Identity", value), w.const(0, TensorProto.INT64)
    key = value
    if not value.whole:
        key = w.op("IsNaN", value, dtype=TensorProto.BOOL).where(
            w.const(np.inf, value.dtype), value
        )
    _, places = w.both("TopK", key, count, axis=dim, largest=0, sorted=1)
    where = w.op("Slice", places, w.longs(-1), w.longs(np.iinfo(np.int64).max), w.longs(dim))
    found = w.op("GatherElements", value, where, axis=dim)
    return (found, where) if keepdim else (found.squeeze(dim), where.squeeze(dim))


def _kthvalue(self: Any, k: int, dim: int = -1, keepdim: bool = False) -> Any:
    w = Writer()
    found = _kth(w, w.value(self), len(self.shape), w.longs(k), dim, keepdim)
    return tuple(map(w.tensor, found))


def _median_of(w: Writer, value: Value, rank: int, dim: int, keepdim: bool) -> tuple[Value, Value]:
    """Return the median, the lower of two, and where it is; the first NaN where there is one."""
    size = w.op("Gather", value.shape(), w.longs(dim)) if rank else w.longs(1)
    count = (size + 1) / 2
    found, where = _kth(w, value, rank, count, dim, keepdim)
    if value.whole or not rank:
        return found, where
    nan, keep = w.op("IsNaN", value, dtype=TensorProto.BOOL).to(TensorProto.INT32), int(keepdim)
    some = w.op("ReduceMax", nan, w.longs(dim), keepdims=keep) > 0
    first = w.op("ArgMax", nan, dtype=TensorProto.INT64, axis=dim, keepdims=keep)
    return some.where(w.const(np.nan, value.dtype), found), some.where(first, where)


def _median(self: Any, dim: int = -1, keepdim: bool = False) -> Any:
    w = Writer()
    return tuple(map(w.tensor, _median_of(w, w.value(self), len(self.shape), dim, keepdim)))


def _median_of_all(self: Any) -> Any:
    w = Writer()
    return w.tensor(_median_of(w, w.value(self).reshape(-1), 1, 0, False)[0])


def _masked_select(self: Any, mask: Any) -> Any:
    """Write a Compress of what both are when they have one shape."""
    w = Writer()
    value, chosen = w.value(self), w.value(mask)
    kind = value.dtype
    if kind == TensorProto.BOOL:  # of which onnxruntime has no Where
        value = value.to(TensorProto.UINT8)
    value = chosen.where(value, value)
    chosen = w.op("Expand", chosen, value.shape())
    return w.tensor(w.op("Compress", value, chosen.reshape(-1)).to(kind))


def _searchsorted(
    sorted_sequence: Any, self: Any, out_int32: bool = False, right: bool = False,
    side: str | None = None, sorter: Any = None,
) -> Any:  # fmt: skip
    """Write how many of a row are before each value; NaN stands behind them all."""
    if sorter is not None:
        raise ValueError("searchsorted with a sorter; sort the values before")
    w = Writer()
    row, value = w.value(sorted_sequence), w.value(self).unsqueeze(-1)
    if len(sorted_sequence.shape) > 1:
        row = row.unsqueeze(-2)
    kind = "Greater" if right or side == "right" else "GreaterOrEqual"
    before = w.op("Not", w.op(kind, row, value, dtype=TensorProto.BOOL))
    whole = TensorProto.INT32 if out_int32 else TensorProto.INT64
    return w.tensor(before.to(whole).sum(-1, keepdims=False))


def ordering(aten: Any) -> dict[Any, Callable[..., Any]]:
    """Return what writes these operators, by PyTorch's operator."""
    return {
        aten.cummax.default: _most_so_far("Max"),
        aten.cummin.default: _most_so_far("Min"),
        aten.cumprod.default: _cumprod,
        aten.kthvalue.default: _kthvalue,
        aten.logcumsumexp.default: _logcumsumexp,
        aten.masked_select.default: _masked_select,
        aten.median.default: _median_of_all,
        aten.median.dim: _median,
        aten.searchsorted.Tensor: _searchsorted,
        aten.sort.stable: _sort,
    }
