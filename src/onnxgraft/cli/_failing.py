"""How a command fails: a sentence on standard error, and with ``--json`` an object too."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Iterator, Sequence

import typer

from onnxgraft.errors import InputError, OnnxgraftError, advice_in, printable, wrapped
from onnxgraft.files import json_text

__all__ = ["EXIT_INTERNAL", "asks_json", "errors_reported", "failed", "printing", "tell"]

# What sysexits.h calls EX_SOFTWARE: none of the statuses that mean something to a script.
EXIT_INTERNAL = 70
EXIT_INTERRUPTED = 130
# What a shell tells of a process that SIGPIPE has ended, as it does where ``head`` has read enough.
EXIT_PIPE = 141
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
        failed(name, str(error), error.exit_status, as_json=as_json)
        raise typer.Exit(error.exit_status) from error
    except KeyboardInterrupt:
        failed(name, "interrupted", EXIT_INTERRUPTED, as_json=as_json)
        raise typer.Exit(EXIT_INTERRUPTED) from None
    except MemoryError as error:
        sentence = (
            "memory ran out; allow more with --max-memory, or take a smaller model, batch or "
            "--workers"
        )
        failed(name, sentence, InputError.exit_status, as_json=as_json)
        raise typer.Exit(InputError.exit_status) from error
    except Exception as error:
        if os.environ.get(TRACEBACK):
            raise
        sentence = (
            f"internal error, {type(error).__name__}: {printable(str(error))}; please report it "
            f"with the traceback that {TRACEBACK}=1 shows"
        )
        failed(name, sentence, EXIT_INTERNAL, as_json=as_json)
        raise typer.Exit(EXIT_INTERNAL) from error
