"""What a layer's converter writes with: ONNX nodes, constants, weights, and shapes beside them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnxgraft.errors import ModelError, NotSupportedError
from onnxgraft.graph.names import FreeNames
from onnxgraft.graph.node import Node
from onnxgraft.graph.tensors import Array
from onnxgraft.stages.convert.caffe.reading.net import Layer
from onnxgraft.stages.convert.caffe.reading.prototxt import Message

__all__ = ["FREE", "MOST_VALUES", "BatchIsFixed", "Blob", "Emitter", "Shape", "axis_of", "count"]

# A dimension that is not known before the net runs; only a first one can be.
FREE = -1

# Values in one blob, of one sample, and in weights that a filler makes: beyond anything that is
# meant, and below what memory holds.
MOST_VALUES = 1 << 31
_MOST_FILLED = 1 << 26

Shape = tuple[int, ...]
Floats = NDArray[np.float32]


class BatchIsFixed(Exception):
    """The net says the batch's number in a place that has no free form."""


@dataclass(frozen=True)
class Blob:
    """A tensor of the graph and its shape; the first dimension may be `FREE`."""

    tensor: gs.Tensor
    shape: Shape

    @property
    def rank(self) -> int:
        """The number of axes."""
        return len(self.shape)


def count(shape: Sequence[int]) -> int:
    """Return the number of values, without a free first dimension's."""
    return math.prod(dim for dim in shape if dim != FREE)


def axis_of(layer: Layer, axis: int, rank: int) -> int:
    """Return ``axis`` counted from 0, as Caffe's CanonicalAxisIndex does."""
    if not -rank <= axis < rank:
        raise ModelError(f"{layer}: there is no axis {axis} in a blob of {rank} axes")
    return axis % rank


