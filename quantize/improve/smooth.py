"""Scales moved from activations into the weights that read them (SmoothQuant, Xiao et al., 2022).

    x * gamma + beta -> MatMul W        gamma / s, beta / s        W s over its inputs

computes the same for any s > 0 a channel. A LayerNormalization ends in such a gain and shift, and
so do its unfused form and RMS normalization. In transformers a few channels of what it makes are
far larger than the others, and take most of the steps of the one scale that a tensor has. With a
the largest value of a channel and w the largest weight that reads it, s = sqrt(a / w) leaves both
with the same share of the trouble, as `equalize` does for convolutions; it is a power of two, so
that no weight is rounded.

Channels are on the last axis. They are followed through Transpose and Reshape to every reader: a
MatMul, a Gemm or a Conv with weights. What anything else reads, as a residual connection does, is
left.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.data.samples import Samples
from onnxgraft.graph.model import Model
from onnxgraft.graph.names import FreeNames
from onnxgraft.graph.operators import is_op
from onnxgraft.graph.tensors import Array
from onnxgraft.stages.quantize.improve.channels import even_factors, largest_values
from onnxgraft.stages.quantize.place.shapes import shapes_of

__all__ = ["Gain", "gains", "smooth"]

# At batch 1.
Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Gain:
    """A tensor whose channels can be scaled where it is made, and who reads it.

    Attributes:
        tensor: Whose last axis is that of the channels.
        makers: Each node with the place of an input that is scaled: gamma, and beta.
        readers: Each layer with the axis of its weights along which it reads the channels.
    """

    tensor: gs.Tensor
    makers: tuple[tuple[gs.Node, int], ...]
    readers: tuple[tuple[gs.Node, int], ...]

    @property
    def channels(self) -> int:
        """How many there are."""
        node, axis = self.readers[0]
        return int(node.inputs[1].values.shape[axis])

    def divide(self, names: FreeNames, factors: Array) -> None:
        """Divide the channels by ``factors``; what the readers make stays the same."""
        for node, place in self.makers:
            _replace(names, node, place, 1 / factors)
        for node, axis in self.readers:
            rank = node.inputs[1].values.ndim
            _replace(names, node, 1, factors.reshape([-1 if a == axis else 1 for a in range(rank)]))


def smooth(model: Model, samples: Samples, keep: Collection[str] = ()) -> tuple[Model, list[str]]:
    """Return a model that computes the same with evened channels, and the tensors concerned.

    Args:
        model: A float graph.
        samples: Tell how large each channel gets.
        keep: Tensors whose values stay as they are, such as those that have a range by hand.
    """
    smoothed = model.copy()
    found = [
        gain
        for gain in gains(smoothed.graph, shapes_of(model))
        if not {gain.tensor.name, *(node.inputs[0].name for node, _ in gain.readers)} & set(keep)
    ]
    if not found:
        return model, []
    largest = largest_values(model, [gain.tensor.name for gain in found], samples, axis=-1)
    names, done = FreeNames(smoothed.graph, smoothed.names), []
    for gain in found:
        weights = np.zeros(gain.channels)
        for node, axis in gain.readers:
            values = np.abs(np.moveaxis(node.inputs[1].values, axis, 0))
            weights = np.maximum(weights, values.reshape(gain.channels, -1).max(axis=1))
        factors = even_factors(largest[gain.tensor.name].astype(np.float64), weights)
        if (factors != 1).any():
            gain.divide(names, factors)
            done.append(gain.tensor.name)
    return smoothed, done


def gains(graph: gs.Graph, shapes: Shapes) -> list[Gain]:
    """Return the tensors that can be scaled by their last axis."""
    ends = {id(tensor) for tensor in graph.outputs}
    found, scaled = [], set[int]()
    for node in graph.nodes:
        made = _made(node, shapes)
        if made is None:
            continue
        tensor, makers = made
        shape = shapes[tensor.name]
        readers = _readers(tensor, len(shape) - 1, shapes, ends)
        if not readers or any(id(reader) in scaled for reader, _ in readers):
            continue
        scaled |= {id(reader) for reader, _ in readers}
        found.append(Gain(tensor, makers, tuple(readers)))
    return found


def _made(
    node: gs.Node, shapes: Shapes
) -> tuple[gs.Tensor, tuple[tuple[gs.Node, int], ...]] | None:
    """Return a tensor that ends in a gain for each channel, and what makes it."""
    tensor = node.outputs[0] if node.outputs else None
    shape = shapes.get(tensor.name) if tensor is not None else None
    if tensor is None or shape is None or len(shape) < 2:
        return None
    if is_op(node, "LayerNormalization"):
        places = [place for place in (1, 2) if place < len(node.inputs) and node.inputs[place].name]
        last = int(node.attrs.get("axis", -1)) in (-1, len(shape) - 1)
        if not last or not all(_by_channel(node.inputs[place], shape) for place in places):
            return None
        return tensor, tuple((node, place) for place in places)
    gain = _constant(node, "Mul", shape)
    if gain is None:
        return None
    after = tensor.outputs[0] if len(tensor.outputs) == 1 else None
    shift = None if after is None else _constant(after, "Add", shape)
    if shift is None:
        return tensor, ((node, gain),)
    assert after is not None
    return after.outputs[0], ((node, gain), (after, shift))


def _constant(node: gs.Node, op: str, shape: tuple[int, ...]) -> int | None:
    """Return which input of a Mul or Add has one value a channel, if one has."""
    if not is_op(node, op):
        return None
    found = [place for place in (0, 1) if _by_channel(node.inputs[place], shape)]
    return found[0] if len(found) == 1 else None


def _by_channel(tensor: gs.Tensor, shape: tuple[int, ...]) -> bool:
    return isinstance(tensor, gs.Constant) and tensor.values.shape == (shape[-1],)


def _readers(
    tensor: gs.Tensor, axis: int, shapes: Shapes, ends: set[int]
) -> list[tuple[gs.Node, int]]:
    """Return the layers that read a tensor with channels on ``axis``; none where others do too."""
    if id(tensor) in ends or not tensor.outputs:
        return []
    found: list[tuple[gs.Node, int]] = []
    for node in tensor.outputs:
        if sum(source is tensor for source in node.inputs) != 1 or node.inputs[0] is not tensor:
            return []
        weights = _weights_axis(node, axis, len(shapes[tensor.name]))
        if weights is not None:
            more = [(node, weights)]
        else:
            moved = _moved(node, axis, shapes)
            more = [] if moved is None else _readers(node.outputs[0], moved, shapes, ends)
        if not more:
            return []
        found += more
    return found


def _weights_axis(node: gs.Node, axis: int, rank: int) -> int | None:
    """Return the axis of a layer's weights along which it reads the channels on ``axis``."""
    weights = node.inputs[1] if len(node.inputs) > 1 else None
    if not isinstance(weights, gs.Constant):
        return None
    if is_op(node, "Conv"):
        return 1 if axis == 1 and int(node.attrs.get("group", 1)) == 1 else None
    if not is_op(node, "Gemm", "MatMul") or axis != rank - 1 or weights.values.ndim != 2:
        return None
    if node.attrs.get("transA", 0):
        return None
    return 1 if node.attrs.get("transB", 0) else 0


def _moved(node: gs.Node, axis: int, shapes: Shapes) -> int | None:
    """Return on which axis the channels are behind a node that only moves values."""
    before = shapes[node.inputs[0].name]
    if is_op(node, "Identity"):
        return axis
    if is_op(node, "Transpose"):
        return [*node.attrs.get("perm", range(len(before))[::-1])].index(axis)
    after = shapes.get(node.outputs[0].name) if node.outputs else None
    if not is_op(node, "Reshape", "Unsqueeze", "Squeeze") or after is None:
        return None
    # The axes in front of it and behind it stay among themselves, and the batch is in front.
    front, size = math.prod(before[:axis]), before[axis]
    places = [
        place
        for place in range(1, len(after))
        if math.prod(after[:place]) == front and after[place] == size
    ]
    return places[-1] if places else None


def _replace(names: FreeNames, node: gs.Node, place: int, factors: Array) -> None:
    constant = node.inputs[place]
    values = np.asarray(constant.values * factors, np.float32)
    node.inputs[place] = gs.Constant(names.tensor(f"{constant.name}/smoothed"), values)
