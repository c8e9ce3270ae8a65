"""A command in a process of its own: whatever becomes of it is a sentence and an exit status.

The libraries that read and run models are written in C++ and can be made to crash, to take all
memory or to run for ever. So the command is forked off before any of them is imported, which costs
a millisecond, and watched. What it was still writing when it died is removed.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import functools
import math
import os
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from onnxgraft.errors import InputError
from onnxgraft.files import remove_left, watchers
from onnxgraft.files.locks import lock
from onnxgraft.run import demand
from onnxgraft.sandbox.landlock import enter_sandbox

__all__ = ["Allowance", "Killed", "byte_size", "guarded", "hand_over", "memory_of"]

# How often the memory is looked at: it can grow by some 200 MB in between.
_LOOK = 0.05
# How often processes that the command started are looked for.
_LOOK_AROUND = 1.0
# Address space that libraries reserve and never use: stacks and pools of threads.
_RESERVED = 2 << 30
_DEFAULT_SHARE = 0.9
_UNITS = {"": 0, "k": 10, "m": 20, "g": 30, "t": 40}
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_CRASHES = frozenset({
    signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGSYS,
    signal.SIGTRAP, signal.SIGXCPU, signal.SIGXFSZ,
})  # fmt: skip
# A folder for what is temporary begins so, and has a file that is locked while its command lives.
_SCRATCH, _ALIVE = "onnxgraft.", "alive"
# Before a status that is handed over, and before the bytes that a network may take whose sizes
# nobody knows; what else is told are absolute paths.
_STATUS, _CLOSER = b"status ", b"closer "
# Where a child tells its parent.
_into: int | None = None
# Python's exit status where the last of standard output or error could not be written.
_UNFLUSHED = 120
# A second Ctrl-C within this many seconds is the first one, told by the parent too.
_SAME = 2.0


class Killed(InputError):
    """The command crashed, or was ended at a limit."""


@dataclass(frozen=True)
class Allowance:
    """What a command may take.

    Attributes:
        memory: Bytes, of all its processes together; None takes most of what is free.
        seconds: Of wall clock; None sets no limit.
        places: Files and folders that it was told to write; None lets it write anywhere, and
            connect to other machines.
        ports: That it may listen on, where it may not do everything; 0 stands for a free one.
    """

    memory: int | None = None
    seconds: float | None = None
    places: tuple[Path, ...] | None = None
    ports: tuple[int, ...] = ()


def byte_size(text: str) -> int:
    """Return the bytes that ``2GB``, ``1.5g`` or ``512MiB`` mean; units are powers of 1024.

    >>> byte_size("2GB"), byte_size("512 MiB"), byte_size("100000000")
    (2147483648, 536870912, 100000000)

    Raises:
        InputError: It is no size.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?\s*", text, re.IGNORECASE)
    size = 0.0 if found is None else float(found[1]) * (1 << _UNITS[found[2].lower()])
    if not 0 < size < math.inf:
        raise InputError(f"--max-memory {text}: write a size such as 2GB or 512MB")
    return int(size)


