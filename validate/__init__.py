"""Original x candidates x samples -> what a report shows, and its views."""

from __future__ import annotations

from onnxgraft.classes import Classes, find_classes
from onnxgraft.validate._html import write_html
from onnxgraft.validate._junit import write_junit
from onnxgraft.validate._labels import check_labels, read_labels
from onnxgraft.validate._layout import adapted, like, partners
from onnxgraft.validate._matching import MatchedGraph
from onnxgraft.validate._metrics import METRICS, Answered, Metric, make_metric, own_function
from onnxgraft.validate._mistakes import find_mistake
from onnxgraft.validate._noise import Tolerance, measured_tolerance, users_tolerance
from onnxgraft.validate._parting import Bisection, Parting, bisect, find_parting
from onnxgraft.validate._polygraphy import Recorded, read_inputs, save_inputs, save_outputs
from onnxgraft.validate._spread import Opener
from onnxgraft.validate._stream import Candidate, measure, rows
from onnxgraft.validate._tally import Answer, Tally
from onnxgraft.validate._text import render

__all__ = [
    "METRICS",
    "Answer",
    "Answered",
    "Bisection",
    "Candidate",
    "Classes",
    "MatchedGraph",
    "Metric",
    "Opener",
    "Parting",
    "Recorded",
    "Tally",
    "Tolerance",
    "adapted",
    "bisect",
    "check_labels",
    "find_classes",
    "find_mistake",
    "find_parting",
    "like",
    "make_metric",
    "measure",
    "measured_tolerance",
    "own_function",
    "partners",
    "read_inputs",
    "read_labels",
    "render",
    "rows",
    "save_inputs",
    "save_outputs",
    "users_tolerance",
    "write_html",
    "write_junit",
]
