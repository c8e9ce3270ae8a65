"""Ranges: what calibration measured per tensor, and the range that was chosen from it."""

from __future__ import annotations

import functools
import hashlib
import math
import mmap
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from onnxgraft.data.arrays import read_arrays
from onnxgraft.data.binning import BINS, count_bins, limits_of
from onnxgraft.errors import InputError, nearest
from onnxgraft.files import existing_file, read_json, read_toml, sha256, together, write_json
from onnxgraft.files.limits import DOCUMENT_BYTES, SETTINGS_BYTES
from onnxgraft.files.typed import check_types, misread
from onnxgraft.graph.tensors import Array
from onnxgraft.notebook import section
from onnxgraft.words import several

__all__ = [
    "BY_HAND", "Histogram", "Range", "Ranges", "bin_edges", "check_overrides", "empty_histograms",
    "flat", "merge_packed", "pack", "read_overrides", "unflat", "unpack",
]  # fmt: skip

# A bin is what float32 values share in their upper 16 bits: sign, exponent and the 7 leading bits
# of the mantissa. No range is needed beforehand, and counts of any split of the data add up.
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
        low, high = self.count(values)
        if values.size and not (math.isfinite(low) and math.isfinite(high)):
            low, high = limits_of(values[np.isfinite(values)].astype(np.float32, copy=False))
        self.widen(low, high)

    def count(self, values: Array) -> tuple[float, float]:
        """Count the values, and return their `limits_of` for `widen`."""
        return count_bins(np.ascontiguousarray(values, np.float32).ravel(), self.counts)

    def widen(self, low: float, high: float) -> None:
        """Take in the smallest and largest of values that were counted."""
        self.minimum, self.maximum = min(self.minimum, low), max(self.maximum, high)

    def merge(self, other: Histogram) -> None:
        """Take in what another part of the data counted; the order does not matter."""
        used = np.flatnonzero(other.counts)
        self.counts[used] += other.counts[used]
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


def empty_histograms(names: Sequence[str]) -> dict[str, Histogram]:
    """Return a histogram for each name.

    They share one large piece of memory, of which the system gives only the pages that are used:
    about a tenth.
    """
    if not names:
        return {}
    memory = mmap.mmap(-1, len(names) * BINS * np.dtype(np.int64).itemsize)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        memory.madvise(mmap.MADV_NOHUGEPAGE)
    table = np.frombuffer(memory, np.int64).reshape(-1, BINS)
    return {name: Histogram(row) for name, row in zip(names, table, strict=True)}


def pack(histograms: Mapping[str, Histogram]) -> dict[str, Array]:
    """Return histograms as a few arrays for an ``.npz``: only bins that are not empty."""
    used = [_used(histogram) for histogram in histograms.values()]
    counts = [h.counts[bins] for h, bins in zip(histograms.values(), used, strict=True)]
    return {
        "names": np.array(list(histograms), np.str_),
        "sizes": np.array([bins.size for bins in used], np.int64),
        "bins": np.concatenate([np.zeros(0, np.int64), *used]).astype(np.uint16),
        "counts": np.concatenate([np.zeros(0, np.int64), *counts]),
        "limits": np.array(
            [(h.minimum, h.maximum) for h in histograms.values()], np.float64
        ).reshape(-1, 2),
    }


def unpack(packed: Mapping[str, Array]) -> dict[str, Histogram]:
    """Return the histograms that `pack` packed."""
    found = empty_histograms([str(name) for name in packed["names"]])
    merge_packed(found, packed)
    return found


def merge_packed(histograms: Mapping[str, Histogram], packed: Mapping[str, Array]) -> None:
    """Add what `pack` packed to ``histograms`` of the same names."""
    ends = np.cumsum(packed["sizes"])
    for name, start, end, (low, high) in zip(
        packed["names"], ends - packed["sizes"], ends, packed["limits"].tolist(), strict=True
    ):
        histogram = histograms[str(name)]
        histogram.counts[packed["bins"][start:end]] += packed["counts"][start:end]
        histogram.minimum = min(histogram.minimum, low)
        histogram.maximum = max(histogram.maximum, high)


