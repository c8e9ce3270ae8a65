"""For TensorRT: write the determinants of small matrices out.

Given:  Det(x), x (..., M, M), M up to 4
Result: sum over j of (-1)^j x[..., 0, j] det(x without row 0 and column j)

TensorRT has no Det. The minors of the lower rows are shared, so that 4 x 4 takes 40 products.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.graph.operators import nodes_of
from onnxgraft.stages.surgery.passes.tensorrt._build import Builder
from onnxgraft.stages.surgery.running.rewrite import Context, Result

_MOST = 4


def apply(graph: gs.Graph, context: Context) -> Result:
    """Rewrite every Det of matrices up to 4 x 4."""
    result = Result()
    for node in nodes_of(graph, "Det"):
        shape = context.shapes.shape(node.inputs[0])
        if shape is None or not shape[-1].fixed or shape[-1].number > _MOST:
            result.refuse(node, f"TensorRT has no Det, and this one is not up to {_MOST} x {_MOST}")
            continue
        _rewrite(Builder(context, node), shape[-1].number)
        result.did(node, "written as products of its elements")
    return result


def _rewrite(build: Builder, size: int) -> None:
    def at(index: int) -> gs.Tensor:
        # A scalar takes the axis away.
        return build.constant(f"at_{index}", np.array(index, np.int64))

    def minor(row: int, columns: tuple[int, ...], last: gs.Tensor | None = None) -> gs.Tensor:
        """Return the determinant of the rows from ``row`` on, of some columns."""
        if (row, columns) in minors:
            return minors[row, columns]
        total: gs.Tensor | None = None
        for place, column in enumerate(columns):
            rest = columns[:place] + columns[place + 1 :]
            end = last if place == len(columns) - 1 else None
            if not rest:
                total = build.add("Gather", rows[row], at(column), axis=-1, output=last)
                continue
            if column not in elements[row]:
                elements[row][column] = build.add("Gather", rows[row], at(column), axis=-1)
            term = build.add("Mul", elements[row][column], minor(row + 1, rest))
            if total is None:
                total = term
            else:
                total = build.add("Sub" if place % 2 else "Add", total, term, output=end)
        assert total is not None
        minors[row, columns] = total
        return total

    minors: dict[tuple[int, tuple[int, ...]], gs.Tensor] = {}
    elements: list[dict[int, gs.Tensor]] = [{} for _ in range(size)]
    rows = [build.add("Gather", build.inputs[0], at(row), axis=-2) for row in range(size)]
    minor(0, tuple(range(size)), build.outputs[0])
