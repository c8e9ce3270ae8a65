"""Arguments in the wrong order are recognised by what the files are, and the right one is told."""

from __future__ import annotations

import os
from pathlib import Path

from onnxgraft.commands._opening import MODEL_SUFFIXES
from onnxgraft.commands._outputs import ONNX
from onnxgraft.data.images import IMAGE_SUFFIXES
from onnxgraft.errors import InputError
from onnxgraft.graph.foreign import ARRAYS, ENGINE, JSON, RANGES, kind_of

__all__ = ["DATA", "IMAGE", "MODEL", "check_order"]

MODEL, DATA, IMAGE = "a model", "data", "an image"
_LISTS = frozenset({".csv", ".jsonl", ".txt"})
_KINDS = {ENGINE: ENGINE, RANGES: RANGES, ONNX: MODEL, ARRAYS: DATA, JSON: DATA}


def check_order(
    first: tuple[object, tuple[str, ...]], second: tuple[object, tuple[str, ...]], line: str
) -> None:
    """Raise InputError where each of two arguments is what the other should be.

    Args:
        first: What was given, and what it may be.
        second: Likewise.
        line: The right command, with ``{0}`` and ``{1}`` where the two belong that were swapped.
    """
    (one, wanted), (other, expected) = first, second
    found, beside = _role(one), _role(other)
    if found in expected and beside in wanted and found not in wanted:
        raise InputError(
            f"{one} and {other} look swapped: the first is {found}, the second is {beside}; "
            f"write onnxgraft {line.format(other, one)}"
        )


def _role(given: object) -> str:
    """Return what a path is to a command; empty where that can't be told."""
    if not isinstance(given, str | os.PathLike):
        return ""
    file = Path(given)
    if os.path.isdir(file):
        saved = any((file / name).is_file() for name in ("saved_model.pb", "saved_model.pbtxt"))
        return MODEL if saved else DATA
    if not os.path.isfile(file):
        return ""
    suffix = file.suffix.lower()
    if suffix in IMAGE_SUFFIXES:
        return IMAGE
    try:
        kind = kind_of(file)
    except OSError:
        return ""
    if kind in _KINDS and not (kind == JSON and suffix != ".json"):
        return _KINDS[kind]
    if suffix in MODEL_SUFFIXES:
        return MODEL
    return DATA if suffix in _LISTS else ""
