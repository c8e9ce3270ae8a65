"""Validation of any two: an original, an ONNX file, an engine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Unpack

from onnxgraft import convert, engine
from onnxgraft.compare import FLOAT_TOLERANCE
from onnxgraft.engine.passport import passport_path
from onnxgraft.errors import InputError, NotSupportedError
from onnxgraft.model import Model
from onnxgraft.reference import OnnxRuntime
from onnxgraft.report import Report
from onnxgraft.runtime import Engine
from onnxgraft.samples import Preprocess, open_samples
from onnxgraft.validate import Candidate, make_metric, write_html, write_junit
from onnxgraft.validate import validate as compare_all

__all__ = ["open_engine", "open_judge", "validate", "write_report"]


def open_engine(
    path: str | os.PathLike[str], *, original: bool = False, **how: Unpack[convert.Opening]
) -> Engine:
    """Return what ``path`` is, ready to infer: a built engine, an ONNX file or an original.

    Args:
        path: A file with a passport beside it is an engine.
        original: Take it for an original even so.
        how: Of an original, see `convert.Opening`.
    """
    file = Path(path)
    if not original and passport_path(file).is_file():
        return engine.load(file)
    if not original and file.suffix == ".onnx":
        return OnnxRuntime(Model.load(file).to_onnx(), name=file.name)
    return convert.original(path, **how)


def open_judge(
    path: str | os.PathLike[str], **how: Unpack[convert.Opening]
) -> tuple[Engine, list[str]]:
    """Return the original running in its framework, or what stands in for it, and a note if so.

    Where nothing runs the original (OpenCV departs from Caffe in some layers), the graph as it was
    converted, before any clean-up, is the judge in onnxruntime.
    """
    try:
        return convert.original(path, **how), []
    except NotSupportedError as error:
        model, _ = convert.load(path, **how)
        judge = OnnxRuntime(model.to_onnx(), name="converted graph")
        return judge, [f"the converted graph stands in for the original: {error}"]


def validate(
    original: str | os.PathLike[str],
    candidate: str | os.PathLike[str],
    data: str | os.PathLike[str],
    *,
    preprocess: Preprocess | None = None,
    metric: str | None = None,
    classes: str = "camvid",
    metric_output: str | None = None,
    drop: float = 1.0,
    tolerance: float = FLOAT_TOLERANCE,
    images: int | None = None,
    **how: Unpack[convert.Opening],
) -> Report:
    """Compare ``candidate`` with ``original`` on ``data``.

    Args:
        original: The judge: a model in its own framework.
        candidate: An ONNX file, a built engine or another original.
        data: A folder, a list file or an ``.npz``.
        preprocess: The recipe for images.
        metric: ``top1`` or ``miou``; None compares outputs alone.
        classes: Of ``miou``: ``camvid`` or ``cityscapes``.
        metric_output: The output that the metric looks at; None takes the first.
        drop: Points that an INT8 candidate may lose.
        tolerance: For float candidates, as a fraction of an output's range.
        images: How many samples; None takes all.
        how: Of the original, see `convert.Opening`.
    """
    make = None if metric is None else lambda: make_metric(metric, classes)
    judge, notes = open_judge(original, **how)
    with judge, open_engine(candidate) as other:
        mine, theirs = ([spec.name for spec in side.outputs] for side in (judge, other))
        if len(mine) == len(theirs) == 1 and mine != theirs:
            notes.append(f"the candidate's output {theirs[0]} was taken for {mine[0]}")
        samples = open_samples(data, judge.inputs, preprocess, images=images)
        quantized = _is_quantized(Path(candidate))
        rows = compare_all(
            judge,
            [Candidate(other, None if quantized else tolerance, drop)],
            samples,
            make,
            metric_output,
        )
    return Report(
        title=Path(candidate).name,
        source=os.fspath(original),
        samples=len(samples),
        candidates=rows,
        notes=notes,
    )


def write_report(
    report: Report,
    folder: str | os.PathLike[str],
    final: str | os.PathLike[str] | None = None,
) -> None:
    """Write ``report`` into ``folder`` as ``report.html``, ``report.json`` and ``junit.xml``.

    Args:
        report: Notes where it was written.
        folder: Is made if it is not there.
        final: Where the files will be moved to; None leaves them.
    """
    place = Path(folder)
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{place}: can't be made ({error.strerror})") from error
    names = {"report": "report.html", "report data": "report.json", "JUnit": "junit.xml"}
    home = place if final is None else Path(final)
    report.artifacts |= {role: os.fspath(home / name) for role, name in names.items()}
    write_junit(report, place / names["JUnit"])
    report.save(place / names["report data"])
    write_html(report, place / names["report"])


def _is_quantized(path: Path) -> bool:
    if passport_path(path).is_file():
        return engine.read_passport(path).precision == "int8"
    if path.suffix != ".onnx":
        return False
    return "QuantizeLinear" in Model.load(path).operators()
