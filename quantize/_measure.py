"""Counting the values of tensors, shard by shard: what one lane, process or machine does.

A shard is a run of a few samples. What was counted in it is a handful of integers that add up to
the same whatever the order, so that shards may be done anywhere, and again.
"""

from __future__ import annotations

import io
import json
import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import onnx

from onnxgraft.arrays import read_arrays
from onnxgraft.errors import InputError
from onnxgraft.image_header import Form
from onnxgraft.ranges import (
    Histogram,
    empty_histograms,
    flat,
    limits_of,
    merge_packed,
    pack,
    unflat,
)
from onnxgraft.reference import OnnxRuntime, exposing
from onnxgraft.runtime import Array, Resource
from onnxgraft.samples import Sample, Samples

__all__ = ["Job", "Measurer", "Shard", "Tally", "cores", "last_quarter", "numbered", "shards_of"]

Shard = tuple[int, int]
PACKED = ("names", "sizes", "bins", "counts", "limits")


@dataclass
class Tally:
    """What was counted in some of the samples.

    Attributes:
        histograms: By site.
        channels: By site, one histogram a channel.
        count: How many samples were counted.
        samples: The SHA-256 of the samples that were counted, by name.
        skipped: The reasons for which others were not, by name.
        forms: How images are stored.
    """

    histograms: dict[str, Histogram] = field(default_factory=dict)
    channels: dict[str, list[Histogram]] = field(default_factory=dict)
    count: int = 0
    samples: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    forms: Counter[Form] = field(default_factory=Counter)

    def merge(self, packed: bytes) -> None:
        """Take in what was counted in other samples, as `to_bytes` gives it.

        Raises:
            ValueError: It is something else.
            InputError: A tensor has another number of channels there.
        """
        stored = read_arrays(io.BytesIO(packed), "the shard")
        told = json.loads(str(stored["told"]))
        whole, channels = (
            {key: stored[f"{group}_{key}"] for key in PACKED} for group in ("whole", "channel")
        )
        if not self.histograms:
            self.histograms = empty_histograms([str(name) for name in whole["names"]])
        merge_packed(self.histograms, whole)
        mine = flat(self.channels)
        names = [str(name) for name in channels["names"]]
        if not mine:
            mine = empty_histograms(names)
            self.channels = unflat(mine)
        if names and set(names) != set(mine):
            (site, *_) = {name.partition(":")[2] for name in set(names) ^ set(mine)}
            raise InputError(_uneven(site))
        merge_packed(mine, channels)
        self.count += told["count"]
        self.samples.update(told["samples"])
        self.skipped.update(told["skipped"])
        self.forms.update({Form(*entry[:4]): entry[4] for entry in told["forms"]})

    def to_bytes(self) -> bytes:
        """Return the tally as the bytes of an ``.npz``."""
        told = {
            "count": self.count,
            "samples": self.samples,
            "skipped": self.skipped,
            "forms": [[*form, count] for form, count in self.forms.items()],
        }
        groups = {"whole": self.histograms, "channel": flat(self.channels)}
        arrays = {
            f"{group}_{key}": array
            for group, histograms in groups.items()
            for key, array in pack(histograms).items()
        }
        file = io.BytesIO()
        np.savez(file, allow_pickle=False, told=np.array(json.dumps(told)), **arrays)
        return file.getvalue()

    @classmethod
    def from_bytes(cls, packed: bytes) -> Tally:
        """Return the tally that `to_bytes` packed; ValueError if it is none."""
        tally = cls()
        tally.merge(packed)
        return tally


@dataclass(frozen=True)
class Job:
    """What is to be counted; can be sent to another process or machine.

    Attributes:
        model: The ONNX model's bytes.
        sites: The tensors whose values are counted.
        per_channel: Those of them that are counted per channel too, along axis 1.
        samples: The data.
        skip_bad: Whether samples that can't be used are left out; otherwise they are an error.
    """

    model: bytes
    sites: tuple[str, ...]
    per_channel: tuple[str, ...]
    samples: Samples
    skip_bad: bool


