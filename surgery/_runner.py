"""Runs the passes and owns the invariants, so that no pass can forget them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import onnx_graphsurgeon as gs

from onnxgraft.compare import FLOAT_TOLERANCE, Verdict, judge
from onnxgraft.errors import InputError, ModelError, nearest
from onnxgraft.model import Model
from onnxgraft.reference import OnnxRuntime, random_feeds
from onnxgraft.surgery._legal import violations
from onnxgraft.surgery._list import PASSES
from onnxgraft.surgery._rewrite import Context, Finding, Pass
from onnxgraft.surgery._shapes import Shapes

__all__ = ["PassReport", "SurgeryReport", "run"]

# A list that still changes things after so many rounds is going in circles.
_MOST_ROUNDS = 50


@dataclass
class PassReport:
    """What one pass did over all rounds.

    Attributes:
        name: The pass.
        removed: Nodes that were there before it and not after it.
        done: What it did.
        refused: What it refused, as of the last round.
    """

    name: str
    removed: int = 0
    done: list[Finding] = field(default_factory=list)
    refused: list[Finding] = field(default_factory=list)


@dataclass
class SurgeryReport:
    """What surgery did to a graph.

    Attributes:
        before: Operators before, most frequent first.
        after: Operators after.
        passes: One entry a pass, in the order of the list.
        verdicts: The comparison of outputs before and after, where it was asked for.
    """

    before: dict[str, int]
    after: dict[str, int]
    passes: list[PassReport]
    verdicts: list[Verdict] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether every comparison that was made is within its tolerance."""
        return all(verdict.passed for verdict in self.verdicts)


def run(
    model: Model,
    *,
    only: Sequence[str] = (),
    skip: Sequence[str] = (),
    verify: bool = False,
) -> tuple[Model, SurgeryReport]:
    """Return a cleaned copy of ``model``, and what was done.

    Args:
        model: Is not changed.
        only: The passes to run; all of them if empty.
        skip: Passes to leave out.
        verify: Compare the outputs before and after in onnxruntime, on seeded samples of batch 1
            and, where the batch is free, 2.

    Raises:
        InputError: A pass is unknown.
        ModelError: The graph is not legal to begin with.
    """
    chosen = _choose(only, skip)
    cleaned = model.copy()
    graph = cleaned.graph
    _name_nodes(graph)
    graph.cleanup().toposort()
    broken = violations(graph)
    if broken:
        raise ModelError(f"{model.file}: the graph is not legal: {broken[0]}")
    before = cleaned.operators()
    reports = {item.name: PassReport(item.name) for item in chosen}
    for _ in range(_MOST_ROUNDS):
        changed = [item for item in chosen if _apply(item, cleaned, reports[item.name])]
        if not changed:
            break
    else:
        raise AssertionError(f"passes still change the graph: {[item.name for item in changed]}")
    _refine_outputs(graph)
    alive = graph.tensors()
    cleaned.names = {name: origin for name, origin in cleaned.names.items() if name in alive}
    report = SurgeryReport(before, cleaned.operators(), list(reports.values()))
    if verify:
        report.verdicts = _verify(model, cleaned)
    return cleaned, report


def _choose(only: Sequence[str], skip: Sequence[str]) -> list[Pass]:
    known = [item.name for item in PASSES]
    for name in (*only, *skip):
        if name not in known:
            raise InputError(f"no pass is called {name!r}; {nearest(name, known)}")
    return [p for p in PASSES if (not only or p.name in only) and p.name not in skip]


def _name_nodes(graph: gs.Graph) -> None:
    """Give every node a name of its own; passes and reports speak of nodes by name."""
    seen: set[str] = set()
    for node in graph.nodes:
        name = node.name or (node.outputs[0].name if node.outputs else node.op)
        unique, number = name, 1
        while unique in seen:
            number += 1
            unique = f"{name}_{number}"
        node.name = unique
        seen.add(unique)


def _apply(item: Pass, model: Model, report: PassReport) -> bool:
    """Apply one pass once; return whether it did anything."""
    graph = model.graph
    contract = _contract(graph)
    size = len(graph.nodes)
    result = item.apply(graph, Context(model))
    report.refused = result.refused
    if not result.done:
        return False
    graph.cleanup().toposort()
    report.done += result.done
    report.removed += size - len(graph.nodes)
    broken = violations(graph)
    now = _contract(graph)
    if now != contract and not (item.changes_inputs and now[1] == contract[1]):
        broken.append("not true that inputs and outputs stay as they are")
    if broken:
        # A pass that breaks the graph is a bug of ours, not of the user's model.
        raise AssertionError(f"pass {item.name}: {'; '.join(broken)}")
    return True


def _contract(graph: gs.Graph) -> tuple[list[Any], list[Any]]:
    """Return what callers rely on: inputs and outputs with names, types and shapes."""

    def lines(tensors: Sequence[gs.Tensor]) -> list[Any]:
        return [(t.name, str(t.dtype), t.shape and tuple(t.shape)) for t in tensors]

    return lines(graph.inputs), lines(graph.outputs)


def _refine_outputs(graph: gs.Graph) -> None:
    """Write the dimensions of outputs that the file left open, where they are known by now."""
    shapes = Shapes(graph)
    for tensor in graph.outputs:
        found = shapes.shape(tensor)
        if found is None or isinstance(tensor, gs.Constant):
            continue
        known = [dim.number if dim.fixed else str(dim) for dim in found]
        present = tensor.shape if tensor.shape is not None else [None] * len(known)
        if len(present) == len(known):
            tensor.shape = [
                new if old in (None, "", -1) and not str(new).startswith("?") else old
                for old, new in zip(present, known, strict=True)
            ]


def _verify(before: Model, after: Model) -> list[Verdict]:
    free = any(spec.shape and isinstance(spec.shape[0], str) for spec in after.inputs)
    verdicts = []
    with (
        OnnxRuntime(before.to_onnx(), name="before") as old,
        OnnxRuntime(after.to_onnx(), name="after") as new,
    ):
        for batch in (1, 2) if free else (1,):
            feeds = random_feeds(old.inputs, batch)
            kept = {spec.name: feeds[spec.name] for spec in new.inputs}
            verdicts += judge(old.infer(feeds), new.infer(kept), FLOAT_TOLERANCE)
    return verdicts
