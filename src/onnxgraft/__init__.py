"""onnxgraft: take a trained network to a deployable INT8 engine, and prove it at every step.

The commands are functions: ``onnxgraft.convert``, ``onnxgraft.deploy`` and so on. The stages that
they chain are packages in ``onnxgraft.stages``.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

from onnxgraft.errors import InputError, MissingDependencyError, OnnxgraftError

if TYPE_CHECKING:
    from onnxgraft.commands import LiteEngine, Recipe, deploy, read_recipe
    from onnxgraft.data.preprocess import (
        Preprocess,
    )
    from onnxgraft.data.ranges import Ranges
    from onnxgraft.data.samples import (
        Samples,
        open_samples,
    )
    from onnxgraft.graph.model import Model
    from onnxgraft.run.engine import Engine
    from onnxgraft.stages.validate.report import Report

__all__ = [
    "Engine",
    "InputError",
    "LiteEngine",
    "MissingDependencyError",
    "Model",
    "OnnxgraftError",
    "Preprocess",
    "Ranges",
    "Recipe",
    "Report",
    "Samples",
    "deploy",
    "open_samples",
    "read_recipe",
]
__version__ = "0.1.0"

# Nothing is told to anyone: from its version 1.31 on, onnxruntime would send events to its makers.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

# Loaded when first asked for: `onnxgraft --help` must not wait for onnx.
_HOMES = {
    "Engine": "onnxgraft.run.engine",
    "LiteEngine": "onnxgraft.commands",
    "Model": "onnxgraft.graph.model",
    "Preprocess": "onnxgraft.data.samples",
    "Ranges": "onnxgraft.data.ranges",
    "Recipe": "onnxgraft.commands",
    "Report": "onnxgraft.stages.validate.report",
    "Samples": "onnxgraft.data.samples",
    "deploy": "onnxgraft.commands",
    "open_samples": "onnxgraft.data.samples",
    "read_recipe": "onnxgraft.commands",
}
_STAGES = ("convert", "engine", "quantize", "surgery", "validate")


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name in _STAGES:
        return importlib.import_module(f"onnxgraft.stages.{name}")
    raise AttributeError(f"module 'onnxgraft' has no attribute {name!r}")
