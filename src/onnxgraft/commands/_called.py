"""What was written on the command line."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterator, Sequence
from contextvars import ContextVar

__all__ = ["called", "command"]

_words: ContextVar[Sequence[str]] = ContextVar("_words", default=())


@contextlib.contextmanager
def called(words: Sequence[str]) -> Iterator[None]:
    """Note what was written on the command line, behind ``onnxgraft``, while the block runs."""
    token = _words.set(words)
    try:
        yield
    finally:
        _words.reset(token)


def command() -> str:
    """Return the command line; empty where Python called a function."""
    words = _words.get()
    return shlex.join(["onnxgraft", *words]) if words else ""
