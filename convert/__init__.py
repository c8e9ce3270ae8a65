"""Framework export -> `Model`: read what a user holds, lower it to ONNX, keep its names.

An `Original` is a model file and how it is opened: `lower` gives the model as converted, `run` the
same file running in its own framework, and `inspect` what it holds. The clean-up of the graph is
surgery's, the comparison of the two the commands'.
"""

from __future__ import annotations

from onnxgraft.stages.convert.detection import Framework, detect
from onnxgraft.stages.convert.inspection import Inspection
from onnxgraft.stages.convert.io_layout import IoLayout
from onnxgraft.stages.convert.objects import written
from onnxgraft.stages.convert.original import DEFAULT_OPSET, Original
from onnxgraft.stages.convert.pictures import told_by

__all__ = [
    "DEFAULT_OPSET",
    "Framework",
    "Inspection",
    "IoLayout",
    "Original",
    "detect",
    "told_by",
    "written",
]
