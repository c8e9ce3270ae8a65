"""Locks between processes: a file that one of them has locked, until it ends, however it ends."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from onnxgraft.errors import InputError

try:
    import fcntl
except ImportError:  # no POSIX system: nothing is locked there
    fcntl = None  # type: ignore[assignment]

__all__ = ["lock", "locked"]

# What file systems of a network say that have no locks: nothing is locked there, either.
_NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP})
# What this process holds: it does not wait for itself.
_held: dict[Path, int] = {}


@contextlib.contextmanager
def locked(file: Path, *, busy: str | None = None) -> Iterator[int]:
    """Hold ``file`` locked, and yield its descriptor; it is made, and removed at the end.

    It stays if something was written into it.

    Args:
        file: Of a process that was killed it may be left; that is no lock.
        busy: What is said where another process holds it; None waits for that one.

    Raises:
        InputError: Another process holds it, or it can't be made.
    """
    place = Path(os.path.abspath(file))
    if place in _held:
        yield _held[place]
        return
    try:
        handle = _acquired(place, busy)
    except OSError as error:
        raise InputError(f"{file}: can't be written ({error.strerror})") from error
    _held[place] = handle
    try:
        yield handle
    finally:
        del _held[place]
        if not os.fstat(handle).st_size:
            with contextlib.suppress(OSError):  # the folder may be read-only by now
                place.unlink()
        os.close(handle)


def _opened(file: Path) -> tuple[int, bool]:
    """Open or make a file, to read alone where it is another user's; tell whether it is ours."""
    try:
        return os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666), True
    except PermissionError:
        return os.open(file, os.O_RDONLY | os.O_CLOEXEC), False


def lock(handle: int, *, wait: bool) -> None:
    """Lock a file, where the system and the file system can.

    Raises:
        BlockingIOError: Another process has locked it.
    """
    if fcntl is None:
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise


def _acquired(file: Path, busy: str | None) -> int:
    while True:
        handle, ours = _opened(file)
        try:
            lock(handle, wait=busy is None)
            # Whoever held it before may have removed it meanwhile.
            if os.fstat(handle).st_nlink and os.path.samestat(os.fstat(handle), os.stat(file)):
                if ours:
                    return handle
                if os.fstat(handle).st_size:
                    raise InputError(
                        f"{file}: another user's run was stopped while it put files into place; "
                        "they can finish that by running it again, or remove this file"
                    )
                file.unlink()  # that user's run was killed
        except BlockingIOError:
            os.close(handle)
            raise InputError(str(busy)) from None
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)
