"""Whether a candidate's outputs are the original's, within a tolerance."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from onnxgraft.errors import InputError
from onnxgraft.graph.tensors import Array, Outputs
from onnxgraft.run.difference import as_float, span
from onnxgraft.run.tolerances import FLOAT_TOLERANCE

__all__ = ["Verdict", "check_pair", "distance", "judge", "other_boxes"]


@dataclass(frozen=True)
class Verdict:
    """Polygraphy's judgement of one output.

    Attributes:
        output: Its name.
        passed: Whether the largest difference is within the tolerance; never where a value is NaN
            or infinite.
        max_abs: The largest absolute difference.
        mean_abs: The mean absolute difference.
        tolerance: What ``max_abs`` was held against: a fraction of the expected output's range.
    """

    output: str
    passed: bool
    max_abs: float
    mean_abs: float
    tolerance: float


def judge(expected: Outputs, actual: Outputs, tolerance: float = FLOAT_TOLERANCE) -> list[Verdict]:
    """Let Polygraphy compare two runs of the same feeds.

    Args:
        expected: The original's outputs.
        actual: The candidate's outputs, of the same names and shapes.
        tolerance: As a fraction of each expected output's range (largest minus smallest value).

    Raises:
        InputError: An output is missing or of another shape.
    """
    from polygraphy.comparator import SimpleCompareFunc
    from polygraphy.comparator.struct import IterationResult
    from polygraphy.logger import G_LOGGER

    for name, value in expected.items():
        check_pair(name, value, actual)
    pairs = {name: (as_float(value), as_float(actual[name])) for name, value in expected.items()}
    limits = {name: tolerance * span(value) for name, (value, _) in pairs.items()}
    finite = {name: pair for name, pair in pairs.items() if _finite(*pair)}
    compare = SimpleCompareFunc(rtol=0.0, atol=limits, check_error_stat="max")
    with G_LOGGER.verbosity(G_LOGGER.CRITICAL), np.errstate(divide="ignore", invalid="ignore"):
        results = compare(
            IterationResult({n: pair[0] for n, pair in finite.items()}, runner_name="expected"),
            IterationResult({n: pair[1] for n, pair in finite.items()}, runner_name="actual"),
        )
    return [
        Verdict(
            name,
            bool(results[name]),
            float(results[name].max_absdiff),
            float(results[name].mean_absdiff),
            limits[name],
        )
        if name in finite
        else Verdict(name, False, math.inf, math.inf, limits[name])
        for name in expected
    ]


def distance(
    expected: Outputs, actual: Outputs, tolerance: float = FLOAT_TOLERANCE
) -> list[Verdict]:
    """Return the verdicts of `judge` in a fraction of the time: without Polygraphy's statistics.

    Args:
        expected: The original's outputs.
        actual: The candidate's outputs, of the same names and shapes.
        tolerance: As a fraction of each expected output's range.

    Raises:
        InputError: An output is missing or of another shape.
    """
    found = []
    for name, value in expected.items():
        check_pair(name, value, actual)
        left, right = as_float(value), as_float(actual[name])
        limit = tolerance * span(left)
        error = np.abs(left - right) if _finite(left, right) else np.full(1, np.inf)
        largest = float(error.max(initial=0.0))
        mean = float(error.mean()) if error.size else 0.0
        found.append(Verdict(name, largest <= limit, largest, mean, limit))
    return found


def _finite(*values: Array) -> bool:
    return all(bool(np.isfinite(value).all()) for value in values)


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
    if apart == [0]:
        return "the batch differs; convert with a free batch, or build with --shapes for one sample"
    if len(apart) == 1 and (len(expected) == 2 or apart[0] in (1, len(expected) - 1)):
        return "the number of classes or channels differs, so these are two networks"
    return "a pad, a stride or an upsampling differs; --bisect names the layer"