def _used(histogram: Histogram) -> NDArray[np.int64]:
    """Return the bins that are not empty, without touching those that must be."""
    ends = [
        int(np.float32(max(bound, 0.0)).view(np.uint32) >> 16) + 1 if math.isfinite(bound) else 0
        for bound in (histogram.maximum, -histogram.minimum)
    ]
    parts = []
    for side, end in zip((0, _SIGN), ends, strict=True):
        # -0.0 is below no limit, and NaN and infinities are beyond them.
        for start, stop in ((0, max(end, 1)), (_INFINITE, _SIGN)):
            parts.append(
                np.flatnonzero(histogram.counts[side + start : side + stop]) + side + start
            )
    return np.concatenate(parts)


@functools.cache
def bin_edges() -> NDArray[np.float64]:
    """Return the (32641,) lower edges of the magnitude bins; the last is the end of the last."""
    bits = np.arange(_INFINITE, dtype=np.uint32) << 16
    edges = bits.view(np.float32).astype(np.float64)
    edges = np.append(edges, 2.0**128)
    edges.flags.writeable = False
    return edges


# Of a tensor in a body that no sample entered.
UNSEEN = "it had no value in any sample"


@dataclass(frozen=True)
class Range:
    """The range of values that a tensor's integers will cover.

    Attributes:
        low: Smallest value kept.
        high: Largest value kept.
        minimum: Smallest value seen.
        maximum: Largest value seen.
        origin: How it came about: the method, or ``by hand``.
        reason: Why that method was taken; empty where it was asked for. `UNSEEN` where the tensor
            never had a value.
    """

    low: float
    high: float
    minimum: float
    maximum: float
    origin: str
    reason: str = ""

    @property
    def amax(self) -> float:
        """The largest magnitude kept: the range of a symmetric quantizer."""
        return max(abs(self.low), abs(self.high))


def check_overrides(
    by_hand: Mapping[str, tuple[float, float]], tensors: Collection[str], where: str
) -> None:
    """Raise InputError for ranges of tensors that are not there, or that are none.

    Args:
        by_hand: (low, high) by tensor name.
        tensors: That there are.
        where: What messages call them.
    """
    for name, (low, high) in by_hand.items():
        if name not in tensors:
            raise InputError(
                f"{where} {name}: no such tensor was calibrated; {nearest(name, tensors)}"
            )
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise InputError(f"{where} {name}: [{low}, {high}] is not a range")


