"""onnxgraft: take a trained network to a deployable INT8 engine, and prove it at every step.

The commands are functions of the same names and parameters: ``onnxgraft.convert``,
``onnxgraft.deploy`` and so on. The stages that they chain are packages in ``onnxgraft.stages``.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from onnxgraft.errors import InputError, MissingDependencyError, OnnxgraftError
from onnxgraft.optional import late

if TYPE_CHECKING:
    from onnxgraft.commands import (
        Budget,
        LiteEngine,
        Recipe,
        ServedEngine,
        bench,
        build,
        bundle,
        calibrate,
        convert,
        deploy,
        diff,
        export,
        infer,
        init,
        inspect,
        quantize,
        read_recipe,
        recipe_schema,
        serve,
        surgery,
        validate,
        view,
    )
    from onnxgraft.data.postprocess import Postprocess
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
    "Postprocess",
    "Preprocess",
    "Ranges",
    "Recipe",
    "Report",
    "Samples",
    "ServedEngine",
    "bench",
    "build",
    "bundle",
    "calibrate",
    "convert",
    "deploy",
    "diff",
    "export",
    "infer",
    "init",
    "inspect",
    "load_engine",
    "open_samples",
    "quantize",
    "read_recipe",
    "recipe_schema",
    "serve",
    "surgery",
    "validate",
    "view",
]
__version__ = "0.1.0"

# Nothing is sent to anyone: from its version 1.31 on, onnxruntime would send events to its makers.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
# OpenCV looks when it is imported; it decodes no larger pictures either (`limits.IMAGE_PIXELS`).
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(1 << 26))

# Loaded when first asked for: `onnxgraft --help` must not wait for onnx, nor who serves an engine
# have it.
_ELSEWHERE = {
    "Engine": ".run.engine",
    "Model": ".graph.model",
    "Postprocess": ".data.postprocess",
    "Preprocess": ".data.preprocess",
    "Ranges": ".data.ranges",
    "Report": ".stages.validate.report",
    "Samples": ".data.samples",
    "load_engine": ".stages.engine:load",
    "open_samples": ".data.samples",
}
__getattr__ = late(__name__, dict.fromkeys(__all__, ".commands") | _ELSEWHERE)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
