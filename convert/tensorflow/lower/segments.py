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
    "unsorted_segment_max",
    "unsorted_segment_min",
    "unsorted_segment_prod",
    "unsorted_segment_sum",
]

_INT64 = TensorProto.INT64
_END = int(np.iinfo(np.int64).max)


def _start(reduction: str, dtype: int) -> Any:
    """Return what a segment holds before anything is in it."""
    kind = tensor_dtype_to_np_dtype(dtype)
    limits = np.finfo(kind) if kind.kind == "f" else np.iinfo(kind)
    return {"add": 0, "mul": 1, "max": limits.min, "min": limits.max}[reduction]


def _gathered(w: Writer, node: Any, data: Value, ids: Value, rows: Value, reduction: str) -> Value:
    """Return ``rows`` rows (a list of one INT64), in each what ``ids`` put there of ``data``."""
    rank = w.ctx.get_rank(ids.name)
    if rank is None:
        raise NotSupportedError(f"{node.type} ({node.name}) has ids of unknown rank")
    shape = w.op("Concat", rows, data.shape().rows(rank, _END), axis=0)
    start = w.op("Expand", w.const(_start(reduction, data.dtype), data.dtype), shape)
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
            rows = ids.to(_INT64).rows(-1, _END) + 1
            if reduction in ("add", "mul"):
                return _gathered(w, node, data, ids, rows, reduction)
            mean = reduction == "mean"
            taken = _gathered(w, node, data, ids, rows, "add" if mean else reduction)
            ones = w.op("Expand", w.const(1, data.dtype), data.shape())
            count = _gathered(w, node, ones, ids, rows, "add")
            if mean:
                return taken / w.op("Max", count, w.const(1, data.dtype))
            return count.equals(0).where(0, taken)

        replace(ctx, node, formula)

    return handler


segment_sum = _sorted("add")
segment_prod = _sorted("mul")
segment_max = _sorted("max")
segment_min = _sorted("min")
segment_mean = _sorted("mean")
unsorted_segment_sum = _unsorted("add")
unsorted_segment_prod = _unsorted("mul")
unsorted_segment_max = _unsorted("max")
unsorted_segment_min = _unsorted("min")