@dataclass
class Ranges:
    """The ranges of a model's tensors, with what they were made from.

    Attributes:
        method: How ranges were chosen from the histograms; ``auto``: by the method that was best
            for the whole network, which each range names.
        images: How many samples were counted.
        model: SHA-256 of the graph that ran, over its initializers and nodes.
        preprocess: Fingerprint of the recipe.
        data: What the user named.
        tensors: The ranges, by tensor name.
        channels: The ranges per channel, of the tensors for which they were asked.
        sites: Where a tensor's values were counted: at the tensor itself, at the other end of
            an operator that keeps the range, or at the inputs of a concatenation.
        samples: The SHA-256 of each counted sample, by name.
        skipped: Samples that could not be used, with the reason.
        seed: Chose the samples.
        targets: Those that the ranges are for; empty means all.
        notes: Sentences about the data that the user should read.
        chosen_for: With ``auto``, the target in whose form the network ran.
        tried: With ``auto``, the whole network's signal over noise in dB, by method.
        moved: By how much of itself a quarter of the data, kept apart, still moved each range.
        histograms: The counts, by site; saved beside the ranges.
        early: The counts of the other three quarters.
        channel_histograms: The counts per channel.
        file: Where it was read from.
    """

    method: str
    images: int
    model: str
    preprocess: str
    data: str
    tensors: dict[str, Range]
    channels: dict[str, list[Range]] = field(default_factory=dict)
    sites: dict[str, list[str]] = field(default_factory=dict)
    samples: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    seed: int = 0
    targets: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    chosen_for: str = ""
    tried: dict[str, float] = field(default_factory=dict)
    moved: dict[str, float] = field(default_factory=dict)
    histograms: dict[str, Histogram] = field(default_factory=dict)
    early: dict[str, Histogram] = field(default_factory=dict)
    channel_histograms: dict[str, list[Histogram]] = field(default_factory=dict)
    file: str = "the ranges"

    def sizes(self) -> dict[str, float]:
        """Return the largest magnitude that was seen of each tensor."""
        return {n: max(abs(r.minimum), abs(r.maximum)) for n, r in self.tensors.items()}

    @property
    def choice(self) -> str:
        """Why ``auto`` took its method, in a sentence; empty for any other method."""
        if not self.tried:
            return ""
        best, *others = sorted(self.tried, key=lambda name: -self.tried[name])
        rest = ", ".join(f"{self.tried[name]:.1f} with {name}" for name in others)
        return (
            f"ranges by {best}, with which the whole network keeps most in the form for "
            f"{self.chosen_for}: {self.tried[best]:.1f} dB of signal over noise ({rest})"
        )

    @property
    def advice(self) -> str:
        """How many more samples would settle the ranges, in a sentence; empty where they are.

        What is estimated from n samples is off by about c / sqrt(n). So a quarter of them moves it
        by c / sqrt(n) times a constant, and by a part of that which is the root of n's.
        """
        moved = sorted(self.moved.values())
        median = moved[len(moved) // 2] if moved else 0.0
        if median <= SETTLED:
            return ""
        times = median / SETTLED
        if times > _MANY / times:  # its square may be none that a float holds
            more = f"more than {_MANY} times as many samples"
        else:
            wanted = math.ceil(self.images * times**2)
            more = f"about {several(_rounded(wanted - self.images), 'more sample')}"
        return (
            f"the ranges are not settled: a quarter of the {several(self.images, 'sample')} still "
            f"moved half of them by more than {median:.1%}; {more} would bring that to "
            f"{SETTLED:.0%}"
        )

    def _repr_html_(self) -> str:
        return section(
            f"{self.method} ranges of {several(len(self.tensors), 'tensor')}, "
            f"{several(self.images, 'sample')}",
            ("tensor", "low", "high", "smallest seen", "largest seen", "by"),
            [
                (name, f"{one.low:.6g}", f"{one.high:.6g}", f"{one.minimum:.6g}",
                 f"{one.maximum:.6g}", one.origin)
                for name, one in self.tensors.items()
            ],
            [self.data, *self.notes],
        )  # fmt: skip

    @property
    def fingerprint(self) -> str:
        """The SHA-256 over the samples' own, whatever their names and order."""
        return hashlib.sha256("".join(sorted(self.samples.values())).encode()).hexdigest()

    def with_overrides(self, by_hand: Mapping[str, tuple[float, float]], where: str) -> Ranges:
        """Return the ranges with those (low, high) in place of the chosen ones, marked so.

        Args:
            by_hand: By tensor name.
            where: What messages call them.

        Raises:
            InputError: There is no such tensor, or the range is none.
        """
        check_overrides(by_hand, self.tensors, where)
        merged = dict(self.tensors)
        for name, (low, high) in by_hand.items():
            seen = merged[name]
            merged[name] = Range(low, high, seen.minimum, seen.maximum, BY_HAND)
        return replace(self, tensors=merged)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the ranges as JSON, and the histograms beside it, ``.histograms.npz`` appended."""
        target = Path(path)
        if not self.histograms:
            write_json(target, self._document(None))
            return
        with together(target, _beside(target)) as (document, beside):
            groups = {
                "whole": self.histograms,
                "early": self.early,
                "channel": flat(self.channel_histograms),
            }
            with open(beside, "wb") as file:
                np.savez_compressed(
                    file,
                    allow_pickle=False,
                    **{
                        f"{group}_{key}": array
                        for group, histograms in groups.items()
                        for key, array in pack(histograms).items()
                    },
                )
            write_json(document, self._document(sha256(beside)))

    def _document(self, histograms_sha256: str | None) -> dict[str, Any]:
        return {
            "format": FORMAT,
            **{name: getattr(self, name) for name in _PLAIN},
            "data_sha256": self.fingerprint,
            "histograms_sha256": histograms_sha256,
            "tensors": {name: asdict(value) for name, value in self.tensors.items()},
            "channels": {
                name: [asdict(value) for value in values] for name, values in self.channels.items()
            },
        }

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, histograms: bool = False) -> Self:
        """Read ranges that `save` wrote; with their histograms where asked.

        Raises:
            InputError: The file is no ranges file, or a range in it is impossible.
        """
        file = existing_file(path, "the ranges file", DOCUMENT_BYTES)
        try:
            document = read_json(file)
            if document.pop("format") != FORMAT:
                raise ValueError("an unknown format")
            stored = document.pop("data_sha256", None)
            beside = document.pop("histograms_sha256", None)
            tensors = {name: _range(value) for name, value in document.pop("tensors").items()}
            channels = {
                name: [_range(value) for value in values]
                for name, values in document.pop("channels", {}).items()
            }
            # JSON has no infinity: of a method with which nothing is finite nothing is left.
            tried = {
                name: -math.inf if value is None else value
                for name, value in document.pop("tried", {}).items()
            }
            check_types({**document, "tried": tried}, cls, _PLAIN)
            if not all(0 <= value < math.inf for value in document.get("moved", {}).values()):
                raise ValueError("a range was moved by what is no part of it")
            ranges = cls(
                tensors=tensors, channels=channels, file=str(path), tried=tried, **document
            )
            if stored is not None and stored != ranges.fingerprint:
                raise ValueError("its data's fingerprint is not that of its samples")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{file}: not a ranges file that onnxgraft calibrate wrote ({misread(error)})"
            ) from error
        for name, value in tensors.items():
            if not (math.isfinite(value.low) and math.isfinite(value.high)) or (
                value.low > value.high
            ):
                raise InputError(f"{file}: the range of {name!r} is [{value.low}, {value.high}]")
        # Of nothing that was measured there are none.
        if histograms and (ranges.sites or beside is not None):
            counts = existing_file(_beside(file), "the histograms of the ranges")
            if beside != sha256(counts):
                raise InputError(f"{counts}: is not what was written with {file}; calibrate again")
            ranges._load_histograms(counts)
        return ranges

    def _load_histograms(self, file: Path) -> None:
        try:
            stored = read_arrays(file, f"{file}:")
            groups = {
                group: unpack({
                    key.removeprefix(f"{group}_"): array
                    for key, array in stored.items()
                    if key.startswith(f"{group}_")
                })
                for group in ("whole", "early", "channel")
            }
        except (LookupError, MemoryError, OSError, TypeError, ValueError) as error:
            raise InputError(
                f"{file}: not the histograms that onnxgraft calibrate wrote ({misread(error)})"
            ) from error
        self.histograms, self.early = groups["whole"], groups["early"]
        self.channel_histograms = unflat(groups["channel"])
        missing = [
            site
            for name in self.tensors
            for site in self.sites.get(name, [name])
            if site not in self.histograms
        ]
        if missing:
            raise InputError(f"{file}: has no histogram of {missing[0]!r}; calibrate again")


FORMAT = "onnxgraft.ranges/1"
BY_HAND = "by hand"
# Ranges are settled where a quarter of the samples moves half of them by less: INT8 has 127
# steps of 0.8 %.
SETTLED = 0.01
# More samples than so many times those that there are is no number to tell.
_MANY = 20
_PLAIN = (
    "method", "images", "model", "preprocess", "data", "seed", "targets", "samples", "skipped",
    "notes", "chosen_for", "tried", "moved", "sites",
)  # fmt: skip


def _rounded(number: int) -> int:
    """Return a count with two digits that mean something, rounded up."""
    unit = int(10 ** max(len(str(number)) - 2, 0))
    return -(-number // unit) * unit


def _beside(target: Path) -> Path:
    return target.with_name(f"{target.name}.histograms.npz")


def flat(channels: Mapping[str, Sequence[Histogram]]) -> dict[str, Histogram]:
    """Return histograms per channel in one dict, the channel before the tensor's name."""
    return {
        f"{index}:{name}": histogram
        for name, histograms in channels.items()
        for index, histogram in enumerate(histograms)
    }


def unflat(keyed: Mapping[str, Histogram]) -> dict[str, list[Histogram]]:
    """Undo `flat`."""
    channels: dict[str, list[Histogram]] = {}
    for key, histogram in keyed.items():
        channels.setdefault(key.partition(":")[2], []).append(histogram)
    return channels


def read_overrides(path: str | os.PathLike[str]) -> dict[str, tuple[float, float]]:
    """Read (low, high) by tensor from a TOML file: ``"name" = amax`` or ``"name" = [low, high]``.

    Raises:
        InputError: It is no such file.
    """
    file = existing_file(path, "the file of ranges", SETTINGS_BYTES)
    try:
        document = read_toml(file)
    except ValueError as error:
        raise InputError(f"{file}: not a TOML file ({error})") from error
    found = {}
    for name, value in document.items():
        bounds = value if isinstance(value, list) else [value, value]
        if len(bounds) != 2 or any(type(bound) not in (int, float) for bound in bounds):
            raise InputError(
                f'{file}: {name} is {value!s:.80}; write "tensor" = 6.0 or "tensor" = [-1.0, 2.5], '
                "the name in quotation marks"
            )
        low, high = (float(bound) for bound in bounds)
        found[name] = (low, high) if isinstance(value, list) else (-high, high)
    return found


def _range(value: dict[str, Any]) -> Range:
    check_types(value, Range)
    return Range(**value)
