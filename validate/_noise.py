"""How far float32 rounding alone moves a network's outputs: what a tolerance is explained by."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from onnxgraft.compare import FLOAT_TOLERANCE, relative_error
from onnxgraft.runtime import Engine
from onnxgraft.samples import Sample
from onnxgraft.validate._layout import adapted

__all__ = ["Tolerance", "measured_tolerance", "users_tolerance"]

# Another order of every sum is many roundings, an input that is rounded otherwise one: measured on
# the networks of benchmarks/, two runtimes differ by up to 4 times as much.
_FACTOR = 10


@dataclass(frozen=True)
class Tolerance:
    """What a float candidate is held against.

    Attributes:
        value: As a fraction of each output's range.
        reason: Where it comes from, in words.
    """

    value: float
    reason: str


def users_tolerance(value: float) -> Tolerance:
    """Return a tolerance that the user gave."""
    return Tolerance(value, f"the tolerance is {value:.1e} of an output's range, as was asked for")


def measured_tolerance(original: Engine, samples: Iterable[Sample]) -> Tolerance:
    """Return the tolerance that float noise explains, measured on the original itself.

    It is run twice on each sample, and a third time on inputs that are rounded otherwise: each
    value moved at random by half a unit in its last place.
    """
    again = noise = 0.0
    count = 0
    rng = np.random.default_rng(0)
    for sample in samples:
        count += 1
        feeds = adapted(sample.feeds, original)
        moved = {
            name: (value * (1 + rng.uniform(-(2.0**-24), 2.0**-24, value.shape))).astype(
                value.dtype
            )
            if value.dtype == np.float32
            else value
            for name, value in feeds.items()
        }
        first, second, third = (original.infer(fed) for fed in (feeds, feeds, moved))
        for name, value in first.items():
            if value.dtype.kind == "f" and np.isfinite(value).all():
                again = max(again, relative_error(value, second[name]))
                noise = max(noise, relative_error(value, third[name]))
    worst = max(again, noise)
    allowed = max(FLOAT_TOLERANCE, _FACTOR * worst)
    told = (
        f"{original.name} differs from itself by {again:.1e} of an output's range when run twice, "
        f"and by {noise:.1e} when its inputs are rounded otherwise ({count} samples)"
    )
    if allowed == FLOAT_TOLERANCE:
        return Tolerance(allowed, f"the tolerance is {allowed:.0e} of an output's range: {told}")
    held = f"the tolerance is {allowed:.1e} of an output's range, {_FACTOR} times its noise"
    return Tolerance(allowed, f"{held}: {told}")
