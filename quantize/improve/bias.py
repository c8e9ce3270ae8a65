"""What quantization adds to a layer's output on average, taken off its bias.

    b += mean(y of the float graph - y of the INT8 graph)        for each channel

Layer after layer in the graph's order, each with those before it corrected already (Nagel et al.,
2019, 4.2, on data): so the mean that the layers before leave wrong is mended too.

Where a range clips a few large values, most of the mean is theirs, and taking it off everywhere
would spoil what was right; so the mean of the middle 80 % of the errors is asked too, and the
smaller of the two counts where they agree in sign. Any value between 0 and the mean lessens the
squared error. Before a Relu only what passes it counts, on either side.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.data.samples import Samples
from onnxgraft.graph.model import Model
from onnxgraft.graph.operators import is_op
from onnxgraft.graph.tensors import Array
from onnxgraft.progress import track
from onnxgraft.run.exact import exact
from onnxgraft.stages.quantize.place.shapes import shapes_of

__all__ = ["corrections"]

_WITH_BIAS = ("Conv", "ConvTranspose", "Gemm")
# Positions of a tensor that are looked at in a sample.
_POSITIONS = 512
# The part of the errors that is no part of their middle, on either side.
_TAIL = 0.1


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
        if is_op(node, *_WITH_BIAS) and node.outputs[0].name in known
    }
    rectified = {node.name: _is_rectified(node.outputs[0]) for node in layers}
    expected = _outputs(model, list(outputs.values()), samples)
    found: dict[str, Array] = {}
    for name, output in track(outputs.items(), "correcting biases", len(outputs)):
        actual = _outputs(quantized(found), [output], samples)
        if rectified[name]:
            found[name] = _active_mean(expected[output], actual[output])
        else:
            found[name] = _agreed_mean(expected[output] - actual[output])
    return found


def _is_rectified(tensor: gs.Tensor) -> bool:
    """Tell whether only what is positive of a tensor is read."""
    return bool(tensor.outputs) and all(is_op(node, "Relu") for node in tensor.outputs)


def _active_mean(expected: Array, actual: Array) -> Array:
    """Return `_agreed_mean` of the errors of each row where either value is positive."""
    found = np.zeros(len(expected))
    for row, (right, wrong) in enumerate(zip(expected, actual, strict=True)):
        active = (right > 0) | (wrong > 0)
        if active.any():
            found[row] = _agreed_mean((right - wrong)[np.newaxis, active])[0]
    return found


def _outputs(model: Model, names: Sequence[str], samples: Samples) -> dict[str, Array]:
    """Return (channels, n) values of each tensor, at the same positions in every run."""
    found: dict[str, list[Array]] = {name: [] for name in names}
    with exact(model, outputs=names, name="bias correction") as session:
        for sample in samples:
            for name, value in session.infer(sample.feeds).items():
                channels = np.moveaxis(value, 1, 0).reshape(value.shape[1], -1)
                found[name].append(channels[:, _positions(channels.shape[1])])
    return {name: np.concatenate(values, axis=1) for name, values in found.items()}


@functools.cache
def _positions(total: int) -> Array:
    """Return positions from all over a tensor, always the same: a stride may meet edges alone."""
    rng = np.random.default_rng(total)
    return rng.choice(total, _POSITIONS, replace=False) if total > _POSITIONS else np.arange(total)


def _agreed_mean(errors: Array) -> Array:
    """Return for each row the mean or that of its middle, whichever is nearer to 0."""
    cut = int(errors.shape[1] * _TAIL)
    middle = np.sort(errors, axis=1)[:, cut : errors.shape[1] - cut]
    means = np.stack([part.mean(axis=1, dtype=np.float64) for part in (errors, middle)])
    smaller = np.sign(means[0]) * np.abs(means).min(axis=0)
    return np.where(means[0] * means[1] > 0, smaller, 0.0)
