"""Model -> Model: the clean-up of a graph, one rewrite a file.

`run` applies the passes of `PASSES` until none finds anything more, and returns what each did
and refused.
"""

from __future__ import annotations

from onnxgraft.surgery._list import PASSES
from onnxgraft.surgery._rewrite import Finding, Pass, Result
from onnxgraft.surgery._runner import PassReport, SurgeryReport, run

__all__ = ["PASSES", "Finding", "Pass", "PassReport", "Result", "SurgeryReport", "run"]
