"""Whether the scales of a QuantizeLinear or DequantizeLinear are those of an axis of its tensor."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_graphsurgeon as gs

from onnxgraft.graph.dims import Dim
from onnxgraft.graph.operators import is_op, op_of
from onnxgraft.graph.walk import nodes_within

__all__ = ["axis_of", "misfit"]


def axis_of(node: gs.Node, count: int, shape: Sequence[int | Dim | str] | None) -> int | None:
    """Return the axis that a node has so many scales for, counted from 0.

    Args:
        node: QuantizeLinear or DequantizeLinear, not in blocks.
        count: Of its scales, more than one.
        shape: Of its tensor; a size that is not known may be any.

    Returns:
        None where there is no such axis, or the shape is not known.
    """
    axis = int(node.attrs.get("axis", 1))
    if shape is None or not -len(shape) <= axis < len(shape):
        return None
    dim = shape[axis]
    if isinstance(dim, Dim):
        dim = dim.number if dim.fixed else count
    return None if isinstance(dim, int) and dim != count else axis % len(shape)


def misfit(graph: gs.Graph) -> str | None:
    """Return what is wrong with the first node whose stored scales do not fit its stored tensor.

    No library runs such a node, and not all say so before they do.
    """
    for node in nodes_within(graph):
        if not is_op(node, "QuantizeLinear", "DequantizeLinear") or len(node.inputs) < 2:
            continue
        tensor, *others = node.inputs[:3]
        sizes = [one.values.size for one in others if isinstance(one, gs.Constant)]
        if node.attrs.get("block_size", 0) or max(sizes, default=1) == 1:
            continue
        where = f"the {op_of(node)} {node.name!r}"
        if len({*sizes}) > 1:
            return f"{where} has {sizes[0]} scales and {sizes[1]} zero points"
        stored = isinstance(tensor, gs.Constant)
        if stored and axis_of(node, sizes[0], tensor.shape) is None:
            return (
                f"{where} has {sizes[0]} scales, which its axis {node.attrs.get('axis', 1)} of "
                f"{[*tensor.shape]} has not"
            )
    return None
