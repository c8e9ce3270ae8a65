"""Runs the passes and owns the invariants, so that no pass can forget them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import onnx_graphsurgeon as gs

from onnxgraft.errors import InputError, ModelError, nearest
from onnxgraft.graph.model import Model
from onnxgraft.graph.names import name_nodes
from onnxgraft.graph.operators import counted, op_key
from onnxgraft.graph.opset import raise_opset
from onnxgraft.graph.shapes import Shapes
from onnxgraft.graph.walk import bodies, every_node, tidy
from onnxgraft.run.verdicts import Verdict
from onnxgraft.stages.surgery.list import PASSES
from onnxgraft.stages.surgery.running.history import Change, History, Point, Step
from onnxgraft.stages.surgery.running.legal import violations
from onnxgraft.stages.surgery.running.lineage import Move, moves
from onnxgraft.stages.surgery.running.rewrite import Context, Finding, Pass, Plugin, Result
from onnxgraft.stages.surgery.running.verify import MOST_BYTES, MOST_SECONDS, Verifier
from onnxgraft.targets import find_target

__all__ = ["PassReport", "SurgeryReport", "run"]

# A list that still changes things after so many rounds is going in circles.
_MOST_ROUNDS = 50
# The opset whose operators the passes for a target write.
_LOWERED = 13


@dataclass
class PassReport:
    """What one pass did over all rounds.

    Attributes:
        name: The pass.
        removed: Nodes that were there before it and not after it.
        done: What it did.
        refused: What it refused, as of the last round.
        steps: The operators before and after it, each time that it changed the graph.
        rolled_back: Why what it did was undone, if it was; it was not run again.
    """

    name: str
    removed: int = 0
    done: list[Finding] = field(default_factory=list)
    refused: list[Finding] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    rolled_back: str | None = None


@dataclass
class SurgeryReport:
    """What surgery did to a graph.

    Attributes:
        before: Operators before, in bodies and functions too, most frequent first.
        after: Operators after.
        passes: One entry a pass, in the order of the list.
        verdicts: The comparison of outputs before and after, where it was made.
        notes: What else there is to know: what was left alone, what was not verified.
        moves: What became of single nodes, in the order in which it happened.
    """

    before: dict[str, int]
    after: dict[str, int]
    passes: list[PassReport]
    verdicts: list[Verdict] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    moves: list[Move] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether every comparison that was made is within its tolerance."""
        return all(verdict.passed for verdict in self.verdicts)


def run(
    model: Model,
    *,
    only: Sequence[str] = (),
    skip: Sequence[str] = (),
    extra: Sequence[str] = (),
    target: str | None = None,
    plugins: Mapping[str, Plugin] | None = None,
    verify: bool | None = False,
) -> tuple[Model, SurgeryReport]:
    """Return a cleaned copy of ``model``, and what was done.

    A pass whose result is not legal, or (with ``verify``) computes something else, is rolled back
    and named in the report; the others go on.

    Args:
        model: Is not changed.
        only: The passes to run; all that are not optional if empty.
        skip: Passes to leave out.
        extra: Optional passes to run too.
        target: Runs the passes that write what this target lacks otherwise, too.
        plugins: For a custom operator (``Op`` or ``domain.Op``) TensorRT's plugin.
        verify: Hold what the passes made in onnxruntime against what they were given, on seeded
            samples of batch 1 and, where the batch is free, 2. None: as long as the weights have
            less than `MOST_BYTES` and verification takes less than `MOST_SECONDS`.

    Raises:
        InputError: A pass is unknown.
        ModelError: The graph is not legal to begin with.
        NotSupportedError: Passes for a target want a later opset than it can be written in.
    """
    chosen = _choose(only, skip, extra, target)
    later = raise_opset(model, _LOWERED) if any(item.targets for item in chosen) else model
    cleaned = later.copy()
    name_nodes(cleaned.graph)
    try:
        tidy(cleaned.graph)
    except ModelError as error:
        raise ModelError(f"{model.file}: {error}") from error
    broken = violations(cleaned.graph)
    if broken:
        raise ModelError(f"{model.file}: the graph is not legal: {broken[0]}")
    operation = _Operation(model, cleaned, chosen, verify, plugins or {})
    operation.run()
    if later is not model:
        operation.report.notes.append(f"opset {model.graph.opset} was raised to {_LOWERED}")
    return cleaned, operation.report


