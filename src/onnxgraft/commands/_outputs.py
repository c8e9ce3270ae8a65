"""Where commands write: an existing file of another kind is not replaced, unless that is asked."""

from __future__ import annotations

import os
from collections.abc import Iterable
from fnmatch import fnmatch
from pathlib import Path

from onnxgraft.commands._opening import Place
from onnxgraft.errors import InputError
from onnxgraft.files import check_place, refuse_irregular
from onnxgraft.graph.foreign import (
    ARRAYS,
    ENGINE,
    JSON,
    PASSPORT,
    RANGES,
    WEB_PAGE,
    XML,
    kind_of,
)

__all__ = [
    "ONNX", "TIMINGS", "check_beside", "check_deployed", "check_output", "check_report",
]  # fmt: skip

ONNX = "an ONNX model"
# TensorRT's timings have no mark: what is known to be something else is none.
TIMINGS = ""
# What `deploy` writes into its folder, by the name.
_DEPLOYED = (
    ("model.onnx", ONNX), ("model.*.*.onnx", ONNX), ("ranges.json", RANGES),
    ("ranges.json.histograms.npz", ARRAYS), ("engine.*.json", PASSPORT), ("engine.*", ENGINE),
)  # fmt: skip
_REPORT = (("report.html", WEB_PAGE), ("report.json", JSON), ("junit.xml", XML))
# What stands beside a file of a kind, by the end of its name.
_BESIDE = {ENGINE: (".json", PASSPORT), RANGES: (".histograms.npz", ARRAYS)}


def check_output(path: Place | None, kind: str, *, force: bool = False) -> None:
    """Raise InputError unless a file of a kind may be written at ``path``, and what is beside it.

    Commands ask this before they begin. What is there of the same kind is replaced, and what is
    empty; anything else with ``force``.

    Args:
        path: None is no place to check.
        kind: As `kind_of` says it.
        force: Replace a file of any kind; never what is no file.
    """
    check_place(path)
    if path is None:
        return
    _refuse(Path(path), kind, force)
    if kind in _BESIDE:
        end, other = _BESIDE[kind]
        check_beside(f"{os.fspath(path)}{end}", other, force=force)


def check_report(folder: Place, *, force: bool = False) -> None:
    """Raise InputError where a report would replace files of other kinds in a folder."""
    for name, kind in _REPORT:
        check_beside(Path(folder) / name, kind, force=force)


def check_deployed(folder: Place, inputs: Iterable[Place], *, force: bool = False) -> None:
    """As `check_report`, for all that `deploy` writes; its own inputs are never replaced."""
    theirs = {Path(file).resolve() for file in inputs}
    place = Path(folder)
    if place.resolve() in theirs:
        raise InputError(f"{place}: is what deploy reads; name another folder with -o")
    for entry in sorted(place.iterdir()) if place.is_dir() else ():
        kind = next((kind for name, kind in _DEPLOYED if fnmatch(entry.name, name)), None)
        if kind is None:
            continue
        if entry.resolve() in theirs:
            raise InputError(f"{entry}: is what deploy reads; name another folder with -o")
        check_beside(entry, kind, force=force)
    check_report(folder, force=force)


def check_beside(path: Place, kind: str, *, force: bool = False) -> None:
    """As `check_output`, of a file that is written along with another, or shared."""
    file = Path(path)
    refuse_irregular(file)
    if os.path.isdir(file):
        raise InputError(f"{file}: is a folder, and {kind} goes there; write elsewhere")
    _refuse(file, kind, force)


def _refuse(file: Path, kind: str, force: bool) -> None:
    if force or not os.path.isfile(file) or file.stat().st_size == 0:
        return
    try:
        found = kind_of(file)
    except OSError as error:
        raise InputError(f"{file}: can't be replaced ({error.strerror})") from error
    if found != kind:
        raise InputError(
            f"{file}: is there already, and is {found or 'no file that onnxgraft knows'}, not "
            f"{kind or 'a file of timings'}; name another file, or replace it with --force"
        )
