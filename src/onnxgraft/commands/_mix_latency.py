"""How fast the mixes of a search are on their target, where it is here."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

from onnxgraft.commands._bench import BenchTarget, measure
from onnxgraft.errors import NotSupportedError
from onnxgraft.graph.model import Model
from onnxgraft.run.feeds import fixed_batches
from onnxgraft.stages import engine
from onnxgraft.stages.convert import Original
from onnxgraft.targets import Floats, Precision, find_target

__all__ = ["measured_latency"]


def measured_latency(models: Mapping[str, Model], target: str, floats: Floats) -> dict[str, float]:
    """Return the median milliseconds of each graph, in processes of their own that take turns.

    The batch is 1, or the one that the graphs are made for.

    Args:
        models: By what they are called; a graph without INT8 runs in FP32.
        target: Whose engines are built, into a temporary folder.
        floats: What INT8 graphs' float layers run in.

    Raises:
        OnnxgraftError: The target's library is not installed, or no engine of it can run here.
    """
    if not engine.runs_here(target):
        raise NotSupportedError(f"no {find_target(target).title} engine can run here")
    with tempfile.TemporaryDirectory() as place:
        targets = []
        for number, (name, model) in enumerate(models.items()):
            path = Path(place) / f"{number}.engine"
            precision: Precision = "fp32"
            if engine.graph_precision(model) == "int8":
                precision = "int8" if floats == "fp32" else floats
            engine.build(model, path, target, precision=precision)
            targets.append(BenchTarget(name, "engine", Original(str(path)), precision))
        fixed = {batch for model in models.values() for batch in fixed_batches(model.inputs)[:1]}
        timed = measure(targets, batches=tuple(fixed) or (1,))
        return {row.name: row.median_ms for row in timed}
