"""Whether a candidate's outputs are the original's, within a tolerance."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from onnxgraft.errors import InputError
from onnxgraft.graph.tensors import Array, Outputs
from onnxgraft.notebook import section
from onnxgraft.run.difference import as_float, span
from onnxgraft.run.saturation import resolution
from onnxgraft.run.selections import Chosen
from onnxgraft.run.tolerances import FLOAT_TOLERANCE, HALF_RESOLUTION, TIES

__all__ = ["Verdict", "check_pair", "hold", "other_boxes"]


@dataclass(frozen=True)
class Verdict:
    """The comparison of one output.

    Attributes:
        output: Its name.
        passed: Whether it is within the tolerance.
        max_abs: The largest absolute difference; of whole numbers and booleans, the fraction of
            positions that differ. Infinite where the two can't be compared.
        mean_abs: The mean absolute difference, or likewise the fraction.
        tolerance: What ``max_abs`` was held against.
        note: What else there is to say; empty if nothing.
    """

    output: str
    passed: bool
    max_abs: float
    mean_abs: float
    tolerance: float
    note: str = ""

    def _repr_html_(self) -> str:
        return section(
            f"{self.output}: {'pass' if self.passed else 'FAIL'}",
            ("largest difference", "mean", "allowed"),
            [(f"{self.max_abs:.1e}", f"{self.mean_abs:.1e}", f"{self.tolerance:.1e}")],
            [self.note] if self.note else [],
        )


def hold(
    expected: Outputs,
    actual: Outputs,
    tolerance: float = FLOAT_TOLERANCE,
    *,
    ties: float = TIES,
    floors: Mapping[str, float] | None = None,
    chosen: Chosen | None = None,
    types: bool = False,
) -> list[Verdict]:
    """Return a verdict on each of the ``expected`` outputs.

    Args:
        expected: The original's outputs.
        actual: The candidate's, under the same names and in the same layouts (see `answers`).
        tolerance: Of floats, as a fraction of each expected output's range, which is its largest
            minus its smallest finite value.
        ties: Of whole numbers and booleans, the fraction of positions that may differ.
        floors: By output, a difference that is allowed whatever its range is: the original's own
            noise, or what float32 does not resolve at the ends of a saturated output.
        chosen: What indices among the outputs were chosen from: they are held by the scores of
            what they select, where more of them differ.
        types: Ask for the original's types too; an engine may have its own.

    A difference that float32, or the output's float16, does not resolve in numbers of its size is
    none. An output that is missing, or of another shape, fails with a note that says what to do.
    What is NaN or infinite in the original must be just so in the candidate.
    """
    floors = floors or {}
    return [
        (_other_type(name, value, actual, tolerance) if types else None)
        or _selected(name, actual, tolerance, chosen)
        or _verdict(name, value, actual, tolerance, ties, floors.get(name, 0.0))
        for name, value in expected.items()
    ]


def _other_type(
    name: str, value: Array, actual: Mapping[str, Array], tolerance: float
) -> Verdict | None:
    """Return the verdict on an output of another type; None for what is of its own."""
    other = actual.get(name, value)
    if other.dtype == value.dtype or not {other.dtype.kind, value.dtype.kind} <= set("biuf"):
        return None
    note = f"{name} is {value.dtype} in the original and {other.dtype} in the candidate"
    return Verdict(name, False, math.inf, math.inf, tolerance, note)


def _selected(
    name: str, actual: Mapping[str, Array], tolerance: float, chosen: Chosen | None
) -> Verdict | None:
    """Return the verdict on an index by what it selects; None for what is none."""
    pair = None if chosen is None or name not in actual else chosen.pair(name, actual[name])
    if pair is None or chosen is None:
        return None
    apart = np.abs(pair[0] - pair[1])
    limit = tolerance * chosen.span(name)
    largest = float(apart.max(initial=0.0))
    mean = float(apart.mean()) if apart.size else 0.0
    return Verdict(name, largest <= limit, largest, mean, limit)


def _verdict(
    name: str,
    value: Array,
    actual: Mapping[str, Array],
    tolerance: float,
    ties: float,
    floor: float,
) -> Verdict:
    try:
        check_pair(name, value, actual)
    except InputError as error:
        return Verdict(name, False, math.inf, math.inf, tolerance, str(error))
    other = actual[name]
    if value.dtype.kind != "f":
        share = float(np.mean(value != other)) if value.size else 0.0
        return Verdict(name, share <= ties, share, share, ties)
    left, right, note = as_float(value), as_float(other), ""
    odd = ~np.isfinite(left)
    if odd.any():
        if not np.array_equal(left[odd], right[odd], equal_nan=True):
            note = "values that are NaN or infinite in the original differ in the candidate"
            return Verdict(name, False, math.inf, math.inf, tolerance * span(left), note)
        note = (
            f"{name}: {odd.sum()} values of the original are NaN or infinite, and are the same "
            "in the candidate"
        )
        left, right = np.where(odd, 0, left), np.where(odd, 0, right)
    limit = max(tolerance * span(left), floor, resolution(left))
    if value.dtype == np.float16:
        limit = max(limit, HALF_RESOLUTION * float(np.abs(left).max(initial=0.0)))
    apart = np.abs(left - right)
    if not np.isfinite(apart).all():
        return Verdict(name, False, math.inf, math.inf, limit, note)
    largest = float(apart.max(initial=0.0))
    mean = float(apart.mean()) if apart.size else 0.0
    return Verdict(name, largest <= limit, largest, mean, limit, note)


def check_pair(name: str, expected: Array, actual: Mapping[str, Array]) -> None:
    """Raise InputError unless ``actual`` has an output ``name`` of the expected shape."""
    if name not in actual:
        raise InputError(
            f"the candidate has no output {name!r}; it has {', '.join(actual)}: "
            "convert it with the same --outputs"
        )
    if actual[name].shape != expected.shape:
        cause = (
            "one found more boxes, which --metric map is for"
            if other_boxes(expected, actual[name])
            else _likely_cause(expected.shape, actual[name].shape)
        )
        raise InputError(
            f"output {name!r} is {expected.shape} in the original and {actual[name].shape} in the "
            f"candidate: {cause}"
        )


def other_boxes(expected: Array, actual: Array) -> bool:
    """Tell whether both are rows of a DetectionOutput, (..., boxes, 7), and one has more of them.

    What was found by one alone has no counterpart: such outputs are compared by a metric.
    """
    one, other = expected.shape, actual.shape
    rows = len(one) == len(other) > 1 and one[-1] == other[-1] == 7
    return rows and one[-2] != other[-2] and one[:-2] == other[:-2]


def _likely_cause(expected: tuple[int, ...], actual: tuple[int, ...]) -> str:
    """Return why an output may have another shape, and what to do."""
    if sorted(expected) == sorted(actual):
        return "the same axes in another order, which is the layout; convert with --io-layout keep"
    if math.prod(expected) == math.prod(actual):
        return "the same values reshaped; name the tensor before or after it with --outputs"
    if len(expected) != len(actual):
        return "it is another tensor; name the same one with --outputs"
    pairs = enumerate(zip(expected, actual, strict=True))
    apart = [axis for axis, (one, other) in pairs if one != other]
    if apart == [0] and 0 in (expected[0], actual[0]):
        return "one of them found nothing in this sample"
    if apart == [0]:
        return "the batch differs; convert with a free batch, or build with --shapes for one sample"
    if len(apart) == 1 and (len(expected) == 2 or apart[0] in (1, len(expected) - 1)):
        return "the number of classes or channels differs, so these are two networks"
    return "a pad, a stride or an upsampling differs; --bisect names the layer"