class Emitter:
    """Collects the graph; the layer at hand gives nodes and constants their names."""

    def __init__(
        self, opset: int, weightless: bool = False, blobs: Iterable[str] = (), free: bool = False
    ) -> None:
        """Begin with an empty graph.

        Args:
            opset: Of the graph.
            blobs: The names of the net's blobs, which nothing else may have.
            free: Whether the batch is.
            weightless: Take zeros for weights that are not there: only shapes are wanted.
        """
        self.opset = opset
        self.weightless = weightless
        self.free = free
        self.parameters = 0
        self.filled: list[Layer] = []
        self.notes: list[str] = []
        self.nodes: list[gs.Node] = []
        self.layer: Layer | None = None
        # Of the layer at hand, the numbers of the blobs that were asked for.
        self.read: set[int] = set()
        self.names = FreeNames(tensors=blobs)
        self._constants: dict[tuple[int, Shape, str], gs.Constant] = {}

    def op(
        self,
        kind: str,
        inputs: Sequence[Blob | Array | None],
        shape: Sequence[int],
        attrs: Mapping[str, Any] | None = None,
        outputs: int = 1,
        dtype: Any = np.float32,
    ) -> Blob:
        """Add a node and return its first output, of ``shape``; arrays become constants."""
        name = self.names.node(self.layer.name if self.layer else kind)
        tensors = [self._tensor(value, name) for value in inputs]
        while tensors and tensors[-1].name == "":
            tensors.pop()
        made = [
            gs.Variable(self.names.tensor(f"{name}:{index}"), dtype if index == 0 else np.int64)
            for index in range(outputs)
        ]
        self.nodes.append(Node(kind, name, dict(attrs or {}), tensors, made))
        return Blob(made[0], tuple(shape))

    def second(self, blob: Blob, shape: Sequence[int]) -> Blob:
        """Return the second output of the node that made ``blob``."""
        return Blob(blob.tensor.inputs[0].outputs[1], tuple(shape))

    def unary(self, kind: str, x: Blob, **attrs: Any) -> Blob:
        """Add a node of one input that keeps the shape."""
        return self.op(kind, [x], x.shape, attrs)

    def binary(self, kind: str, x: Blob, other: Blob | Array | float) -> Blob:
        """Add an elementwise node; ``other`` broadcasts to ``x``."""
        if not isinstance(other, Blob):
            other = np.asarray(other, np.float32)
        return self.op(kind, [x, other], x.shape)

    def reduce(self, kind: str, x: Blob, axes: Sequence[int], keep: bool = True) -> Blob:
        """Add a reduction over ``axes``; where its axes stand depends on the opset."""
        if not axes:
            self.check(kind in ("ReduceSum", "ReduceMean", "ReduceMax"), "it reduces over nothing")
            return x
        shape = [
            1 if axis in axes else dim
            for axis, dim in enumerate(x.shape)
            if keep or axis not in axes
        ]
        if kind == "ReduceSum" or self.opset >= 18:
            return self.op(kind, [x, np.array(axes, np.int64)], shape, {"keepdims": int(keep)})
        return self.op(kind, [x], shape, {"axes": list(axes), "keepdims": int(keep)})

    def reshape(self, x: Blob, shape: Sequence[int]) -> Blob:
        """Add a Reshape to ``shape``; a free first dimension takes what is left."""
        if tuple(shape) == x.shape and FREE not in shape:
            return x
        target = list(shape)
        if target and target[0] == FREE and x.shape[:1] == (FREE,):
            same = count(shape) == count(x.shape)
            target[0] = 0 if same else -1
        return self.op("Reshape", [x, np.array(target, np.int64)], shape)

    def transpose(self, x: Blob, perm: Sequence[int]) -> Blob:
        """Add a Transpose."""
        if x.shape[:1] == (FREE,) and perm[0] != 0:
            raise BatchIsFixed
        return self.op("Transpose", [x], [x.shape[axis] for axis in perm], {"perm": list(perm)})

    def slice(self, x: Blob, axis: int, start: int, stop: int) -> Blob:
        """Add a Slice of one axis."""
        if x.shape[axis] == FREE:
            raise BatchIsFixed
        shape = list(x.shape)
        shape[axis] = stop - start
        ends = [np.array([value], np.int64) for value in (start, stop, axis)]
        return self.op("Slice", [x, *ends], shape)

    def pad(self, x: Blob, before: Sequence[int], after: Sequence[int], value: float) -> Blob:
        """Add a Pad of all axes by a constant."""
        shape = [
            dim if dim == FREE else dim + low + high
            for dim, low, high in zip(x.shape, before, after, strict=True)
        ]
        pads = np.array([*before, *after], np.int64)
        return self.op("Pad", [x, pads, np.array(value, np.float32)], shape)

    def weight(
        self,
        index: int,
        shape: Sequence[int],
        filler: str = "",
        *,
        what: str = "weights",
        default: float | None = None,
    ) -> Floats:
        """Return the layer's blob ``index``, which must be of ``shape``.

        Args:
            index: Of the blob.
            shape: What the net says it is; ones may be left out or added, as in old files.
            filler: Where the layer's filler for it stands, such as ``weight_filler``; used where
                there is no blob and the filler leaves nothing to chance.
            what: What messages call it.
            default: Its values where there is neither a blob nor a filler.

        Raises:
            ModelError: There is no such blob, or it has another shape.
        """
        layer = self._layer
        if FREE in shape:
            raise BatchIsFixed
        self.parameters += math.prod(shape)
        self.read.add(index)
        if self.weightless:
            return np.broadcast_to(np.float32(0), shape)
        if index < len(layer.blobs):
            blob = layer.blobs[index]
            if [d for d in blob.shape if d != 1] != [d for d in shape if d != 1]:
                raise ModelError(
                    f"{layer}: the {what} have the shape {tuple(blob.shape)}, the net says "
                    f"{tuple(shape)}; the weights are of another net"
                )
            return np.asarray(blob.reshape(shape), np.float32)
        filled = None if layer.blobs and not filler else self._filled(filler, shape, default)
        if filled is None:
            raise ModelError(
                f"{layer}: its {what} of the shape {tuple(shape)} are not there; name a "
                "caffemodel that has them with --weights"
            )
        self.filled.append(layer)
        return filled

    def check(self, condition: bool, sentence: str) -> None:
        """Raise ModelError with the layer and ``sentence`` unless ``condition`` holds."""
        if not condition:
            raise ModelError(f"{self._layer}: {sentence}")

    def refuse(self, sentence: str) -> NotSupportedError:
        """Return the error of a layer that can't be converted, and what can be done."""
        return NotSupportedError(
            f"{self._layer}: {sentence}; cut the net before it with --outputs, or register a "
            "converter (docs/caffe.md)"
        )

    @property
    def tops(self) -> int:
        """How many tops the layer at hand has."""
        return len(self._layer.tops)

    @property
    def _layer(self) -> Layer:
        assert self.layer is not None
        return self.layer

    def _filled(self, filler: str, shape: Sequence[int], default: float | None) -> Floats | None:
        """Return what a filler makes, or None if it is random or not given."""
        layer = self._layer
        self.check(math.prod(shape) <= _MOST_FILLED, f"weights of {tuple(shape)} can't be filled")
        found = _find(layer.message, filler) if filler else None
        if found is None and default is not None:
            return np.full(shape, default, np.float32)
        if found is None:
            # Caffe's default is a constant 0, which only a bias can mean.
            return np.zeros(shape, np.float32) if filler == "bias_filler" else None
        kind = found.text("type", "constant")
        if kind == "constant":
            return np.full(shape, found.number("value", 0.0), np.float32)
        return _bilinear(shape) if kind == "bilinear" and len(shape) == 4 else None

    def _tensor(self, value: Blob | Array | None, node: str) -> gs.Tensor:
        if value is None:
            return gs.Variable.empty()
        if isinstance(value, Blob):
            return value.tensor
        # Weights that layers share stay one initializer: they are the same memory.
        value = np.asarray(value, order="C")
        key = (value.ctypes.data, value.shape, value.dtype.str)
        if key not in self._constants:
            self._constants[key] = gs.Constant(self.names.tensor(f"{node}/constant"), value)
        return self._constants[key]


def _find(message: Message, filler: str) -> Message | None:
    """Return the filler wherever among the layer's parameters it stands."""
    for values in message.fields.values():
        for value in values:
            if isinstance(value, Message) and value.has(filler):
                return value.message(filler)
    return None


def _bilinear(shape: Sequence[int]) -> Floats:
    """Return the kernel that interpolates (BilinearFiller of Caffe's filler.hpp)."""
    size = shape[-1]
    factor = math.ceil(size / 2)
    centre = (2 * factor - 1 - factor % 2) / (2.0 * factor)
    line = 1 - np.abs(np.arange(size) / factor - centre)
    return np.broadcast_to(np.outer(line, line), shape).astype(np.float32)
