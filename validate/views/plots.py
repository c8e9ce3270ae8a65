"""The report's plots as SVG: numbers in, shapes out; colours are the page's style sheet's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from onnxgraft.stages.validate.report import CandidateRow, LatencyRow, LayerRow, RangeRow

__all__ = [
    "Bar", "CurvePlot", "LayerPlot", "Strip", "curve_plots", "histogram_path", "latency_strip",
    "layer_plot",
]  # fmt: skip

# A layer is drawn where it leaves less of the signal over its noise, in dB. Those that add nothing,
# as those that an engine fuses into others, would hide the others. The second is for graphs in
# float, all of whose layers leave more than the first.
_MOST_DB = (100.0, 200.0)
_LEAST_ERROR = 1e-9


@dataclass(frozen=True)
class Bar:
    """One layer in a plot.

    Attributes:
        x: Left edge.
        y: Top.
        width: Of the bar.
        height: Of the bar.
        precision: Gives the colour.
        guilty: Marked.
        title: Shown under the pointer.
    """

    x: float
    y: float
    width: float
    height: float
    precision: str
    guilty: bool
    title: str


@dataclass
class LayerPlot:
    """A plot of all layers.

    Attributes:
        width: In SVG units.
        height: Likewise.
        bars: One a layer.
        line: ``points`` of a polyline; empty where there is none.
        ticks: (y, label).
        exact: How many layers add nothing, and are not drawn.
    """

    width: float
    height: float
    exact: int = 0
    bars: list[Bar] = field(default_factory=list)
    line: str = ""
    ticks: list[tuple[float, str]] = field(default_factory=list)


_WIDTH, _HEIGHT, _LEFT = 900.0, 220.0, 56.0
_FOOT = 8.0  # below the axis, for the last label
_WIDEST = 40.0  # of a layer, where there are few


def layer_plot(rows: Sequence[LayerRow], what: str) -> LayerPlot:
    """Return a plot of the noise of layers, with what arrives as a line, or of their errors.

    Args:
        rows: The layers; those that add nothing are left out.
        what: ``sqnr``: noise in dB of the signal; or ``error``.
    """
    most = next((most for most in _MOST_DB if any(row.sqnr < most for row in rows)), _MOST_DB[0])
    drawn = [row for row in rows if row.sqnr < most or row.guilty]
    plot = LayerPlot(_WIDTH, _HEIGHT + _FOOT, len(rows) - len(drawn))
    step = min((_WIDTH - _LEFT) / max(len(drawn), 1), _WIDEST)
    if what == "sqnr":
        limits = (-most, 0.0)
        marks = [most * part / 4 - most for part in range(5)]
        plot.ticks = [(_y(mark, limits), f"{mark:.0f} dB") for mark in marks]
    else:
        limits = (math.log10(_LEAST_ERROR), 0.0)
        plot.ticks = [(_y(v, limits), f"1e{v}") for v in range(-9, 1, 3)]
    points = []
    for index, row in enumerate(drawn):
        x = _LEFT + index * step
        top = _y(-row.sqnr if what == "sqnr" else _exponent(row.relative), limits)
        title = (
            f"{row.origin} ({row.operator}, {row.precision}): its own error {row.relative:.1e} of "
            f"the range, SQNR {row.sqnr:.1f} dB"
        )
        if row.arrived is not None:
            title += f", {row.arrived:.1f} dB with all before it"
            if what == "sqnr":
                points.append(f"{x + step / 2:.1f},{_y(-row.arrived, limits):.1f}")
        if row.guilty:
            title += f"; {row.guilty}"
        plot.bars.append(
            Bar(
                round(x, 2), round(top, 2), round(max(step * 0.8, 0.5), 2),
                round(max(_HEIGHT - top, 1.0), 2), row.precision, bool(row.guilty), title,
            )
        )  # fmt: skip
    plot.line = " ".join(points)
    return plot


def _y(value: float, limits: tuple[float, float]) -> float:
    low, high = limits
    # What can't be told is as bad as can be.
    value = high if math.isnan(value) else min(max(value, low), high)
    return 6 + (_HEIGHT - 6) * (1 - (value - low) / (high - low))


def _exponent(value: float) -> float:
    return math.log10(min(max(value, _LEAST_ERROR), 1.0))


@dataclass
class CurvePlot:
    """Curves of one kind, a line for each candidate.

    Attributes:
        kind: Of the curves.
        name: Of the class; empty for all together.
        lines: (number of the candidate, ``points`` of a polyline).
        ticks: (x, label).
    """

    kind: str
    name: str
    lines: list[tuple[int, str]]
    ticks: list[tuple[float, str]]


# Where a plot of curves begins and ends; the template draws its frame there.
_CURVE_LEFT, _CURVE_RIGHT, _CURVE_TOP, _CURVE_FOOT = 34.0, 286.0, 8.0, 192.0
# Wrong boxes in an image, as powers of ten.
_FEWEST, _MOST = -2.0, 2.0


def curve_plots(rows: Sequence[CandidateRow]) -> list[CurvePlot]:
    """Return the plots of what candidates have curves of, all classes together first."""
    found: dict[tuple[str, str], list[tuple[int, str]]] = {}
    for number, row in enumerate(rows):
        for curve in row.curves:
            points = " ".join(f"{_across(curve.kind, x):.1f},{_up(y):.1f}" for x, y in curve.points)
            found.setdefault((curve.kind, curve.name), []).append((number, points))
    powers = [(0.01, "0.01"), (0.1, "0.1"), (1, "1"), (10, "10"), (100, "100")]
    shares = [(0, "0"), (0.25, "0.25"), (0.5, "0.5"), (0.75, "0.75"), (1, "1")]
    return [
        CurvePlot(
            kind, name, lines,
            [(_across(kind, x), label) for x, label in (powers if kind == "found" else shares)],
        )
        for (kind, name), lines in found.items()
    ]  # fmt: skip


def _across(kind: str, value: float) -> float:
    if kind == "found":
        power = math.log10(max(value, 10**_FEWEST))
        value = (min(power, _MOST) - _FEWEST) / (_MOST - _FEWEST)
    return _CURVE_LEFT + (_CURVE_RIGHT - _CURVE_LEFT) * value


def _up(value: float) -> float:
    return _CURVE_TOP + (_CURVE_FOOT - _CURVE_TOP) * (1 - value)


@dataclass(frozen=True)
class Strip:
    """A latency distribution, as fractions of the plot's width.

    Attributes:
        dots: Of single runs.
        median: Where the mark stands.
        p90: End of the thick line.
        p99: End of the thin line.
    """

    dots: list[float]
    median: float
    p90: float
    p99: float


def latency_strip(row: LatencyRow, longest: float) -> Strip:
    """Return the distribution of one engine's times."""
    part = 100 / longest if longest else 0.0
    dots = [round(time * part, 2) for time in row.times_ms[:400] if time <= longest]
    return Strip(dots, row.median_ms * part, row.p90_ms * part, min(row.p99_ms * part, 100.0))


def histogram_path(row: RangeRow, width: float = 260.0, height: float = 60.0) -> str:
    """Return the outline of a histogram with a logarithmic count, as an SVG path."""
    most = max((math.log1p(count) for count in row.counts), default=0.0) or 1.0
    step = width / max(len(row.counts), 1)
    points = [f"M0,{height:.1f}"]
    for index, count in enumerate(row.counts):
        top = height * (1 - math.log1p(count) / most)
        points.append(f"L{index * step:.1f},{top:.1f}L{(index + 1) * step:.1f},{top:.1f}")
    return "".join([*points, f"L{width:.1f},{height:.1f}Z"])
