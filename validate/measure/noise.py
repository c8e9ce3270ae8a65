"""How far rounding alone moves a network's outputs: what a tolerance is explained by."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from onnxgraft.data.samples import Sample
from onnxgraft.graph.tensors import (
    Array,
)
from onnxgraft.run.answers import adapted
from onnxgraft.run.difference import (
    relative_error,
)
from onnxgraft.run.engine import (
    Engine,
)
from onnxgraft.run.tolerances import (
    FLOAT_TOLERANCE,
)

__all__ = ["Tolerance", "measured_tolerance", "users_tolerance"]

# Another order of every sum is many roundings, an input that is rounded otherwise one: measured on
# the networks of benchmarks/, two runtimes differ by up to 4 times as much.
_FACTOR = 10
# Of each precision, how many bits a value keeps, and the least that is allowed. Layers that round
# what they compute do so once each, and inputs are rounded once: the CamVid MobileNet is off by
# 5e-3 in FP16 and by 6e-3 in BF16, whose runtimes keep sums in float32, while its inputs explain
# 4e-4 and 3e-3.
_PRECISIONS = {
    "fp32": (24, FLOAT_TOLERANCE),
    "tf32": (11, 1e-2),
    "fp16": (11, 1e-2),
    "bf16": (8, 2e-2),
}


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


def measured_tolerance(
    original: Engine, samples: Iterable[Sample], precision: str = "fp32"
) -> Tolerance:
    """Return the tolerance that rounding explains, measured on the original itself.

    It is run twice on each sample, and a third time on inputs that are rounded otherwise: each
    value moved at random by up to half a unit in the last place of the candidate's precision.

    Args:
        original: The judge.
        samples: Some.
        precision: Of the candidate: ``fp32``, ``tf32``, ``fp16`` or ``bf16``.
    """
    bits, least = _PRECISIONS[precision]
    again = noise = 0.0
    count = 0
    rng = np.random.default_rng(0)
    for sample in samples:
        count += 1
        feeds = adapted(sample.feeds, original)
        moved = {name: _moved(value, bits, rng) for name, value in feeds.items()}
        first, second, third = (original.infer(fed) for fed in (feeds, feeds, moved))
        for name, value in first.items():
            if value.dtype.kind == "f" and np.isfinite(value).all():
                again = max(again, relative_error(value, second[name]))
                noise = max(noise, relative_error(value, third[name]))
    worst = max(again, noise)
    allowed = max(least, _FACTOR * worst)
    where = "" if precision == "fp32" else f" to the {bits} bits of {precision}"
    told = (
        f"{original.name} differs from itself by {again:.1e} of an output's range when run twice, "
        f"and by {noise:.1e} when its inputs are rounded otherwise{where} ({count} samples)"
    )
    if allowed == least:
        kind = "" if precision == "fp32" else f", the least for {precision}"
        held = f"the tolerance is {allowed:.0e} of an output's range{kind}"
    else:
        held = f"the tolerance is {allowed:.1e} of an output's range, {_FACTOR} times its noise"
    return Tolerance(allowed, f"{held}: {told}")


def _moved(value: Array, bits: int, rng: np.random.Generator) -> Array:
    if value.dtype.name not in ("float16", "bfloat16", "float32"):
        return value
    wide = value.astype(np.float32)
    return (wide * (1 + rng.uniform(-(2.0**-bits), 2.0**-bits, value.shape))).astype(value.dtype)
