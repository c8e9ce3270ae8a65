"""The report as one HTML file that needs nothing else."""

from __future__ import annotations

import os
from pathlib import Path

from onnxgraft.files import write_bytes
from onnxgraft.report import Report

__all__ = ["write_html"]


def write_html(report: Report, path: str | os.PathLike[str]) -> None:
    """Write ``report`` as HTML; everything that comes from a model is escaped."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(Path(__file__).with_name("report.html.j2").read_text())
    operators = sorted(
        {*report.operators_before, *report.operators_after},
        key=lambda op: (-report.operators_before.get(op, 0), op),
    )
    first = {row.batch: row.median_ms for row in reversed(report.latency)}
    slowest = max((row.median_ms for row in report.latency), default=1.0)
    classes = list(dict.fromkeys(name for row in report.candidates for name in row.per_class))
    page = template.render(
        report=report, operators=operators, first=first, slowest=slowest, classes=classes
    )
    write_bytes(path, page.encode(errors="backslashreplace"))
