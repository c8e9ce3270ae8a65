"""`view`: the graphs of a model or of a run as one page to walk through."""

from __future__ import annotations

import math
import os
import sys
import webbrowser
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from onnxgraft.commands._graphs import Aimed, Cleaning, Measured, layers_at, walk
from onnxgraft.commands._opening import ModelGiven, Place, graph_of_engine, is_engine
from onnxgraft.commands._outputs import check_output
from onnxgraft.commands._runs import written_by
from onnxgraft.data.ranges import Ranges
from onnxgraft.errors import InputError, OnnxgraftError
from onnxgraft.files import existing_file, read_json
from onnxgraft.files.limits import DOCUMENT_BYTES
from onnxgraft.files.trust import Trust
from onnxgraft.graph.foreign import WEB_PAGE
from onnxgraft.graph.model import Model
from onnxgraft.graph.operators import op_of
from onnxgraft.graph.walk import nodes_within
from onnxgraft.progress import status
from onnxgraft.stages import quantize, surgery
from onnxgraft.stages.convert import Original
from onnxgraft.stages.engine.passport import passport_path, read_passport
from onnxgraft.stages.validate.report import LayerRow, LayerTimeRow
from onnxgraft.stages.validate.views.gallery import range_rows
from onnxgraft.stages.validate.views.graph import Walk, write_walk

__all__ = ["Viewed", "floats_in", "measured_in", "report_in", "view"]

# The clean graph's engine in reports.
_CLEAN = "onnxruntime fp32"
_REPORT, _RANGES = "report.json", "ranges.json"
# The keys of a recipe that say how the original is opened.
_OPENED = ("weights", "inputs", "outputs", "signature", "freeze_batchnorm")


@dataclass(frozen=True)
class Viewed:
    """What `view` wrote.

    Attributes:
        out: The page.
        stages: How many nodes each graph in it has, by its title.
        notes: What could not be shown, and why.
        opened: Whether a browser was asked to show it.
    """

    out: str
    stages: dict[str, int]
    notes: list[str] = field(default_factory=list)
    opened: bool = False

    passed = True

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return asdict(self)


def view(
    model: ModelGiven,
    *,
    weights: Place | None = None,
    inputs: str | None = None,
    outputs: str | None = None,
    signature: str | None = None,
    trust: Trust = False,
    ranges: Place | None = None,
    out: Place | None = None,
    open: bool | None = None,
    force: bool = False,
) -> Viewed:
    """Write a page that lets one walk through a model's graphs, before and after, linked.

    Of a model these are the original and the cleaned graph; of an engine the graph that it was
    built from and its layers; of a folder that `deploy` wrote all of them, with what it measured.

    Args:
        model: A model as `convert` takes it, an engine with its passport, or such a folder.
        weights: The weights of a Caffe network.
        inputs: Where to cut the graph's beginning, as for `convert`.
        outputs: Where to cut its end.
        signature: The signature of a SavedModel.
        trust: Load a Keras file or a .pt2 that brings code: True, or the names of what may.
        ranges: Of the model's tensors, as `calibrate` wrote them.
        out: Where to write the page; None writes ``NAME.html`` here.
        open: Show it in the browser; None does so where the standard output is a terminal.
        force: Replace an existing file of another kind, too.

    Raises:
        InputError: It can't be read, or a folder holds no graphs.
    """
    place = Path(model) if isinstance(model, str | os.PathLike) else None
    page = Path(out if out is not None else f"{_name(place)}.html")
    check_output(page, WEB_PAGE, force=force)
    run = place is not None and place.is_dir() and _holds_a_run(place)
    given = {
        "--weights": weights, "--inputs": inputs, "--outputs": outputs, "--signature": signature,
        "--ranges": ranges,
    }  # fmt: skip
    with status("reading the graphs"):
        if place is not None and (run or is_engine(place)):
            for option in (name for name, value in given.items() if value is not None):
                what = "a run" if run else "an engine"
                raise InputError(f"{option} goes with a model, and {place} is {what}; leave it out")
            found = _of_folder(place) if run else _of_engine(place)
        else:
            original = Original.of(
                model, weights=weights, inputs=inputs, outputs=outputs, signature=signature,
                trust=trust,
            )  # fmt: skip
            found = _of_model(original, ranges)
    with status("writing the page"):
        write_walk(found.drawn(), page)
    shows = sys.stdout.isatty() if open is None else open
    if shows and not webbrowser.open(page.absolute().as_uri()):
        found.notes.append(f"no browser could be asked to show it; open {page} yourself")
        shows = False
    nodes = {s.title: sum(not n.role for n in s.nodes) for s in found.stages}
    return Viewed(os.fspath(page), nodes, found.notes, shows)


def _name(place: Path | None) -> str:
    """Return what the page is called after."""
    if place is None:
        return "model"
    return place.name if place.is_dir() and place.name else place.stem or place.absolute().name


def _holds_a_run(folder: Path) -> bool:
    return (folder / _REPORT).is_file() or (folder / "model.onnx").is_file()


def _of_model(original: Original, ranges: Place | None) -> Walk:
    lowered, notes = original.lower()
    cleaned, report = surgery.run(lowered)
    kept = None if ranges is None else Ranges.load(ranges, histograms=True)
    rows = [] if kept is None else range_rows(kept, {"": kept})
    found = walk(original.title, lowered, cleaned, Cleaning.of(report), (), Measured(ranges=rows))
    found.notes += notes
    return found


