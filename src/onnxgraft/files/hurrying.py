"""Libraries that do not come to an end on a damaged file: they can't be asked to stop."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from onnxgraft.files.writing import watchers

__all__ = ["SECONDS", "hurried"]

# Of processor time; sound files of a hundred thousand parts take some.
SECONDS = 30


@contextlib.contextmanager
def hurried() -> Iterator[None]:
    """Let the system end this process if the block takes more than `SECONDS` of the processor.

    Within a command, whose parent tells that in a sentence; elsewhere it does nothing.
    """
    if not watchers:
        yield
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_CPU)
    used = resource.getrusage(resource.RUSAGE_SELF)
    most = int(used.ru_utime + used.ru_stime) + 1 + SECONDS
    resource.setrlimit(resource.RLIMIT_CPU, (_least(most, soft, hard), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_CPU, (soft, hard))


def _least(*limits: int) -> int:
    return min(limit for limit in limits if limit >= 0)  # a negative one is none
