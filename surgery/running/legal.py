"""What every graph must satisfy after every pass: a table of named predicates."""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable

import onnx_graphsurgeon as gs

from onnxgraft.graph.walk import bodies

__all__ = ["RULES", "violations"]


def _repeated(names: Iterable[str]) -> str | None:
    for name, count in collections.Counter(names).items():
        if name and count > 1:
            return name
    return None


def _node_twice(graph: gs.Graph) -> str | None:
    return _repeated(node.name for body in bodies(graph) for node in body.nodes)


def _tensor_twice(graph: gs.Graph, around: frozenset[str] = frozenset()) -> str | None:
    """Look for a name that two tensors have which one node can see.

    Two branches may repeat each other's names, and a body may store a constant of its own under
    the name of one around it.
    """
    made = [t.name for t in graph.inputs]
    made += [t.name for node in graph.nodes for t in node.outputs]
    stored = {id(t): t for node in graph.nodes for t in node.inputs if isinstance(t, gs.Constant)}
    names = {name for name in made if name}
    repeated = _repeated([*made, *(t.name for t in stored.values())])
    if repeated or names & around:
        return repeated or min(names & around)
    inner = (
        _tensor_twice(body, around | names) for node in graph.nodes for body in node.subgraphs()
    )
    return next((name for name in inner if name), None)


def _not_produced(graph: gs.Graph, around: set[int] | None = None) -> str | None:
    known = {id(t) for t in graph.inputs} | (around or set())
    for node in graph.nodes:
        for tensor in node.inputs:
            variable = isinstance(tensor, gs.Variable) and tensor.name
            if variable and id(tensor) not in known:
                return f"{tensor.name} (read by {node.name})"
        for body in node.subgraphs():
            inner = _not_produced(body, known)
            if inner:
                return inner
        known.update(id(t) for t in node.outputs)
    for tensor in graph.outputs:
        if isinstance(tensor, gs.Variable) and id(tensor) not in known:
            return str(tensor.name)
    return None


RULES: tuple[tuple[str, Callable[[gs.Graph], str | None]], ...] = (
    ("node names are unique", _node_twice),
    ("tensor names are unique", _tensor_twice),
    ("every tensor that is read was produced before", _not_produced),
)


def violations(graph: gs.Graph) -> list[str]:
    """Return a sentence for each rule that the graph breaks."""
    found = ((rule, check(graph)) for rule, check in RULES)
    return [f"broken rule: {rule}: {culprit}" for rule, culprit in found if culprit]
