"""What is drawn of graphs, as plain data, and as the JSON that a page holds."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from onnxgraft.files import read_json, write_json
from onnxgraft.stages.validate.report import RangeRow

__all__ = ["Block", "Drawn", "Kind", "Link", "Shown", "ShownTensor", "Stage", "Walk", "Weight"]

Kind = Literal["original", "cleaned", "quantized", "engine"]
# The levels of a bar of a histogram on a page, each one character.
_LEVELS = "0123456789abcdefghijklmnopqrstuvwxyz"
# Digits of a number on a page.
_DIGITS = 4


@dataclass(frozen=True)
class Block:
    """Nodes that are folded into one box.

    Attributes:
        name: The last part of the framework's scope, or what a run of nodes is called.
        parent: The place of the block around it in the list; -1 for none.
    """

    name: str
    parent: int = -1


@dataclass(frozen=True)
class ShownTensor:
    """A tensor between nodes.

    Attributes:
        name: In the graph.
        shape: Its dimensions, such as ``1x64x90x120``; empty where they are not known.
        dtype: Its type; likewise.
        origin: The framework's name for what it holds; empty where there is none.
    """

    name: str
    shape: str = ""
    dtype: str = ""
    origin: str = ""


@dataclass(frozen=True)
class Weight:
    """A constant that a node reads.

    Attributes:
        name: Of its tensor.
        shape: Its dimensions.
        dtype: Its type.
        value: The values, where they are few; otherwise empty.
        low: The smallest value, of numbers.
        high: The largest.
        counts: Of values in bins of equal width between them; empty where they are few.
    """

    name: str
    shape: str
    dtype: str
    value: str = ""
    low: float | None = None
    high: float | None = None
    counts: tuple[int, ...] = ()


@dataclass
class Shown:
    """A node of a graph, or a layer of an engine.

    Attributes:
        name: Its own.
        operator: What it does.
        block: The place of its block in the list; -1 for none.
        inputs: The places of the tensors that it reads.
        outputs: The places of those that it makes.
        attributes: In words.
        origin: The framework's name for what it makes; empty where there is none.
        precision: What it is computed in; empty where that is not known.
        graph: The precision that stands in the graph, where an engine's is another.
        macs: Multiplications of an image; 0 where there are none.
        milliseconds: That it takes; None where that was not measured.
        error: What it alone adds, as a fraction of its tensor's range; None likewise.
        sqnr: What it leaves of the signal, in dB.
        arrived: What all layers up to it leave, in dB.
        weights: The constants that it reads.
        notes: What was done and why: which pass made it, what was refused, what is in it.
        role: ``input``, ``output``, ``reorder`` or ``conversion``; empty for a layer.
    """

    name: str
    operator: str
    block: int = -1
    inputs: list[int] = field(default_factory=list)
    outputs: list[int] = field(default_factory=list)
    attributes: dict[str, str] = field(default_factory=dict)
    origin: str = ""
    precision: str = ""
    graph: str = ""
    macs: int = 0
    milliseconds: float | None = None
    error: float | None = None
    sqnr: float | None = None
    arrived: float | None = None
    weights: list[Weight] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    role: str = ""


@dataclass
class Stage:
    """A graph at one point of its way.

    Attributes:
        title: Such as ``cleaned`` or ``openvino int8``.
        kind: What it is.
        nodes: In the order in which they run.
        tensors: Between them.
        blocks: That nodes are folded into; a block stands behind the one around it.
        notes: What else there is to know of it.
        folded: Constants that are drawn with what reads them, and not as nodes.
    """

    title: str
    kind: Kind
    nodes: list[Shown] = field(default_factory=list)
    tensors: list[ShownTensor] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    folded: int = 0

    def places(self) -> dict[str, int]:
        """Return where each node stands, by its name."""
        return {node.name: place for place, node in enumerate(self.nodes)}


@dataclass
class Link:
    """What became of the nodes of one stage in another.

    Attributes:
        before: The place of the one stage.
        after: The place of the other.
        pairs: A node of the one, and one of the other.
    """

    before: int
    after: int
    pairs: list[tuple[int, int]] = field(default_factory=list)


@dataclass(frozen=True)
class Drawn:
    """What a page holds of a walk.

    Attributes:
        title: Of the model.
        data: JSON, for a script.
        notes: What could not be shown, and why.
    """

    title: str
    data: str
    notes: tuple[str, ...] = ()

    def save(self, path: Path) -> None:
        """Write it as JSON."""
        write_json(path, asdict(self))

    @classmethod
    def load(cls, path: Path) -> Drawn:
        """Read what `save` wrote."""
        told = read_json(path)
        return cls(told["title"], told["data"], tuple(told["notes"]))


@dataclass
class Walk:
    """The stages of a model, linked: what a page lets one walk through.

    Attributes:
        title: Of the model.
        stages: In order.
        links: Between each and one before it.
        ranges: Of the calibrated tensors.
        notes: What could not be shown, and why.
    """

    title: str
    stages: list[Stage] = field(default_factory=list)
    links: list[Link] = field(default_factory=list)
    ranges: list[RangeRow] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def drawn(self) -> Drawn:
        """Return what a page holds of it; nothing in that ends a script."""
        written = json.dumps(self._plain(), separators=(",", ":"), allow_nan=False)
        return Drawn(self.title, written.replace("<", "\\u003c"), tuple(self.notes))

    def _plain(self) -> dict[str, Any]:
        weights = _Pool()
        return {
            "title": self.title,
            "stages": [_stage(stage, weights) for stage in self.stages],
            "links": [[link.before, link.after, link.pairs] for link in self.links],
            "weights": weights.entries,
            "ranges": {row.tensor: _range(row) for row in self.ranges},
        }


class _Pool:
    """Constants, each once: stages share most of them."""

    def __init__(self) -> None:
        self.entries: list[dict[str, Any]] = []
        self._places: dict[Weight, int] = {}

    def place(self, weight: Weight) -> int:
        if weight not in self._places:
            self._places[weight] = len(self.entries)
            self.entries.append(_without_empty({
                "n": weight.name, "s": weight.shape, "d": weight.dtype, "v": weight.value,
                "r": None if weight.low is None else [_short(weight.low), _short(weight.high)],
                "c": _levels(weight.counts),
            }))  # fmt: skip
        return self._places[weight]


def _stage(stage: Stage, weights: _Pool) -> dict[str, Any]:
    return _without_empty({
        "title": stage.title, "kind": stage.kind, "notes": stage.notes, "folded": stage.folded,
        "blocks": [[block.name, block.parent] for block in stage.blocks],
        "tensors": [list(_trimmed(t.name, t.shape, t.dtype, t.origin)) for t in stage.tensors],
        "nodes": [_node(node, weights) for node in stage.nodes],
    })  # fmt: skip


def _node(node: Shown, weights: _Pool) -> dict[str, Any]:
    measured = [_short(node.error), _short(node.sqnr), _short(node.arrived)]
    return {"n": node.name, "o": node.operator, "b": node.block} | _without_empty({
        "i": node.inputs, "u": node.outputs, "a": node.attributes, "f": node.origin,
        "p": node.precision, "g": node.graph, "m": node.macs, "t": _short(node.milliseconds),
        "e": measured if any(value is not None for value in measured) else None,
        "w": [weights.place(weight) for weight in node.weights], "s": node.notes, "r": node.role,
    })  # fmt: skip


def _range(row: RangeRow) -> dict[str, Any]:
    return {
        "r": [_short(row.minimum), _short(row.maximum)],
        "k": [
            [target, _short(low), _short(high), row.chosen.get(target, "")]
            for target, (low, high) in row.kept.items()
        ],
        "c": _levels(row.counts),
    }  # fmt: skip


def _levels(counts: Sequence[float]) -> str:
    """Return the heights of a histogram's bars, logarithmic, a character each."""
    most = math.log1p(max(counts, default=0)) or 1.0
    top = len(_LEVELS) - 1
    heights = (min(top, math.ceil(top * math.log1p(count) / most)) for count in counts)
    return "".join(_LEVELS[height] for height in heights)


def _short(value: float | None) -> float | None:
    """Return a number of few digits; None for what is none."""
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value:.{_DIGITS}g}")


def _without_empty(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value or isinstance(value, float)}


def _trimmed(*words: str) -> Iterator[str]:
    """Yield words without the empty ones at the end."""
    last = max((place for place, word in enumerate(words) if word), default=-1)
    yield from words[: last + 1]
