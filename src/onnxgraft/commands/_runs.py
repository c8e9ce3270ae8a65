"""What a run left, as plain tables that two runs can be compared by."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.commands._opening import Place
from onnxgraft.data.ranges import Ranges
from onnxgraft.errors import InputError
from onnxgraft.files import existing_file, read_json
from onnxgraft.files.limits import DOCUMENT_BYTES
from onnxgraft.graph.model import Model
from onnxgraft.graph.operators import op_of
from onnxgraft.graph.walk import nodes_within
from onnxgraft.stages.engine.passport import Passport, own_passport, passport_path

__all__ = ["LATENCY", "METRICS", "PASSED", "SIZE", "Run", "Value", "read_report", "read_run"]

Value = float | str | None
Table = dict[str, Value]

METRICS, LATENCY, SIZE, PASSED = "metrics", "latency in ms", "size in bytes", "verdicts"
# Of each metric ``up``, ``down``, or nothing.
BETTER = "where metrics are better"
# What an engine is called that is compared by itself.
_ALONE = "the engine"
_REPORT = "report.json"
# The end of a digest's hexadecimal digits is enough to tell two of them apart.
_DIGITS = 12


@dataclass(frozen=True)
class Run:
    """What a run left.

    Attributes:
        path: Of the folder, report or engine.
        engine: Whether it is an engine alone.
        tables: By part, and in it by name.
    """

    path: str
    engine: bool
    tables: Mapping[str, Table] = field(default_factory=dict)


def read_run(path: Place, *, alone: bool = True) -> Run:
    """Read what a run left.

    Args:
        path: A folder with a report, the report's JSON, or an engine with its passport.
        alone: Of an engine: it is not looked for by its name.

    Raises:
        InputError: It is none of them, or is damaged, or an engine in it is another file than its
            passport describes.
    """
    place = Path(path)
    tables: dict[str, Table] = {}
    if place.is_dir():
        if not (place / _REPORT).is_file():
            raise InputError(
                f"{place}: holds no {_REPORT}; name a folder that onnxgraft deploy or validate "
                "--report wrote"
            )
        _add(tables, read_report(place / _REPORT))
        mine = written_by(read_json(place / _REPORT))
        for file in filter(mine, sorted(place.iterdir())):
            if file.suffix == ".onnx":
                _add(tables, _graph(file))
            elif file.name == "ranges.json":
                _add(tables, _ranges(file))
            elif passport_path(file).is_file():
                passport = own_passport(file)
                _add(tables, _engine(file, passport, passport.name))
        return Run(str(path), engine=False, tables=tables)
    if passport_path(place).is_file():
        passport = own_passport(place)
        name = _ALONE if alone else passport.name
        _add(tables, _engine(place, passport, name))
        return Run(str(path), engine=True, tables=tables)
    return Run(str(path), engine=False, tables=read_report(place))


def written_by(report: object) -> Callable[[Path], bool]:
    """Return what tells whether a file beside a report is of its run, and not of an earlier one."""
    artifacts = report.get("artifacts") if isinstance(report, dict) else None
    names = {Path(str(place)).name for place in artifacts.values()} if artifacts else set()
    names -= {_REPORT, "report.html", "junit.xml"}
    # `validate` writes its report beside engines that are not its own.
    return lambda file: not names or file.name in names


def read_report(path: Place) -> dict[str, Table]:
    """Read the JSON of a report.

    Raises:
        InputError: It is none.
    """
    file = existing_file(path, "the report", DOCUMENT_BYTES)
    with _read(file, "no report that onnxgraft wrote"):
        document = read_json(file)
        return {part: dict(make(document)) for part, make in _OF_REPORT.items()}


@contextlib.contextmanager
def _read(file: Path, what: str) -> Iterator[None]:
    """Say of a file that can't be taken apart what it is, and what to name in its place."""
    try:
        yield
    except (
        ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError,
    ) as error:  # fmt: skip
        raise InputError(
            f"{file}: is {what} ({type(error).__name__}); name a folder with a {_REPORT}, that "
            "file, or an engine with its passport"
        ) from error


def _add(tables: dict[str, Table], more: Mapping[str, Mapping[str, Value]]) -> None:
    for part, table in more.items():
        mine = tables.setdefault(part, {})
        for name, value in table.items():
            mine.setdefault(name, value)


# A report ---------------------------------------------------------------------------------------

Rows = Iterator[tuple[str, Value]]


def _value(value: Any) -> Value:
    """Return what a table has of a value of JSON."""
    if isinstance(value, bool | str) or value is None:
        return None if value is None else str(value)
    return float(value)