def _choose(
    only: Sequence[str], skip: Sequence[str], extra: Sequence[str], target: str | None
) -> list[Pass]:
    if target is not None:
        find_target(target)
    known = [item.name for item in PASSES]
    for name in (*only, *skip, *extra):
        if name not in known:
            raise InputError(f"no pass is called {name!r}; {nearest(name, known)}")

    def wanted(item: Pass) -> bool:
        usual = not item.optional and (not item.targets or target in item.targets)
        named = item.name in only if only else usual
        return (named or item.name in extra) and item.name not in skip

    return [item for item in PASSES if wanted(item)]


class _Operation:
    """One run of the passes on one model."""

    def __init__(
        self,
        original: Model,
        model: Model,
        passes: Sequence[Pass],
        verify: bool | None,
        plugins: Mapping[str, Plugin],
    ) -> None:
        self.model = model
        self.graph = model.graph
        self.context = Context(model, plugins)
        self.active = list(passes)
        self.reports = {item.name: PassReport(item.name) for item in passes}
        self.report = SurgeryReport(original.operators(), {}, list(self.reports.values()))
        self.history = History(model, self.context)
        self.here: _State | None = None
        self.limited = verify is None
        self.verifier = self._verifier(original) if verify is None or verify else None

    def _verifier(self, original: Model) -> Verifier | None:
        size = original.weight_bytes()
        if self.limited and size > MOST_BYTES:
            self._not_verified(
                f"{size / 1e9:.1f} GB of weights, by itself surgery verifies up to "
                f"{MOST_BYTES / 1e9:.1f} GB (--verify does it anyway)"
            )
            return None
        return Verifier(original)

    def run(self) -> None:
        """Run the list until no pass changes anything, and at the end what seals the graph."""
        self._note_unknown()
        final, rounds = False, 0
        while True:
            passes = [item for item in self.active if item.final == final and not item.seals]
            changed = [item.name for item in passes if item in self.active and self._apply(item)]
            rounds += 1
            settled = not changed and final
            if (settled or rounds == _MOST_ROUNDS) and self._verify():
                # What came after the wrong change is done again without it.
                final, rounds = False, 0
            elif settled:
                break
            elif rounds == _MOST_ROUNDS:
                raise AssertionError(f"passes still change the graph: {changed}")
            else:
                final = not changed
            self.context.shapes.forget()
        for item in [item for item in self.active if item.seals]:
            if self._apply(item) and item.rounds:
                self._measure(item)
        _refine_outputs(self.graph, self.context.shapes)
        names = {t.name for body in bodies(self.graph) for t in body.tensors().values()}
        for name in [name for name in self.model.names if name not in names]:
            del self.model.names[name]
        self._conclude()

    def _apply(self, item: Pass) -> bool:
        """Apply one pass once to the graph and its bodies; return whether it did anything."""
        # What the last pass left as it was is not noted again.
        before = self.here or _State(self.model, self.context)
        self.here = None
        result = Result()
        try:
            self.context.begin()
            for body in [self.graph] if item.changes_inputs else list(bodies(self.graph)):
                self.context.enter(body)
                found = item.apply(body, self.context)
                result.done += found.done
                result.refused += found.refused
            self.reports[item.name].refused = result.refused
            if not result.done:
                self.here = before
                return False
            tidy(self.graph)
            wrong = self._illegal(item, before.contract)
        except Exception as error:  # whatever a pass stumbles over, the graph survives it
            wrong = f"{type(error).__name__}: {error}"
        if wrong is not None:
            before.point.restore()
            self._give_up(item, wrong)
            return False
        step = Step(before.operators, _operators(self.graph))
        moved = moves(item.name, before.point.graph, self.graph, result.done)
        point = before.point if self.verifier else None
        self.history.add(Change(item, result.done, step, moved, point))
        if self.history.heavy and not item.seals:
            self._verify()
        return True

    def _illegal(self, item: Pass, contract: tuple[list[Any], list[Any]]) -> str | None:
        now = _contract(self.graph)
        if now != contract and not (item.changes_inputs and now[1] == contract[1]):
            return "inputs and outputs have changed"
        broken = violations(self.graph)
        return broken[0] if broken else None

    def _give_up(self, item: Pass, wrong: str) -> None:
        """Name a pass that was undone; it is not run again."""
        if item in self.active:
            self.active.remove(item)
        report = self.reports[item.name]
        report.rolled_back = wrong
        report.refused = []
        self.report.notes.append(f"the pass {item.name} was rolled back: {wrong}")

    def _verify(self) -> bool:
        """Verify what was changed since the last time; return whether something was undone."""
        if self.verifier is None:
            return False
        try:
            blamed = self.history.verify(self.verifier, MOST_SECONDS if self.limited else None)
        except InputError as error:
            self.verifier.check_types()
            self._not_verified(str(error))
            self.verifier = None
            return False
        if blamed:
            self.here = None
        for blame in blamed:
            self._give_up(blame.item, blame.reason)
        return bool(blamed)

    def _measure(self, item: Pass) -> None:
        """Say how much a pass that rounds anew keeps, which depends on what is fed."""
        if self.verifier is None:
            return
        try:
            self.verifier.begin(MOST_SECONDS if self.limited else None)
            kept = self.verifier.kept(self.model)
        except InputError as error:
            self._not_verified(f"{item.name}, {error}")
            return
        for name, decibels in kept.items():
            if decibels < math.inf:
                self.report.notes.append(
                    f"{item.name} rounds anew: on random numbers {name} keeps {decibels:.1f} dB "
                    "of what it was; validate on real data"
                )

    def _not_verified(self, why: str) -> None:
        self.report.notes.append(f"not verified: {why}")

    def _conclude(self) -> None:
        """Write down what stayed, and hold the outcome against the original."""
        for change in self.history.changes:
            report = self.reports[change.item.name]
            report.done += change.done
            report.steps.append(change.step)
            self.report.moves += change.moves
            report.removed += sum(change.step.before.values()) - sum(change.step.after.values())
        self.report.after = _operators(self.graph)
        if self.verifier is not None:
            self.report.verdicts = self.verifier.verdicts()
            if not self.history.changes:
                self._not_verified("nothing was changed")
            else:
                self.report.notes += self.verifier.unentered()
            self.report.notes += self.verifier.notes
            for name in self.verifier.still:
                self.report.notes.append(
                    f"{name} hardly moves on any of the random samples that were tried: what is "
                    "computed for it was verified only as far as it shows; validate on real data"
                )

    def _note_unknown(self) -> None:
        """Say which operators nobody knows: they are left alone."""
        import onnx

        functions = {(function.domain, function.name) for function in self.graph.functions}
        present = {op_key(node) for body in bodies(self.graph) for node in body.nodes}
        for domain, op in sorted(present, key=lambda key: key[::-1]):
            if (domain, op) in functions or onnx.defs.has(op, domain):
                continue
            where = f" of the domain {domain!r}" if domain else ""
            self.report.notes.append(f"the operator {op}{where} is not known; it is left alone")
        newest = onnx.defs.onnx_opset_version()
        if self.graph.opset > newest:
            self.report.notes.append(
                f"opset {self.graph.opset} is newer than {newest}, the newest that is known here: "
                "operators are assumed to be as in that one"
            )


class _State:
    """What a pass is given, and the way back to it."""

    def __init__(self, model: Model, context: Context) -> None:
        self.point = Point(model, context)
        self.contract = _contract(model.graph)
        self.operators = _operators(model.graph)


def _operators(graph: gs.Graph) -> dict[str, int]:
    return counted(every_node(graph))


def _contract(graph: gs.Graph) -> tuple[list[Any], list[Any]]:
    """Return what callers rely on: inputs and outputs with names, types and shapes."""

    def lines(tensors: Sequence[gs.Tensor]) -> list[Any]:
        return [(t.name, str(t.dtype), t.shape and tuple(t.shape)) for t in tensors]

    return lines(graph.inputs), lines(graph.outputs)


def _refine_outputs(graph: gs.Graph, shapes: Shapes) -> None:
    """Write the dimensions of outputs that the file left open, where they are known by now."""
    for tensor in graph.outputs:
        found = shapes.shape(tensor)
        if found is None or isinstance(tensor, gs.Constant):
            continue
        present = tensor.shape if tensor.shape is not None else [None] * len(found)
        if len(present) == len(found):
            tensor.shape = [
                dim.written if old in (None, "", -1) and dim.known else old
                for old, dim in zip(present, found, strict=True)
            ]
