"""How far rounding alone moves a network's outputs: no other runtime can be asked for less."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from onnxgraft.graph.tensors import Array, Feeds, Outputs
from onnxgraft.run.difference import span
from onnxgraft.run.engine import Engine
from onnxgraft.run.tolerances import NOISE_FACTOR

__all__ = ["OwnNoise", "moved", "noise_floors", "own_noise"]


@dataclass
class OwnNoise:
    """What was seen of a network's own noise, of each float output: the largest difference.

    Attributes:
        again: When it is run twice.
        moved: When its inputs are rounded differently.
        otherwise: With other optimizations of its runtime; empty where that was not tried.
        spans: The range of the output.
        samples: How many samples were tried.
    """

    again: dict[str, float] = field(default_factory=dict)
    moved: dict[str, float] = field(default_factory=dict)
    otherwise: dict[str, float] = field(default_factory=dict)
    spans: dict[str, float] = field(default_factory=dict)
    samples: int = 0

    def floors(self) -> dict[str, float]:
        """Return the difference of each output that its own noise explains."""
        seen = (self.again, self.moved, self.otherwise)
        return {
            name: NOISE_FACTOR * max(kind.get(name, 0.0) for kind in seen) for name in self.spans
        }

    def relative(self, kind: Mapping[str, float]) -> float:
        """Return the largest of a kind of noise, as a fraction of its output's range."""
        return max((value / self.spans[name] for name, value in kind.items()), default=0.0)


def own_noise(
    engine: Engine,
    samples: Iterable[Feeds],
    *,
    bits: int = 24,
    other: Engine | None = None,
    step: float = 0.0,
) -> OwnNoise:
    """Run a network several times on each sample, and note how far its outputs move.

    Args:
        engine: The network.
        samples: Feeds of it.
        bits: Inputs are moved at random by up to half a unit in the last place of so many bits.
        other: The same network with other optimizations of its runtime.
        step: Inputs are moved at random by up to so much, too.
    """
    found = OwnNoise()
    rng = np.random.default_rng(0)
    for feeds in samples:
        found.samples += 1
        first = {n: np.array(v) for n, v in engine.infer(feeds).items() if v.dtype.kind == "f"}
        for name, value in first.items():
            found.spans[name] = max(found.spans.get(name, 0.0), span(value))
        _note(found.again, first, engine.infer(feeds))
        nudged = {name: moved(value, bits, rng, step) for name, value in feeds.items()}
        _note(found.moved, first, engine.infer(nudged))
        if other is not None:
            _note(found.otherwise, first, other.infer(feeds))
    return found


def noise_floors(first: Outputs, others: Sequence[Outputs]) -> dict[str, float]:
    """Return the difference of each float output that a network's own noise explains.

    Args:
        first: What it makes of a sample.
        others: What it makes of it when it is run differently.
    """
    largest: dict[str, float] = {}
    for other in others:
        _note(largest, {n: v for n, v in first.items() if v.dtype.kind == "f"}, other)
    return {name: NOISE_FACTOR * value for name, value in largest.items()}


def _note(largest: dict[str, float], expected: Outputs, actual: Outputs) -> None:
    for name, value in expected.items():
        other = actual.get(name)
        if other is None or other.shape != value.shape:
            continue
        fine = np.isfinite(value) & np.isfinite(other)
        apart = np.abs(value[fine].astype(np.float64) - other[fine])
        largest[name] = max(largest.get(name, 0.0), float(apart.max(initial=0.0)))


def moved(value: Array, bits: int, rng: np.random.Generator, step: float = 0.0) -> Array:
    """Return values, each moved at random by up to half a unit in the last of ``bits``.

    And by up to ``step``, where that is more than 0.
    """
    if value.dtype.name not in ("float16", "bfloat16", "float32"):
        return value
    wide = value.astype(np.float32) * (1 + rng.uniform(-(2.0**-bits), 2.0**-bits, value.shape))
    if step > 0:
        wide = wide + rng.uniform(-step, step, value.shape)
    return wide.astype(value.dtype)