def _plain(values: Mapping[str, Any], begin: str = "") -> Rows:
    """Yield what nested objects hold, each under the keys that lead to it."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _plain(value, f"{begin}{key}.")
        elif isinstance(value, list):
            yield f"{begin}{key}", ", ".join(map(str, value))
        else:
            yield f"{begin}{key}", _value(value)


def _of_candidates(key: str) -> Callable[[Mapping[str, Any]], Rows]:
    """Return what yields the entries of an object of each candidate."""

    def make(report: Mapping[str, Any]) -> Rows:
        for row in report["candidates"]:
            for name, value in row[key].items():
                yield f"{row['name']}: {name}", _value(value)

    return make


def _better(report: Mapping[str, Any]) -> Rows:
    for row in report["candidates"]:
        for name in row["metrics"]:
            yield f"{row['name']}: {name}", str(row.get("direction", "up"))


def _verdicts(report: Mapping[str, Any]) -> Rows:
    for row in (*report["candidates"], *[
        {"name": row["stage"], "passed": row["passed"]} for row in report["stages"]
    ]):  # fmt: skip
        yield str(row["name"]), "pass" if row["passed"] else "FAIL"
    for row in report["engines"]:
        if row["proven"] is not None:
            yield f"{row['name']}: proven", "pass" if row["proven"] else "FAIL"


def _agreement(report: Mapping[str, Any]) -> Rows:
    for row in report["candidates"]:
        if row["agreement"] is not None:
            yield f"{row['name']}: {row['measure']}", _value(row["agreement"])


def _latency(rows: Sequence[Mapping[str, Any]], name: str = "") -> Rows:
    for row in rows:
        yield f"{name or row['name']}, batch {row['batch']}", _value(row["median_ms"])


def _first(report: Mapping[str, Any]) -> Rows:
    for row in report["latency"]:
        if row.get("first_ms"):
            yield f"{row['name']}, batch {row['batch']}", _value(row["first_ms"])


def _layers(key: str) -> Callable[[Mapping[str, Any]], Rows]:
    def make(report: Mapping[str, Any]) -> Rows:
        for row in report["layers"]:
            yield f"{row['candidate']}: {row['origin']}", _value(row[key])

    return make


def _layer_times(report: Mapping[str, Any]) -> Rows:
    for row in report.get("layer_times", []):
        yield f"{row['engine']}: {row['layer']}", _value(row["milliseconds"])


def _hashes(report: Mapping[str, Any]) -> Rows:
    for name, digest in report.get("hashes", {}).items():
        yield str(name), str(digest)[:_DIGITS]


def _stage_times(report: Mapping[str, Any]) -> Rows:
    for row in report["times"]:
        # What an earlier run had made took its time then.
        yield str(row["stage"]), _value(row["before"] if row["kept"] else row["seconds"])


_OF_REPORT: Mapping[str, Callable[[Mapping[str, Any]], Rows]] = {
    "recipe": lambda report: _plain(report.get("recipe", {})),
    "versions": lambda report: _plain(report["versions"]),
    "machine": lambda report: _plain(report.get("machine", {})),
    "hashes": _hashes,
    "operators": lambda report: _plain(report["operators_after"]),
    "precision of layers": _layers("precision"),
    "error of layers in dB": _layers("sqnr"),
    METRICS: _of_candidates("metrics"),
    BETTER: _better,
    "classes": _of_candidates("per_class"),
    "agreement": _agreement,
    PASSED: _verdicts,
    LATENCY: lambda report: _latency(report["latency"]),
    "first answer in ms": _first,
    "layers in ms": _layer_times,
    "seconds of the run": _stage_times,
}


# Files ------------------------------------------------------------------------------------------


def _graph(file: Path) -> dict[str, Table]:
    """Return the nodes of a graph, each with a digest of what it holds."""
    return {
        f"graph {file.name}": {
            str(node.name): f"{op_of(node)} {_digest(node)}"
            for node in nodes_within(Model.load(file).graph)
        }
    }


def _digest(node: gs.Node) -> str:
    """Return a digest of a node's attributes and constants, and of which tensors it reads."""
    total = hashlib.sha256()
    for key, value in sorted(node.attrs.items()):
        total.update(f"{key}\0{'' if isinstance(value, gs.Graph) else value}\0".encode())
    for tensor in node.inputs:
        if isinstance(tensor, gs.Constant):
            values = np.ascontiguousarray(tensor.values)
            total.update(f"{values.dtype}{values.shape}".encode())
            total.update(values.tobytes())
        else:
            total.update(f"{tensor.name}\0".encode())
    return total.hexdigest()[:_DIGITS]


def _ranges(file: Path) -> dict[str, Table]:
    return {
        "ranges": {
            name: f"[{one.low:.6g}, {one.high:.6g}]"
            for name, one in Ranges.load(file).tensors.items()
        }
    }


def _engine(file: Path, passport: Passport, name: str) -> dict[str, Table]:
    """Return what a passport says of an engine."""
    with _read(passport_path(file), "no passport that onnxgraft wrote"):
        return _told(file, passport, name)


def _told(file: Path, passport: Passport, name: str) -> dict[str, Table]:
    metrics: Table = {}
    agreement: Table = {}
    for key, value in passport.accuracy.items():
        # Figures of an output are called by it; those of a task are not.
        if ": " in key:
            agreement[f"{name}: {key}"] = _value(value)
        elif key != "samples":
            metrics[f"{name}: {key}"] = _value(value)
    proven = passport.proven
    return {
        "recipe": dict(_plain(passport.recipe)),
        "versions": dict(_plain(passport.versions)),
        "machine": dict(_plain({**passport.machine, "processor": str(passport.cpu)})),
        "flags": {f"{name}: {k}": v for k, v in _plain(passport.flags.to_json())},
        "hashes": {
            f"{name}: {key}": value[:_DIGITS]
            for key, value in {
                **passport.hashes, "graph": passport.graph, "original": passport.source.sha256,
            }.items()
        },
        "precision": {name: passport.label},
        "precision of layers": {f"{name}: {one.layer}": one.precision for one in passport.layers},
        METRICS: metrics,
        BETTER: dict.fromkeys(metrics, passport.direction),
        "agreement of outputs": agreement,
        PASSED: {} if proven is None else {f"{name}: proven": "pass" if proven else "FAIL"},
        LATENCY: dict(_latency(passport.latency, name)),
        SIZE: {name: float(file.stat().st_size)},
    }  # fmt: skip
