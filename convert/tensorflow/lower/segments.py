"""Segments: rows of the data that have the same number are taken together, as ScatterND does it.

    Given   data (n, ...), ids (n)
    Result  row i is the sum (product, largest, least) of the rows whose id is i

Rows with a negative id are left out of an UnsortedSegment: they go to a row more, which is cut off.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import TensorProto
from onnx.helper import tensor_dtype_to_np_dtype

from onnxgraft.errors import NotSupportedError
from onnxgraft.stages.convert.tensorflow.lower.indexing import scatter
from onnxgraft.stages.convert.tensorflow.lower.writing import Handler, Value, Writer, replace

__all__ = [
    "segment_max",
    "segment_mean",
    "segment_min",
    "segment_prod",
    "segment_sum",
    "sparse_segment_mean",
    "sparse_segment_sqrt_n",
    "sparse_segment_sum",
    "unsorted_segment_max",
    "unsorted_segment_min",
    "unsorted_segment_prod",
    "unsorted_segment_sum",
]

_INT64 = TensorProto.INT64
_END = int(np.iinfo(np.int64).max)


def _start(reduction: str, dtype: int) -> Any:
    """Return what an unsorted segment holds where nothing is in it."""
    kind = tensor_dtype_to_np_dtype(dtype)
    limits = np.finfo(kind) if kind.kind == "f" else np.iinfo(kind)
    return {"add": 0, "mul": 1, "max": limits.min, "min": limits.max}[reduction]


def _gathered(
    w: Writer, node: Any, data: Value, ids: Value, rows: Value, reduction: str, first: Any = None
) -> Value:
    """Return ``rows`` rows (a list of one INT64), in each what ``ids`` put there of ``data``.

    They begin with ``first``, or else with what TensorFlow gives an unsorted segment.
    """
    rank = w.ctx.get_rank(ids.name)
    if rank is None:
        raise NotSupportedError(f"{node.type} ({node.name}) has ids of unknown rank")
    shape = w.op("Concat", rows, data.shape().rows(rank, _END), axis=0)
    first = _start(reduction, data.dtype) if first is None else first
    start = w.op("Expand", w.const(first, data.dtype), shape)
    return scatter(w, node, start, ids.to(_INT64).unsqueeze(-1), data, reduction)


def _unsorted(reduction: str) -> Handler:
    def handler(ctx: Any, node: Any, name: str, args: Any) -> None:
        def formula(w: Writer, x: Sequence[Value]) -> Value:
            data, ids, count = x
            known = w.known(ids)
            rows = count.to(_INT64).reshape(1)
            if known is not None and (known >= 0).all():
                return _gathered(w, node, data, ids, rows, reduction)
            ids = (ids < 0).where(count.to(ids.dtype), ids)
            made = _gathered(w, node, data, ids, rows + 1, reduction)
            return made.rows(0, -1)

        replace(ctx, node, formula)

    return handler


def _sorted(reduction: str) -> Handler:
    def handler(ctx: Any, node: Any, name: str, args: Any) -> None:
        def formula(w: Writer, x: Sequence[Value]) -> Value:
            data, ids = x
            return _taken(w, node, data, ids, _last(ids), reduction)

        replace(ctx, node, formula)

    return handler


def _sparse(reduction: str) -> Handler:
    """Return what writes a segment of those rows of the data that a list of indices picks."""

    def handler(ctx: Any, node: Any, name: str, args: Any) -> None:
        def formula(w: Writer, x: Sequence[Value]) -> Value:
            data, indices, ids = x[:3]
            rows = x[3].to(_INT64).reshape(1) if len(x) > 3 else _last(ids)
            return _taken(w, node, w.op("Gather", data, indices, axis=0), ids, rows, reduction)

        replace(ctx, node, formula)

    return handler


def _last(ids: Value) -> Value:
    return ids.to(_INT64).rows(-1, _END) + 1


def _taken(w: Writer, node: Any, data: Value, ids: Value, rows: Value, reduction: str) -> Value:
    """Return ``rows`` rows, in each what ``ids`` put there of ``data``; 0 where that is none."""
    if reduction in ("add", "mul"):
        return _gathered(w, node, data, ids, rows, reduction)
    mean = reduction in ("mean", "sqrt_n")
    infinite = {"max": -np.inf, "min": np.inf}.get(reduction) if not data.whole else None
    taken = _gathered(w, node, data, ids, rows, "add" if mean else reduction, infinite)
    ones = w.op("Expand", w.const(1, data.dtype), data.shape())
    count = _gathered(w, node, ones, ids, rows, "add")
    if mean:
        count = w.op("Max", count, w.const(1, data.dtype))
        return taken / (w.op("Sqrt", count) if reduction == "sqrt_n" else count)
    return count.equals(0).where(0, taken)


segment_sum = _sorted("add")
segment_prod = _sorted("mul")
segment_max = _sorted("max")
segment_min = _sorted("min")
segment_mean = _sorted("mean")
sparse_segment_sum = _sparse("add")
sparse_segment_mean = _sparse("mean")
sparse_segment_sqrt_n = _sparse("sqrt_n")
unsorted_segment_sum = _unsorted("add")
unsorted_segment_prod = _unsorted("mul")
unsorted_segment_max = _unsorted("max")
unsorted_segment_min = _unsorted("min")