class Measurer(Resource):
    """Runs a job's model over shards; used as a context manager.

    One sample's values are in memory at a time. While onnxruntime computes them with all threads
    the next sample is decoded; then they are counted with all threads.

    Args:
        job: What is counted.
        threads: Of onnxruntime and of counting; 0 takes all. Results do not depend on it:
            onnxruntime divides the outputs of an operator among threads, not its sums.
        ahead: Whether the sample after a shard is decoded too, because it comes next.
    """

    def __init__(self, job: Job, threads: int, *, ahead: bool = False) -> None:
        self.job, self.ahead = job, ahead
        fed = {spec.name for spec in job.samples.inputs}
        inner = [site for site in job.sites if site not in fed]
        self.session: OnnxRuntime | None = None
        if inner:  # where inputs alone are quantized there is nothing to run
            proto = exposing(onnx.ModelProto.FromString(job.model), inner)
            self.session = OnnxRuntime(proto, name="calibration", threads=threads)
        self.decoding = ThreadPoolExecutor(1)
        self.counting = ThreadPoolExecutor(threads or cores())
        self.decoded: dict[int, Future[_Decoded]] = {}

    def close(self) -> None:
        """End the threads."""
        self.decoding.shutdown(cancel_futures=True)
        self.counting.shutdown(cancel_futures=True)

    def tally(self, shard: Shard) -> bytes:
        """Return what is counted in the samples of a shard, packed.

        Raises:
            InputError: A sample can't be used and is not to be skipped.
        """
        job, tally = self.job, Tally(empty_histograms(self.job.sites))
        for position in range(*shard):
            name = job.samples.name(position)
            try:
                sample, digest, form = self._decoded(position, shard[1])
                values = self._values(sample)
                limits = self._limits(sample.name, values)
            except InputError as error:
                if not job.skip_bad:
                    raise
                tally.skipped[name] = str(error).removeprefix(f"{name}: ")
                continue
            self._count(tally, values, limits)
            tally.count += 1
            tally.samples[name] = digest
            if form is not None:
                tally.forms[form] += 1
        return tally.to_bytes()

    def _decoded(self, position: int, end: int) -> _Decoded:
        """Return the sample at ``position``, and begin to decode the next one."""
        current = self.decoded.pop(position, None)
        if current is None:
            current = self.decoding.submit(self._decode, position)
        following = position + 1
        if following < (len(self.job.samples) if self.ahead else end):
            self.decoded[following] = self.decoding.submit(self._decode, following)
        return current.result()

    def _decode(self, position: int) -> _Decoded:
        samples = self.job.samples
        return samples.at(position, labelled=False), *samples.identity(position)

    def _values(self, sample: Sample) -> dict[str, Array]:
        found = dict(self.session.infer(sample.feeds)) if self.session else {}
        found |= {name: value for name, value in sample.feeds.items() if name in self.job.sites}
        return {site: found[site] for site in self.job.sites}

    def _limits(self, name: str, values: Mapping[str, Array]) -> dict[str, tuple[float, float]]:
        """Return the sites' smallest and largest values, all of them finite."""
        limits = dict(zip(values, self.counting.map(limits_of, values.values()), strict=True))
        for site, (low, high) in limits.items():
            value = values[site]
            if value.size and not (math.isfinite(low) and math.isfinite(high)):
                nan, infinite = int(np.isnan(value).sum()), int(np.isinf(value).sum())
                raise InputError(
                    f"{name}: of the {value.size} values of the tensor {site!r} {nan} become NaN "
                    f"and {infinite} infinite on this sample; check the preprocessing recipe or "
                    "the model, or leave such samples out with --skip-bad"
                )
        return limits

    def _count(
        self, tally: Tally, values: dict[str, Array], limits: Mapping[str, tuple[float, float]]
    ) -> None:
        def count(site: str) -> None:
            value = values.pop(site)  # its memory is free again when it is counted
            tally.histograms[site].add(value, limits[site])
            if site in self.job.per_channel:
                _add_channels(tally.channels.setdefault(site, []), site, value)

        # The largest first, so that the threads end together.
        largest = sorted(values, key=lambda site: -values[site].size)
        for _ in self.counting.map(count, largest):
            pass


_Decoded = tuple[Sample, str, Form | None]


def _add_channels(histograms: list[Histogram], site: str, value: Array) -> None:
    if value.ndim < 2:
        raise InputError(f"the tensor {site!r} of {value.ndim} dimensions has no channels")
    if not histograms:
        names = [str(channel) for channel in range(value.shape[1])]
        histograms += empty_histograms(names).values()
    if len(histograms) != value.shape[1]:
        raise InputError(_uneven(site))
    for channel, histogram in enumerate(histograms):
        histogram.add(value[:, channel])


def _uneven(site: str) -> str:
    return (
        f"the tensor {site!r} has more channels on some samples than on others; it can't be "
        "measured per channel"
    )


def cores() -> int:
    """Return how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def shards_of(count: int) -> list[Shard]:
    """Return the runs of samples that are counted together; none crosses the last quarter's begin.

    They depend on nothing but the number of samples.
    """
    size = min(max(count // 10, 4), 32)
    quarter = last_quarter(count)
    return [
        (start, min(start + size, end))
        for begin, end in ((0, quarter), (quarter, count))
        for start in range(begin, end, size)
    ]


def last_quarter(count: int) -> int:
    """Return the position at which the last quarter of the samples begins."""
    return count - count // 4


def numbered(shards: Sequence[Shard]) -> dict[str, Shard]:
    """Return the shards by the names of their files."""
    return {f"{start:08d}-{end:08d}": (start, end) for start, end in shards}
