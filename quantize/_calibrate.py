"""Calibration: one pass over the samples, memory for one of them."""

from __future__ import annotations

import hashlib

from onnxgraft.errors import InputError, ModelError
from onnxgraft.model import Model
from onnxgraft.progress import track
from onnxgraft.quantize._thresholds import Method, choose_range
from onnxgraft.quantize.placement import activations
from onnxgraft.ranges import Histogram, Ranges
from onnxgraft.reference import OnnxRuntime, exposing
from onnxgraft.samples import Samples

__all__ = ["calibrate", "fingerprint"]


def calibrate(model: Model, samples: Samples, method: Method = "entropy") -> Ranges:
    """Run ``model`` over ``samples`` and choose the range of every tensor that a target wants.

    Args:
        model: A float graph, cleaned.
        samples: What the network will meet.
        method: How ranges are chosen.

    Raises:
        InputError: There is nothing to quantize, or a tensor is NaN or infinite.
    """
    names = activations(model.graph)
    if not names:
        raise ModelError(f"{model.file}: there is no layer that could run in INT8")
    histograms = {name: Histogram() for name in names}
    fed = {spec.name for spec in model.inputs}
    inner = [name for name in names if name not in fed]
    # Where inputs alone are quantized there is nothing to run.
    session = OnnxRuntime(exposing(model.to_onnx(), inner), name="calibration") if inner else None
    for sample in track(samples, "calibrating", len(samples)):
        values = {**sample.feeds, **(session.infer(sample.feeds) if session else {})}
        for name, histogram in histograms.items():
            histogram.add(values[name])
            if histogram.nonfinite:
                raise InputError(
                    f"{sample.name}: the tensor {name!r} becomes NaN or infinite on this sample; "
                    "check the preprocessing recipe, or the model"
                )
    return Ranges(
        method=method,
        images=len(samples),
        model=fingerprint(model),
        preprocess=samples.preprocess.fingerprint,
        data=samples.source,
        tensors={
            name: choose_range(histogram, method)
            for name, histogram in track(histograms.items(), "choosing ranges", len(histograms))
        },
        histograms=histograms,
    )


def fingerprint(model: Model) -> str:
    """Return the SHA-256 of what the graph computes: its nodes and initializers, not its notes."""
    graph = model.to_onnx().graph
    digest = hashlib.sha256()
    for part in (*graph.input, *graph.node, *sorted(graph.initializer, key=lambda i: i.name)):
        digest.update(part.SerializeToString(deterministic=True))
    return digest.hexdigest()
