"""How a command fails: a sentence on standard error, and with ``--json`` an object too."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from typing import NoReturn

import typer

from onnxgraft.errors import InputError, OnnxgraftError, advice_in, printable, wrapped
from onnxgraft.files import json_text

__all__ = ["EXIT_INTERNAL", "asks_json", "errors_reported", "failed", "printing", "tell"]

# What sysexits.h calls EX_SOFTWARE: none of the statuses that mean something to a script.
EXIT_INTERNAL = 70
EXIT_INTERRUPTED = 130
# What a shell tells of a process that SIGPIPE has ended, as it does where ``head`` has read enough.
EXIT_PIPE = 141
# What a system says that has no more files, processes, memory or room.
_SHORT = frozenset({
    errno.EAGAIN,
    errno.EDQUOT,
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOMEM,
    errno.ENOSPC,
})
TRACEBACK = "ONNXGRAFT_TRACEBACK"


def asks_json(words: Sequence[str]) -> bool:
    """Tell whether a command line that can't be parsed asks for JSON."""
    end = words.index("--") if "--" in words else len(words)
    return "--json" in words[:end]


def tell(name: str, sentence: str) -> None:
    """Print a sentence on standard error; on a terminal in lines that fit, off it in one."""
    text = f"onnxgraft {name}: {sentence}" if name else f"onnxgraft: {sentence}"
    if sys.stderr.isatty():
        text = wrapped(text, shutil.get_terminal_size().columns)
    with contextlib.suppress(OSError):  # then the exit status has to do
        print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def printing(name: str) -> Iterator[None]:
    """Let what is printed on standard output arrive there, or end with a status that tells.

    Args:
        name: Of the command; empty where it is not known.

    Raises:
        typer.Exit: Nobody reads on, or it can't be written.
    """
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is left would be tried again
        if isinstance(error, BrokenPipeError):
            raise typer.Exit(EXIT_PIPE) from None
        tell(name, f"standard output can't be written ({error.strerror}); send it elsewhere")
        raise typer.Exit(InputError.exit_status) from error


def failed(name: str, sentence: str, status: int, *, as_json: bool) -> None:
    """Say why a command failed.

    Args:
        name: Of the command; empty where it is not known.
        sentence: What happened, where, and what to do.
        status: With which it ends.
        as_json: Whether to print an object on standard output, too.
    """
    tell(name, sentence)
    if as_json:
        usual = f"onnxgraft {name} --help lists what it takes" if name else "see onnxgraft --help"
        told = {
            "passed": False,
            "command": name,
            "error": sentence,
            "advice": advice_in(sentence) or usual,
            "exit_status": status,
        }
        with printing(name):
            print(json_text(told))


@contextlib.contextmanager
def errors_reported(name: str, *, as_json: bool) -> Iterator[None]:
    """Turn whatever goes wrong in a command into a sentence and an exit status."""
    try:
        yield
    except typer.Exit:
        raise
    except OnnxgraftError as error:
        _end(name, str(error), error.exit_status, error, as_json=as_json)
    except KeyboardInterrupt:
        _end(name, "interrupted", EXIT_INTERRUPTED, None, as_json=as_json)
    except MemoryError as error:
        sentence = (
            "memory ran out; allow more with --max-memory, or take a smaller model, batch or "
            "--workers"
        )
        _end(name, sentence, InputError.exit_status, error, as_json=as_json)
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _SHORT:
            of = "" if error.filename is None else f" for {printable(str(error.filename))}"
            sentence = (
                f"the system has no more{of}: {error.strerror}; free some of it, or raise the "
                "limit (ulimit), and run it again"
            )
            _end(name, sentence, InputError.exit_status, error, as_json=as_json)
        if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
            sentence = (
                f"{printable(str(error.filename))}: the system takes no names that long; shorten it"
            )
            _end(name, sentence, InputError.exit_status, error, as_json=as_json)
        if os.environ.get(TRACEBACK):
            raise
        sentence = (
            f"internal error, {type(error).__name__}: {printable(str(error))}; please report it "
            f"with the traceback that {TRACEBACK}=1 shows"
        )
        _end(name, sentence, EXIT_INTERNAL, error, as_json=as_json)


def _end(
    name: str, sentence: str, status: int, cause: Exception | None, *, as_json: bool
) -> NoReturn:
    failed(name, sentence, status, as_json=as_json)
    raise typer.Exit(status) from cause
