"""Let a reduction or a Gather keep the axis that an Unsqueeze puts back.

Given:  Unsqueeze(Reduce(x, axes = a, keepdims = 0), a)     a ReduceMean, ArgMax or the like
Result: Reduce(x, axes = a, keepdims = 1)

Given:  Unsqueeze(Gather(x, i, axis = a), [a])               i a constant scalar
Result: Gather(x, [i], axis = a)
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.graph.operators import is_op, nodes_of, op_of
from onnxgraft.graph.walk import detach
from onnxgraft.stages.surgery.running.rewrite import Context, Result, constant

_REDUCTIONS = (
    "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean",
    "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare",
)  # fmt: skip
_ARG = ("ArgMax", "ArgMin")


def apply(graph: gs.Graph, context: Context) -> Result:
    """Remove every Unsqueeze that undoes what was left out before it."""
    result = Result()
    for node in nodes_of(graph, "Unsqueeze"):
        first = context.producer(node.inputs[0])
        shape = None if first is None else context.shapes.shape(first.inputs[0])
        if first is None or not shape or context.single_consumer(node.inputs[0]) is None:
            continue
        left_out = _left_out(first, len(shape))
        put_back = _axes(node, len(shape))
        if left_out is None or left_out != put_back:
            continue
        if is_op(first, "Gather"):
            index = first.inputs[1]
            first.inputs[1] = context.constant(index.name, np.reshape(index.values, (1,)))
        else:
            first.attrs["keepdims"] = 1
        output = node.outputs[0]
        detach(node)
        first.outputs = [output]
        result.did(first, f"the {op_of(first)} keeps the axes {left_out}")
    return result


def _left_out(node: gs.Node, rank: int) -> list[int] | None:
    """Return the axes that a node leaves out of its only output, if it could keep them."""
    if len(node.outputs) != 1:
        return None
    if is_op(node, "Gather"):
        index = constant(node.inputs[1])
        scalar = index is not None and index.ndim == 0
        return [int(node.attrs.get("axis", 0)) % rank] if scalar and rank else None
    if not is_op(node, *_REDUCTIONS, *_ARG) or node.attrs.get("keepdims", 1):
        return None
    if is_op(node, *_ARG):
        return [int(node.attrs.get("axis", 0)) % rank]
    return _axes(node, rank)


def _axes(node: gs.Node, rank: int) -> list[int] | None:
    """Return the axes that a node names, as attribute or as constant; None: neither.

    An Unsqueeze counts them in its output, which has ``rank`` axes if it puts back all of them.
    """
    axes = node.attrs.get("axes")
    if axes is None and len(node.inputs) > 1 and node.inputs[1].name:
        axes = constant(node.inputs[1])
    return None if axes is None else sorted(int(axis) % rank for axis in np.ravel(axes))
