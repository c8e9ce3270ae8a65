"""The graphs of a run, linked: what `view` and the report of `deploy` let one walk through."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path

from onnxgraft.errors import OnnxgraftError
from onnxgraft.files import read_json, write_json
from onnxgraft.graph.model import Model
from onnxgraft.graph.walk import nodes_within
from onnxgraft.run.layers import Layer
from onnxgraft.stages import engine as stage
from onnxgraft.stages import surgery
from onnxgraft.stages.quantize.place.costs import costs
from onnxgraft.stages.surgery import Move, SurgeryReport
from onnxgraft.stages.validate.report import LayerRow, LayerTimeRow, RangeRow
from onnxgraft.stages.validate.views.graph import (
    Known,
    Link,
    Stage,
    Walk,
    linked,
    stage_of_engine,
    stage_of_model,
)

__all__ = ["Aimed", "Cleaning", "Measured", "layers_at", "walk"]

# What a pass that could not do something for a node says, at most so often.
_REFUSED = 4


@dataclass(frozen=True)
class Cleaning:
    """What surgery did to single nodes, and what it refused to do.

    Attributes:
        moves: In the order in which they happened.
        refused: The pass, the node, and why.
        called: What nodes are called in the cleaned graph that is shown, where that is another.
    """

    moves: list[Move]
    refused: list[tuple[str, str, str]] = field(default_factory=list)
    called: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, report: SurgeryReport, called: Mapping[str, str] | None = None) -> Cleaning:
        """Return what a report says of nodes."""
        refused = [(p.name, f.node, f.sentence) for p in report.passes for f in p.refused]
        return cls(report.moves, refused, dict(called or {}))

    def save(self, path: Path) -> None:
        """Write it as JSON."""
        write_json(path, asdict(self))

    @classmethod
    def load(cls, path: Path) -> Cleaning:
        """Read what `save` wrote."""
        told = read_json(path)
        moves = [Move(**{**move, "into": tuple(move["into"])}) for move in told["moves"]]
        return cls(moves, [(by, node, why) for by, node, why in told["refused"]], told["called"])

    def before(self) -> dict[str, list[str]]:
        """Return what became of each node, in sentences."""
        found: dict[str, list[str]] = {}
        for move in self.moves:
            if move.what == "removed":
                heirs = f"; its work is done by {_names(move.into)}" if move.into else ""
                found.setdefault(move.node, []).append(f"removed by {move.by}{_why(move)}{heirs}")
            elif move.what == "changed":
                found.setdefault(move.node, []).append(f"changed by {move.by}{_why(move)}")
        return self._with_refusals(found)

    def became(self, names: Iterable[str]) -> dict[str, set[str]]:
        """Return the nodes of the cleaned graph that do the work of each one before."""
        found = surgery.followed(self.moves, names)
        return {name: {self.called.get(o, o) for o in others} for name, others in found.items()}

    def after(self) -> dict[str, list[str]]:
        """Return which pass made or changed each node, and what was folded into it."""
        found: dict[str, list[str]] = {}
        for move in self.moves:
            if move.what == "removed":
                for heir in move.into:
                    mine, theirs = found.setdefault(heir, []), found.get(move.node, ())
                    mine += [f"does the work of {move.node} by {move.by}{_why(move)}", *theirs]
                found.pop(move.node, None)
            else:
                found.setdefault(move.node, []).append(f"{move.what} by {move.by}{_why(move)}")
        told = self._with_refusals({name: list(dict.fromkeys(n)) for name, n in found.items()})
        return {self.called.get(name, name): notes for name, notes in told.items()}

    def _with_refusals(self, found: dict[str, list[str]]) -> dict[str, list[str]]:
        count: dict[str, int] = {}
        for by, node, why in self.refused:
            count[node] = count.get(node, 0) + 1
            if count[node] <= _REFUSED:
                found.setdefault(node, []).append(f"refused by {by}: {why}")
        return found


@dataclass(frozen=True)
class Aimed:
    """A target's graph, and the engine that was built from it.

    Attributes:
        name: Of the engine, as in tables of the report; or what the graph is called.
        model: The graph; None where the engine is of the clean graph.
        layers: Of the engine, as its library fused them; None where it can't be asked.
        floats: Why layers stayed in float, by node.
    """

    name: str
    model: Model | None
    layers: Sequence[Layer] | None
    floats: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Measured:
    """What a run measured.

    Attributes:
        layers: Errors, by tensor and candidate.
        times: Milliseconds, by node and engine.
        ranges: Of calibration.
        clean: What the engine of the clean graph is called.
    """

    layers: Sequence[LayerRow] = ()
    times: Sequence[LayerTimeRow] = ()
    ranges: Sequence[RangeRow] = ()
    clean: str = ""

    def known(self, model: Model, name: str, notes: Mapping[str, Sequence[str]]) -> Known:
        """Return what is known of a graph's nodes."""
        macs = {node: cost.macs for node, cost in costs(model).items()}
        layers = [row for row in self.layers if row.candidate == name]
        return Known(macs, self.spent(name), layers, notes)

    def spent(self, name: str) -> dict[str, float]:
        """Return the milliseconds of an engine's layers, by the node that each is called after."""
        return {row.node: row.milliseconds for row in self.times if row.engine == name}


