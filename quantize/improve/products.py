"""A layer with weights as a matrix product, on a sample of the inputs that its kernel meets.

    Conv            y[p, m] = sum over taps and channels of x[p + tap, c] w[m, c, tap]
    Gemm, MatMul    y[n, m] = sum over k of x[n, k] w[k, m]
    ConvTranspose   z[p, (m, tap)] = sum over c of x[p, c] w[c, m, tap], of which outputs are sums

With the rows of x that one output reads as a vector, each is X W^T for every group of channels:
what rounding W or x does to the layer's output can be computed for any choice, without running it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnxgraft.data.samples import Samples
from onnxgraft.graph.model import Model
from onnxgraft.graph.operators import is_op
from onnxgraft.graph.tensors import Array
from onnxgraft.progress import track
from onnxgraft.run.session import OnnxRuntime, at_rest, exposing

__all__ = ["Product", "observe"]

# At most so many vectors of a layer are looked at, and so many numbers in all.
VECTORS = 4096
_NUMBERS = 8_000_000
_FEWEST = 256


@dataclass
class Product:
    """One layer, and what its kernel met.

    Attributes:
        node: Conv, ConvTranspose, Gemm or MatMul with constant weights.
        vectors: (groups, n, depth) float32, the inputs of n outputs.
    """

    node: gs.Node
    vectors: Array = field(default_factory=lambda: np.zeros((1, 0, 0), np.float32))

    @property
    def weights(self) -> Array:
        """The layer's weights, as they are stored."""
        return np.asarray(self.node.inputs[1].values)

    @property
    def groups(self) -> int:
        """In how many parts the channels are divided."""
        return int(self.node.attrs.get("group", 1)) if self._convolves else 1

    @property
    def _convolves(self) -> bool:
        return is_op(self.node, "Conv", "ConvTranspose")

    @property
    def supported(self) -> bool:
        """Whether the layer is such a product: a MatMul has to have one matrix of weights."""
        return self._convolves or self.weights.ndim == 2

    def matrix(self, weights: Array) -> Array:
        """Return an array of the weights' shape as (groups, rows, depth)."""
        if is_op(self.node, "Conv"):
            return weights.reshape(self.groups, weights.shape[0] // self.groups, -1)
        if is_op(self.node, "ConvTranspose"):
            parts = weights.reshape(self.groups, weights.shape[0] // self.groups, -1)
            return parts.transpose(0, 2, 1)
        return (weights if self.node.attrs.get("transB", 0) else weights.T)[np.newaxis]

    def unmatrix(self, matrix: Array) -> Array:
        """Undo `matrix`."""
        shape = self.weights.shape
        if is_op(self.node, "Conv"):
            return matrix.reshape(shape)
        if is_op(self.node, "ConvTranspose"):
            return np.ascontiguousarray(matrix.transpose(0, 2, 1)).reshape(shape)
        return np.ascontiguousarray(matrix[0] if self.node.attrs.get("transB", 0) else matrix[0].T)

    def take(self, values: Array, count: int, rng: np.random.Generator) -> Array:
        """Return (groups, n, depth): what ``count`` chosen outputs read of ``values``."""
        if is_op(self.node, "Conv"):
            return self._windows(values, count, rng)
        if is_op(self.node, "ConvTranspose"):
            flat = values.reshape(values.shape[0], self.groups, -1, math.prod(values.shape[2:]))
            points = flat.transpose(1, 0, 3, 2).reshape(self.groups, -1, flat.shape[2])
            return np.asarray(points[:, _some(points.shape[1], count, rng)])
        if is_op(self.node, "Gemm") and self.node.attrs.get("transA", 0):
            values = values.T
        rows = values.reshape(-1, values.shape[-1])
        return rows[_some(len(rows), count, rng)][np.newaxis]

    def _windows(self, values: Array, count: int, rng: np.random.Generator) -> Array:
        kernel = self.weights.shape[2:]
        rank = len(kernel)
        strides = list(self.node.attrs.get("strides", [1] * rank))
        dilations = list(self.node.attrs.get("dilations", [1] * rank))
        extents = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
        pads = self._pads(values.shape[2:], extents, strides)
        sizes = [
            (size + sum(pad) - extent) // stride + 1
            for size, pad, extent, stride in zip(
                values.shape[2:], pads, extents, strides, strict=True
            )
        ]
        chosen = np.unravel_index(
            _some(len(values) * math.prod(sizes), count, rng), (len(values), *sizes)
        )
        at = chosen[0].reshape(-1, *[1] * rank)  # in a channel's values of all samples
        inside = np.ones(1, bool)
        for axis, size in enumerate(values.shape[2:]):
            first = chosen[axis + 1][:, None] * strides[axis] - pads[axis][0]
            shape = [1] * rank
            shape[axis] = kernel[axis]
            taps = (first + np.arange(kernel[axis]) * dilations[axis]).reshape(-1, *shape)
            inside = inside & (taps >= 0) & (taps < size)
            at = at * size + np.clip(taps, 0, size - 1)
        # (channels, n, *kernel) -> (groups, n, channels of a group x taps)
        flat = values.swapaxes(0, 1).reshape(values.shape[1], -1)
        found = np.where(inside, flat.take(at, axis=1), 0)
        channels = found.shape[0] // self.groups
        parts = found.reshape(self.groups, channels, found.shape[1], -1)
        return parts.transpose(0, 2, 1, 3).reshape(self.groups, found.shape[1], -1)

    def _pads(
        self, sizes: Sequence[int], extents: Sequence[int], strides: Sequence[int]
    ) -> list[tuple[int, int]]:
        rank = len(sizes)
        auto = self.node.attrs.get("auto_pad", "NOTSET")
        if auto in ("SAME_UPPER", "SAME_LOWER"):
            pads = []
            for size, extent, stride in zip(sizes, extents, strides, strict=True):
                total = max((math.ceil(size / stride) - 1) * stride + extent - size, 0)
                small, large = total // 2, total - total // 2
                pads.append((small, large) if auto == "SAME_UPPER" else (large, small))
            return pads
        flat = list(self.node.attrs.get("pads", [0] * 2 * rank))
        return list(zip(flat[:rank], flat[rank:], strict=True))


def observe(
    model: Model, nodes: Iterable[gs.Node], samples: Samples, seed: int = 0
) -> dict[str, Product]:
    """Run ``model`` over ``samples`` and return each layer with a sample of what its kernel met.

    Args:
        model: A float graph.
        nodes: Layers of ``model.graph``; those that are no matrix product are left out.
        samples: As many as shall be run.
        seed: Chooses the positions.
    """
    products = {node.name: Product(node) for node in nodes if Product(node).supported}
    fed = {spec.name for spec in model.inputs}
    wanted = dict.fromkeys(product.node.inputs[0].name for product in products.values())
    inner = [name for name in wanted if name not in fed]
    session = None
    if inner:
        exposed = exposing(model.to_onnx(), inner)
        session = OnnxRuntime(exposed, name="observation", configure=at_rest)
    rng = np.random.default_rng(seed)
    found: dict[str, list[Array]] = {name: [] for name in products}
    for sample in track(samples, "looking at layers", len(samples)):
        values = {**sample.feeds, **(session.infer(sample.feeds) if session else {})}
        for name, product in products.items():
            depth = product.matrix(product.weights).shape[2] * product.groups
            total = int(np.clip(_NUMBERS // depth, _FEWEST, VECTORS))
            count = math.ceil(total / len(samples))
            found[name].append(product.take(values[product.node.inputs[0].name], count, rng))
    for name, product in products.items():
        product.vectors = np.ascontiguousarray(np.concatenate(found[name], axis=1), np.float32)
    return products


def _some(total: int, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return ``count`` of ``total`` positions, all of them if there are no more."""
    if total <= count:
        return np.arange(total)
    return np.sort(rng.choice(total, count, replace=False))
