"""How far two outputs are apart: of one pair, and added up over a data set in constant memory."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from onnxgraft.graph.tensors import Array

__all__ = ["Difference", "Sum", "as_float", "relative_error", "span", "sqnr"]


def relative_error(expected: Array, actual: Array) -> float:
    """Return the largest difference as a fraction of the expected values' range.

    Infinite where the shapes differ, or values are NaN or infinite on one side alone.

    >>> relative_error(np.array([0.0, 4.0]), np.array([0.0, 5.0]))
    0.25
    """
    if expected.shape != actual.shape:
        return math.inf
    fine = np.isfinite(expected)
    if not np.array_equal(fine, np.isfinite(actual)):
        return math.inf
    if not fine.any():
        return 0.0
    if not fine.all():
        expected, actual = expected[fine], actual[fine]
    error = float(np.abs(as_float(expected) - as_float(actual)).max())
    return error / span(as_float(expected)) if error else 0.0


def sqnr(expected: Array, actual: Array) -> float:
    """Return the signal-to-noise ratio in dB: 10 log10(sum e^2 / sum (e - a)^2).

    >>> sqnr(np.array([3.0, 1.0]), np.array([3.0, 2.0]))
    10.0
    """
    if expected.shape != actual.shape or not np.isfinite(actual).all():
        return -math.inf
    signal, noise = (
        float(np.square(value, dtype=np.float64).sum())
        for value in (as_float(expected), as_float(expected) - as_float(actual))
    )
    return _decibels(signal, noise)


def span(value: Array) -> float:
    """Return the range of the finite values; where they are all equal, their size or 1."""
    kept = value[np.isfinite(value)]
    span = float(np.ptp(kept)) if kept.size else 0.0
    return span or float(np.abs(kept).max(initial=0.0)) or 1.0


def as_float(value: Array) -> Array:
    """Return numbers as floats: what is none becomes float32."""
    return value.astype(np.float32) if value.dtype.kind != "f" else value


class Sum:
    """A sum of floats without rounding: the same whatever the order, and however it is split.

    Holds what is left as floats that do not overlap (Shewchuk, 1997), as `math.fsum` does.

    >>> total = Sum()
    >>> for value in (1e100, 1.0, -1e100):
    ...     total.add(value)
    >>> total.value
    1.0
    """

    def __init__(self) -> None:
        self._parts: list[float] = []

    def add(self, value: float) -> None:
        """Add a finite number."""
        kept = []
        for part in self._parts:
            if abs(value) < abs(part):
                value, part = part, value
            high = value + part
            low = part - (high - value)
            if low:
                kept.append(low)
            value = high
        self._parts = [*kept, value]

    def merge(self, other: Sum) -> None:
        """Add what another sum holds."""
        for part in other._parts:
            self.add(part)

    @property
    def value(self) -> float:
        """The sum, rounded once."""
        return math.fsum(self._parts)


# So many values are worked on at once: they stay in the cache, and numpy's dot product in one
# thread, whose rounding does not depend on how many there are.
_BLOCK = 8192
_TEXTS = "OSU"  # kinds of numpy's
# Of so many classes at most the overlap is measured: it takes a table of their square.
_MOST_CLASSES = 1024
_COUNTS = (
    "nonfinite", "_count", "_counted", "_others", "_apart", "_agree", "_positions", "_whole",
    "_differing",
)  # fmt: skip
_SUMS = ("_abs", "_rel", "_dot", "_expected2", "_actual2", "_error2", "_moved2", "_moving2")
# Elementwise relative errors are of values of at least this fraction of the sample's largest: of a
# value near zero any error is many times the value.
_LEAST = 1e-3


class Difference:
    """The difference of one output over a data set, added up sample by sample.

    Parts of the data set can be added up apart and merged: the result has the same bits.
    """

    def __init__(self) -> None:
        """Begin with nothing."""
        self.max_abs = 0.0
        self.max_rel = 0.0
        self.nonfinite = 0
        self._count = self._counted = self._others = self._apart = 0
        self._abs, self._rel = Sum(), Sum()
        self._dot, self._expected2, self._actual2, self._error2 = Sum(), Sum(), Sum(), Sum()
        self._low, self._high = math.inf, -math.inf
        self._agree = self._positions = 0
        self._confusion: NDArray[np.int64] | None = None
        self._whole = self._differing = 0
        self._moved2, self._moving2 = Sum(), Sum()

    def add(self, expected: Array, actual: Array, first: Array | None = None) -> bool:
        """Take in one sample's output of both sides; return whether all values are finite.

        Values that are NaN or infinite on either side are counted, and left out.

        Args:
            expected: The original's.
            actual: The candidate's.
            first: The original's for the first sample of the data, if that is another one.
        """
        if expected.dtype.kind != "f":
            self._whole += expected.size
            self._differing += int(np.count_nonzero(expected != actual))
        if expected.dtype.kind in _TEXTS:
            return True
        e, a = (np.ascontiguousarray(v, np.float32).ravel() for v in (expected, actual))
        if first is not None:
            self._others += 1
            self._apart += not np.array_equal(first, expected, equal_nan=expected.dtype.kind == "f")
        if first is not None and first.shape == expected.shape:
            self._add_moved(e, a, np.ascontiguousarray(first, np.float32).ravel())
        finite = self._add(e, a)
        if not finite:
            bad = ~(np.isfinite(e) & np.isfinite(a))
            self.nonfinite += int(bad.sum())
            self._add(e[~bad], a[~bad])
        return finite

    def _add(self, e: Array, a: Array) -> bool:
        """Add finite values up; leave everything as it is where one is not finite."""
        buffer = np.empty(_BLOCK, np.float32)
        sums = [0.0] * 5
        largest, low, high = 0.0, math.inf, -math.inf
        with np.errstate(over="ignore", invalid="ignore"):
            for start in range(0, e.size, _BLOCK):
                x, y = e[start : start + _BLOCK], a[start : start + _BLOCK]
                error = buffer[: x.size]
                np.subtract(x, y, out=error)
                for index, (one, other) in enumerate(((x, y), (x, x), (y, y), (error, error))):
                    sums[index] += float(np.dot(one, other))
                np.abs(error, out=error)
                sums[4] += float(error.sum())
                largest = max(largest, float(error.max()))
                low, high = min(low, float(x.min())), max(high, float(x.max()))
            if not all(map(math.isfinite, sums)):
                # A square may be beyond float32 where the values are not.
                if not (np.isfinite(e).all() and np.isfinite(a).all()):
                    return False
                x, y = e.astype(np.float64), a.astype(np.float64)
                error = np.abs(x - y)
                sums = [float(np.dot(*pair)) for pair in ((x, y), (x, x), (y, y), (error, error))]
                sums.append(float(error.sum()))
                largest = float(error.max(initial=0.0))
        if not e.size:
            return True
        for total, value in zip(
            (self._dot, self._expected2, self._actual2, self._error2, self._abs), sums, strict=True
        ):
            total.add(value)
        self.max_abs = max(self.max_abs, largest)
        self._low, self._high = min(self._low, low), max(self._high, high)
        self._count += e.size
        self._add_relative(e, a, max(abs(low), abs(high)) * _LEAST)
        return True

    def _add_relative(self, e: Array, a: Array, least: float) -> None:
        if not least:
            return
        total = 0.0
        for start in range(0, e.size, _BLOCK):
            x, y = e[start : start + _BLOCK], a[start : start + _BLOCK]
            size = np.abs(x)
            kept = size >= least
            relative = np.abs(x - y)
            np.divide(relative, size, out=relative, where=kept)
            relative *= kept
            total += float(relative.sum())
            self.max_rel = max(self.max_rel, float(relative.max()))
            self._counted += int(np.count_nonzero(kept))
        self._rel.add(total)

    def _add_moved(self, e: Array, a: Array, first: Array) -> None:
        """Add up how far the answer is from that to the first sample, and from the candidate's."""
        totals = [0.0, 0.0]
        with np.errstate(over="ignore", invalid="ignore"):
            for start in range(0, e.size, _BLOCK):
                part = slice(start, start + _BLOCK)
                for index, other in enumerate((first, a)):
                    apart = (e[part] - other[part]).astype(np.float64, copy=False)
                    totals[index] += float(np.dot(apart, apart))
        if all(map(math.isfinite, totals)):
            self._moved2.add(totals[0])
            self._moving2.add(totals[1])

    def add_answers(self, expected: Array, actual: Array, classes: int = 0) -> None:
        """Take in the classes that one sample's output says, of both sides.

        Args:
            expected: The original's.
            actual: The candidate's.
            classes: How many there are, where they are of many places, such as pixels; 0 leaves
                their overlap out.
        """
        self._agree += int(np.count_nonzero(expected == actual))
        self._positions += expected.size
        if 0 < classes <= _MOST_CLASSES:
            pairs = expected.astype(np.intp).ravel() * classes + actual.ravel()
            counts = np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)
            self._confusion = counts if self._confusion is None else self._confusion + counts

    def merge(self, other: Difference) -> None:
        """Take in what another part of the data set added up."""
        for name in ("max_abs", "max_rel", "_high"):
            setattr(self, name, max(getattr(self, name), getattr(other, name)))
        self._low = min(self._low, other._low)
        for name in _COUNTS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in _SUMS:
            getattr(self, name).merge(getattr(other, name))
        if other._confusion is not None:
            mine = self._confusion
            self._confusion = other._confusion if mine is None else mine + other._confusion

    @property
    def mean_abs(self) -> float:
        """The mean absolute difference."""
        return self._abs.value / self._count if self._count else 0.0

    @property
    def mean_rel(self) -> float:
        """The mean of |e - a| / |e|, of values that are not small for their sample."""
        return self._rel.value / self._counted if self._counted else 0.0

    @property
    def span(self) -> float:
        """The range of the expected values: largest minus smallest."""
        return max(self._high - self._low, 0.0)

    @property
    def size(self) -> float:
        """The largest absolute value that was expected."""
        return max(abs(self._low), abs(self._high)) if self._count else 0.0

    @property
    def scale(self) -> float:
        """What a difference is a fraction of: the range; where it is empty, the size, or 1."""
        return self.span or self.size or 1.0

    @property
    def rms(self) -> float:
        """The root of the mean square of the difference."""
        return math.sqrt(self._error2.value / self._count) if self._count else 0.0

    @property
    def relative(self) -> float:
        """The largest difference as a fraction of the expected values' range.

        Where they are all equal it is one of their size, or of 1 where they are zero.
        """
        return self.max_abs / self.scale

    @property
    def cosine(self) -> float:
        """Cosine of the angle between the two, 1 where both are zero."""
        expected2, actual2 = self._expected2.value, self._actual2.value
        norm = math.sqrt(expected2) * math.sqrt(actual2)
        return self._dot.value / norm if norm else float(expected2 == actual2)

    @property
    def sqnr(self) -> float:
        """Signal-to-quantization-noise ratio in dB: 10 log10(sum e^2 / sum (e - a)^2)."""
        return _decibels(self._expected2.value, self._error2.value)

    @property
    def psnr(self) -> float:
        """Peak signal-to-noise ratio in dB: 10 log10(range of e^2 / mean (e - a)^2)."""
        return _decibels(self.span**2 * self._count, self._error2.value)

    @property
    def contrast(self) -> float | None:
        """How far apart answers to different samples are, over the candidate's differences, in dB.

        Of the samples behind the first: 10 log10(sum (e - e_first)^2 / sum (e - a)^2). What says
        the same of every sample has 3 dB at most, whatever it says. None with a single sample, and
        where the original's answers are all the same.
        """
        moved = self._moved2.value
        return _decibels(moved, self._moving2.value) if moved else None

    @property
    def empty(self) -> bool:
        """Whether there was no value."""
        return not (self._count or self._whole)

    @property
    def still(self) -> bool:
        """Whether the original answers the same to several samples."""
        return bool(self._others) and not self._apart

    @property
    def differing(self) -> float | None:
        """The fraction of whole numbers that differ; None of floats."""
        return self._differing / self._whole if self._whole else None

    @property
    def overlap(self) -> float | None:
        """The mean IoU of the classes that the two say, over those that either of them says."""
        if self._confusion is None:
            return None
        both = np.diag(self._confusion)
        either = self._confusion.sum(0) + self._confusion.sum(1) - both
        said = either > 0
        return float(np.mean(both[said] / either[said])) if said.any() else None

    @property
    def agreement(self) -> float | None:
        """The fraction of positions whose class is the same, where there are classes."""
        return self._agree / self._positions if self._positions else None


def _decibels(signal: float, noise: float) -> float:
    if noise == 0.0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal else -math.inf
