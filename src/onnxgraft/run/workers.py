"""Work in parts: in processes of this machine, or by actors on a Ray cluster."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import multiprocessing
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from onnxgraft.errors import InputError, OnnxgraftError
from onnxgraft.notices import logger
from onnxgraft.optional import optional

__all__ = ["end_with_parent", "in_processes", "on_ray"]

Part = TypeVar("Part")
Result = TypeVar("Result")
# Makes, in its own process, what does a part.
Opener = Callable[[], Callable[[Part], Result]]


_PR_SET_PDEATHSIG = 1
# So often a part is begun on a Ray cluster: one that ends each of its workers is given up.
_TRIES = 3
# Seconds in which a cluster has to have room for a worker, where none is there.
_ROOM = 300.0


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
    """Yield each part with its result; a part whose actor is lost is done by another.

    In place of a lost actor another is started, which begins where the cluster has room: nobody
    waits for it as long as others are there.
    """
    count = workers or int(ray.cluster_resources().get("CPU", 1))
    waiting = deque((part, 1) for part in parts(count))
    stored = ray.put(opener)
    remote = ray.remote(num_cpus=1, max_restarts=0, max_task_retries=0)(_Worker)
    lost = ray.exceptions.RayActorError, ray.exceptions.ObjectLostError
    actors: list[Any] = []
    idle: list[Any] = []
    coming: dict[Any, Any] = {}  # what says that it is there -> the actor
    running: dict[Any, tuple[Any, Part, int]] = {}

    def start() -> None:
        actors.append(remote.remote(stored))
        coming[actors[-1].ready.remote()] = actors[-1]

    try:
        for _ in range(min(count, len(waiting))):
            start()
        while waiting or running:
            while idle and waiting:
                actor, (part, tries) = idle.pop(), waiting.popleft()
                running[actor.do.remote(part)] = actor, part, tries
            done, _ = ray.wait([*running, *coming], timeout=None if running else _ROOM)
            if not done:
                raise InputError(
                    f"the Ray cluster had no CPU free for {_ROOM:.0f} s; see ray status, or take "
                    "fewer --workers"
                )
            (ref,) = done
            if ref in coming:
                actor = coming.pop(ref)
                with contextlib.suppress(*lost):  # it is lost where it was to do its first part
                    ray.get(ref)
                idle.append(actor)
                continue
            actor, part, tries = running.pop(ref)
            try:
                result = ray.get(ref)
            except lost:
                if tries == _TRIES:
                    raise
                logger.warning("a worker of the Ray cluster was lost: another does its part")
                waiting.appendleft((part, tries + 1))
                ray.kill(actor)
                start()
                continue
            idle.append(actor)
            yield part, result
    finally:
        for actor in actors:
            ray.kill(actor)


class _Worker:
    """Opens what it needs when the first part comes, so that errors in that are told."""

    def __init__(self, opener: Opener[Any, Any]) -> None:
        self._opener = opener
        self._work: Callable[[Any], Any] | None = None

    def ready(self) -> None:
        """Return once it is there."""

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
