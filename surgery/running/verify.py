"""What passes made of a model is run beside what they were given, on the same samples."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnxgraft.errors import InputError
from onnxgraft.graph.model import Model
from onnxgraft.graph.onnx_file import fed
from onnxgraft.graph.operators import nodes_of, op_of
from onnxgraft.graph.tensors import Array, Feeds, Outputs
from onnxgraft.graph.walk import every_node
from onnxgraft.graph.wants import wants_of
from onnxgraft.run.demand import check_model
from onnxgraft.run.difference import sqnr
from onnxgraft.run.feeds import MANNERS, PLAIN
from onnxgraft.run.movement import Movement, at_once
from onnxgraft.run.noise import moved, noise_floors
from onnxgraft.run.saturation import before, ends, unresolved
from onnxgraft.run.selections import Chosen, Selector
from onnxgraft.run.session import OnnxRuntime
from onnxgraft.run.tolerances import REWRITE_TIES
from onnxgraft.run.trial import Trial
from onnxgraft.run.verdicts import Verdict, hold
from onnxgraft.targets.cpu import this_cpu

__all__ = ["MOST_BYTES", "MOST_SECONDS", "Verifier"]

# Beyond these surgery does not verify by itself: the weights in bytes, and the time in seconds
# that the runs of one surgery take.
MOST_BYTES = 1 << 30
MOST_SECONDS = 60.0

_INTEGER_PRODUCTS = frozenset({
    "ConvInteger", "MatMulInteger", "QLinearConv", "QLinearMatMul",
    "com.microsoft.DynamicQuantizeLSTM", "com.microsoft.DynamicQuantizeMatMul",
    "com.microsoft.MatMulIntegerToFloat", "com.microsoft.QAttention", "com.microsoft.QGemm",
})  # fmt: skip

# How what is before an output's last operator is named.
_BEFORE = "what is before the last operator of "


class Verifier:
    """The outputs of a model on seeded samples, to hold those of its rewrites against.

    A rewrite is run once on each sample; what it is held against has been run before it. Every
    node runs as it stands, unless its integer kernels would saturate on this processor, and
    onnxruntime reads the weights where they are. The samples are drawn
    so that the outputs move; where they differ, the model's own noise is measured, and indices are
    compared by what they select.

    Attributes:
        runs: How many times onnxruntime ran a graph.
        seconds: How long building and running took.
        still: The outputs that hardly move on any sample that was tried.
        notes: In which sizes the model was run, where these are not the usual ones.
    """

    def __init__(self, model: Model) -> None:
        """Take the model that everything is held against; `begin` runs it."""
        self.runs = 0
        self.seconds = 0.0
        self.still: list[str] = []
        self.notes: list[str] = []
        self._model = model
        # onnxruntime's integer kernels saturate on some processors, unless they are replaced by
        # others, which its optimizer does.
        self._replaced = not this_cpu().wide_sums and any(
            op_of(node) in _INTEGER_PRODUCTS for node in every_node(model.graph)
        )
        self._loaded = False
        self._ends = ends(model)
        self._feeds: list[dict[str, Array]] = []
        self._first: list[Outputs] = []
        # Whether an output is at its ends, so that what is before its last operator counts too.
        self._looks_before = False
        # What is measured when a difference is seen, of each sample.
        self._noise: list[dict[str, float]] | None = None
        self._selector = Selector(model)
        self._chosen: list[Chosen] | None = None

    def begin(self, most_seconds: float | None = None) -> None:
        """Run the model that everything is held against, if that has not been done.

        Raises:
            ModelError: onnxruntime can't run the model.
            InputError: An input can't be fed with random numbers, the model takes more memory than
                is allowed, or the runs to come would take longer than ``most_seconds``.
        """
        if self._first:
            return
        check_model(self._model)
        start = time.perf_counter()
        trial = Trial(self._model.inputs, wants_of(self._model.graph))
        try:
            self._first = trial.begin(self._try)
        except _RefusedError as error:
            raise error.reason from error
        self._feeds = [trial.feeds(setting) for setting in trial.settings]
        self.notes = trial.notes
        self.seconds = time.perf_counter() - start
        if most_seconds is not None and 2 * self.seconds > most_seconds:
            raise InputError(
                f"the model as it came took {self.seconds:.1f} s, by itself surgery verifies for "
                f"up to {most_seconds:.0f} s (--verify does it anyway)"
            )
        if most_seconds is None or 2 * len(MANNERS) * self.seconds < most_seconds:
            self._enliven(trial)
            self.seconds = time.perf_counter() - start
        self._now = self._next = self._first

    def check_types(self) -> None:
        """Raise ModelError if the model does not run as it is no valid ONNX graph."""
        if not self._loaded:
            self._model.check_types()

    def _try(self, samples: Sequence[Feeds]) -> list[Outputs]:
        """Run the model; no other samples are tried of what onnxruntime does not even load."""
        try:
            return self._run(self._model, samples)
        except InputError as error:
            if not self._loaded:
                raise _RefusedError(error) from error
            raise

    def _enliven(self, trial: Trial) -> None:
        """Take other samples too where an output does not move on plain ones."""
        seen = Movement(self._ends)
        seen.note(PLAIN, self._first)
        if seen.enough:
            return
        most = at_once([*self._feeds, *self._first])
        others = MANNERS[1:]
        for begin in range(0, len(others), most):
            feeds = [
                trial.feeds(setting, manner)
                for manner in others[begin : begin + most]
                for setting in trial.settings
            ]
            try:
                found = self._run(self._model, feeds)
            except InputError:  # there are networks that take no numbers but plain ones
                return
            count = len(trial.settings)
            for place, manner in enumerate(others[begin : begin + most]):
                seen.note(manner, found[place * count : (place + 1) * count])
        self.still = seen.still
        self._looks_before = True
        self._feeds += [
            trial.feeds(setting, manner)
            for manner in seen.chosen[1:most]
            for setting in trial.settings
        ]
        self._first = self._run(self._model)

    def check(self, rewritten: Model) -> str | None:
        """Return what is wrong with a rewrite of the model that was accepted last, or None."""
        start = time.perf_counter()
        try:
            self._next = self._run(rewritten)
            verdicts = self._verdicts(self._now, self._next)
        except InputError as error:
            return f"the graph no longer runs: {error}"
        finally:
            self.seconds += time.perf_counter() - start
        for verdict in verdicts:
            if not verdict.passed:
                return (
                    f"{verdict.output} differs by {verdict.max_abs:.1e}, "
                    f"up to {verdict.tolerance:.1e} is float noise"
                )
        return None

    def accept(self) -> None:
        """Hold what comes after against the rewrite that was checked last."""
        self._now = self._next

    def kept(self, rounded: Model) -> dict[str, float]:
        """Return what a model that rounds anew keeps of each float output of the one that came.

        Returns:
            By output the signal over noise in dB, of all samples together.
        """
        start = time.perf_counter()
        found = self._run(rounded)
        self.seconds += time.perf_counter() - start
        sides = (self._first, found)
        floats = [n for n, v in found[0].items() if v.dtype.kind == "f" and n in self._first[0]]
        values = {
            name: [np.concatenate([run[name].ravel() for run in side]) for side in sides]
            for name in floats
            if not name.startswith(_BEFORE)
        }
        return {name: sqnr(old, new) for name, (old, new) in values.items()}

    def verdicts(self) -> list[Verdict]:
        """Compare what was accepted last with the model that it all began with."""
        return self._verdicts(self._first, self._now) if self._first else []

    def _verdicts(self, expected: list[Outputs], actual: list[Outputs]) -> list[Verdict]:
        """Compare runs; an output may not change its type either."""
        pairs = [_comparable(b, a) for b, a in zip(expected, actual, strict=True)]
        floors = [unresolved(first, self._ends) for first in self._first]
        found = [
            hold(old, new, ties=REWRITE_TIES, floors=floor)
            for (old, new), floor in zip(pairs, floors, strict=True)
        ]
        if not all(verdict.passed for verdicts in found for verdict in verdicts):
            more = zip(pairs, floors, self._own_noise(), self._choices(), strict=True)
            found = [
                hold(
                    old, new, ties=REWRITE_TIES, chosen=chosen,
                    floors={name: max(floor[name], noise.get(name, 0.0)) for name in floor},
                )
                for (old, new), floor, noise, chosen in more
            ]  # fmt: skip
        return [
            verdict
            for verdicts in found
            for verdict in verdicts
            if not verdict.passed or not verdict.output.startswith(_BEFORE)
        ]

    def unentered(self) -> list[str]:
        """Return a sentence on each branch that no sample took, of the Ifs that are in no body.

        The model is run once more where it has one.
        """
        deciding = {
            node.name: node.inputs[0].name
            for node in nodes_of(self._model.graph, "If")
            if isinstance(node.inputs[0], gs.Variable)
        }
        if not deciding or not self._first:
            return []
        try:
            seen = self._asked(self._model, self._feeds, set(deciding.values()))
        except InputError:  # it ran before: what it is asked for besides takes too much
            return []
        return [
            f"the {branch} branch of If {node!r} was taken by none of the samples, so what it "
            "computes was not verified; validate on data that takes it"
            for node, condition in deciding.items()
            for branch, value in (("then", True), ("else", False))
            if all(
                bool(np.ravel({**feeds, **outputs}[condition])[0]) is not value
                for feeds, outputs in zip(self._feeds, seen, strict=True)
            )
        ]

    def _own_noise(self) -> list[dict[str, float]]:
        """Return, for each sample, the difference that the model's own noise explains."""
        if self._noise is None:
            rng = np.random.default_rng(0)
            nudged = [
                {name: moved(value, 24, rng) for name, value in feeds.items()}
                for feeds in self._feeds
            ]
            light, weights = self._model.without_weights()
            others = [self._run(self._model, nudged)]
            others.append(self._infer(light, weights, {}, self._feeds, optimize=True))
            self._noise = [
                noise_floors(first, [other[index] for other in others])
                for index, first in enumerate(self._first)
            ]
        return self._noise

    def _choices(self) -> list[Chosen]:
        """Return, for each sample, what indices among the outputs were chosen from."""
        if self._chosen is None:
            with self._selector:
                self._chosen = [
                    self._selector.at(feeds, first)
                    for feeds, first in zip(self._feeds, self._first, strict=True)
                ]
        return self._chosen

    def _run(self, model: Model, feeds: Sequence[Feeds] | None = None) -> list[Outputs]:
        inner = before(model) if self._looks_before else {}
        found = self._asked(model, self._feeds if feeds is None else feeds, set(inner.values()))
        names = [spec.name for spec in model.outputs]
        return [
            {name: outputs[name] for name in names}
            | {f"{_BEFORE}{name}": outputs[tensor] for name, tensor in inner.items()}
            for outputs in found
        ]

    def _asked(self, model: Model, feeds: Sequence[Feeds], inner: set[str]) -> list[Outputs]:
        """Run a model, and return tensors in it besides its outputs."""
        light, weights = model.without_weights()
        ends = {end.name for end in (*light.graph.output, *light.graph.input)}
        for name in inner - ends:
            light.graph.output.append(onnx.ValueInfoProto(name=name))
        # Of initializers onnxruntime makes a copy, what is fed at each run it reads in place.
        inputs = {
            name: np.require(value, requirements=["A", "C"])
            for name, value in weights.items()
            if value.dtype.isbuiltin
        }
        try:
            if self._replaced:
                return self._infer(light, weights, {}, feeds, optimize=True)
            return self._infer(light, weights, inputs, feeds)
        except InputError:
            # There are kernels that want their weights to be constants.
            return self._infer(light, weights, {}, feeds)

    def _infer(
        self,
        light: onnx.ModelProto,
        weights: dict[str, Array],
        inputs: dict[str, Array],
        samples: Sequence[Feeds],
        *,
        optimize: bool = False,
    ) -> list[Outputs]:
        kept = {name: value for name, value in weights.items() if name not in inputs}
        with OnnxRuntime(
            fed(light, inputs),
            name=self._model.file,
            weights=kept,
            optimize=optimize,
            configure=_precise if self._replaced else _light,
        ) as session:
            self._loaded = True
            found = []
            known = {spec.name for spec in session.inputs}
            for feeds in samples:
                given = {n: v for n, v in {**feeds, **inputs}.items() if n in known}
                found.append(session.infer(given))
                self.runs += 1
            return found


