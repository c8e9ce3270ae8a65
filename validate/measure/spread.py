"""Samples in parts: here, in processes of this machine, or on a Ray cluster; the result is one."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from onnxgraft.data.labels import Labels, labelled
from onnxgraft.data.samples import Sample, Samples
from onnxgraft.graph.tensors import Outputs
from onnxgraft.run.answers import adapted
from onnxgraft.run.engine import Engine
from onnxgraft.run.selections import Chosen, Selecting
from onnxgraft.run.workers import in_processes, on_ray
from onnxgraft.stages.validate.measure.tally import Tally, infer_all
from onnxgraft.stages.validate.metrics import Metric

__all__ = ["Job", "Opener", "run_here", "run_parts"]

Opener = Callable[[], Engine]
# Parts a worker, so that one that is slow holds up little.
_PARTS = 4


@dataclass(frozen=True)
class Job:
    """What is done with every sample; it can be sent to another process.

    Attributes:
        samples: All of them.
        metric_output: The output that metrics and gallery look at.
        candidates: How many.
        metric: Makes a fresh metric.
        labels: By the images' file names, where they do not come with the samples.
        openers: Of the original and each candidate, for processes that have to open their own.
        selector: Opens the graph in which indices among the outputs were chosen.
        pictures: The same samples as the candidates take them, where the original takes others.
    """

    samples: Samples
    metric_output: str
    candidates: int
    metric: Callable[[], Metric] | None
    labels: Labels = field(default_factory=Labels)
    openers: tuple[Opener, ...] = ()
    selector: Callable[[], Selecting] | None = None
    pictures: Samples | None = None


class Beside:
    """What a process keeps beside the engines: the first sample's outputs, and a selector."""

    def __init__(self, job: Job) -> None:
        """Begin with nothing: each is made when it is asked for."""
        self._job = job
        self._first: Outputs | None = None
        self._selector: Selecting | None = None

    def first(self, original: Engine, position: int, outputs: Outputs) -> Outputs | None:
        """Return the original's outputs of the first sample; None for that sample itself."""
        if position == 0:
            self._first = {name: np.array(value) for name, value in outputs.items()}
            return None
        if self._first is None:
            sample = self._job.samples.at(0, labelled=False)
            found = original.infer(adapted(sample.feeds, original))
            self._first = {name: np.array(value) for name, value in found.items()}
        return self._first

    def chosen(self, original: Engine, sample: Sample, outputs: Outputs) -> Chosen | None:
        """Return what indices among the outputs were chosen from, where there are any."""
        if self._job.selector is None:
            return None
        if self._selector is None:
            self._selector = self._job.selector()
        return self._selector.at(adapted(sample.feeds, original), outputs)


def run_here(
    job: Job, tally: Tally, engines: Sequence[Engine], begin: int, end: int, beside: Beside
) -> Iterator[int]:
    """Add samples ``begin`` to ``end`` to ``tally``, and yield the position of each.

    The next sample is decoded, and the last one's outputs are compared, beside the inference: so
    two samples are in memory.
    """
    part = iter(replace(job.samples, indices=job.samples.indices[begin:end]))
    places = iter(range(begin, end))

    def following() -> tuple[Sample, Sample] | None:
        sample = next(part, None)
        if sample is None:
            return None
        if job.labels:
            sample = labelled(sample, job.labels, job.samples.preprocess)
        place = next(places)
        other = None if job.pictures is None else job.pictures.at(place, labelled=False)
        return sample, other or sample

    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as comparer:
        coming = reader.submit(following)
        comparing = None
        for position in range(begin, end):
            both = coming.result()
            assert both is not None
            sample, other = both
            coming = reader.submit(following)
            results = infer_all(engines, sample, other)
            first = beside.first(engines[0], position, results[0])
            chosen = beside.chosen(engines[0], sample, results[0])
            if comparing is not None:
                comparing.result()
            yield position
            comparing = comparer.submit(
                tally.add, position, sample, job.metric_output, results, first, chosen, job.metric
            )
        if comparing is not None:
            comparing.result()


def run_parts(job: Job, workers: int, ray: str | None) -> Iterator[tuple[int, Tally]]:
    """Yield the tally of each part with how many samples it has, in the order they are done.

    Args:
        job: With openers.
        workers: Processes; with ``ray`` actors, 0 takes as many as the cluster has CPUs.
        ray: Address of a Ray cluster whose machines see the same paths.

    Raises:
        InputError: A sample can't be used, or a worker died.
    """
    # Each process has as many threads as it would have alone: another number could round otherwise.
    opener = partial(_open, job)
    parts = partial(_parts, len(job.samples))
    if ray is None:
        done = in_processes(opener, parts(workers), workers)
    else:
        done = on_ray(opener, parts, ray, workers, what="Validating on a Ray cluster")
    for (begin, end), tally in done:
        yield end - begin, tally


def _parts(total: int, workers: int) -> list[tuple[int, int]]:
    count = min(total, _PARTS * workers)
    edges = [total * number // count for number in range(count + 1)]
    return list(itertools.pairwise(edges))


def _open(job: Job) -> Callable[[tuple[int, int]], Tally]:
    """Open the engines of one process, and return what does a part with them."""
    engines = [opener() for opener in job.openers]
    beside = Beside(job)

    def part(place: tuple[int, int]) -> Tally:
        tally = Tally.empty(job.candidates, job.metric, job.metric_output)
        for _ in run_here(job, tally, engines, *place, beside):
            pass
        return tally

    return part
