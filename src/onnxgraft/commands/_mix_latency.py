"""How fast the mixes of a search are on their target, where it is here."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from onnxgraft.commands._bench import BenchTarget, bench
from onnxgraft.errors import NotSupportedError
from onnxgraft.graph.model import Model
from onnxgraft.stages import engine

__all__ = ["Floats", "measured_latency"]

Floats = Literal["fp32", "fp16", "bf16"]


def measured_latency(models: Mapping[str, Model], target: str, floats: Floats) -> dict[str, float]:
    """Return the median milliseconds of each graph at batch 1, each in its own process, in turn.

    Args:
        models: By what they are called; a graph without INT8 runs in FP32.
        target: Whose engines are built, into a temporary folder.
        floats: What INT8 graphs' float layers run in.

    Raises:
        OnnxgraftError: The target's library is not installed, or no engine of it can run here.
    """
    if target == "tensorrt" and engine.default_target() != "tensorrt":
        raise NotSupportedError("there is no NVIDIA GPU with TensorRT here")
    with tempfile.TemporaryDirectory() as place:
        targets = []
        for number, (name, model) in enumerate(models.items()):
            path = Path(place) / f"{number}.engine"
            precision: engine.Precision = "fp32"
            if engine.graph_precision(model) == "int8":
                precision = "int8" if floats == "fp32" else floats
            engine.build(model, path, target, precision=precision)
            targets.append(BenchTarget(name, "engine", str(path), precision=precision))
        return {row.name: row.median_ms for row in bench(targets)}
