"""Where shards are counted: here, in processes of this machine, or on a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from onnxgraft.run.workers import in_processes, on_ray
from onnxgraft.stages.quantize.measure.measurer import Job, Measurer, Shard, cores

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
        what = "Calibrating on a Ray cluster"
        opener = partial(_open, job, 1)
        return on_ray(
            opener, lambda _: shards, ray, workers, what=what, then="; go on with --resume"
        )
    if workers > 1:
        workers = min(workers, len(shards))
        opener = partial(_open, job, max(1, cores() // workers))
        return in_processes(opener, shards, workers, then=" and go on with --resume")
    return _here(job, shards)


def _here(job: Job, shards: Sequence[Shard]) -> Results:
    lanes = 1 if not job.size else max(1, _LANES_HOLD // job.size)
    with Measurer(job, 0, lanes=lanes, ahead=True) as measurer:
        for shard in shards:
            yield shard, measurer.tally(shard)


def _open(job: Job, threads: int) -> Callable[[Shard], bytes]:
    return Measurer(job, threads).tally
