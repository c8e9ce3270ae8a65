"""What became of each node when a pass changed the graph: told by the graph, not by the pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.graph.operators import op_key
from onnxgraft.graph.walk import nodes_within
from onnxgraft.stages.surgery.running.rewrite import Finding
from onnxgraft.stages.surgery.running.snapshot import Noted, Snapshot

__all__ = ["Move", "followed", "moves"]


@dataclass(frozen=True)
class Move:
    """What a pass did to one node.

    Attributes:
        by: The pass.
        node: The node's name.
        what: ``made`` or ``removed`` it, or ``changed`` its operator, attributes or constants.
        into: Of a node that was removed: those that do its work now; empty where nobody has to.
        why: What the pass said of it.
    """

    by: str
    node: str
    what: Literal["made", "changed", "removed"]
    into: tuple[str, ...] = ()
    why: str = ""


def moves(by: str, before: Snapshot, graph: gs.Graph, done: Sequence[Finding]) -> list[Move]:
    """Return what a pass did to nodes: those that it made and changed, then those it removed.

    What was removed lives on in the node that makes the same tensor now, or else in a neighbour
    that was made or changed meanwhile, beyond others that were removed.

    Args:
        by: The pass.
        before: The graph before it.
        graph: The graph after it.
        done: What the pass said.
    """
    change = _Change(before, graph)
    told = _Told(done)
    gone = {noted.name: change.heirs(noted) for noted in change.removed}
    behind: dict[str, list[str]] = {}
    for name, into in gone.items():
        for heir in into:
            behind.setdefault(heir, []).append(name)
    own = {name: told.of(name, *behind.get(name, ())) for name in (*change.made, *change.changed)}
    return [
        *(Move(by, name, "made", (), own[name]) for name in change.made),
        *(Move(by, name, "changed", (), own[name]) for name in change.changed),
        *(Move(by, name, "removed", into, told.of(name, *into)) for name, into in gone.items()),
    ]


def followed(moves: Iterable[Move], names: Iterable[str]) -> dict[str, set[str]]:
    """Return what became of nodes: the names of those that do their work after all moves.

    Args:
        moves: In the order in which they happened.
        names: Of the nodes before them.
    """
    was: dict[str, set[str]] = {name: {name} for name in names}
    for move in moves:
        if move.what == "removed":
            for heir in move.into:
                was.setdefault(heir, set()).update(was.get(move.node, ()))
            was.pop(move.node, None)
    became: dict[str, set[str]] = {name: set() for name in names}
    for heir, origins in was.items():
        for origin in origins & became.keys():
            became[origin].add(heir)
    return became


class _Told:
    """The sentences of a pass, by node."""

    def __init__(self, done: Sequence[Finding]) -> None:
        self._by_node: dict[str, list[str]] = {}
        for finding in done:
            self._by_node.setdefault(finding.node, []).append(finding.sentence)
        self._only = done[0].sentence if len(done) == 1 else ""

    def of(self, *nodes: str) -> str:
        """Return what was said of the first of some nodes that anything was said of."""
        said = next((self._by_node[node] for node in nodes if node in self._by_node), None)
        return self._only if said is None else "; ".join(dict.fromkeys(said))


# Yields the neighbours of a node on one side; and what was found beyond nodes, by their ids.
_Near = Callable[[Noted], Iterator[Noted]]
_Beyond = dict[int, dict[str, None]]


class _Change:
    """A graph before and after: what is new, what is other, what is gone, and who is beside it."""

    def __init__(self, before: Snapshot, graph: gs.Graph) -> None:
        after = {id(node): node for node in nodes_within(graph)}
        was = {id(noted.node): noted for noted in before.nodes}
        self.removed = [noted for noted in before.nodes if id(noted.node) not in after]
        self.made = [str(node.name) for key, node in after.items() if key not in was]
        self.changed = [
            str(node.name) for key, node in after.items() if key in was and _other(was[key], node)
        ]
        self._alive = {id(noted.node) for noted in before.nodes} & set(after)
        self._touched = {*self.made, *self.changed}
        self._makers_now = {id(t): str(n.name) for n in after.values() for t in n.outputs}
        self._makers = {id(t): noted for noted in before.nodes for t in noted.outputs}
        self._readers: dict[int, list[Noted]] = {}
        for noted in before.nodes:
            for tensor in noted.inputs:
                self._readers.setdefault(id(tensor), []).append(noted)
        self._ways: list[tuple[_Near, _Beyond]] = [(self._before, {}), (self._behind, {})]

    def heirs(self, gone: Noted) -> tuple[str, ...]:
        """Return the nodes that do the work of one that is gone."""
        same = [self._makers_now.get(id(tensor)) for tensor in gone.outputs]
        found = [name for name in same if name is not None]
        for near, known in self._ways:
            found = found or [*self._beyond(gone, near, known)]
        return tuple(dict.fromkeys(found))

    def _beyond(self, gone: Noted, near: _Near, known: _Beyond) -> dict[str, None]:
        """Return what was made or changed beyond one that is gone and others that are.

        Args:
            gone: The node.
            near: Yields its neighbours on one side.
            known: What was found for others, which each are looked at once.
        """
        waiting = [gone]
        while waiting:
            noted = waiting[-1]
            others = [*near(noted)] if id(noted.node) not in known else []
            dead = [other for other in others if id(other.node) not in self._alive]
            missing = [other for other in dead if id(other.node) not in known]
            if missing:
                waiting += missing
                continue
            waiting.pop()
            if id(noted.node) not in known:
                found = dict.fromkeys(name for other in others for name in self._now(other))
                for other in dead:
                    found.update(known[id(other.node)])
                known[id(noted.node)] = found
        return known[id(gone.node)]

    def _now(self, noted: Noted) -> Iterator[str]:
        """Yield a node that is left, or else what makes its tensors now, if a pass touched it."""
        names = [self._makers_now.get(id(tensor)) for tensor in noted.outputs]
        if id(noted.node) in self._alive:
            names = [str(noted.node.name)]
        return (name for name in names if name is not None and name in self._touched)

    def _before(self, noted: Noted) -> Iterator[Noted]:
        return (self._makers[id(t)] for t in noted.inputs if id(t) in self._makers)

    def _behind(self, noted: Noted) -> Iterator[Noted]:
        return (reader for t in noted.outputs for reader in self._readers.get(id(t), ()))


def _other(before: Noted, node: gs.Node) -> bool:
    """Tell whether a node computes something else than before, whatever it reads."""
    return (
        before.key != op_key(node)
        or not _same(before.attrs, node.attrs)
        or [*_constants(before.inputs)] != [*_constants(node.inputs)]
    )


def _constants(tensors: Iterable[gs.Tensor]) -> Iterator[int]:
    return (id(tensor) for tensor in tensors if isinstance(tensor, gs.Constant))


def _same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return one.keys() == other.keys() and all(_equal(one[key], other[key]) for key in one)


def _equal(one: Any, other: Any) -> bool:
    if one is other:
        return True
    if isinstance(one, np.ndarray) or isinstance(other, np.ndarray):
        return np.array_equal(one, other)
    return type(one) is type(other) and not isinstance(one, gs.Tensor) and bool(one == other)
