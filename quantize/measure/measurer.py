"""Counting the values of tensors, shard by shard: what one lane, process or machine does.

A shard is a run of a few samples. What was counted in it is a handful of integers that add up to
the same whatever the order, so that shards may be done anywhere, and again.
"""

from __future__ import annotations

import io
import json
import os
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from threading import Lock

import numpy as np
import onnx

from onnxgraft.data.arrays import read_arrays
from onnxgraft.data.binning import prepare
from onnxgraft.data.image_header import Form
from onnxgraft.data.ranges import Histogram, empty_histograms, flat, merge_packed, pack, unflat
from onnxgraft.data.samples import Sample, Samples
from onnxgraft.errors import InputError
from onnxgraft.graph.tensors import Array
from onnxgraft.run.engine import Resource
from onnxgraft.run.session import OnnxRuntime, at_rest, exposing

__all__ = [
    "Job", "Measurer", "Shard", "Tally", "cores", "last_quarter", "numbered",
    "quarter_last", "shards_of",
]  # fmt: skip

Shard = tuple[int, int]
# The samples that are kept apart are the ends of so many parts.
_PARTS = 8
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
        self.forms.update({Form(*entry[:-1]): entry[-1] for entry in told["forms"]})

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
        size: Bytes of the counted values of one sample; None where it is not known.
    """

    model: bytes
    sites: tuple[str, ...]
    per_channel: tuple[str, ...]
    samples: Samples
    skip_bad: bool
    size: int | None = None


class Measurer(Resource):
    """Runs a job's model over shards; used as a context manager.

    While onnxruntime computes a sample's values the next one is decoded; then they are counted. In
    more than one lane that happens to so many samples at a time, with a part of the threads each:
    small networks do not gain from many threads. One sample a lane is in memory.

    Args:
        job: What is counted.
        threads: Of onnxruntime and of counting, together; 0 takes all. Results do not depend on it:
            onnxruntime divides the outputs of an operator among threads, not its sums.
        lanes: At most so many samples at a time.
        ahead: Whether the sample after a shard is decoded too, because it comes next.
    """

    def __init__(self, job: Job, threads: int, *, lanes: int = 1, ahead: bool = False) -> None:
        self.job, self.ahead = job, ahead
        threads = threads or cores()
        self.lanes = min(lanes, threads)
        self.counting = ThreadPoolExecutor(threads)
        # While the session is made and runs for the first time.
        self.counting.submit(prepare, job.size and job.size // 4 * len(job.samples))
        fed = {spec.name for spec in job.samples.inputs}
        inner = [site for site in job.sites if site not in fed]
        self.session: OnnxRuntime | None = None
        if inner:  # where inputs alone are quantized there is nothing to run
            proto = exposing(onnx.ModelProto.FromString(job.model), inner)
            self.session = OnnxRuntime(
                proto, name="calibration", threads=threads // self.lanes, configure=at_rest
            )
        self.running = ThreadPoolExecutor(self.lanes)
        self.decoding = ThreadPoolExecutor(self.lanes)
        self.decoded: dict[int, Future[_Decoded]] = {}
        self.begun = -1  # the last position that is decoded ahead of its turn
        # A site's histogram is one lane's at a time; this one guards what is beside them.
        self.locks = {site: Lock() for site in job.sites}
        self.lock = Lock()

    def close(self) -> None:
        """End the threads."""
        for pool in (self.running, self.decoding, self.counting):
            pool.shutdown(cancel_futures=True)

    def tally(self, shard: Shard) -> bytes:
        """Return what is counted in the samples of a shard, packed.

        Raises:
            InputError: A sample can't be used and is not to be skipped.
        """
        job, tally = self.job, Tally(empty_histograms(self.job.sites))
        positions = range(*shard)

        def run(position: int) -> tuple[str, list[Form]] | InputError:
            try:
                sample, digest = self._decoded(position, shard[1])
                self._count(tally, sample)
            except InputError as error:
                if not job.skip_bad:
                    raise
                return error
            return digest, [image.form for image in sample.images if image.form is not None]

        for position, outcome in zip(positions, self.running.map(run, positions), strict=True):
            name = job.samples.name(position)
            if isinstance(outcome, InputError):
                tally.skipped[name] = str(outcome).removeprefix(f"{name}: ")
                continue
            tally.samples[name], forms = outcome
            tally.count += 1
            tally.forms.update(forms)
        return tally.to_bytes()

    def _decoded(self, position: int, end: int) -> _Decoded:
        """Return the sample at ``position``, and begin to decode those that come next."""
        last = min(position + self.lanes, (len(self.job.samples) if self.ahead else end) - 1)
        with self.lock:
            current = self.decoded.pop(position, None)
            if current is None:
                current = self.decoding.submit(self._decode, position)
            self.begun = max(self.begun, position)
            for following in range(self.begun + 1, last + 1):
                self.decoded[following] = self.decoding.submit(self._decode, following)
                self.begun = following
        return current.result()

    def _decode(self, position: int) -> _Decoded:
        samples = self.job.samples
        return samples.at(position, labelled=False), samples.identity(position)

    def _values(self, sample: Sample) -> dict[str, Array]:
        found = dict(self.session.infer(sample.feeds)) if self.session else {}
        found |= {name: value for name, value in sample.feeds.items() if name in self.job.sites}
        return {site: found[site] for site in self.job.sites}

    def _count(self, tally: Tally, sample: Sample) -> None:
        """Count a sample's values; where one is not finite, nothing of the sample stays counted."""
        values = self._values(sample)

        def count(site: str) -> tuple[float, float]:
            with self.locks[site]:
                return tally.histograms[site].count(values[site])

        # The largest first, so that the threads end together.
        largest = sorted(values, key=lambda site: -values[site].size)
        limits = dict(zip(largest, self.counting.map(count, largest), strict=True))
        wrong = {
            site for site in values if values[site].size and not np.isfinite(limits[site]).all()
        }
        if wrong:
            for site, value in values.items():
                counted = Histogram()
                counted.count(value)
                with self.locks[site]:
                    tally.histograms[site].counts -= counted.counts
            raise InputError(_nonfinite(sample.name, values, wrong))
        with self.lock:
            for site, (low, high) in limits.items():
                tally.histograms[site].widen(low, high)
            for site in self.job.per_channel:
                _add_channels(tally.channels.setdefault(site, []), site, values[site])


