"""Original x candidates x samples -> what a report shows, and its views.

Names are loaded when they are asked for: most commands need a few of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxgraft.optional import late
from onnxgraft.stages.validate.measure.stream import measure  # its package has the name, too

if TYPE_CHECKING:
    from onnxgraft.data.classes import Classes, find_classes
    from onnxgraft.data.labels import Labels, check_labels, read_labels
    from onnxgraft.stages.validate.divergence.divergence import (
        Bisection,
        Divergence,
        bisect,
        find_divergence,
    )
    from onnxgraft.stages.validate.divergence.matching import MatchedGraph
    from onnxgraft.stages.validate.divergence.mistakes import find_mistake
    from onnxgraft.stages.validate.measure.fitting import Scoring, fit_metric
    from onnxgraft.stages.validate.measure.judging import Candidate
    from onnxgraft.stages.validate.measure.noise import (
        Tolerance,
        measured_tolerance,
        users_tolerance,
    )
    from onnxgraft.stages.validate.measure.spread import Opener
    from onnxgraft.stages.validate.measure.stream import rows
    from onnxgraft.stages.validate.measure.tally import Answer, Tally, labelled_rows
    from onnxgraft.stages.validate.metrics import (
        METRICS,
        Answered,
        Metric,
        declared,
        find_metric,
        make_metric,
    )
    from onnxgraft.stages.validate.polygraphy import (
        Recorded,
        is_recording,
        read_inputs,
        save_inputs,
        save_outputs,
    )
    from onnxgraft.stages.validate.views.html import write_html
    from onnxgraft.stages.validate.views.junit import write_junit
    from onnxgraft.stages.validate.views.text import render

__all__ = [
    "METRICS",
    "Answer",
    "Answered",
    "Bisection",
    "Candidate",
    "Classes",
    "Divergence",
    "Labels",
    "MatchedGraph",
    "Metric",
    "Opener",
    "Recorded",
    "Scoring",
    "Tally",
    "Tolerance",
    "bisect",
    "check_labels",
    "declared",
    "find_classes",
    "find_divergence",
    "find_metric",
    "find_mistake",
    "fit_metric",
    "is_recording",
    "labelled_rows",
    "make_metric",
    "measure",
    "measured_tolerance",
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

__getattr__ = late(
    __name__,
    {
        "Answer": ".measure.tally",
        "Answered": ".metrics",
        "Bisection": ".divergence.divergence",
        "Candidate": ".measure.judging",
        "Classes": "onnxgraft.data.classes",
        "Divergence": ".divergence.divergence",
        "Labels": "onnxgraft.data.labels",
        "METRICS": ".metrics",
        "MatchedGraph": ".divergence.matching",
        "Metric": ".metrics",
        "Opener": ".measure.spread",
        "Recorded": ".polygraphy",
        "Scoring": ".measure.fitting",
        "Tally": ".measure.tally",
        "Tolerance": ".measure.noise",
        "bisect": ".divergence.divergence",
        "check_labels": "onnxgraft.data.labels",
        "declared": ".metrics",
        "find_classes": "onnxgraft.data.classes",
        "find_divergence": ".divergence.divergence",
        "find_metric": ".metrics",
        "find_mistake": ".divergence.mistakes",
        "fit_metric": ".measure.fitting",
        "is_recording": ".polygraphy",
        "labelled_rows": ".measure.tally",
        "make_metric": ".metrics",
        "measured_tolerance": ".measure.noise",
        "read_inputs": ".polygraphy",
        "read_labels": "onnxgraft.data.labels",
        "render": ".views.text",
        "rows": ".measure.stream",
        "save_inputs": ".polygraphy",
        "save_outputs": ".polygraphy",
        "users_tolerance": ".measure.noise",
        "write_html": ".views.html",
        "write_junit": ".views.junit",
    },
)
