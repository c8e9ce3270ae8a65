"""What every graph must satisfy after every pass: a table of named predicates."""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterator

import onnx_graphsurgeon as gs

__all__ = ["RULES", "violations"]


def _repeated(names: Iterator[str]) -> str | None:
    for name, count in collections.Counter(names).items():
        if name and count > 1:
            return name
    return None


def _tensor_twice(graph: gs.Graph) -> str | None:
    produced = [t for node in graph.nodes for t in node.outputs]
    stored = {id(t): t for node in graph.nodes for t in node.inputs if isinstance(t, gs.Constant)}
    return _repeated(t.name for t in [*graph.inputs, *produced, *stored.values()])


def _not_produced(graph: gs.Graph) -> str | None:
    known = {id(t) for t in graph.inputs}
    for node in graph.nodes:
        for tensor in node.inputs:
            variable = isinstance(tensor, gs.Variable) and tensor.name
            if variable and id(tensor) not in known:
                return f"{tensor.name} (read by {node.name})"
        known.update(id(t) for t in node.outputs)
    for tensor in graph.outputs:
        if isinstance(tensor, gs.Variable) and id(tensor) not in known:
            return str(tensor.name)
    return None


RULES: tuple[tuple[str, Callable[[gs.Graph], str | None]], ...] = (
    ("node names are unique", lambda graph: _repeated(node.name for node in graph.nodes)),
    ("tensor names are unique", _tensor_twice),
    ("every tensor that is read was produced before", _not_produced),
)


def violations(graph: gs.Graph) -> list[str]:
    """Return a sentence for each rule that the graph breaks."""
    found = ((rule, check(graph)) for rule, check in RULES)
    return [f"not true that {rule}: {culprit}" for rule, culprit in found if culprit]