def _of_engine(file: Path) -> Walk:
    passport = read_passport(file)
    graph = graph_of_engine(file)
    if graph is None:
        raise InputError(
            f"{file}: the graph that it was built from is not beside it; put that ONNX file into "
            "the same folder, or name it in place of the engine"
        )
    notes: list[str] = []
    aimed = [Aimed(passport.name, graph, layers_at(file, notes))]
    found = walk(passport.name, None, None, aimed=aimed)
    found.notes += notes
    return found


def _of_folder(folder: Path) -> Walk:
    """Return what lies in a folder that `deploy` wrote, with the original where that is there."""
    report = report_in(folder)
    notes: list[str] = []
    cleaned = Model.load(folder / "model.onnx") if (folder / "model.onnx").is_file() else None
    original, cleaning = _again(report, cleaned, notes)
    floats = floats_in(report)
    aimed = []
    for file in filter(written_by(report), sorted(folder.iterdir())):
        if passport_path(file).is_file() and is_engine(file):
            passport = read_passport(file)
            name = folder / f"model.{passport.weights or passport.precision}.{passport.target}.onnx"
            graph = Model.load(name) if name.is_file() else None
            aimed.append(Aimed(passport.name, graph, layers_at(file, notes),
                               floats.get(passport.target, {})))  # fmt: skip
    title = str(report.get("title") or folder.absolute().name)
    found = walk(title, original, cleaned, cleaning, aimed, measured_in(folder, report, notes))
    if not found.stages:
        raise InputError(
            f"{folder}: holds no graph; name a folder that onnxgraft deploy wrote, or a model"
        )
    found.notes += notes
    return found


def report_in(folder: Path) -> dict[str, Any]:
    """Return the JSON of the report in a folder; empty where there is none.

    Raises:
        InputError: It is damaged.
    """
    file = folder / _REPORT
    if not file.is_file():
        return {}
    try:
        told = read_json(existing_file(file, "the report", DOCUMENT_BYTES))
    except ValueError as error:
        raise InputError(f"{file}: is no report that onnxgraft wrote ({error})") from error
    if not isinstance(told, dict):
        raise InputError(f"{file}: is no report that onnxgraft wrote; name a folder of a run")
    return told


def _again(
    report: dict[str, Any], cleaned: Model | None, notes: list[str]
) -> tuple[Model | None, Cleaning | None]:
    """Return the original of a run, converted once more, and what surgery did to it."""
    told = report.get("recipe") or {}
    if not told:
        return None, None
    try:
        opened: dict[str, Any] = {key: told.get(key) for key in _OPENED}
        original = Original.of(told["model"], values=told.get("set", ()), **opened)
        lowered, _ = original.lower(
            told.get("opset"), told.get("io_layout", "keep"), oldest=quantize.OLDEST_OPSET
        )
    except (AttributeError, LookupError, OnnxgraftError, TypeError, ValueError) as error:
        notes.append(f"the original is not shown, as it can't be converted again: {error}")
        return None, None
    again, done = surgery.run(lowered)
    if cleaned is None:
        return lowered, None
    # The numbers that converters put behind names are not the same in every run.
    mine, theirs = ([*nodes_within(model.graph)] for model in (again, cleaned))
    same = again.source.sha256 == cleaned.source.sha256
    if same and [*map(op_of, mine)] == [*map(op_of, theirs)]:
        pairs = zip(mine, theirs, strict=True)
        return lowered, Cleaning.of(done, {str(n.name): str(o.name) for n, o in pairs})
    notes.append(
        "the original has changed since, or onnxgraft has: its nodes are linked by their names"
    )
    return lowered, None


def floats_in(report: dict[str, Any]) -> dict[str, dict[str, str]]:
    """Return why layers stayed in float, by target and node."""
    found: dict[str, dict[str, str]] = {}
    with suppress(TypeError, ValueError):  # of another version
        for target, layer, why in report.get("float_layers", ()):
            found.setdefault(target, {})[layer] = str(why)
    return found


def measured_in(folder: Path, report: dict[str, Any], notes: list[str]) -> Measured:
    """Return what a run measured, as far as this version understands its report."""
    layers: list[LayerRow] = []
    times: list[LayerTimeRow] = []
    try:
        rows_of_layers = [_finite(row) for row in report.get("layers", ())]
        layers = TypeAdapter(list[LayerRow]).validate_python(rows_of_layers)
        times = TypeAdapter(list[LayerTimeRow]).validate_python(report.get("layer_times", []))
    except (AttributeError, TypeError, ValidationError) as error:
        told = str(error).splitlines()[0]
        notes.append(f"errors and times are not shown: the report is of another version ({told})")
    rows = []
    with suppress(InputError):
        kept = Ranges.load(folder / _RANGES, histograms=True)
        rows = range_rows(kept, {"": kept})
    return Measured(layers, times, rows, _CLEAN)


def _finite(row: dict[str, Any]) -> dict[str, Any]:
    """Return a layer of a report's JSON, which has no infinity: an error of zero is one in dB."""
    return {key: math.inf if key == "sqnr" and value is None else value
            for key, value in row.items()}  # fmt: skip
