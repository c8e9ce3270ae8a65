"""The smallest sizes of free axes with which a network runs, from its kernels and pads.

Each free axis is followed from the input. Of every tensor on the way it is known how long the input
has to be for the tensor to have ``m`` elements along the axis, ``step * m + offset``:

    Conv, pooling    m of them want  (m - 1) * stride + kernel - pads  of what they read, 1 at least
    Pad              m of them want  m - pads;  reflecting p of them wants p + 1
    STFT             wants one frame
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.graph.operators import constant_value, is_op
from onnxgraft.graph.tensors import Array

__all__ = ["least_sizes"]

_WINDOWS = ("AveragePool", "Conv", "LpPool", "MaxPool")
# What keeps the sizes of what it reads first.
_KEEP = (
    "Abs", "BatchNormalization", "Cast", "Ceil", "Clip", "Dropout", "Elu", "Erf", "Exp", "Floor",
    "Gelu", "HardSigmoid", "HardSwish", "Identity", "InstanceNormalization", "LRN", "LeakyRelu",
    "Log", "Mish", "Neg", "PRelu", "Pow", "Reciprocal", "Relu", "Selu", "Sigmoid", "Softplus",
    "Sqrt", "Tanh",
)  # fmt: skip
_BINARY = ("Add", "Div", "Mul", "Sub")
# A demand beyond this is a mistake of the network's, or of ours.
_MOST = 1 << 20


@dataclass(frozen=True)
class _Place:
    """An axis of a tensor: it has ``m`` elements where the input has ``step * m + offset``."""

    tensor: gs.Tensor
    axis: int
    rank: int
    step: int = 1
    offset: int = 0

    def wants(self, size: int) -> int:
        return self.step * size + self.offset


def least_sizes(graph: gs.Graph) -> dict[tuple[str, int], int]:
    """Return the smallest size of each free axis, by input and axis, where one is larger than 1."""
    found = {}
    for tensor in graph.inputs:
        for axis, dim in enumerate(tensor.shape or ()):
            if isinstance(dim, int) and dim >= 0:
                continue
            least = _least(_Place(tensor, axis, len(tensor.shape)))
            if 1 < least <= _MOST:
                found[tensor.name, axis] = least
    return found


def _least(start: _Place) -> int:
    least, left, seen = 1, [start], set()
    while left:
        place = left.pop()
        key = (id(place.tensor), place.axis)
        if key in seen:
            continue
        seen.add(key)
        for node in place.tensor.outputs:
            if node.inputs[0] is place.tensor or is_op(node, *_BINARY):
                demand, further = _pass(node, place)
                least = max(least, place.wants(demand))
                left += [replace(further, tensor=tensor) for tensor in node.outputs[:1] if further]
    return least


def _pass(node: gs.Node, place: _Place) -> tuple[int, _Place | None]:
    """Return how many elements a node wants of what it reads, and the same axis behind it."""
    if is_op(node, *_WINDOWS):
        return _window(node, place)
    if is_op(node, "Pad"):
        return _pad(node, place)
    if is_op(node, "STFT"):
        frame = _constant(node, 3)
        frame = _constant(node, 2) if frame is None else frame
        length = 1 if frame is None else int(frame) if frame.ndim == 0 else frame.size
        return (length if place.axis == 1 else 1), None
    if is_op(node, *_KEEP):
        return 1, place
    if is_op(node, *_BINARY):
        others = [len(given.shape or ()) for given in node.inputs if given is not place.tensor]
        return 1, place if max(others, default=0) <= place.rank else None
    return 1, _moved(node, place)


def _window(node: gs.Node, place: _Place) -> tuple[int, _Place | None]:
    along = place.axis - 2
    weights = node.inputs[1].shape if is_op(node, "Conv") else None
    sizes = node.attrs.get("kernel_shape") or (weights or ())[2:]
    if not 0 <= along < len(sizes) or not isinstance(sizes[along], int | np.integer):
        return 1, place if place.axis == 0 else None
    count = len(sizes)
    stride = int((node.attrs.get("strides") or [1] * count)[along])
    dilation = int((node.attrs.get("dilations") or [1] * count)[along])
    pads = node.attrs.get("pads") or [0] * (2 * count)
    if str(node.attrs.get("auto_pad", "NOTSET")).startswith("SAME"):
        reach = 1
    else:
        reach = (int(sizes[along]) - 1) * dilation + 1 - int(pads[along] + pads[along + count])
    behind = replace(
        place, step=place.step * stride, offset=place.offset + place.step * (reach - stride)
    )
    return max(reach, 1), behind


def _pad(node: gs.Node, place: _Place) -> tuple[int, _Place | None]:
    pads = _constant(node, 1)
    pads = np.asarray(node.attrs["pads"]) if pads is None and "pads" in node.attrs else pads
    named = _constant(node, 3)
    if pads is None or (named is None and len(node.inputs) > 3 and node.inputs[3].name):
        return 1, None
    axes = [int(axis) % place.rank for axis in named] if named is not None else range(place.rank)
    if place.axis not in axes or pads.size != 2 * len(axes):
        return 1, place if place.axis not in axes else None
    along = list(axes).index(place.axis)
    begin, end = int(pads[along]), int(pads[along + len(axes)])
    demand = max(begin, end) + 1 if node.attrs.get("mode") == "reflect" else 1
    return max(demand, 1), replace(place, offset=place.offset - place.step * (begin + end))


def _moved(node: gs.Node, place: _Place) -> _Place | None:
    """Return where the axis is behind a node that moves axes."""
    if is_op(node, "Transpose"):
        perm = list(node.attrs.get("perm") or range(place.rank)[::-1])
        return replace(place, axis=perm.index(place.axis)) if len(perm) == place.rank else None
    if not is_op(node, "Unsqueeze", "Squeeze"):
        return None
    value = _constant(node, 1)
    given = node.attrs.get("axes") if value is None else value.ravel().tolist()
    if given is None:
        return None
    more = is_op(node, "Unsqueeze")
    rank = place.rank + (len(given) if more else -len(given))
    axes = {int(axis) % (rank if more else place.rank) for axis in given}
    if more:
        kept = [axis for axis in range(rank) if axis not in axes]
        return replace(place, axis=kept[place.axis], rank=rank)
    if place.axis in axes:
        return None
    return replace(place, axis=place.axis - sum(axis < place.axis for axis in axes), rank=rank)


def _constant(node: gs.Node, index: int) -> Array | None:
    tensor = node.inputs[index] if len(node.inputs) > index else None
    if isinstance(tensor, gs.Constant):
        return np.asarray(tensor.values)
    return constant_value(tensor.inputs[0]) if tensor is not None and tensor.inputs else None
