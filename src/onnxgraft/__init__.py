"""onnxgraft: take a trained network to a deployable INT8 engine, and prove it at every step.

The commands are functions of the same names and parameters: ``onnxgraft.convert``,
``onnxgraft.deploy`` and so on. The stages that they chain are packages in ``onnxgraft.stages``.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

from onnxgraft.errors import InputError, MissingDependencyError, OnnxgraftError

if TYPE_CHECKING:
    from onnxgraft.commands import (
        Budget,
        LiteEngine,
        Recipe,
        bench,
        build,
        bundle,
        calibrate,
        convert,
        deploy,
        diff,
        infer,
        init,
        inspect,
        quantize,
        read_recipe,
        recipe_schema,
        surgery,
        validate,
    )
    from onnxgraft.data.preprocess import Preprocess
    from onnxgraft.data.ranges import Ranges
    from onnxgraft.data.samples import Samples, open_samples
    from onnxgraft.graph.model import Model
    from onnxgraft.run.engine import Engine
    from onnxgraft.stages.engine import load as load_engine
    from onnxgraft.stages.validate.report import Report

__all__ = [
    "Budget",
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
    "bench",
    "build",
    "bundle",
    "calibrate",
    "convert",
    "deploy",
    "diff",
    "infer",
    "init",
    "inspect",
    "load_engine",
    "open_samples",
    "quantize",
    "read_recipe",
    "recipe_schema",
    "surgery",
    "validate",
]
__version__ = "0.1.0"

# Nothing is sent to anyone: from its version 1.31 on, onnxruntime would send events to its makers.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

# Loaded when first asked for: `onnxgraft --help` must not wait for onnx.
_ELSEWHERE = {
    "Engine": ("onnxgraft.run.engine", "Engine"),
    "Model": ("onnxgraft.graph.model", "Model"),
    "Preprocess": ("onnxgraft.data.preprocess", "Preprocess"),
    "Ranges": ("onnxgraft.data.ranges", "Ranges"),
    "Report": ("onnxgraft.stages.validate.report", "Report"),
    "Samples": ("onnxgraft.data.samples", "Samples"),
    "load_engine": ("onnxgraft.stages.engine", "load"),
    "open_samples": ("onnxgraft.data.samples", "open_samples"),
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'onnxgraft' has no attribute {name!r}")
    module, attribute = _ELSEWHERE.get(name, ("onnxgraft.commands", name))
    return getattr(importlib.import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
