"""An engine that gives other answers than its graph says is built anew, from another form of it.

The first layer at which the two differ is found by building engines of beginnings of the graph,
halving: adding outputs to the engine itself would change what its library fuses. For the tensors
that are quantized on the way to that layer the target's other forms are tried in turn, and the
first is kept with which the beginning is right. A form that says something else than the graph did
is only taken if the whole loses no more by it than a right engine may.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from onnxgraft.errors import OnnxgraftError
from onnxgraft.graph.cut import extract
from onnxgraft.graph.model import Model
from onnxgraft.graph.operators import WEIGHTED, is_op
from onnxgraft.graph.quantized import (
    explicit_pads,
    in_float,
    narrowed,
    paired,
    precise,
    sites,
    with_offset,
)
from onnxgraft.graph.tensor_option import TensorOption
from onnxgraft.graph.tensors import Feeds
from onnxgraft.graph.walk import tidy
from onnxgraft.progress import status
from onnxgraft.run.answers import answers
from onnxgraft.run.engine import Writing
from onnxgraft.run.exact import exact
from onnxgraft.run.layers import Layer, Timing
from onnxgraft.run.proof import Proof, Reference, worst
from onnxgraft.stages.engine.options import Backend, BuildOptions, Built
from onnxgraft.stages.engine.passport import Flags, Passport
from onnxgraft.targets import Form, find_target

__all__ = ["Attempt", "Builder", "Mended", "mend"]

# So many layers are given another form.
_MOST_LAYERS = 12

_NAMES: dict[Form, str] = {
    "pads": "explicit pads in place of auto_pad",
    "offset": "uint8 activations with zero point 128 in place of int8",
    "pairs": "weights that fit into 16 bits in pairs",
    "narrow": "weights of seven bits",
    "precise": "kernels that add in 32 bits, which are slower (session.x64quantprecision)",
    "float": "float activations",
}
# Those that say something else than the graph did.
_OTHERS = ("pairs", "narrow")


class Attempt(Protocol):
    """Builds a graph into an engine, runs it, and holds it against a reference."""

    def build(self, model: Model) -> None:
        """Build an engine that is kept."""

    def __call__(self, model: Model, reference: Reference, *, part: bool) -> list[Proof]:
        """Return what was seen; the engine of a ``part`` is thrown away."""


class Builder:
    """An `Attempt` by a target's backend.

    Attributes:
        built: What the backend says of the last engine that was no part.
        layers: Those of that engine, where it was run.
    """

    def __init__(
        self, backend: Backend, path: Path, options: BuildOptions, passport: Passport
    ) -> None:
        """Build with ``options`` to ``path``; engines run as ``passport`` says."""
        self._backend, self._path = backend, path
        self._options, self._passport = options, passport
        self.built = Built({}, Flags(), {})
        self.layers: list[Layer] = []

    def build(self, model: Model) -> None:
        """Build an engine that is kept."""
        self.layers = []
        self.built = self._backend.build(model, self._path, self._options)

    def __call__(self, model: Model, reference: Reference, *, part: bool) -> list[Proof]:
        """Build an engine and run it."""
        if not part:
            self.build(model)
            return self._run(self._path, self.built, self._passport, reference)
        with tempfile.TemporaryDirectory(prefix="onnxgraft.") as folder:
            path = Path(folder) / "engine"
            built = self._backend.build(model, path, self._options)
            passport = replace(self._passport, outputs=model.outputs)
            return self._run(path, built, passport, reference)

    def where_wrong(
        self, model: Model, trials: Sequence[tuple[int, Feeds]], floats: str
    ) -> int | None:
        """Return the number beside the first feeds on which the last engine is wrong.

        Args:
            model: The graph that it was built from.
            trials: Feeds, some of which the graph may not take.
            floats: What float layers run in.
        """
        try:
            reference = Reference(model, [feeds for _, feeds in trials], floats)
        except OnnxgraftError:
            return None
        with self._loaded(self._path, self.built, self._passport) as engine:
            for number, feeds in trials:
                part = reference.of(feeds)
                # What an engine refuses, it does not compute wrongly.
                with contextlib.suppress(OnnxgraftError):
                    found = [] if part is None else [answers(engine, feeds, part.exact[0])]
                    if part is not None and not all(p.passed for p in part.judge(found)):
                        return number
        return None

    def _loaded(self, path: Path, built: Built, passport: Passport) -> Writing:
        whole = replace(passport, versions=built.versions, flags=built.flags, machine=built.machine)
        return self._backend.load(path, whole, None)

    def _run(
        self, path: Path, built: Built, passport: Passport, reference: Reference
    ) -> list[Proof]:
        with self._loaded(path, built, passport) as engine:
            on_cpu = find_target(passport.target).on_cpu and self._options.on_cpu
            proofs = reference.hold(engine, tf32=not on_cpu)
            if path == self._path and isinstance(engine, Timing):
                # An engine is none the worse for a library that can't list its layers.
                with contextlib.suppress(OnnxgraftError, OSError):
                    self.layers = list(engine.layers())
            return proofs


@dataclass
class Mended:
    """A graph from which a right engine could be built, or the last that was tried.

    Attributes:
        model: The graph.
        proofs: Of its engine.
        notes: What was given another form, and why.
    """

    model: Model
    proofs: list[Proof]
    notes: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether the engine computes what its graph says."""
        return all(proof.passed for proof in self.proofs)


