"""Blocks to fold nodes into: by the framework's scopes, and of what has none by where it stands.

A scope is a block where it holds several nodes; a scope with nothing but one other is one with it.
What stands loose between nodes of one block alone, such as an activation whose name has no scope,
is in it. Of more nodes and blocks than one looks at together, runs are blocks: neighbours that
begin with the same word, such as ``res2a_``, or else as many as fit.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from onnxgraft.stages.validate.views.graph.data import Block, Shown

__all__ = ["fold"]

# So many boxes are looked at together.
MOST = 48
# Runs of so many nodes are worth a block.
LEAST = 3
# What neighbours have in common in names without scopes.
_WORD = re.compile(r"[A-Za-z]+\d+[a-z]?(?=[_.\-])|[A-Za-z]+(?=[_.\-])")


class _Box:
    """A block in the making: its nodes, by their places, and the blocks in it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.boxes: dict[str, _Box] = {}
        self.nodes: list[int] = []

    def every(self) -> Iterator[int]:
        yield from self.nodes
        for box in self.boxes.values():
            yield from box.every()

    def first(self) -> int:
        return min(self.every())


def fold(nodes: Sequence[Shown], scopes: Sequence[Sequence[str]]) -> list[Block]:
    """Put nodes into blocks: write the place of its block into each, and return the blocks.

    Args:
        nodes: In the order in which they run.
        scopes: Of each, the parts of the scope that it is in.
    """
    whole = _Box("")
    for place, scope in enumerate(scopes):
        box = whole
        for part in scope:
            box = box.boxes.setdefault(part, _Box(part))
        box.nodes.append(place)
    _take_in_namesakes(whole, nodes)
    _simplify(whole)
    ends = {place for place, node in enumerate(nodes) if node.role}
    _take_in_loose(whole, _neighbours(nodes), ends)
    _split(whole, nodes)
    blocks: list[Block] = []
    _write(whole, -1, nodes, blocks)
    return blocks


def _write(box: _Box, place: int, nodes: Sequence[Shown], blocks: list[Block]) -> None:
    for node in box.nodes:
        nodes[node].block = place
    for inner in sorted(box.boxes.values(), key=_Box.first):
        blocks.append(Block(inner.name, place))
        _write(inner, len(blocks) - 1, nodes, blocks)


def _take_in_namesakes(box: _Box, nodes: Sequence[Shown]) -> None:
    """Let a node with the name of a block beside it, as Caffe's ``conv1`` of ``conv1/bn``, in."""
    for place in list(box.nodes):
        last = nodes[place].name.strip("/").rpartition("/")[2]
        if last in box.boxes and not nodes[place].role:
            box.nodes.remove(place)
            box.boxes[last].nodes.append(place)
    for inner in box.boxes.values():
        inner.nodes.sort()
        _take_in_namesakes(inner, nodes)


def _simplify(box: _Box) -> None:
    """Take apart blocks of one node, and make one of a block with nothing but another in it."""
    for name, inner in list(box.boxes.items()):
        _simplify(inner)
        if len(inner.boxes) == 1 and not inner.nodes:
            ((_, only),) = inner.boxes.items()
            repeats = only.name.startswith(inner.name)
            only.name = only.name if repeats else f"{inner.name}/{only.name}"
            box.boxes[name] = only
        elif not inner.boxes and len(inner.nodes) < 2:
            del box.boxes[name]
            box.nodes = sorted([*box.nodes, *inner.nodes])


def _neighbours(nodes: Sequence[Shown]) -> list[set[int]]:
    """Return the nodes that make what each reads, and that read what it makes."""
    makers = {tensor: place for place, node in enumerate(nodes) for tensor in node.outputs}
    near: list[set[int]] = [set() for _ in nodes]
    for place, node in enumerate(nodes):
        for tensor in node.inputs:
            maker = makers.get(tensor)
            if maker is not None:
                near[place].add(maker)
                near[maker].add(place)
    return near


def _take_in_loose(box: _Box, near: Sequence[set[int]], ends: set[int]) -> None:
    """Put nodes that stand between those of one block alone into that, at every depth."""
    inside = {place: name for name, inner in box.boxes.items() for place in inner.every()}
    here = set(box.nodes) - ends
    for group in list(_connected(here, near)):
        beside = [other for place in group for other in near[place] if other not in here]
        blocks = {inside.get(other) for other in beside}
        name = next(iter(blocks), None)
        if len(blocks) == 1 and name is not None and len(beside) > 1:
            box.boxes[name].nodes = sorted([*box.boxes[name].nodes, *group])
            here -= group
    box.nodes = sorted(here | (ends & set(box.nodes)))
    for inner in box.boxes.values():
        _take_in_loose(inner, near, ends)


def _connected(places: set[int], near: Sequence[set[int]]) -> Iterator[set[int]]:
    """Yield groups of nodes that hang together."""
    left = set(places)
    while left:
        group: set[int] = set()
        waiting = [left.pop()]
        while waiting:
            place = waiting.pop()
            group.add(place)
            found = near[place] & left
            left -= found
            waiting += found
        yield group


def _split(box: _Box, nodes: Sequence[Shown]) -> None:
    """Make blocks of runs, where more stands side by side than one looks at together."""
    for inner in box.boxes.values():
        _split(inner, nodes)
    if len(box.nodes) + len(box.boxes) > MOST:
        _split_by_words(box, nodes)
    if len(box.nodes) + len(box.boxes) > MOST:
        _split_evenly(box, nodes)


def _split_by_words(box: _Box, nodes: Sequence[Shown]) -> None:
    most = len(box.nodes) // 2  # what most of them begin with tells nothing
    for word, run in groupby(box.nodes[:], key=lambda place: _word(nodes[place])):
        places = list(run)
        if word and LEAST <= len(places) <= most:
            _enclose(box, word, places, ())


def _word(node: Shown) -> str:
    found = None if node.role else _WORD.match(node.name.strip("/").rpartition("/")[2])
    return found[0] if found else ""


def _split_evenly(box: _Box, nodes: Sequence[Shown]) -> None:
    """Make blocks of as many neighbours as are looked at together, and blocks of these."""
    ends = {place for place in box.nodes if nodes[place].role}
    entries: list[tuple[int, str]] = [(place, "") for place in box.nodes if place not in ends]
    entries += [(inner.first(), name) for name, inner in box.boxes.items()]
    entries.sort()
    runs = min(MOST // 2, math.ceil(len(entries) / MOST))
    size = math.ceil(len(entries) / max(runs, 2))
    for begin in range(0, len(entries), size):
        part = entries[begin : begin + size]
        places = [place for place, name in part if not name]
        names = [name for _, name in part if name]
        first, last = (_called(box, nodes, part[at]) for at in (0, -1))
        _split(_enclose(box, f"{first} to {last}", places, names), nodes)


def _called(box: _Box, nodes: Sequence[Shown], entry: tuple[int, str]) -> str:
    place, name = entry
    return box.boxes[name].name if name else nodes[place].name.strip("/").rpartition("/")[2]


def _enclose(box: _Box, name: str, places: Iterable[int], names: Iterable[str]) -> _Box:
    """Put nodes and blocks of a block into one of their own in it."""
    inner = _Box(name)
    inner.nodes = sorted(places)
    taken = set(inner.nodes)
    inner.boxes = {each: box.boxes.pop(each) for each in names}
    box.nodes = [place for place in box.nodes if place not in taken]
    key = name
    while key in box.boxes:
        key += " "
    box.boxes[key] = inner
    return inner
