"""How far two sets of outputs are apart, and whether that is within a tolerance.

Polygraphy's comparator gives the verdict on single samples (`judge`); `Difference` adds up what
a report shows over a whole data set, in constant memory.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from onnxgraft.errors import InputError
from onnxgraft.runtime import Array, Outputs

__all__ = ["FLOAT_TOLERANCE", "HALF_TOLERANCE", "Difference", "Verdict", "judge"]

# Two float32 runtimes that sum in different orders differ by some 1e-6 of an output's range per
# layer; measured on the networks of benchmarks/ it stays under 2e-5 of the range. 1e-4 is what a
# wrong weight, pad or axis exceeds by orders of magnitude.
FLOAT_TOLERANCE = 1e-4
# Where anything is computed in float16: ten times its unit roundoff of 2^-11, for sums that are
# kept in half precision by one runtime and in single by the other.
HALF_TOLERANCE = 5e-3


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
    pairs = {name: (_float(value), _float(actual[name])) for name, value in expected.items()}
    limits = {name: tolerance * _span(value) for name, (value, _) in pairs.items()}
    finite = {name: pair for name, pair in pairs.items() if all(np.isfinite(v).all() for v in pair)}
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


def _span(value: Array) -> float:
    """Return the range of the finite values; where they are all equal, their size or 1."""
    kept = value[np.isfinite(value)]
    span = float(np.ptp(kept)) if kept.size else 0.0
    return span or float(np.abs(kept).max(initial=0.0)) or 1.0


def check_pair(name: str, expected: Array, actual: Mapping[str, Array]) -> None:
    """Raise InputError unless ``actual`` has an output ``name`` of the expected shape."""
    if name not in actual:
        raise InputError(
            f"the candidate has no output {name!r}; it has {', '.join(actual)}: "
            "convert it with the same --outputs"
        )
    if actual[name].shape != expected.shape:
        raise InputError(
            f"output {name!r} is {expected.shape} in the original and {actual[name].shape} in the "
            "candidate"
        )


def _float(value: Array) -> Array:
    return value.astype(np.float32) if value.dtype.kind != "f" else value


class Difference:
    """The difference of one output over a data set, added up sample by sample."""

    def __init__(self, axis: int | None = None) -> None:
        """Begin with nothing.

        Args:
            axis: The class axis of the argmax agreement; None leaves it out.
        """
        self.axis = axis
        self.max_abs = 0.0
        self._sum_abs = 0.0
        self._count = 0
        self._dot = self._expected2 = self._actual2 = self._error2 = 0.0
        self._low, self._high = math.inf, -math.inf
        self._agree = self._positions = 0
        self.nonfinite = 0

    def add(self, expected: Array, actual: Array) -> None:
        """Take in one sample's output of both sides."""
        bad = ~(np.isfinite(expected) & np.isfinite(actual))
        if bad.any():
            self.nonfinite += int(bad.sum())
            expected, actual = np.where(bad, 0, expected), np.where(bad, 0, actual)
        e, a = expected.astype(np.float32).ravel(), actual.astype(np.float32).ravel()
        error = e - a
        absolute = np.abs(error)
        self.max_abs = max(self.max_abs, float(absolute.max(initial=0.0)))
        self._sum_abs += float(absolute.sum(dtype=np.float64))
        self._count += e.size
        self._dot += float(np.dot(e, a))
        self._expected2 += float(np.dot(e, e))
        self._actual2 += float(np.dot(a, a))
        self._error2 += float(np.dot(error, error))
        if e.size:
            self._low, self._high = min(self._low, float(e.min())), max(self._high, float(e.max()))
        if self.axis is not None and expected.ndim > 1:
            same = expected.argmax(self.axis) == actual.argmax(self.axis)
            self._agree += int(same.sum())
            self._positions += same.size

    @property
    def mean_abs(self) -> float:
        """The mean absolute difference."""
        return self._sum_abs / self._count if self._count else 0.0

    @property
    def span(self) -> float:
        """The range of the expected values: largest minus smallest."""
        return max(self._high - self._low, 0.0)

    @property
    def relative(self) -> float:
        """The largest difference as a fraction of the expected values' range."""
        if self.max_abs == 0.0:
            return 0.0
        return self.max_abs / self.span if self.span else math.inf

    @property
    def cosine(self) -> float:
        """Cosine of the angle between the two, 1 where both are zero."""
        norm = math.sqrt(self._expected2 * self._actual2)
        return self._dot / norm if norm else float(self._expected2 == self._actual2)

    @property
    def sqnr(self) -> float:
        """Signal-to-quantization-noise ratio in dB: 10 log10(sum e^2 / sum (e - a)^2)."""
        if self._error2 == 0.0:
            return math.inf
        return 10 * math.log10(self._expected2 / self._error2) if self._expected2 else -math.inf

    @property
    def agreement(self) -> float | None:
        """The fraction of positions whose argmax is the same, where there is a class axis."""
        return self._agree / self._positions if self._positions else None
