"""Operators on the diagonal of matrices, and norms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from onnxgraft.stages.convert.tensorflow.lower.writing import Value, Writer, replace, theirs

__all__ = ["euclidean_norm", "matrix_diag", "matrix_set_diag"]


def euclidean_norm(ctx: Any, node: Any, name: str, args: Any) -> None:
    """Write ReduceL2."""
    keep = int(node.get_attr_value("keep_dims", 0))

    def formula(w: Writer, x: Sequence[Value]) -> Value:
        axes = w.known(x[1])
        if ctx.opset < 18 and axes is not None:
            return w.op("ReduceL2", x[0], axes=axes.reshape(-1).tolist(), keepdims=keep)
        return w.op("ReduceL2", x[0], x[1].to(7).reshape(-1), keepdims=keep)

    replace(ctx, node, formula)


def _main(w: Writer, *others: Value) -> bool:
    """Tell whether the main diagonal is meant, of a matrix as large as it needs."""
    wanted = (0, -1, -1)
    known = [w.known(value) for value in others]
    return all(v is not None and (v == want).all() for v, want in zip(known, wanted, strict=False))


def _diagonal(w: Writer, rows: Value, columns: Value) -> Value:
    return w.range(rows).unsqueeze(1).equals(w.range(columns).unsqueeze(0))


def matrix_diag(ctx: Any, node: Any, name: str, args: Any) -> None:
    """Write a matrix with the given diagonal; other diagonals are tf2onnx's."""
    look = Writer(ctx, node)
    if not _main(look, *(look.value(tensor) for tensor in node.input[1:4])):
        theirs(ctx, node)
        return

    def formula(w: Writer, x: Sequence[Value]) -> Value:
        size = w.size(x[0], -1)
        return _diagonal(w, size, size).where(x[0].unsqueeze(-1), x[4])

    replace(ctx, node, formula)


def matrix_set_diag(ctx: Any, node: Any, name: str, args: Any) -> None:
    """Write another main diagonal into a matrix; other diagonals are tf2onnx's."""
    look = Writer(ctx, node)
    shape = ctx.get_shape(node.input[0])
    known = shape is not None and min(shape[-2:]) > 0
    if not known or not _main(look, look.value(node.input[2])):
        theirs(ctx, node)
        return

    def formula(w: Writer, x: Sequence[Value]) -> Value:
        # The diagonal is as long as the shorter side.
        diagonal = x[1].unsqueeze(-2 if shape[-1] <= shape[-2] else -1)
        place = _diagonal(w, w.size(x[0], -2), w.size(x[0], -1))
        return place.where(diagonal, x[0])

    replace(ctx, node, formula)
