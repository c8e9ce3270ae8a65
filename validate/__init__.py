"""Original x candidates x samples -> what a report shows, and its views."""

from __future__ import annotations

from onnxgraft.validate._html import write_html
from onnxgraft.validate._junit import write_junit
from onnxgraft.validate._metrics import METRICS, Metric, make_metric
from onnxgraft.validate._parting import Parting, find_parting
from onnxgraft.validate._stream import Candidate, validate
from onnxgraft.validate._text import render

__all__ = [
    "METRICS",
    "Candidate",
    "Metric",
    "Parting",
    "find_parting",
    "make_metric",
    "render",
    "validate",
    "write_html",
    "write_junit",
]
