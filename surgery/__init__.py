"""Model -> Model: the clean-up of a graph, one rewrite a file.

`run` applies the passes of `PASSES` until none finds anything more, and returns what each did
and refused; `extract` cuts a part out of a graph.
"""

from __future__ import annotations

from onnxgraft.graph.cut import extract
from onnxgraft.stages.surgery.list import PASSES
from onnxgraft.stages.surgery.running.history import Step
from onnxgraft.stages.surgery.running.lineage import Move, followed
from onnxgraft.stages.surgery.running.rewrite import Finding, Pass, Plugin, Result
from onnxgraft.stages.surgery.running.runner import PassReport, SurgeryReport, run

__all__ = [
    "PASSES",
    "Finding",
    "Move",
    "Pass",
    "PassReport",
    "Plugin",
    "Result",
    "Step",
    "SurgeryReport",
    "extract",
    "followed",
    "run",
]
