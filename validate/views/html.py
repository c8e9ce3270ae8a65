"""The report as one HTML file that needs nothing else."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

from onnxgraft.files import write_bytes
from onnxgraft.stages.validate.report import (
    CandidateRow,
    EngineRow,
    GalleryRow,
    HostRow,
    LayerTimeRow,
    RangeRow,
    Report,
)
from onnxgraft.stages.validate.views.classes import changed_classes, confusions
from onnxgraft.stages.validate.views.graph import Drawn, graph_part
from onnxgraft.stages.validate.views.numbers import metric_value
from onnxgraft.stages.validate.views.plots import (
    curve_plots,
    histogram_path,
    latency_strip,
    layer_plot,
)
from onnxgraft.stages.validate.views.templates import template

__all__ = ["write_html"]

# As wide as the histograms' SVG.
_HISTOGRAM = 260.0
# Layers whose times are shown at once.
_LAYERS = 20


def write_html(report: Report, path: str | os.PathLike[str], graphs: Drawn | None = None) -> None:
    """Write ``report`` as HTML, with graphs to walk through; all that models say is escaped."""
    operators = sorted(
        {*report.operators_before, *report.operators_after},
        key=lambda op: (-report.operators_before.get(op, 0), op),
    )
    ends = {row.batch: _longest(report, row.batch) for row in report.latency}
    page = template("report.html.j2").render(
        report=report,
        graph=None if graphs is None else graph_part(graphs),
        operators=operators,
        most=max([1, *report.operators_before.values(), *report.operators_after.values()]),
        first={row.batch: row.median_ms for row in reversed(report.latency)},
        classes=changed_classes(report.candidates),
        confusion=confusions(report.candidates),
        gallery_classes=sorted({name for row in report.gallery for name in row.classes}),
        gallery=_shots(report.gallery),
        gallery_colors={
            name: colour for row in report.gallery for name, colour in row.colors.items()
        },
        layers=[
            (name, rows, [("sqnr", layer_plot(rows, "sqnr")), ("error", layer_plot(rows, "error"))])
            for name, rows in (
                (key, list(group)) for key, group in groupby(report.layers, lambda r: r.candidate)
            )
        ],
        layer_times=_layer_times(report),
        answers=_answers(report),
        latency=[
            (row, latency_strip(row, ends[row.batch]), ends[row.batch]) for row in report.latency
        ],
        ranges=[
            (row, histogram_path(row), _marks(row), _kept(row), _chosen(row))
            for row in report.ranges
        ],
        curves=curve_plots(report.candidates),
        value=metric_value,
    )
    write_bytes(path, page.encode(errors="backslashreplace"))


def _shots(rows: Sequence[GalleryRow]) -> list[tuple[GalleryRow, list[str]]]:
    """Return the samples of the gallery, each once for all engines that answer the same."""
    found: list[tuple[GalleryRow, list[str]]] = []
    for row in rows:
        same = (names for one, names in found if replace(row, candidate=one.candidate) == one)
        names = next(same, None)
        if names is None:
            found.append((row, [row.candidate]))
        elif row.candidate not in names:
            names.append(row.candidate)
    return found


def _answers(report: Report) -> list[dict[str, Any]]:
    """Return what matters most of each candidate: whether it is right, how fast, how large."""
    found = []
    original = report.candidates[0] if report.candidates else None
    metric = next(iter(original.metrics), "") if original else ""
    batch = report.latency[0].batch if report.latency else 0
    latency = {row.name: row for row in report.latency if row.batch == batch}
    for row in report.candidates[1:]:
        built = next((one for one in report.engines if one.candidate == row.name), None)
        timed = latency.get(row.name)
        base = next((one for name, one in latency.items() if name != row.name), None)
        value = row.metrics.get(metric)
        found.append({
            "row": row, "engine": built, "latency": timed, "metric": value,
            "difference": None if value is None or original is None
            else value - original.metrics.get(metric, value),
            "faster": base.median_ms / timed.median_ms if base and timed else None,
            "base": base.name if base else "", "look": _look(report, row, built),
            "where": _where(report, row, built), "threads": _threads(report, row, built),
        })  # fmt: skip
    return found


def _host(report: Report, row: CandidateRow) -> HostRow | None:
    """Return the host that a candidate was run on, where that is another machine."""
    return next((host for host in report.hosts if row.name in host.results), None)


def _where(report: Report, row: CandidateRow, built: EngineRow | None) -> str:
    """Return the processor or GPU that a candidate runs on."""
    host = _host(report, row)
    if host is not None:
        return f"{host.name}: {host.processor}"
    return built.where if built else report.versions.get("processor", "")


def _threads(report: Report, row: CandidateRow, built: EngineRow | None) -> str:
    """Return how many threads an engine has: all cores where it was not told; none of a GPU's."""
    host = _host(report, row)
    if host is None and built is not None and not built.cpu:
        return ""
    if built is not None and built.threads:
        return str(built.threads)
    cores = report.machine.get("cores") if host is None else host.cores
    return f"all {cores} cores" if cores else "all cores"