def _nonfinite(name: str, values: Mapping[str, Array], wrong: Collection[str]) -> str:
    """Return what is to be said of a sample on which some sites are not finite."""
    site = next(site for site in values if site in wrong)
    nan, infinite = int(np.isnan(values[site]).sum()), int(np.isinf(values[site]).sum())
    return (
        f"{name}: of the {values[site].size} values of the tensor {site!r} {nan} become NaN and "
        f"{infinite} infinite on this sample; check the preprocessing recipe or the model, or "
        "leave such samples out with --skip-bad"
    )


_Decoded = tuple[Sample, str]


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
    # Of very many samples there are a thousand runs: what each says is sent and kept.
    size = min(max(count // 10, 4), max(32, count // 1000))
    quarter = last_quarter(count)
    return [
        (start, min(start + size, end))
        for begin, end in ((0, quarter), (quarter, count))
        for start in range(begin, end, size)
    ]


def last_quarter(count: int) -> int:
    """Return the position at which the last quarter of the samples begins."""
    return count - count // 4


def quarter_last(samples: Samples) -> Samples:
    """Return the samples in the order in which they are counted: those kept apart come last.

    They are a quarter, in runs of neighbours from all over: the end of a list may be a film, or a
    class, of its own, and every other sample would be one that its neighbour has shown already.
    """
    count = len(samples)
    kept = count // 4
    parts = min(_PARTS, kept)
    runs = [(at + 1) * kept // parts - at * kept // parts for at in range(parts)]
    ends = [(at + 1) * count // parts for at in range(parts)]
    apart = [i for end, run in zip(ends, runs, strict=True) for i in range(end - run, end)]
    order = [*sorted({*range(count)}.difference(apart)), *apart]
    return replace(samples, indices=tuple(samples.indices[i] for i in order))


def numbered(shards: Sequence[Shard]) -> dict[str, Shard]:
    """Return the shards by the names of their files."""
    return {f"{start:08d}-{end:08d}": (start, end) for start, end in shards}
