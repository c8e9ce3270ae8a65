"""onnxgraft: take a trained network to a deployable INT8 engine, and prove it at every step.

The stages are ``onnxgraft.convert``, ``onnxgraft.surgery``, ``onnxgraft.quantize``,
``onnxgraft.engine`` and ``onnxgraft.validate``; ``onnxgraft.deploy`` chains them.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

from onnxgraft.errors import InputError, MissingDependencyError, OnnxgraftError

if TYPE_CHECKING:
    from onnxgraft.model import Model
    from onnxgraft.pipeline import LiteEngine, Recipe, deploy, read_recipe
    from onnxgraft.ranges import Ranges
    from onnxgraft.report import Report
    from onnxgraft.runtime import Engine
    from onnxgraft.samples import Preprocess, Samples, open_samples

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
    "Engine": "onnxgraft.runtime",
    "LiteEngine": "onnxgraft.pipeline",
    "Model": "onnxgraft.model",
    "Preprocess": "onnxgraft.samples",
    "Ranges": "onnxgraft.ranges",
    "Recipe": "onnxgraft.pipeline",
    "Report": "onnxgraft.report",
    "Samples": "onnxgraft.samples",
    "deploy": "onnxgraft.pipeline",
    "open_samples": "onnxgraft.samples",
    "read_recipe": "onnxgraft.pipeline",
}
_STAGES = ("convert", "engine", "quantize", "surgery", "validate")


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name in _STAGES:
        return importlib.import_module(f"onnxgraft.{name}")
    raise AttributeError(f"module 'onnxgraft' has no attribute {name!r}")
