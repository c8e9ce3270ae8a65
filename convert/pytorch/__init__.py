"""PyTorch's .pt2: read as data from a stranger, exported by PyTorch, and run by it."""

from __future__ import annotations

from onnxgraft.stages.convert.pytorch.exporting import lower_program
from onnxgraft.stages.convert.pytorch.inspecting import inspect_program
from onnxgraft.stages.convert.pytorch.program import Program, read_program
from onnxgraft.stages.convert.pytorch.running import PyTorch

__all__ = ["Program", "PyTorch", "inspect_program", "lower_program", "read_program"]
