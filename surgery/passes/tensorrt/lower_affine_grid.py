"""For TensorRT: write an AffineGrid of known size as a MatMul.

Given:  AffineGrid(theta, [N, C, H, W])         theta (N, 2, 3)
Result: Reshape(Transpose(MatMul(theta, base)), [0, H, W, 2])
        base (3, H W): the rows are x, y and 1 of each place

With align_corners=1 the coordinates of an axis of n places run from -1 to 1, else from the middle
of the first place to that of the last: (2 i + 1) / n - 1. In three dimensions likewise, with z.
https://onnx.ai/onnx/operators/onnx__AffineGrid.html
"""

from __future__ import annotations

import math

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.graph.operators import nodes_of
from onnxgraft.graph.tensors import Array
from onnxgraft.stages.surgery.passes.tensorrt._build import Builder
from onnxgraft.stages.surgery.running.rewrite import Context, Result

_MOST_PLACES = 1 << 22


def apply(graph: gs.Graph, context: Context) -> Result:
    """Rewrite every AffineGrid whose size is known."""
    result = Result()
    for node in nodes_of(graph, "AffineGrid"):
        size = context.shapes.value(node.inputs[1])
        dims = [dim.number for dim in (size or ())[2:] if dim is not None and dim.fixed]
        dtype = context.shapes.dtype(node.inputs[0])
        corners = bool(node.attrs.get("align_corners", 0))
        if size is None or dtype is None or len(dims) < len(size) - 2:
            result.refuse(node, "TensorRT has no AffineGrid, and the size of this one is not known")
        elif math.prod(dims) > _MOST_PLACES or (corners and 1 in dims):
            result.refuse(node, f"TensorRT has no AffineGrid, and none is written for size {dims}")
        else:
            _rewrite(Builder(context, node), dims, _base(dims, corners).astype(dtype))
            result.did(node, "a MatMul by the coordinates of each place")
    return result


def _base(dims: list[int], corners: bool) -> Array:
    """Return the coordinates of all places, the innermost axis first, and ones."""
    axes = [
        np.linspace(-1, 1, n) if corners else (2 * np.arange(n) + 1) / n - 1 for n in dims
    ]  # fmt: skip
    grid = np.meshgrid(*axes, indexing="ij")[::-1]
    return np.stack([*(axis.ravel() for axis in grid), np.ones(math.prod(dims))])


def _rewrite(build: Builder, dims: list[int], base: Array) -> None:
    product = build.add("MatMul", build.inputs[0], build.constant("places", base))
    places = build.add("Transpose", product, perm=[0, 2, 1])
    shape = build.integers("shape", 0, *dims, len(dims))
    build.add("Reshape", places, shape, output=build.outputs[0])
