"""The tolerance of a float candidate, and why it is as it is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from onnxgraft.data.samples import Sample
from onnxgraft.run.answers import adapted
from onnxgraft.run.engine import Engine
from onnxgraft.run.noise import own_noise
from onnxgraft.run.tolerances import ENGINE_TOLERANCES, NOISE_FACTOR
from onnxgraft.words import several

__all__ = ["Tolerance", "measured_tolerance", "users_tolerance"]

# How many bits a value keeps.
_BITS = {"fp32": 24, "tf32": 11, "fp16": 11, "bf16": 8}


@dataclass(frozen=True)
class Tolerance:
    """What a float candidate is held against.

    Attributes:
        value: As a fraction of each output's range.
        reason: Where it comes from, in words.
        floors: By output, a difference that is allowed whatever the range is.
    """

    value: float
    reason: str
    floors: Mapping[str, float] = field(default_factory=dict)


def users_tolerance(value: float) -> Tolerance:
    """Return a tolerance that the user gave."""
    return Tolerance(value, f"the tolerance is {value:.1e} of an output's range, as requested")


def measured_tolerance(
    original: Engine,
    samples: Iterable[Sample],
    precision: str = "fp32",
    other: Engine | None = None,
    level: float = 0.0,
) -> Tolerance:
    """Return the tolerance that rounding explains, measured on the original itself.

    It is run twice on each sample, a third time on inputs that are rounded differently: each value
    moved at random by up to half a unit in the last place of the candidate's precision; and once
    more with other optimizations of its runtime, where there is such an engine. Each output has a
    tolerance of its own.

    Args:
        original: The reference.
        samples: Some.
        precision: Of the candidate: ``fp32``, ``tf32``, ``fp16`` or ``bf16``.
        other: The original with other optimizations.
        level: What half a level of a picture is in its inputs, where the candidate resizes pictures
            itself and may round to another one.
    """
    bits, least = _BITS[precision], ENGINE_TOLERANCES[precision]
    noise = own_noise(
        original, (adapted(sample.feeds, original) for sample in samples), bits=bits, other=other,
        step=level,
    )  # fmt: skip
    where = "" if precision == "fp32" else f" to the {bits} bits of {precision}"
    where += " and by up to half a level of the picture" if level else ""
    optimized = (
        f", and by {noise.relative(noise.otherwise):.1e} with other optimizations"
        if noise.otherwise
        else ""
    )
    told = (
        f"{original.name} differs from itself by {noise.relative(noise.again):.1e} of an output's "
        f"range when run twice, and by {noise.relative(noise.moved):.1e} when its inputs are "
        f"rounded differently{where}{optimized} ({several(noise.samples, 'sample')})"
    )
    floors = {n: v for n, v in noise.floors().items() if v > least * noise.spans[n]}
    kind = "" if precision == "fp32" else f", the least for {precision}"
    held = f"the tolerance is {least:.0e} of an output's range{kind}"
    if floors:
        noisy = ", ".join(f"{v / noise.spans[n]:.1e} for {n}" for n, v in floors.items())
        held = f"{held}, but {noisy}: {NOISE_FACTOR} times its noise"
    return Tolerance(least, f"{held}: {told}", floors)