def _look(report: Report, row: CandidateRow, built: EngineRow | None) -> tuple[str, str] | None:
    """Return what to look at first, where something is wrong with a candidate, and the section."""
    if built is not None and built.proven is False:
        return "the engine: it does not compute what its graph says", "engines"
    guilty = next((one for one in report.layers if one.candidate == row.name and one.guilty), None)
    if not row.passed and guilty is not None:
        # A sentence that says what is allowed does not say what there is.
        bare = " is allowed in " in guilty.guilty
        off = f"off by {guilty.relative:.1e} of its range, " if bare else ""
        return f"{guilty.origin}: {off}{guilty.guilty}", "layers"
    if not row.passed or row.warnings:
        return next(iter(row.warnings), row.verdict), "validation"
    slow = next((note for note in report.notes if note.startswith(f"{row.name} is slower")), None)
    if slow is None:
        return None
    return slow, "layer-times" if report.layer_times else "latency"


def _layer_times(report: Report) -> dict[str, Any]:
    """Return the layers with a row for each engine, those that take most first."""
    engines = [whole.engine for whole in report.layers_timed]
    rows: dict[str, dict[str, LayerTimeRow]] = {}
    for row in report.layer_times:
        rows.setdefault(row.layer, {})[row.engine] = row
    costs = {name: max(r.milliseconds for r in mine.values()) for name, mine in rows.items()}
    return {
        "layers": [
            {
                "name": name, "operator": next(iter(rows[name].values())).operator,
                "rows": [rows[name].get(engine) for engine in engines],
            }
            for name in sorted(costs, key=lambda name: -costs[name])
        ],
        "longest": max(costs.values(), default=0.0) or 1.0,
        "most": _LAYERS,
    }  # fmt: skip


def _longest(report: Report, batch: int) -> float:
    """Return where the plots of a batch's times end, in ms; single runs may lie beyond."""
    rows = [row for row in report.latency if row.batch == batch]
    longest = max(max(row.times_ms, default=row.p99_ms) for row in rows)
    return min(longest, 2 * max(row.p99_ms for row in rows))


def _marks(row: RangeRow) -> list[tuple[float, str]]:
    """Return where the ranges' ends stand in the histogram, in its units, and whose they are."""
    span = row.maximum - row.minimum
    if not span:
        return []
    whose: dict[float, list[str]] = {}
    for target, ends in row.kept.items():
        for end in ends:
            place = round((end - row.minimum) / span * _HISTOGRAM, 1)
            if -1 <= place <= _HISTOGRAM + 1:
                whose.setdefault(place, []).append(target)
    return [(place, ", ".join(dict.fromkeys(targets))) for place, targets in whose.items()]


def _kept(row: RangeRow) -> list[str]:
    """Return what is kept of a tensor, a line for each range that differs."""
    return _by_target({t: f"{low:.4g} to {high:.4g}" for t, (low, high) in row.kept.items()})


def _chosen(row: RangeRow) -> list[str]:
    """Return which method chose that, and why, a line for each that differs."""
    return _by_target(row.chosen)


def _by_target(told: Mapping[str, str]) -> list[str]:
    """Return the texts, each once, with the targets that it is for if they differ."""
    targets: dict[str, list[str]] = {}
    for target, text in told.items():
        targets.setdefault(text, []).append(target)
    if len(targets) == 1:
        return list(targets)
    return [f"{text} for {' and '.join(names)}" for text, names in targets.items()]