def guarded(allowance: Allowance) -> int | None:
    """Fork: return None in the child, which does the work, and its exit status in the parent.

    The status is the one that the child handed over: a model or a library that ends the process
    does not decide what the command says.

    Raises:
        Killed: In the parent: the child crashed, took more than it may, or ended before it handed
            over its status. Nothing that it was writing is left.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    signals = {signal.SIGCHLD, *_FORWARDED}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    scratch = None if allowance.places is None else _scratch()
    out, into = os.pipe()
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        os.close(out)
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        _begin(allowance, into, scratch)
        return None
    os.close(into)
    os.set_blocking(out, False)
    watch = _Watch(child, allowance, out)
    try:
        status = watch.wait(signals)
    finally:
        left = _descendants(os.getpid())
        _kill(left)
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)
    handed = watch.handed_over()
    if os.WIFEXITED(status) and handed is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        ended = os.WEXITSTATUS(status)
        return handed if ended == _UNFLUSHED else ended or handed
    watch.clean()
    if sys.stderr.isatty():
        print("\033[?25h\r\033[K", end="", file=sys.stderr)  # a progress bar hid the cursor
    if os.WIFEXITED(status):
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        raise Killed(
            f"something in it ended the process, with status {os.WEXITSTATUS(status)}, before the "
            "command was done; a model or a function that it runs does that, and it counts as a "
            "failure; nothing was left half written"
        )
    died = signal.Signals(os.WTERMSIG(status))
    if watch.reason is None and died in _FORWARDED:
        # As if there had been no guard.
        signal.signal(died, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        os.kill(os.getpid(), died)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    raise Killed(watch.reason or _reason(died))


def _scratch() -> str:
    """Return a new folder for what is temporary; remove those of commands that were killed.

    Raises:
        InputError: There is no place for one.
    """
    try:
        return _made_scratch()
    except OSError as error:
        raise InputError(
            f"nothing temporary can be written ({error.strerror}); let TMPDIR name a folder where "
            "that is possible"
        ) from error


def _made_scratch() -> str:
    for place in Path(tempfile.gettempdir()).glob(f"{_SCRATCH}*"):
        with contextlib.suppress(OSError):
            if not place.is_symlink() and place.stat().st_uid == os.geteuid():
                _remove_left_behind(place)
    made = tempfile.mkdtemp(prefix=_SCRATCH)
    # The lock is there with its name: the file is locked first, and lasts as long as the command.
    lock(os.open(Path(made, "new"), os.O_RDWR | os.O_CREAT, 0o600), wait=True)
    os.rename(Path(made, "new"), Path(made, _ALIVE))
    return made


def _remove_left_behind(place: Path) -> None:
    handle = os.open(place / _ALIVE, os.O_RDWR | os.O_NOFOLLOW)
    try:
        # Where nothing can be locked, nobody knows whether the owner is gone.
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(place, ignore_errors=True)
    finally:
        os.close(handle)


def _begin(allowance: Allowance, into: int, scratch: str | None) -> None:
    """Set up the process that does the work."""
    # A crash is told in a sentence; a core dump would be a file that nobody named.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if allowance.memory is not None:
        most = allowance.memory + _RESERVED
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    else:
        demand.watchers.append(functools.partial(_tell_closer, into))
    watchers.append(functools.partial(_tell, into))
    global _into
    _into = into
    last = -math.inf

    def interrupt(*_: object) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last > _SAME:
            last = now
            raise KeyboardInterrupt
        last = now

    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, interrupt)
    if scratch is not None:
        os.environ["TMPDIR"] = scratch
        tempfile.tempdir = None
        enter_sandbox([*(allowance.places or ()), Path(scratch, "any")], allowance.ports)


def hand_over(status: int) -> None:
    """Tell the parent that the command is done, with this exit status; in no child, do nothing."""
    if _into is not None:
        os.write(_into, b"%s%d\0" % (_STATUS, status))


def _tell(into: int, path: Path) -> None:
    os.write(into, os.fsencode(path.absolute()) + b"\0")


def _tell_closer(into: int, tensor: str, more: int) -> None:
    os.write(into, b"%s%d %s\0" % (_CLOSER, more, ascii(tensor[:100]).encode()))


class _Watch:
    """Waits for a process, hands signals on, and ends it when it takes too much."""

    def __init__(self, child: int, allowance: Allowance, out: int) -> None:
        self.child = child
        self.reason: str | None = None
        self._asked = allowance.memory
        self._most = allowance.memory or int(_free_memory() * _DEFAULT_SHARE)
        self._tensor = ""
        self._seconds = allowance.seconds
        self._out = out
        self._told = b""
        self._processes = [child]
        self._looked = self._started = time.monotonic()

    def wait(self, signals: Iterable[signal.Signals]) -> int:
        """Return the status with which the process ended."""
        while True:
            found, status = os.waitpid(self.child, os.WNOHANG)
            if found:
                self._listen()
                # What the terminal sent to both is told by the child, or came too late.
                while signal.sigtimedwait(signals, 0) is not None:
                    pass
                return status
            caught = signal.sigtimedwait(signals, _LOOK)
            # What the terminal sends, it sends to both.
            if caught is not None and caught.si_signo in _FORWARDED and caught.si_code <= 0:
                os.kill(self.child, caught.si_signo)
            self._listen()
            if self.reason is None:
                self.reason = self._too_much()
                if self.reason is not None:
                    _kill([self.child])

    def clean(self) -> None:
        """Remove what the process was writing when it died."""
        for told in self._told.split(b"\0"):
            if told and not told.startswith((_STATUS, _CLOSER)):
                remove_left(Path(os.fsdecode(told)))

    def handed_over(self) -> int | None:
        """Return the status that the command handed over, if it did."""
        found = self._said(_STATUS)
        return int(found[-1]) if found else None

    def _said(self, kind: bytes) -> list[bytes]:
        whole = self._told.split(b"\0")[:-1]
        return [told.removeprefix(kind) for told in whole if told.startswith(kind)]

    def _listen(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while told := os.read(self._out, 1 << 16):
                self._told += told

    def _too_much(self) -> str | None:
        now = time.monotonic()
        if self._seconds is not None and now - self._started > self._seconds:
            return (
                f"stopped: it did not end within the {self._seconds:g} s that --max-seconds "
                "allows; allow more, or less work"
            )
        if now - self._looked > _LOOK_AROUND:
            self._looked = now
            self._processes = [self.child, *_descendants(self.child)]
        taken = sum(map(_taken, self._processes))
        if not self._tensor and (said := self._said(_CLOSER)):
            more, self._tensor = said[0].decode().split(" ", 1)
            self._most = min(self._most, taken + int(more))
        if taken <= self._most:
            return None
        if self._tensor:
            return (
                f"stopped: it took {_size(taken)}; the size of {self._tensor} follows from the "
                f"values that the network is fed, and {_size(self._most)} is what a command may "
                "take then without --max-memory; if it is meant to be so large, allow more with it"
            )
        if self._asked is None:
            return (
                f"stopped: it took {_size(taken)}, more than the {_size(self._most)} "
                f"({_DEFAULT_SHARE:.0%} of the memory that was free) that a command may take "
                "without --max-memory; allow more with it, take a smaller model, batch or "
                "--workers, or a larger machine"
            )
        return (
            f"stopped: it took {_size(taken)}, more than the {_size(self._asked)} that "
            "--max-memory allows; allow more, or take a smaller model, batch or --workers"
        )


def _size(count: int) -> str:
    return f"{count / 2**30:.2f} GB" if count >= 1 << 30 else f"{count / 2**20:.0f} MB"


def _reason(died: signal.Signals) -> str:
    if died == signal.SIGXCPU:
        return (
            "a library did not come to an end on it; a file that it read is damaged or malicious; "
            "nothing was left half written"
        )
    if died in _CRASHES:
        return (
            f"a library crashed on it ({died.name}); a file that it read is damaged or "
            "malicious, or the library has a bug; nothing was left half written"
        )
    return (
        f"it was killed ({died.name}), as the system does when memory runs out; take a smaller "
        "model, batch or --workers, or a larger machine; nothing was left half written"
    )


def _taken(process: int) -> int:
    """Return the bytes of memory that a process has to itself, or 0 when it is gone.

    Pages of mapped files are not counted: the system takes them back when it needs them.
    """
    try:
        text = Path(f"/proc/{process}/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return 0
    found = re.findall(r"^(?:RssAnon|RssShmem|VmSwap):\s*(\d+) kB", text, re.MULTILINE)
    return 1024 * sum(map(int, found))


def memory_of(process: int) -> int:
    """Return the bytes of memory that a process and those that it started have to themselves."""
    return sum(map(_taken, [process, *_descendants(process)]))


def _descendants(process: int) -> list[int]:
    """Return the processes that ``process`` started, and those that they did."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                text = Path(f"/proc/{name}/stat").read_text(encoding="ascii", errors="replace")
                children.setdefault(int(text.rpartition(")")[2].split()[1]), []).append(int(name))
    found: list[int] = []
    left = [process]
    while left:
        next_ones = children.get(left.pop(), [])
        found += next_ones
        left += next_ones
    return found


def _kill(processes: Iterable[int]) -> None:
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def _free_memory() -> int:
    """Return the bytes of memory that are free on this machine, or that the container has."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with contextlib.suppress(OSError, IndexError):
        text = Path("/proc/meminfo").read_text(encoding="ascii", errors="replace")
        total = min(total, 1024 * int(re.findall(r"^MemAvailable:\s*(\d+) kB", text, re.M)[0]))
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):
            total = min(total, int(Path("/sys/fs/cgroup", name).read_text()))
    return total


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None).prctl(option, value, 0, 0, 0)
