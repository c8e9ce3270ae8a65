"""Where shards are counted: here, in processes of this machine, or on a Ray cluster."""

from __future__ import annotations

import logging
import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import (
    FIRST_COMPLETED,
    Future,
    ProcessPoolExecutor,
    wait,
)
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from onnxgraft.errors import InputError, OnnxgraftError
from onnxgraft.optional import optional
from onnxgraft.quantize._measure import Job, Measurer, Shard, cores

__all__ = ["run_shards"]

# Bytes of values that lanes may hold together, if there is more than one.
_LANES_HOLD = 192 << 20
Results = Iterator[tuple[Shard, bytes]]


def run_shards(
    job: Job, shards: Sequence[Shard], *, workers: int = 1, ray: str | None = None
) -> Results:
    """Yield each shard with its packed tally, in the order in which they are done.

    Args:
        job: What is counted.
        shards: Of the job's samples.
        workers: Processes; with ``ray`` actors, 0 takes as many as the cluster has CPUs.
        ray: Address of a Ray cluster.

    Raises:
        InputError: A sample can't be used, or a worker died.
    """
    if not shards:
        return iter(())
    if ray is not None:
        return _on_ray(job, shards, ray, workers)
    if workers > 1:
        return _in_processes(job, shards, workers)
    return _here(job, shards)


def _here(job: Job, shards: Sequence[Shard]) -> Results:
    lanes = 1 if not job.size else max(1, _LANES_HOLD // job.size)
    with Measurer(job, 0, lanes=lanes, ahead=True) as measurer:
        for shard in shards:
            yield shard, measurer.tally(shard)


def _in_processes(job: Job, shards: Sequence[Shard], workers: int) -> Results:
    workers = min(workers, len(shards))
    threads = max(1, cores() // workers)
    # Not forked: onnxruntime and OpenCV have threads, which a fork does not copy.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, _begin, (job, threads))
    try:
        yield from _windowed(pool, shards, workers)
    except BrokenProcessPool as error:
        raise InputError(
            "a worker process died, perhaps for lack of memory; use fewer --workers and go on "
            "with --resume"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _windowed(pool: ProcessPoolExecutor, shards: Sequence[Shard], workers: int) -> Results:
    """Yield results while at most two shards a worker are under way, so that few are held."""
    waiting = iter(shards)
    running: dict[Future[bytes], Shard] = {}
    while True:
        while len(running) < 2 * workers and (shard := next(waiting, None)) is not None:
            running[pool.submit(_tally, shard)] = shard
        if not running:
            return
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            yield running.pop(future), future.result()


class _Worker:
    """A measurer that is made when the first shard comes, so that its errors are told."""

    def __init__(self, job: Job, threads: int) -> None:
        self.job, self.threads = job, threads
        self.measurer: Measurer | None = None

    def tally(self, shard: Shard) -> bytes:
        if self.measurer is None:
            self.measurer = Measurer(self.job, self.threads)
        return self.measurer.tally(shard)


_worker: _Worker


def _begin(job: Job, threads: int) -> None:
    global _worker
    _worker = _Worker(job, threads)


def _tally(shard: Shard) -> bytes:
    return _worker.tally(shard)


def _on_ray(job: Job, shards: Sequence[Shard], address: str, workers: int) -> Results:
    with optional("Calibrating on a Ray cluster", "ray"):
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
        yield from _with_actors(ray, job, shards, workers)
    finally:
        if ours:
            ray.shutdown()


def _with_actors(ray: Any, job: Job, shards: Sequence[Shard], workers: int) -> Results:
    count = min(workers or int(ray.cluster_resources().get("CPU", 1)), len(shards))
    stored = ray.put(job)
    # Another shard is counted elsewhere when a machine goes, at most so many times.
    remote = ray.remote(num_cpus=1, max_restarts=2, max_task_retries=2)(_Worker)
    actors = [remote.remote(stored, 1) for _ in range(count)]
    waiting, running = iter(shards), {}
    for actor, shard in zip(actors, waiting, strict=False):
        running[actor.tally.remote(shard)] = (actor, shard)
    try:
        while running:
            (done,), _ = ray.wait(list(running))
            actor, shard = running.pop(done)
            packed = ray.get(done)
            following = next(waiting, None)
            if following is not None:
                running[actor.tally.remote(following)] = (actor, following)
            yield shard, packed
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, OnnxgraftError):
            raise error.cause from error
        raise
    except ray.exceptions.RayError as error:
        raise InputError(
            f"the Ray cluster lost its workers ({type(error).__name__}); go on with --resume"
        ) from error
    finally:
        for actor in actors:
            ray.kill(actor)
