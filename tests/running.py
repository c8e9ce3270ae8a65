"""The command line run for a test: here, or in a process of its own."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import re
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from onnxgraft.cli import app

__all__ = ["QUIET", "Cli", "Done", "here", "in_a_process", "on_a_terminal", "wait_for_lock"]

Done = subprocess.CompletedProcess[str]
Cli = Callable[..., Done]
# What a terminal of 80 columns tells; captured output has no width of its own.
WIDTH = {"COLUMNS": "80"}
# A terminal has one.
TERMINAL = {"TERM": "xterm-256color", "COLUMNS": ""}
_END = b"\0end of the output\0"
# TensorFlow's messages: an environment variable of the process that runs the tests alone.
QUIET = ("TF_CPP_MIN_LOG_LEVEL", "3")


def here(*words: Any, cwd: Path | None = None) -> Done:
    """Run the command line in this process, and return what one of its own would have given.

    Whatever writes to the descriptors 1 and 2 is captured, be it a library in C or a process that
    the command starts. The environment and the working directory are as before when it ends. What
    the command line alone does is left out: the guard, its limits, and its sandbox.
    """
    return _run(words, cwd, WIDTH, _captured)


def on_a_terminal(*words: Any, cwd: Path | None = None) -> Done:
    """Run the command line in this process, with a terminal of 80 x 24 as standard output."""
    return _run(words, cwd, TERMINAL, _shown)


def _run(
    words: Iterable[Any],
    cwd: Path | None,
    environment: dict[str, str],
    output: Callable[[int], contextlib.AbstractContextManager[list[str]]],
) -> Done:
    arguments = [str(word) for word in words]
    with contextlib.ExitStack() as stack:
        stack.callback(_restore, dict(os.environ))
        os.environ.update(environment)
        if cwd is not None:
            stack.enter_context(contextlib.chdir(cwd))
        out, err = stack.enter_context(output(1)), stack.enter_context(_captured(2))
        with contextlib.redirect_stdout(_text(1)), contextlib.redirect_stderr(_text(2)):
            try:
                app(arguments, prog_name="onnxgraft")
                status = 0
            except SystemExit as ended:
                status = _status(ended.code)
            except Exception:
                traceback.print_exc()
                status = 1
            sys.stdout.flush()
            sys.stderr.flush()
    return Done(["onnxgraft", *arguments], status, *out, *err)


def in_a_process(*words: Any, cwd: Path | None = None, timeout: float | None = None) -> Done:
    """Run the command line in a process of its own, guarded as it is for a user."""
    environment = {**os.environ, **WIDTH}
    environment.pop(QUIET[0], None)
    return subprocess.run(
        [sys.executable, "-m", "onnxgraft", *map(str, words)],
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=timeout,
        env=environment,
    )


def wait_for_lock(process: subprocess.Popen[str], children: Callable[[], Iterable[int]]) -> None:
    """Return when a process, or one of its children, waits for a lock, or has ended."""
    deadline = time.monotonic() + 15  # where the system does not tell
    while process.poll() is None and time.monotonic() < deadline:
        found = re.findall(r"-> FLOCK +\w+ +\w+ +(\d+)", Path("/proc/locks").read_text())
        if not {int(pid) for pid in found}.isdisjoint([process.pid, *children()]):
            return
        time.sleep(0.05)


def _restore(environment: dict[str, str]) -> None:
    for name in os.environ.keys() - environment.keys():
        del os.environ[name]
    for name, value in environment.items():
        if os.environ.get(name) != value:  # threads of libraries may be reading the others
            os.environ[name] = value


def _status(code: Any) -> int:
    """Return the exit status that Python makes of ``sys.exit(code)``."""
    if code is None or isinstance(code, int):
        return code or 0
    print(code, file=sys.stderr)
    return 1


@contextlib.contextmanager
def _captured(handle: int) -> Iterator[list[str]]:
    """Let a file take what is written to a descriptor; the list has it in the end."""
    told: list[str] = []
    with tempfile.TemporaryFile() as file:
        with _pointed(handle, file.fileno()):
            yield told
        file.seek(0)
        told.append(_text_of(file.read()))


@contextlib.contextmanager
def _shown(handle: int) -> Iterator[list[str]]:
    """Let a terminal of 80 x 24 take it."""
    told: list[str] = []
    parts = bytearray()
    screen, line = os.openpty()
    fcntl.ioctl(line, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    reader = threading.Thread(target=_read, args=(screen, parts))
    reader.start()
    try:
        with _pointed(handle, line):
            yield told
    finally:
        os.write(line, _END)
        reader.join()
        os.close(line)
        os.close(screen)
    told.append(_text_of(bytes(parts).removesuffix(_END)))


def _read(screen: int, parts: bytearray) -> None:
    """Take what is written to a terminal; processes that were started may keep it open."""
    while not parts.endswith(_END):
        parts += os.read(screen, 1 << 16)


@contextlib.contextmanager
def _pointed(handle: int, place: int) -> Iterator[None]:
    """Let a descriptor be another one for a while."""
    before = os.dup(handle)
    ctypes.CDLL(None).fflush(None)
    os.dup2(place, handle)
    try:
        yield
    finally:
        ctypes.CDLL(None).fflush(None)
        os.dup2(before, handle)
        os.close(before)


def _text(handle: int) -> IO[str]:
    errors = "strict" if handle == 1 else "backslashreplace"  # as Python opens them
    return open(handle, "w", encoding="utf-8", errors=errors, closefd=False)


def _text_of(told: bytes) -> str:
    return told.decode().replace("\r\n", "\n").replace("\r", "\n")