def walk(
    title: str,
    original: Model | None,
    cleaned: Model | None,
    cleaning: Cleaning | None = None,
    aimed: Sequence[Aimed] = (),
    measured: Measured | None = None,
) -> Walk:
    """Return the stages of a model as far as they are at hand, linked.

    Args:
        title: Of the model.
        original: As it was converted, with no clean-up.
        cleaned: As surgery left it.
        cleaning: What surgery did; None where that is not known: nodes are linked by name.
        aimed: What was made for each target.
        measured: What a run measured.
    """
    measured = measured or Measured()
    found = Walk(title, ranges=list(measured.ranges))
    stages: dict[int, int] = {}  # of models, by id

    def add(model: Model, made: Stage, before: int | None) -> int:
        found.stages.append(made)
        stages[id(model)] = place = len(found.stages) - 1
        if before is not None:
            pairs = linked(found.stages[before], made)
            found.links.append(Link(before, place, pairs))
        return place

    if original is not None:
        framework = original.source.framework
        name = "original" if framework == "onnx" else f"original ({framework}, as ONNX)"
        notes = {} if cleaning is None else cleaning.before()
        known = measured.known(original, "", notes)
        add(original, stage_of_model(original, name, "original", known), None)
    clean = None
    if cleaned is not None:
        notes = {} if cleaning is None else cleaning.after()
        known = measured.known(cleaned, measured.clean, notes)
        clean = add(cleaned, stage_of_model(cleaned, "cleaned", "cleaned", known), None)
        if clean:
            before = found.stages[0]
            became = None if cleaning is None else cleaning.became(before.places())
            found.links.append(Link(0, clean, linked(before, found.stages[clean], became)))
    for one in aimed:
        model = one.model or cleaned
        if model is None:
            continue
        if id(model) not in stages:
            notes = _of_quantizing(model, cleaned, one)
            known = measured.known(model, one.name, notes)
            made = stage_of_model(model, f"graph for {one.name}", "quantized", known)
            add(model, made, clean)
        if one.layers:
            graph = stages[id(model)]
            made, pairs = stage_of_engine(
                one.name, model, one.layers, found.stages[graph], measured.spent(one.name)
            )
            found.stages.append(made)
            found.links.append(Link(graph, len(found.stages) - 1, pairs))
    return found


def _of_quantizing(model: Model, cleaned: Model | None, aimed: Aimed) -> dict[str, list[str]]:
    """Return which nodes of a target's graph are new, and why layers stayed in float."""
    before = None if cleaned is None else {str(n.name) for n in nodes_within(cleaned.graph)}
    new = [] if before is None else [
        str(node.name) for node in nodes_within(model.graph) if str(node.name) not in before
    ]  # fmt: skip
    found = {name: [f"made by quantize for {aimed.name}"] for name in new}
    for name, why in aimed.floats.items():
        found.setdefault(name, []).append(f"stays in float: {why}")
    return found


def layers_at(path: Path, notes: list[str]) -> list[Layer] | None:
    """Return the layers of the engine at a path; where it can't be asked, a note says why."""
    with ExitStack() as closing:
        try:
            return stage.layers(closing.enter_context(stage.load(path)))
        except OnnxgraftError as error:
            told = str(error).replace(os.fspath(path), path.name)
            notes.append(f"the layers of {path.name} are not shown: {told}")
            return None


def _names(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:3])}{', ...' if names[3:] else ''}"


def _why(move: Move) -> str:
    return f": {move.why}" if move.why else ""