class _RefusedError(Exception):
    """onnxruntime refuses the graph itself, whatever it is fed."""

    def __init__(self, reason: InputError) -> None:
        super().__init__(str(reason))
        self.reason = reason


def _light(options: Any) -> None:
    """Make the session cheap to build, as it runs twice only, and silent: errors are reported."""
    options.log_severity_level = 4
    # Planning which tensors share memory takes a time that is quadratic in the nodes (onnxruntime
    # 1.31: 0.2 of 0.24 s for 1,381 nodes). The arena reuses what is freed all the same.
    options.enable_mem_reuse = False
    options.enable_mem_pattern = False
    # Threads that wait sleep: beside other work spinning doubles the time.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")


def _precise(options: Any) -> None:
    """Let integer kernels add in 32 bits, and leave Q and DQ alone."""
    _light(options)
    options.add_session_config_entry("session.x64quantprecision", "1")
    options.add_session_config_entry("session.disable_quant_qdq", "1")


def _comparable(expected: Outputs, actual: Outputs) -> tuple[Outputs, Outputs]:
    """Return what can be compared: an output may not change its type.

    What is before an output's last operator is compared where both have that, and not only moved to
    other places. Of a softmax's inputs what is added to all of them does not count.
    """
    kept = {n: v for n, v in actual.items() if n in expected and v.dtype == expected[n].dtype}
    both: dict[str, tuple[Array, Array]] = {}
    for name, value in expected.items():
        if not name.startswith(_BEFORE):
            continue
        other = kept.pop(name, None)
        if other is None or other.shape != value.shape:
            continue
        pair = _steady(expected[name.removeprefix(_BEFORE)], value, other)
        ordered = [np.sort(side, axis=None) for side in pair]
        if hold({name: ordered[0]}, {name: ordered[1]})[0].passed:
            continue
        both[name] = pair
    plain = {name: value for name, value in expected.items() if not name.startswith(_BEFORE)}
    return (
        plain | {name: pair[0] for name, pair in both.items()},
        kept | {name: pair[1] for name, pair in both.items()},
    )


def _steady(output: Array, one: Array, other: Array) -> tuple[Array, Array]:
    """Return both without their mean along the axis along which the output adds up to 1."""
    for axis in range(output.ndim):
        if output.shape[axis] > 1 and np.allclose(output.sum(axis), 1.0, atol=1e-3):
            return one - one.mean(axis, keepdims=True), other - other.mean(axis, keepdims=True)
    return one, other
