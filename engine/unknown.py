"""Engines without a passport, which the user trusts: whose they are."""

from __future__ import annotations

from pathlib import Path

from onnxgraft.errors import InputError
from onnxgraft.targets import TARGETS, Target

__all__ = ["is_engine", "target_of"]


def target_of(path: Path) -> Target:
    """Return the target of an engine by how its file begins.

    Raises:
        InputError: It is no engine that one of the targets writes.
    """
    with path.open("rb") as file:
        head = file.read(64)
    for target in TARGETS:
        if target.wrote(head):
            return target
    *names, last = (target.title for target in TARGETS)
    raise InputError(f"{path}: not an engine of {', '.join(names)} or {last}")


def is_engine(path: Path) -> bool:
    """Tell whether a file begins as the engines of one of the targets do."""
    try:
        target_of(path)
    except InputError:
        return False
    return True
