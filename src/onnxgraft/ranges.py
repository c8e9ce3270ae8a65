"""Ranges: what calibration measured per tensor, and the range that was chosen from it."""

from __future__ import annotations

import json
import math
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from onnxgraft.errors import InputError
from onnxgraft.files import atomic, existing_file, write_json
from onnxgraft.runtime import Array

__all__ = ["Histogram", "Range", "Ranges", "bin_edges"]

# A bin is what float32 values share in their upper 16 bits: sign, exponent and the 7 leading bits
# of the mantissa. No range is needed beforehand, and counts of any split of the data add up.
BINS = 1 << 16
_SIGN = 1 << 15
_INFINITE = 0x7F80  # exponent all ones: infinities and NaN begin here, in either half


@dataclass
class Histogram:
    """Exact counts of one tensor's values in bins that need no range beforehand.

    Attributes:
        counts: (65536,) int64, by the upper 16 bits of the float32 value.
        minimum: The smallest finite value seen.
        maximum: The largest finite value seen.
    """

    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(BINS, np.int64))
    minimum: float = math.inf
    maximum: float = -math.inf

    def add(self, values: Array) -> None:
        """Count the values of an array of any shape."""
        flat = np.ascontiguousarray(values, np.float32).ravel()
        if not flat.size:
            return
        # The upper half of each little-endian float32 is its second 16-bit word.
        self.counts += np.bincount(flat.view("<u2")[1::2], minlength=BINS)
        low, high = float(flat.min()), float(flat.max())
        if not (math.isfinite(low) and math.isfinite(high)):
            finite = flat[np.isfinite(flat)]
            low = float(finite.min(initial=math.inf))
            high = float(finite.max(initial=-math.inf))
        self.minimum, self.maximum = min(self.minimum, low), max(self.maximum, high)

    def merge(self, other: Histogram) -> None:
        """Take in what another part of the data counted; the order does not matter."""
        self.counts += other.counts
        self.minimum = min(self.minimum, other.minimum)
        self.maximum = max(self.maximum, other.maximum)

    @property
    def total(self) -> int:
        """How many finite values were seen."""
        return int(self.counts.sum()) - self.nonfinite

    @property
    def nonfinite(self) -> int:
        """How many NaN and infinite values were seen."""
        return int(self.counts[_INFINITE:_SIGN].sum() + self.counts[_SIGN + _INFINITE :].sum())

    @property
    def amax(self) -> float:
        """The largest magnitude of a finite value, 0 if there was none."""
        return max(abs(self.minimum), abs(self.maximum)) if self.minimum <= self.maximum else 0.0

    def magnitudes(self) -> NDArray[np.int64]:
        """Return (32640,) counts of the finite magnitudes, by the bins of `bin_edges`."""
        return self.counts[:_INFINITE] + self.counts[_SIGN : _SIGN + _INFINITE]


def bin_edges() -> NDArray[np.float64]:
    """Return the (32641,) lower edges of the magnitude bins; the last is the end of the last."""
    bits = np.arange(_INFINITE, dtype=np.uint32) << 16
    edges = bits.view(np.float32).astype(np.float64)
    return np.append(edges, 2.0**128)


@dataclass(frozen=True)
class Range:
    """The range of values that a tensor's integers will cover.

    Attributes:
        low: Smallest value kept.
        high: Largest value kept.
        minimum: Smallest value seen.
        maximum: Largest value seen.
        origin: How it came about: the method, or ``by hand``.
    """

    low: float
    high: float
    minimum: float
    maximum: float
    origin: str

    @property
    def amax(self) -> float:
        """The largest magnitude kept: the range of a symmetric quantizer."""
        return max(abs(self.low), abs(self.high))


@dataclass
class Ranges:
    """The ranges of a model's tensors, with what they were made from.

    Attributes:
        method: How ranges were chosen from the histograms.
        images: How many samples were seen.
        model: SHA-256 of the graph that ran, over its initializers and nodes.
        preprocess: Fingerprint of the recipe.
        data: What the user named.
        tensors: The ranges, by tensor name.
        histograms: The counts, by tensor name; saved beside the ranges.
    """

    method: str
    images: int
    model: str
    preprocess: str
    data: str
    tensors: dict[str, Range]
    histograms: dict[str, Histogram] = field(default_factory=dict)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the ranges as JSON, and the histograms beside it, ``.histograms.npz`` appended."""
        target = Path(path)
        if self.histograms:
            names = list(self.histograms)
            beside = target.with_name(f"{target.name}.histograms.npz")
            with atomic(beside) as temporary, open(temporary, "wb") as file:
                np.savez_compressed(
                    file,
                    names=np.array(names),
                    counts=np.stack([self.histograms[name].counts for name in names]),
                    limits=np.array([
                        (self.histograms[n].minimum, self.histograms[n].maximum) for n in names
                    ]),
                )
        document = {
            "format": "onnxgraft.ranges/1",
            **{key: getattr(self, key) for key in ("method", "images", "model", "preprocess")},
            "data": self.data,
            "tensors": {name: asdict(value) for name, value in self.tensors.items()},
        }
        write_json(target, document)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read ranges that `save` wrote, without their histograms.

        Raises:
            InputError: The file is no ranges file, or a range in it is impossible.
        """
        file = existing_file(path, "the ranges file")
        try:
            document = json.loads(file.read_text())
            if document.pop("format") != "onnxgraft.ranges/1":
                raise ValueError("an unknown format")
            tensors = {name: _range(value) for name, value in document.pop("tensors").items()}
            ranges = cls(tensors=tensors, **document)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{file}: not a ranges file that onnxgraft calibrate wrote ({error})"
            ) from error
        for name, value in tensors.items():
            if not (math.isfinite(value.low) and math.isfinite(value.high)) or (
                value.low > value.high
            ):
                raise InputError(f"{file}: the range of {name!r} is [{value.low}, {value.high}]")
        return ranges


def _range(value: dict[str, Any]) -> Range:
    for name in ("low", "high", "minimum", "maximum"):
        if not isinstance(value[name], int | float):
            raise ValueError(f"{name} is {value[name]!r}")
    return Range(**value)
