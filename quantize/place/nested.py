"""The layers that placement leaves in float: recurrent ones, and those in bodies.

A target says which recurrent layers it has in INT8, and whether it runs INT8 in the bodies of If,
Loop and Scan. The report names all others.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx_graphsurgeon as gs

from onnxgraft.graph.operators import RECURRENT, WEIGHTED, is_op, op_of
from onnxgraft.stages.quantize.place.placement import Placement, layers, products
from onnxgraft.stages.quantize.place.recurrent import unable

__all__ = ["unreached"]


def unreached(graph: gs.Graph, table: Placement) -> Iterator[tuple[str, str]]:
    """Yield each layer that the target never has in INT8, by its name and why.

    These are recurrent layers, and those in bodies where the target runs no INT8 in them.
    """
    for node in graph.nodes:
        if is_op(node, *RECURRENT) and (why := unable(node, table)) is not None:
            yield node.name, why
        for body in node.subgraphs():
            yield from _within(body, table, f"{op_of(node)} {node.name!r}")


def _within(body: gs.Graph, table: Placement, place: str) -> Iterator[tuple[str, str]]:
    able = {id(node) for node in [*layers(body, table), *products(body, table)]}
    for node in body.nodes:
        if is_op(node, *RECURRENT):
            why = unable(node, table)
            if why is not None or not table.bodies:
                yield node.name, why or _in_the_body(place)
        elif is_op(node, *WEIGHTED) and not table.bodies:
            nowhere = "" if id(node) in able else ", and could not elsewhere"
            yield node.name, f"{_in_the_body(place)}{nowhere}"
        for inner in node.subgraphs():
            yield from _within(inner, table, f"{op_of(node)} {node.name!r}")


def _in_the_body(place: str) -> str:
    return f"it is in the body of {place}, where the placement table lets nothing run in INT8"
