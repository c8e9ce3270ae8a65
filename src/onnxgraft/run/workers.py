"""Work in parts: in processes of this machine, or by actors on a Ray cluster."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from onnxgraft.errors import InputError, OnnxgraftError
from onnxgraft.optional import optional

__all__ = ["end_with_parent", "in_processes", "on_ray"]

Part = TypeVar("Part")
Result = TypeVar("Result")
# Makes, in its own process, what does a part.
Opener = Callable[[], Callable[[Part], Result]]


_PR_SET_PDEATHSIG = 1


def end_with_parent() -> None:
    """Let this process end when the one that started it is gone, killed or not (on Linux)."""
    with contextlib.suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def in_processes(
    opener: Opener[Part, Result], parts: Sequence[Part], workers: int, *, then: str = ""
) -> Iterator[tuple[Part, Result]]:
    """Yield each part with its result, in the order in which they are done.

    At most two parts a worker are under way, so that few results are held.

    Args:
        opener: Can be sent to another process.
        parts: Likewise.
        workers: How many processes.
        then: What a message about a lost worker ends with, such as how to go on.

    Raises:
        InputError: A worker died, there can't be any, or what a part raises.
    """
    # Not forked: runtimes and OpenCV have threads, which a fork does not copy.
    context = multiprocessing.get_context("spawn")
    try:
        pool = ProcessPoolExecutor(min(workers, len(parts)), context, _begin, (opener,))
    except (ImportError, NotImplementedError, OSError) as error:  # there are no semaphores
        raise InputError(
            f"several processes can't work together here ({error}): they need a /dev/shm that can "
            "be written; leave --workers out"
        ) from error
    waiting = iter(parts)
    running: dict[Future[Result], Part] = {}
    try:
        while True:
            while len(running) < 2 * workers and (part := next(waiting, None)) is not None:
                running[pool.submit(_do, part)] = part
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                yield running.pop(future), future.result()
    except BrokenProcessPool as error:
        raise InputError(
            f"a worker process died, perhaps for lack of memory; use fewer --workers{then}"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def on_ray(
    opener: Opener[Part, Result],
    parts: Callable[[int], Sequence[Part]],
    address: str,
    workers: int,
    *,
    what: str,
    then: str = "",
) -> Iterator[tuple[Part, Result]]:
    """Yield each part with its result, in the order in which they are done.

    Args:
        opener: Can be sent to another machine.
        parts: Returns the parts for a number of actors.
        address: Of the cluster.
        workers: How many actors; 0 takes as many as the cluster has CPUs.
        what: Is done, for the message that ray is missing.
        then: As of `in_processes`.

    Raises:
        InputError: There is no cluster, it lost its workers, or what a part raises.
    """
    with optional(what, "ray"):
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
        yield from _by_actors(ray, opener, parts, workers)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, OnnxgraftError):
            raise error.cause from error
        raise
    except ray.exceptions.RayError as error:
        raise InputError(
            f"the Ray cluster lost its workers ({type(error).__name__}){then}"
        ) from error
    finally:
        if ours:
            ray.shutdown()


def _by_actors(
    ray: Any,
    opener: Opener[Part, Result],
    parts: Callable[[int], Sequence[Part]],
    workers: int,
) -> Iterator[tuple[Part, Result]]:
    count = workers or int(ray.cluster_resources().get("CPU", 1))
    waiting = iter(parts(count))
    stored = ray.put(opener)
    # Another part is done elsewhere when a machine goes, at most so many times.
    remote = ray.remote(num_cpus=1, max_restarts=2, max_task_retries=2)(_Worker)
    actors, running = [], {}
    for _, part in zip(range(count), waiting, strict=False):
        actor = remote.remote(stored)
        actors.append(actor)
        running[actor.do.remote(part)] = actor, part
    try:
        while running:
            (done,), _ = ray.wait(list(running))
            actor, part = running.pop(done)
            result = ray.get(done)
            following = next(waiting, None)
            if following is not None:
                running[actor.do.remote(following)] = actor, following
            yield part, result
    finally:
        for actor in actors:
            ray.kill(actor)


class _Worker:
    """Opens what it needs when the first part comes, so that errors in that are told."""

    def __init__(self, opener: Opener[Any, Any]) -> None:
        self._opener = opener
        self._work: Callable[[Any], Any] | None = None

    def do(self, part: Any) -> Any:
        if self._work is None:
            self._work = self._opener()
        return self._work(part)


_worker: _Worker


def _begin(opener: Opener[Any, Any]) -> None:
    end_with_parent()
    global _worker
    _worker = _Worker(opener)


def _do(part: Any) -> Any:
    return _worker.do(part)
