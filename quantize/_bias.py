"""What quantization adds to a layer's output on average, taken off its bias.

    b += mean(y of the float graph) - mean(y of the INT8 graph)        for each channel

Layer after layer in the graph's order, each with those before it corrected already (Nagel et al.,
2019, 4.2, on data): so the mean that the layers before leave wrong is mended too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.model import Model
from onnxgraft.progress import track
from onnxgraft.quantize._shapes import shapes_of
from onnxgraft.reference import OnnxRuntime, exposing
from onnxgraft.runtime import Array
from onnxgraft.samples import Samples

__all__ = ["corrections"]

_CHANNEL_AXIS = {"Conv": 1, "ConvTranspose": 1, "Gemm": 1}


def corrections(
    model: Model,
    layers: Sequence[gs.Node],
    quantized: Callable[[Mapping[str, Array]], Model],
    samples: Samples,
) -> dict[str, Array]:
    """Return (channels,) for each layer with a bias, by its name.

    Args:
        model: The float graph.
        layers: Of the graph, in its order.
        quantized: Makes the INT8 graph with the corrections so far.
        samples: As many as shall be run, once for each layer.
    """
    known = shapes_of(model)
    outputs = {
        node.name: node.outputs[0].name
        for node in layers
        if node.op in _CHANNEL_AXIS and node.outputs[0].name in known
    }
    expected = _means(model, list(outputs.values()), samples)
    found: dict[str, Array] = {}
    for name, output in track(outputs.items(), "correcting biases", len(outputs)):
        actual = _means(quantized(found), [output], samples)
        found[name] = expected[output] - actual[output]
    return found


def _means(model: Model, names: Sequence[str], samples: Samples) -> dict[str, Array]:
    """Return the means over everything but axis 1, (channels,) float64."""
    sums = {name: np.zeros(1) for name in names}
    with OnnxRuntime(exposing(model.to_onnx(), names), name="bias correction") as session:
        for sample in samples:
            for name, value in session.infer(sample.feeds).items():
                axes = tuple(axis for axis in range(value.ndim) if axis != 1)
                sums[name] = sums[name] + value.mean(axis=axes, dtype=np.float64)
    return {name: total / len(samples) for name, total in sums.items()}
