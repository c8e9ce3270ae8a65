"""Operators on the diagonal of matrices, and norms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import TensorProto

from onnxgraft.errors import NotSupportedError
from onnxgraft.graph.tensors import Array
from onnxgraft.stages.convert.tensorflow.lower.writing import Value, Writer, replace, theirs

__all__ = ["band_part", "euclidean_norm", "matrix_diag", "matrix_set_diag"]


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


def band_part(ctx: Any, node: Any, name: str, args: Any) -> None:
    """Write a matrix in which all but a band around the main diagonal is 0."""

    def formula(w: Writer, x: Sequence[Value]) -> Value:
        matrix, lower, upper = x[0], x[1].to(TensorProto.INT64), x[2].to(TensorProto.INT64)
        rows, columns = w.range(w.size(matrix, -2)), w.range(w.size(matrix, -1))
        below = rows.unsqueeze(1) - columns.unsqueeze(0)
        above = columns.unsqueeze(0) - rows.unsqueeze(1)
        far = w.op("Or", _beyond(w, below, lower), _beyond(w, above, upper))
        return far.where(0, matrix)

    replace(ctx, node, formula)


def _beyond(w: Writer, distance: Value, most: Value) -> Value:
    """Write where a distance is larger than the most, which is any where that is negative."""
    return w.op("And", distance > most, most > -1)


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
    """Write other diagonals into a matrix, whose size is known."""
    look = Writer(ctx, node)
    shape, ends = ctx.get_shape(node.input[0]), look.known(look.value(node.input[2]))
    if shape is None or min(shape[-2:]) < 1 or ends is None:
        raise NotSupportedError(
            f"{node.type} ({node.name}) can't be converted: which diagonals it sets, or the size "
            "of the matrix, is not known; cut the graph before it with --outputs"
        )
    rows, columns = shape[-2:]
    least, most = ends.reshape(-1)[[0, -1]].tolist()
    align = node.get_attr_value("align", b"RIGHT_LEFT").decode()

    def formula(w: Writer, x: Sequence[Value]) -> Value:
        if least == most == 0:  # it is as long as the shorter side
            diagonal = x[1].unsqueeze(-2 if columns <= rows else -1)
            return _diagonal(w, w.size(x[0], -2), w.size(x[0], -1)).where(diagonal, x[0])
        within, at = _band(rows, columns, least, most, align)
        stored = x[1] if least == most else x[1].reshape(*[0] * (len(shape) - 2), -1)
        spread = w.op("Gather", stored, w.const(at, TensorProto.INT64), axis=len(shape) - 2)
        return w.const(within, TensorProto.BOOL).where(spread, x[0])

    replace(ctx, node, formula)


def _band(rows: int, columns: int, least: int, most: int, align: str) -> tuple[Array, Array]:
    """Return which places of a matrix are in a band, and where a list of its diagonals has them.

    The list begins with the highest diagonal; each is as long as the longest and lies at its left
    or right end: those above the main diagonal as the first word of ``align`` says, those below as
    the second, and the main one at the left end if either says so (TensorFlow's
    matrix_set_diag_op.cc).
    """
    longest = min(rows + min(most, 0), columns - max(least, 0))
    row, column = np.indices((rows, columns))
    number = column - row
    length = np.minimum(rows + np.minimum(number, 0), columns - np.maximum(number, 0))
    above, below = (word == "LEFT" for word in align.split("_"))
    left = ((number >= 0) & above) | ((number <= 0) & below)
    at = (most - number) * longest + np.where(left, 0, longest - length) + np.minimum(row, column)
    within = (number >= least) & (number <= most)
    return within, np.where(within, at, 0)
