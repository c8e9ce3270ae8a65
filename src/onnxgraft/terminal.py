"""Text for a person: whole words in lines that fit a terminal, and whole lines everywhere else."""

from __future__ import annotations

import sys

from rich.console import Console

from onnxgraft.errors import printable, wrapped

__all__ = ["say"]


def say(console: Console, text: str, style: str | None = None, *, always: bool = False) -> None:
    """Print text that comes from files and models: without markup or control codes.

    On a terminal no word is broken at the end of a line; off it, a line stays one, unless it is
    always to be as wide as the console at most.
    """
    text = printable(text, sys.maxsize)
    if always or console.is_terminal:
        text = wrapped(text, console.width)
    console.print(text, style=style, highlight=False, markup=False, soft_wrap=True)
