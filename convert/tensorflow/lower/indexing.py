"""Operators that are told places by numbers: TensorFlow and ONNX differ in what those may be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import TensorProto

from onnxgraft.stages.convert.tensorflow.lower.writing import NewerOpset, Value, Writer, replace

__all__ = ["one_hot", "scatter_nd", "tensor_scatter_max", "tensor_scatter_min"]

_INT64 = TensorProto.INT64
# What onnxruntime compares.
_COMPARED = (TensorProto.INT32, _INT64)


def one_hot(ctx: Any, node: Any, name: str, args: Any) -> None:
    """Write where the indices are 0, 1, 2 ...; any other index is nowhere.

    ONNX's OneHot counts negative indices from the end, so it is written only of what an ArgMax
    gives.
    """
    axis = node.get_attr_value("axis", -1)
    rank = ctx.get_rank(node.input[0])
    if ctx.get_dtype(node.output[0]) == TensorProto.FLOAT and _of_argmax(node.inputs[0]):
        from tf2onnx.onnx_opset.tensor import OneHot

        OneHot.any_version_after9(ctx.opset, ctx, node)
        return

    def formula(w: Writer, x: Sequence[Value]) -> Value:
        indices, depth, on, off = x
        if indices.dtype not in _COMPARED:
            indices = indices.to(_INT64)
        steps = w.range(depth.to(indices.dtype))
        if axis != -1:
            assert rank is not None  # TensorFlow wants an axis within it
            steps = steps.unsqueeze(*range(1, rank - axis + 1)) if axis < rank else steps
        hits = indices.unsqueeze(axis).equals(steps)
        ends = [w.known(value) for value in (on, off)]
        if ends[0] == 1 and ends[1] == 0:
            return hits.to(on.dtype)
        return hits.where(on, off)

    replace(ctx, node, formula)


def _of_argmax(node: Any) -> bool:
    while node.type in ("Cast", "Identity"):
        node = node.inputs[0]
    return node.type in ("ArgMax", "ArgMin")


def scatter_nd(ctx: Any, node: Any, name: str, args: Any) -> None:
    """Write ScatterND into zeros; TensorFlow adds up what comes to the same place."""

    def formula(w: Writer, x: Sequence[Value]) -> Value:
        indices, updates, shape = x
        known = w.known(indices)
        once = known is not None and len({*map(tuple, known.reshape(-1, known.shape[-1]))}) == (
            known[..., 0].size
        )
        kind = updates.dtype
        if kind == TensorProto.BOOL:
            updates = updates.to(TensorProto.INT32)
        zeros = w.op("Expand", w.const(0, updates.dtype), shape.to(_INT64))
        made = scatter(w, node, zeros, indices, updates, "none" if once else "add")
        return made.to(kind)

    replace(ctx, node, formula)


def scatter(
    w: Writer, node: Any, data: Value, indices: Value, updates: Value, reduction: str
) -> Value:
    """Return ``data`` with ``updates`` at ``indices``.

    Args:
        w: Writes it.
        node: Of TensorFlow, for the message.
        data: What it is put into.
        indices: Rows of indices.
        updates: What is put there.
        reduction: How several at the same place are taken together: none, add, mul, max or min.

    Raises:
        NewerOpset: ONNX has this reduction from a later opset on.
    """
    since = {"none": 0, "add": 16, "mul": 16, "max": 18, "min": 18}[reduction]
    if w.ctx.opset < since:
        raise NewerOpset(f"{node.type} ({node.name})", since)
    how = {} if reduction == "none" else {"reduction": reduction}
    return w.op("ScatterND", data, indices.to(_INT64), updates, **how)


def _reduced(reduction: str) -> Any:
    def handler(ctx: Any, node: Any, name: str, args: Any) -> None:
        replace(ctx, node, lambda w, x: scatter(w, node, x[0], x[1], x[2], reduction))

    return handler


tensor_scatter_max = _reduced("max")
tensor_scatter_min = _reduced("min")
