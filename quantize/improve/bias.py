"""What quantization adds on average, taken off biases.

    b += mean(x w - x' w')        for each channel of a layer, where x' and w' are what is stored

for each layer by itself, on what its kernel met (Nagel et al., "Data-free quantization through
weight equalization and bias correction", 2019, 4.2, on data). Layers with an activation between
them add a mean that none of them has alone, as a Relu makes one of noise; so the whole network runs
once, and what an output is off on average goes into the bias of the layer that it comes from.
"""

from __future__ import annotations

import functools

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.data.ranges import Range
from onnxgraft.data.samples import Samples
from onnxgraft.graph.model import Model
from onnxgraft.graph.operators import is_op
from onnxgraft.graph.shapes import Shapes
from onnxgraft.graph.tensors import Array
from onnxgraft.progress import track
from onnxgraft.run.exact import exact
from onnxgraft.stages.quantize.improve.activations import fake_quantized
from onnxgraft.stages.quantize.improve.products import Product
from onnxgraft.stages.quantize.improve.rounding import Stored
from onnxgraft.stages.quantize.place.biases import bias_of
from onnxgraft.stages.quantize.place.placement import Placement

__all__ = ["added_by", "left_in_outputs"]

# What is added to all of a channel before it is added to all of it behind.
_KEEPING = ("Cast", "GlobalAveragePool", "Identity", "Resize", "Transpose", "Upsample")


def added_by(
    product: Product, stored: Stored, value: Range, table: Placement, samples: int
) -> Array | None:
    """Return (channels,) to be added to a layer's bias; None where it has none that can be told.

    Args:
        product: The layer, with what its kernel met.
        stored: Its weights.
        value: The range of its input.
        table: Of the target.
        samples: In which it met that.
    """
    samples = min(samples, product.vectors.shape[1])
    if bias_of(product.node) is None or is_op(product.node, "ConvTranspose") or not samples:
        return None  # the outputs of a ConvTranspose are sums of products
    right, wrong = product.vectors, fake_quantized(product.vectors, value, table)
    weights = (product.matrix(w).transpose(0, 2, 1) for w in (product.weights, stored.values))
    before, after = (_means(x, samples) @ w for x, w in zip((right, wrong), weights, strict=True))
    alpha = product.node.attrs.get("alpha", 1.0) if is_op(product.node, "Gemm") else 1.0
    return _sure(alpha * (before - after).swapaxes(0, 1).reshape(samples, -1))


def _means(vectors: Array, samples: int) -> Array:
    """Return (groups, samples, depth) float64: the mean vector of each sample."""
    parts = np.array_split(vectors, samples, axis=1)
    return np.stack([part.mean(axis=1, dtype=np.float64) for part in parts], axis=1)


def _sure(errors: Array) -> Array:
    """Return (channels,): the mean of (samples, channels), less what chance can have made of it.

    That is the positive part of James and Stein's estimate, for each channel: m (1 - s^2 / m^2)
    with s the standard error of m.
    """
    mean = errors.mean(axis=0)
    if len(errors) < 2:
        return np.asarray(mean)
    chance = errors.var(axis=0, ddof=1) / len(errors)
    squared = np.square(mean)
    return np.asarray(mean * np.clip(1 - chance / np.where(squared > 0, squared, 1), 0, 1))


def left_in_outputs(model: Model, quantized: Model, samples: Samples) -> dict[str, Array]:
    """Return (channels,) for each layer that an output comes from, by its name.

    Args:
        model: The float graph.
        quantized: What was made of it.
        samples: As many as shall be run.
    """
    shapes = Shapes(model.graph)
    sources = {
        tensor.name: source
        for tensor in model.graph.outputs
        if (source := _source(tensor, list(range(_rank(shapes, tensor))), shapes, model.graph))
    }
    if not sources:
        return {}
    found: dict[str, list[Array]] = {name: [] for name in sources}
    open_ = functools.partial(exact, spinning=False)
    with open_(model, name="float") as float_, open_(quantized, name="quantized") as int8:
        for sample in track(samples, "correcting biases", len(samples)):
            right = {name: float_.infer(sample.feeds)[name].astype(np.float64) for name in sources}
            wrong = int8.infer(sample.feeds)
            for name, (_, axis) in sources.items():
                off = right[name] - wrong[name]
                found[name].append(off.mean(axis=tuple(a for a in range(off.ndim) if a != axis)))
    return {node.name: _sure(np.stack(found[name])) for name, (node, _) in sources.items()}


def _rank(shapes: Shapes, tensor: gs.Tensor) -> int:
    return len(shapes.shape(tensor) or ())


def _source(
    tensor: gs.Tensor, axes: list[int], shapes: Shapes, graph: gs.Graph
) -> tuple[gs.Node, int] | None:
    """Return the layer whose bias moves all of an output alike, and the axis of its channels there.

    Args:
        tensor: The output, or one that it comes from and nothing else reads.
        axes: For each of the output's axes, that of the tensor which it is.
        shapes: Of the graph.
        graph: Of the output.
    """
    if len(tensor.inputs) != 1:
        return None
    (node,) = tensor.inputs
    if bias_of(node) is not None:
        axis = len(axes) - 1 if is_op(node, "MatMul") else 1
        return (node, axes.index(axis)) if axis in axes else None
    if is_op(node, "Transpose"):
        turned = node.attrs.get("perm", list(range(len(axes)))[::-1])
        axes = [turned[axis] for axis in axes]
    elif not is_op(node, "Add", *_KEEPING):
        return None
    for before in node.inputs if is_op(node, "Add") else node.inputs[:1]:
        whole = _rank(shapes, before) == len(axes)
        alone = len(before.outputs) == 1 and all(before is not one for one in graph.outputs)
        if whole and alone and (found := _source(before, axes, shapes, graph)):
            return found
    return None
