"""What a DLA, Jetson's and DRIVE's accelerator beside the GPU, does not take of a graph.

By NVIDIA's guide "Working with DLA", its lists of supported layers and restrictions for TensorRT 8
to 10. TensorRT itself is asked on the target, and its word counts: its fusions may bring a node
onto the DLA, and layers that are fine by themselves may be too much together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.graph.model import Model
from onnxgraft.graph.operators import constant_value, is_op, op_of
from onnxgraft.graph.shapes import Shapes
from onnxgraft.graph.tensors import Array

__all__ = ["OnGpu", "on_gpu"]

_BATCH, _SIZE = 4096, 8192
# Banks of the buffer of convolutions, and what it is counted in.
_BANKS = 16
_SLOPES = (1.0, 127.0)
_WINDOWS = (3, 5, 7, 9)
_LONG = (64, 96, 128)
# Squares of this size take the DLA's compiler too long, which TensorRT spares them.
_SLOW = range(23, 33)
# Nothing is computed by them.
_NOTHING = ("Constant", "Dropout", "Identity")


@dataclass(frozen=True)
class OnGpu:
    """A node that the DLA does not take, so that the GPU runs it.

    Attributes:
        node: Its name.
        operator: Its type.
        reason: Why.
    """

    node: str
    operator: str
    reason: str

    def __str__(self) -> str:
        """Return the form that notes use."""
        return f"{self.node} ({self.operator}): {self.reason}"


@dataclass(frozen=True)
class _Seen:
    """A node with what is known of it."""

    node: gs.Node
    shapes: Shapes
    wide: int  # bytes of a number: 1 in INT8, 2 in FP16

    def sizes(self, index: int = 0) -> tuple[int, ...] | None:
        """Return the shape of an input, where it is fixed."""
        return _fixed(self.shapes, self.node.inputs[index])

    def value(self, index: int) -> Array | None:
        """Return the value of an input, where it is constant."""
        if index >= len(self.node.inputs) or self.node.inputs[index].is_empty():
            return None
        tensor = self.node.inputs[index]
        if isinstance(tensor, gs.Constant):
            return np.asarray(tensor.values)
        return constant_value(tensor.inputs[0]) if tensor.inputs else None

    def ints(self, name: str, usual: Sequence[int]) -> list[int]:
        """Return an attribute."""
        return [int(number) for number in self.node.attrs.get(name, usual)]


def on_gpu(
    model: Model, sizes: Mapping[str, Sequence[int]], *, int8: bool
) -> tuple[OnGpu, ...]:  # fmt: skip
    """Return the nodes of a float graph that a DLA does not take.

    Args:
        model: The graph.
        sizes: The shapes that its inputs will have.
        int8: Whether it runs in INT8 there; else in FP16.
    """
    shapes = Shapes(model.graph, sizes)
    found = []
    for node in model.graph.nodes:
        if is_op(node, *_NOTHING):
            continue
        reason = _refused(_Seen(node, shapes, 1 if int8 else 2))
        if reason:
            found.append(OnGpu(str(node.name), op_of(node), reason))
    return tuple(found)


def _fixed(shapes: Shapes, tensor: gs.Tensor) -> tuple[int, ...] | None:
    shape = shapes.shape(tensor)
    if shape is None or not all(dim.fixed for dim in shape):
        return None
    return tuple(dim.number for dim in shape)


def _refused(seen: _Seen) -> str:
    """Return why a node can't run on a DLA; empty where nothing is known against it."""
    rule = _RULES.get(op_of(seen.node))
    if rule is None:
        return f"a DLA has no {op_of(seen.node)}"
    for tensor in (*seen.node.inputs, *seen.node.outputs):
        if isinstance(tensor, gs.Constant) or tensor.is_empty():
            continue
        sizes = _fixed(seen.shapes, tensor)
        if sizes is None:
            return f"the shape of {tensor.name!r} is not fixed"
        if len(sizes) != 4:
            return f"{tensor.name!r} has {len(sizes)} dimensions, and a DLA takes images alone"
        if sizes[0] > _BATCH or max(sizes[1:]) > _SIZE:
            return f"{tensor.name!r} of {sizes} is larger than {_BATCH} images, or {_SIZE} a side"
    return rule(seen)


def _beyond(what: str, values: Sequence[int], least: int, most: int) -> str:
    """Return the sentence on values that are not within bounds; empty where they are."""
    outside = [value for value in values if not least <= value <= most]
    return f"{what} {outside[0]}; from {least} to {most} is taken" if outside else ""


def _padded(seen: _Seen, most: int) -> str:
    if seen.node.attrs.get("auto_pad", "NOTSET") not in ("NOTSET", b"NOTSET", "VALID"):
        return ""  # TensorRT computes the pads, and says what they are
    return _beyond("a padding of", seen.ints("pads", ()), 0, most)


def _convolution(seen: _Seen) -> str:
    kernel = seen.value(1)
    if kernel is None:
        return "its weights are not constant"
    height, width = kernel.shape[2:]
    strides, dilations = seen.ints("strides", (1, 1)), seen.ints("dilations", (1, 1))
    told = (
        _beyond("a kernel of", (height, width), 1, 32)
        or _padded(seen, 31)
        or _beyond("a stride of", strides, 1, 8)
        or _beyond("a dilation of", dilations, 1, 32)
        or _beyond("outputs:", (kernel.shape[0],), 1, _SIZE)
    )
    pads = seen.ints("pads", (0, 0, 0, 0))
    if not told and any(pad >= (height, width)[axis % 2] for axis, pad in enumerate(pads)):
        return f"a padding of {max(pads)}, which is not less than the kernel"
    sizes = seen.sizes()
    if told or sizes is None:
        return told
    channels = sizes[1]
    weights = math.ceil(_up(channels * height * width * seen.wide, 128) / 32768)
    slices = math.ceil(math.ceil(channels * seen.wide / 32) * sizes[3] / 4)
    data = math.ceil(slices * ((height - 1) * dilations[0] + 1) / 256)
    if weights + data > _BANKS:
        return (
            f"its kernel and rows of its input take {weights + data} banks of the DLA's buffer, "
            f"which has {_BANKS}"
        )
    return ""


