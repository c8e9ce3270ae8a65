"""Samples in parts: here, in processes of this machine, or on a Ray cluster; the result is one."""

from __future__ import annotations

import itertools
import logging
import multiprocessing
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from onnxgraft.errors import InputError, OnnxgraftError
from onnxgraft.optional import optional
from onnxgraft.runtime import Array, Engine
from onnxgraft.samples import Sample, Samples
from onnxgraft.validate._metrics import Metric
from onnxgraft.validate._tally import Tally, infer_all

__all__ = ["Job", "Opener", "run_here", "run_parts"]

Opener = Callable[[], Engine]
# Parts a worker, so that one that is slow holds up little.
_PARTS = 4


@dataclass(frozen=True)
class Job:
    """What is done with every sample; it can be sent to another process.

    Attributes:
        samples: All of them.
        judged: The output that metrics and gallery look at.
        candidates: How many.
        metric: Makes a fresh metric.
        labels: By the images' file names, where they do not come with the samples.
        openers: Of the original and each candidate, for processes that have to open their own.
    """

    samples: Samples
    judged: str
    candidates: int
    metric: Callable[[], Metric] | None
    labels: Mapping[str, Array] = field(default_factory=dict)
    openers: tuple[Opener, ...] = ()


def run_here(
    job: Job, tally: Tally, engines: Sequence[Engine], begin: int, end: int
) -> Iterator[int]:
    """Add samples ``begin`` to ``end`` to ``tally``, and yield the position of each.

    The next sample is decoded, and the last one's outputs are compared, beside the inference: so
    two samples are in memory.
    """
    part = iter(replace(job.samples, indices=job.samples.indices[begin:end]))

    def following() -> Sample | None:
        sample = next(part, None)
        if sample is not None and job.labels:
            return replace(sample, label=job.labels[Path(sample.name).name])
        return sample

    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as judge:
        coming = reader.submit(following)
        comparing = None
        for position in range(begin, end):
            sample = coming.result()
            assert sample is not None
            coming = reader.submit(following)
            results = infer_all(engines, sample)
            if comparing is not None:
                comparing.result()
            yield position
            comparing = judge.submit(tally.add, position, sample, job.judged, results)
        if comparing is not None:
            comparing.result()


def run_parts(job: Job, workers: int, ray: str | None) -> Iterator[tuple[int, Tally]]:
    """Yield the tally of each part with how many samples it has, in the order of the samples.

    Args:
        job: With openers.
        workers: Processes; with ``ray`` actors, 0 takes as many as the cluster has CPUs.
        ray: Address of a Ray cluster whose machines see the same paths.

    Raises:
        InputError: A sample can't be used, or a worker died.
    """
    if ray is not None:
        yield from _on_ray(job, workers, ray)
        return
    parts = _parts(len(job.samples), workers)
    # Not forked: runtimes have threads, which a fork does not copy. Each process has as many of
    # them as it would have alone: another number could round otherwise.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(workers, len(parts)), context, _begin, (job,))
    try:
        futures = [pool.submit(_part, *part) for part in parts]
        for (begin, end), future in zip(parts, futures, strict=True):
            yield end - begin, future.result()
    except BrokenProcessPool as error:
        raise InputError(
            "a worker process died, perhaps for lack of memory; use fewer --workers"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _parts(total: int, workers: int) -> list[tuple[int, int]]:
    count = min(total, _PARTS * workers)
    edges = [total * number // count for number in range(count + 1)]
    return list(itertools.pairwise(edges))


class _Worker:
    """The engines of one process, opened when the first part comes, so that errors are told."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.stack = ExitStack()
        self.engines: list[Engine] = []

    def part(self, begin: int, end: int) -> Tally:
        if not self.engines:
            self.engines = [self.stack.enter_context(opener()) for opener in self.job.openers]
        tally = Tally.empty(self.job.candidates, self.job.metric)
        for _ in run_here(self.job, tally, self.engines, begin, end):
            pass
        return tally


_worker: _Worker


def _begin(job: Job) -> None:
    global _worker
    _worker = _Worker(job)


def _part(begin: int, end: int) -> Tally:
    return _worker.part(begin, end)


def _on_ray(job: Job, workers: int, address: str) -> Iterator[tuple[int, Tally]]:
    with optional("Validating on a Ray cluster", "ray"):
        import ray
    ours = not ray.is_initialized()
    if ours:
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise InputError(
                f"--ray {address}: no Ray cluster can be reached there ({error})"
            ) from error
    try:
        yield from _with_actors(ray, job, workers)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, OnnxgraftError):
            raise error.cause from error
        raise
    except ray.exceptions.RayError as error:
        raise InputError(f"the Ray cluster lost its workers ({type(error).__name__})") from error
    finally:
        if ours:
            ray.shutdown()


def _with_actors(ray: Any, job: Job, workers: int) -> Iterator[tuple[int, Tally]]:
    count = workers or int(ray.cluster_resources().get("CPU", 1))
    parts = _parts(len(job.samples), count)
    remote = ray.remote(num_cpus=1, max_restarts=2, max_task_retries=2)(_Worker)
    stored = ray.put(job)
    actors = [remote.remote(stored) for _ in range(min(count, len(parts)))]
    try:
        pool = ray.util.ActorPool(actors)
        done = pool.map(lambda actor, part: actor.part.remote(*part), parts)
        for (begin, end), tally in zip(parts, done, strict=True):
            yield end - begin, tally
    finally:
        for actor in actors:
            ray.kill(actor)
