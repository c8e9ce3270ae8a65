"""Completion in bash, zsh and fish, and what can be completed beside options and files."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

import typer

__all__ = ["SHELLS", "VARIABLE", "listed", "one_of", "prepare", "script"]

SHELLS = ("bash", "zsh", "fish")
# In which a shell asks for completions, as its script says.
VARIABLE = "_ONNXGRAFT_COMPLETE"


def script(shell: str) -> str:
    """Return what a shell has to run so that it completes ``onnxgraft``."""
    from typer.completion import get_completion_script  # type: ignore[attr-defined]

    if shell not in SHELLS:
        raise typer.BadParameter(f"no shell is called {shell!r}; there are: {', '.join(SHELLS)}")
    return get_completion_script(prog_name="onnxgraft", complete_var=VARIABLE, shell=shell)


def prepare() -> None:
    """Get ready to answer a shell, if it is one that asks."""
    if os.environ.get(VARIABLE):
        from typer.completion import completion_init  # type: ignore[attr-defined]

        completion_init()


def one_of(names: Iterable[str]) -> Callable[[str], list[str]]:
    """Return what completes a word to one of ``names``."""
    known = tuple(names)
    return lambda incomplete: [name for name in known if name.startswith(incomplete)]


def listed(names: Iterable[str]) -> Callable[[str], list[str]]:
    """Return what completes the last name of a list such as ``a,b``; none occurs twice.

    >>> listed(["tensorrt", "openvino", "onnxruntime"])("openvino,o")
    ['openvino,onnxruntime']
    """
    known = tuple(names)

    def complete(incomplete: str) -> list[str]:
        before, comma, word = incomplete.rpartition(",")
        given = before.split(",")
        return [
            f"{before}{comma}{name}"
            for name in known
            if name.startswith(word) and name not in given
        ]

    return complete