def _up(value: int, step: int) -> int:
    return -(-value // step) * step


def _transposed(seen: _Seen) -> str:
    kernel = seen.value(1)
    if kernel is None:
        return "its weights are not constant"
    height, width = kernel.shape[2:]
    strides = seen.ints("strides", (1, 1))
    long = 1 in (height, width) and max(height, width) in _LONG
    if height == width and height in _SLOW and all(stride in _SLOW for stride in strides):
        return f"a square kernel and stride of {height}, which TensorRT leaves to the GPU"
    if int(seen.node.attrs.get("group", 1)) != 1:
        return "a transposed convolution in groups"
    if any(seen.ints("output_padding", ())):
        return "an output padding"
    return (
        ("" if long else _beyond("a kernel of", (height, width), 1, 32))
        or _padded(seen, 0)
        or _beyond("a dilation of", seen.ints("dilations", (1, 1)), 1, 1)
        or _beyond("inputs:", (kernel.shape[0],), 1, _SIZE)
        or _beyond("outputs:", (kernel.shape[1],), 1, _SIZE)
    )


def _pooling(seen: _Seen) -> str:
    if len(seen.node.outputs) > 1:
        return "the indices of the maxima"
    window = seen.ints("kernel_shape", ())
    if not window:  # a global one
        window = list((seen.sizes() or (1, 1, 1, 1))[2:])
    return (
        _beyond("a window of", window, 1, 8)
        or _padded(seen, 7)
        or _beyond("a stride of", seen.ints("strides", (1, 1)), 1, 16)
    )


def _clip(seen: _Seen) -> str:
    low, high = seen.value(1), seen.value(2)
    if low is None or high is None or float(low) != 0.0:
        return "a Clip that does not begin at 0"
    top = float(high)
    inside = _SLOPES[0] <= top <= _SLOPES[1]
    return "" if inside else f"a Clip at {top:g}; from 1 to 127 is taken"


def _elementwise(seen: _Seen) -> str:
    made = _fixed(seen.shapes, seen.node.outputs[0])
    for index, tensor in enumerate(seen.node.inputs):
        found = seen.value(index)
        sizes = seen.sizes(index) if found is None else found.shape
        if sizes is None or made is None:
            continue
        whole = (*(1,) * (4 - len(sizes)), *sizes)
        # As the whole, one number a channel, or one number.
        if whole not in (made, (*whole[:2], 1, 1)):
            return f"{tensor.name!r} of {tuple(sizes)} is repeated along rows or columns"
    return ""


def _concat(seen: _Seen) -> str:
    axis = int(seen.node.attrs.get("axis", 1)) % 4
    if axis != 1:
        return f"a Concat along axis {axis}; along channels is taken"
    return "a Concat of one tensor" if len(seen.node.inputs) < 2 else ""


def _resize(seen: _Seen) -> str:
    before, after = seen.sizes(), _fixed(seen.shapes, seen.node.outputs[0])
    mode = seen.node.attrs.get("mode", "nearest")
    most = {"nearest": 32, "linear": 4}.get(mode.decode() if isinstance(mode, bytes) else mode)
    if most is None or before is None or after is None:
        return "a Resize that is neither nearest nor linear"
    scales = [new / old for new, old in zip(after, before, strict=True)]
    if scales[:2] != [1, 1]:
        return "a Resize of images or channels"
    odd = [scale for scale in scales[2:] if scale not in range(1, most + 1)]
    return f"a Resize by {odd[0]:g}; whole numbers from 1 to {most} are taken" if odd else ""


def _softmax(seen: _Seen) -> str:
    sizes = seen.sizes() or (1, 1, 1, 1)
    axis = int(seen.node.attrs.get("axis", -1)) % 4
    others = [size for place, size in enumerate(sizes) if place != axis]
    if any(size != 1 for size in others):
        return f"a Softmax along axis {axis} of {sizes}; every other dimension has to be 1"
    return ""  # on Orin; not on Xavier


def _window(seen: _Seen) -> str:
    size = int(seen.node.attrs.get("size", 1))
    return "" if size in _WINDOWS else f"an LRN over {size} channels; 3, 5, 7 and 9 are taken"


def _constant_slope(seen: _Seen) -> str:
    return "" if seen.value(1) is not None else "its slope is not constant"


def _anything(seen: _Seen) -> str:
    return ""


_RULES: dict[str, Callable[[_Seen], str]] = {
    "Conv": _convolution, "ConvTranspose": _transposed, "MaxPool": _pooling,
    "AveragePool": _pooling, "GlobalMaxPool": _pooling, "GlobalAveragePool": _pooling,
    "Relu": _anything, "LeakyRelu": _anything, "Sigmoid": _anything, "Tanh": _anything,
    "Clip": _clip, "PRelu": _constant_slope, "BatchNormalization": _anything, "Abs": _anything,
    "Add": _elementwise, "Sub": _elementwise, "Mul": _elementwise, "Max": _elementwise,
    "Min": _elementwise, "Div": _elementwise, "Pow": _elementwise, "Concat": _concat,
    "Resize": _resize, "Softmax": _softmax, "LRN": _window,
}  # fmt: skip
