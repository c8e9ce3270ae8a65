"""Whether an engine computes what its graph says: it is run beside the exact reference.

An INT8 network is chaotic in its last bits. Two runtimes that both do what the graph says differ by
a unit in the last place of some float; where that moves a value over the middle between two
integers, the next layer sees another integer, and after a few layers the two differ by about what
quantization itself adds. So no fixed number of decibels tells a right engine from a wrong one in a
deep network. What does is the distance from the network without quantized activations (its float
twin): a right engine is as far from it as the exact reference is, a wrong one further.

    passed  =  same shapes, and
               SQNR(exact, engine) >= 45 dB,  or
               SQNR(twin, engine) >= SQNR(twin, exact) - 1 dB

An engine of a graph without Q and DQ is held against the graph in onnxruntime, within what its
precision explains.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onnxgraft.errors import OnnxgraftError
from onnxgraft.graph.model import Model
from onnxgraft.graph.quantized import float_twin, is_quantized
from onnxgraft.graph.tensors import Array, Feeds, Outputs
from onnxgraft.run.answers import answers
from onnxgraft.run.difference import Difference
from onnxgraft.run.engine import Engine
from onnxgraft.run.exact import exact
from onnxgraft.run.session import OnnxRuntime
from onnxgraft.run.tolerances import ENGINE_DECIBELS, ENGINE_LOSS, ENGINE_TOLERANCES

__all__ = ["Proof", "Reference", "worst"]


@dataclass(frozen=True)
class Proof:
    """What was seen of one output of an engine.

    Attributes:
        output: Its name.
        passed: Whether the engine computes what its graph says.
        decibels: SQNR of the engine against the exact reference; of a float graph, against it.
        exact: SQNR of the exact reference against the float twin; infinite for a float graph.
        engine: SQNR of the engine against the float twin; as ``decibels`` for a float graph.
        relative: The largest difference as a fraction of the output's range.
        reason: Why it does not pass; empty where it does.
    """

    output: str
    passed: bool
    decibels: float
    exact: float
    engine: float
    relative: float
    reason: str = ""

    def __str__(self) -> str:
        """Return what was seen, in a sentence."""
        if self.reason:
            return f"{self.output}: {self.reason}"
        if math.isinf(self.exact):
            return f"{self.output}: differs from its graph by {self.relative:.1e} of the range"
        return (
            f"{self.output}: {self.decibels:.1f} dB of the exact answer; against the network with "
            f"float activations {self.engine:.1f} dB, the exact answer {self.exact:.1f} dB"
        )


class Reference:
    """A graph's exact answers, and those of its float twin, on some feeds.

    Args:
        model: The graph that engines are built from.
        feeds: What they are run on.
        precision: Of float layers: what a difference is explained by.
    """

    def __init__(self, model: Model, feeds: Sequence[Feeds], precision: str = "fp32") -> None:
        self.feeds = list(feeds)
        self.precision = precision
        self.quantized = is_quantized(model)
        with exact(model) as session:
            self.exact = [answers(session, fed) for fed in self.feeds]
        self.twin: list[Outputs] = self.exact
        if self.quantized:
            with OnnxRuntime(float_twin(model).to_onnx(), name="float twin") as session:
                self.twin = [answers(session, fed) for fed in self.feeds]

    def hold(self, engine: Engine) -> list[Proof]:
        """Return what is seen of each output of an engine."""
        try:
            found = [
                answers(engine, fed, right)
                for fed, right in zip(self.feeds, self.exact, strict=True)
            ]
        except OnnxgraftError as error:
            reason = f"the engine can't run: {error}"
            return [
                Proof(name, False, -math.inf, 0.0, 0.0, math.inf, reason) for name in self._names
            ]
        return [self._of(name, found) for name in self._names]

    @property
    def _names(self) -> list[str]:
        return list(self.exact[0]) if self.exact else []

    def _of(self, name: str, found: Sequence[Outputs]) -> Proof:
        for right, made in zip(self.exact, found, strict=True):
            reason = _other_kind(right[name], made.get(name))
            if reason:
                return Proof(name, False, -math.inf, 0.0, 0.0, math.inf, reason)
        triples = [
            (twin[name], right[name], made[name])
            for twin, right, made in zip(self.twin, self.exact, found, strict=True)
        ]
        if triples[0][1].dtype.kind != "f":
            return _of_integers(name, triples, self.quantized)
        pairs = {
            "decibels": [(right, made) for _, right, made in triples],
            "exact": [(twin, right) for twin, right, _ in triples],
            "engine": [(twin, made) for twin, _, made in triples],
        }
        seen = {key: _difference(entries) for key, entries in pairs.items()}
        relative = seen["decibels"].relative
        values = {key: difference.sqnr for key, difference in seen.items()}
        if seen["decibels"].nonfinite:
            reason = f"{seen['decibels'].nonfinite} values are NaN or infinite on one side alone"
        elif self.quantized:
            reason = _reason(values)
        else:
            allowed = ENGINE_TOLERANCES[self.precision]
            values["exact"] = math.inf
            reason = "" if relative <= allowed else (
                f"differs from its graph by {relative:.1e} of the range, {allowed:.0e} is what "
                f"{self.precision} explains"
            )  # fmt: skip
        return Proof(name, not reason, **values, relative=relative, reason=reason)


def worst(proofs: Sequence[Proof]) -> Proof:
    """Return the output that is furthest from what it should be."""
    return min(proofs, key=lambda proof: (proof.passed, proof.decibels))


def _reason(values: dict[str, float]) -> str:
    """Return why an output of an INT8 engine is not what its graph says; empty where it is."""
    if values["decibels"] >= ENGINE_DECIBELS:
        return ""
    if values["engine"] >= values["exact"] - ENGINE_LOSS:
        return ""
    return (
        f"the engine keeps {values['engine']:.1f} dB of the network with float activations, its "
        f"graph keeps {values['exact']:.1f} dB ({values['decibels']:.1f} dB between the two)"
    )


def _of_integers(name: str, triples: list[tuple[Array, Array, Array]], quantized: bool) -> Proof:
    """Judge classes and the like: by how often the engine departs from them."""
    total = sum(right.size for _, right, _ in triples) or 1
    apart = sum(int(np.count_nonzero(made != right)) for _, right, made in triples) / total
    moved = sum(int(np.count_nonzero(right != twin)) for twin, right, _ in triples) / total
    # The exact graph departs from its twin by rounding, and a right engine may by as much again.
    allowed = max(2 * moved, 1e-3) if quantized else 1e-3
    reason = "" if apart <= allowed else (
        f"{100 * apart:.2f} % of the positions differ from the exact answer, {100 * allowed:.2f} % "
        "is what rounding explains"
    )  # fmt: skip
    decibels = math.inf if apart == 0 else -10 * math.log10(apart)
    return Proof(name, not reason, decibels, math.inf, decibels, apart, reason)


def _difference(pairs: Sequence[tuple[Array, Array]]) -> Difference:
    difference = Difference()
    for expected, actual in pairs:
        both = ~np.isfinite(expected) & (
            (expected == actual) | (np.isnan(expected) & np.isnan(actual))
        )
        if both.any():  # the same on both sides says nothing
            expected, actual = np.where(both, 0, expected), np.where(both, 0, actual)
        difference.add(expected, actual)
    return difference


def _other_kind(expected: Array, actual: Array | None) -> str:
    if actual is None:
        return "the engine has no such output"
    if actual.shape != expected.shape:
        return f"the engine answers {actual.shape}, its graph says {expected.shape}"
    if actual.dtype.kind != expected.dtype.kind:
        return f"the engine answers {actual.dtype}, its graph says {expected.dtype}"
    return ""
