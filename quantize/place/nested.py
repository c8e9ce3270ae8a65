"""The layers that placement does not reach: recurrent ones, and those in bodies.

An LSTM multiplies its state by weights in each step, and what a body computes in each turn is seen
by nobody outside: neither has ranges, so both stay in float, and the report names them.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx_graphsurgeon as gs

from onnxgraft.graph.operators import RECURRENT, WEIGHTED, is_op, op_of
from onnxgraft.stages.quantize.place.placement import Placement, layers

__all__ = ["unreached"]


def unreached(graph: gs.Graph, table: Placement) -> Iterator[tuple[str, str]]:
    """Yield each recurrent layer, and each layer in a body, by its name and why it is in float."""
    for node in graph.nodes:
        if is_op(node, *RECURRENT):
            yield node.name, _recurrent(node)
        for body in node.subgraphs():
            yield from _within(body, table, f"{op_of(node)} {node.name!r}")


def _within(body: gs.Graph, table: Placement, place: str) -> Iterator[tuple[str, str]]:
    able = {id(node) for node in layers(body, table)}
    for node in body.nodes:
        if is_op(node, *RECURRENT):
            yield node.name, _recurrent(node)
        elif id(node) in able:
            yield node.name, f"it is in the body of {place}, whose tensors have no ranges"
        elif is_op(node, *WEIGHTED):
            known = is_op(node, *table.weights)
            why = "its weights are not constant" if known else f"no INT8 {op_of(node)}"
            yield node.name, f"it is in the body of {place}: {why}"
        for inner in node.subgraphs():
            yield from _within(inner, table, f"{op_of(node)} {node.name!r}")


def _recurrent(node: gs.Node) -> str:
    return f"no INT8 {op_of(node)} is placed: the state that its weights multiply has no range"