def mend(
    model: Model,
    feeds: Sequence[Feeds],
    attempt: Attempt,
    *,
    forms: Sequence[Form],
    floats: str = "fp32",
) -> Mended:
    """Build a graph into an engine that computes what it says, in another form where need be.

    Args:
        model: The graph.
        feeds: What engines are run on.
        attempt: Builds an engine; the last one that is no ``part`` is that of the result.
        forms: That the target has, in the order in which they are tried.
        floats: What float layers run in.
    """
    try:
        with status("computing the exact answers"):
            reference = Reference(model, feeds, floats)
    except OnnxgraftError as error:
        attempt.build(model)
        note = f"the engine was not run, as its graph has no exact answer here: {error}"
        return Mended(model, [], [note])
    found = Mended(model, attempt(model, reference, part=False))
    search = _Search(feeds, attempt, forms, floats, reference)
    while not found.passed and len(found.notes) < _MOST_LAYERS:
        with status("looking for the layer at which the engine differs from its graph"):
            layer = search.first_wrong(found.model)
            better = search.another_form(found.model, layer)
        where = layer or "its last operators"
        seen = worst(found.proofs)
        if better is None:
            found.notes.append(
                f"the engine differs from its graph from {where} on, in every form that there is "
                f"for it: {seen}"
            )
            return found
        name, graph = better
        note = (
            f"the engine differed from its graph from {where} on ({seen}), and is built with {name}"
        )
        reference = Reference(graph, feeds, floats)
        proofs = attempt(graph, reference, part=False)
        found = Mended(graph, proofs, [*found.notes, note])
    return found


@dataclass(frozen=True)
class _Search:
    """Looks for the layer at which an engine differs from its graph, and for another form."""

    feeds: Sequence[Feeds]
    attempt: Attempt
    forms: Sequence[Form]
    floats: str
    original: Reference

    def first_wrong(self, model: Model) -> str | None:
        """Return the first layer whose output is wrong; None where each is right by itself."""
        used = model.copy()
        tidy(used.graph)
        layers = [node.name for node in used.graph.nodes if is_op(node, *WEIGHTED)]
        if not layers or self._right(model, layers[-1]):
            return None
        low, high = -1, len(layers) - 1  # right after `low`, wrong after `high`
        while high - low > 1:
            middle = (low + high) // 2
            if self._right(model, layers[middle]):
                low = middle
            else:
                high = middle
        return str(layers[high])

    def another_form(self, model: Model, layer: str | None) -> tuple[str, Model] | None:
        """Return the first form of a layer with which the graph up to it is right, and the graph.

        What helps one layer is given to all where that is right too: they are fed alike.
        """
        here = sites(model, layer)
        everywhere = [
            (f"{_NAMES[form]}, in all layers", form, _in_form(form, model, None, None))
            for form in self.forms
        ]
        alone = [(_NAMES[form], form, _in_form(form, model, layer, here)) for form in self.forms]
        for name, form, graph in (*everywhere, *alone):
            if graph is None or (form in _OTHERS and not self._keeps(graph)):
                continue
            if self._right(graph, layer):
                return name, graph
        return None

    def _keeps(self, model: Model) -> bool:
        """Tell whether a graph's exact answers are within what is allowed of the original's."""
        with exact(model) as session:
            return all(proof.passed for proof in self.original.hold(session))

    def _right(self, model: Model, layer: str | None) -> bool:
        """Tell whether an engine of the graph up to a layer, or of all of it, is right."""
        try:
            part = model
            if layer is not None:
                node = next(node for node in model.graph.nodes if node.name == layer)
                part = extract(model, (), (TensorOption(node.outputs[0].name, None),))
            reference = Reference(part, self.feeds, self.floats)
            return all(proof.passed for proof in self.attempt(part, reference, part=True))
        except OnnxgraftError:
            return False


def _in_form(
    form: Form, model: Model, layer: str | None, tensors: Sequence[str] | None
) -> Model | None:
    """Return the graph with a layer, or all, in another form; None where that changes nothing."""
    if form == "pads":
        return explicit_pads(model) if tensors is None else None
    if form in _OTHERS:
        other = paired if form == "pairs" else narrowed
        return other(model, None if tensors is None else {layer or ""})
    if form == "precise":
        return precise(model) if tensors is None else None
    if form == "offset":
        return with_offset(model, tensors)
    return in_float(model, tensors) if tensors else None
