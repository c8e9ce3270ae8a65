"""For TensorRT: write a DFT of known length as a MatMul.

Given:  DFT(x, axis=a), x (..., n, ..., c), c 1 (real) or 2 (complex)
Result: x with axis a before the last, (..., n c) times W (n c, m 2), (..., m, 2), axes as before
        W: of the real part cos and sin of -2 pi j k / n, of the imaginary part -sin and cos

Inverse: the other sign, divided by n. One-sided: m = n / 2 + 1, else n. TensorRT has no DFT, and
the product is exact to rounding; up to a length of 1,024 it is also fast.
https://onnx.ai/onnx/operators/onnx__DFT.html
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.graph.operators import nodes_of
from onnxgraft.graph.tensors import Array
from onnxgraft.stages.surgery.passes.tensorrt._build import Builder
from onnxgraft.stages.surgery.running.rewrite import Context, Result, constant

_MOST = 1024


def apply(graph: gs.Graph, context: Context) -> Result:
    """Rewrite every DFT whose length is known."""
    result = Result()
    for node in nodes_of(graph, "DFT"):
        shape, dtype = context.shapes.shape(node.inputs[0]), context.shapes.dtype(node.inputs[0])
        axis = _axis(node, context)
        if shape is None or dtype is None or axis is None:
            result.refuse(node, "TensorRT has no DFT, and the axis of this one is not known")
            continue
        axis %= len(shape)
        length, parts = shape[axis], shape[-1]
        given = any(tensor.name for tensor in node.inputs[1:2])
        if given or not length.fixed or not parts.fixed or length.number > _MOST:
            result.refuse(
                node,
                f"TensorRT has no DFT, and this one is padded, or not of a length up to {_MOST}",
            )
        elif node.attrs.get("inverse", 0) and node.attrs.get("onesided", 0):
            result.refuse(node, "TensorRT has no DFT, and this one is inverse and one-sided")
        else:
            matrix = _matrix(length.number, parts.number, node.attrs)
            _rewrite(Builder(context, node), len(shape), axis, matrix.astype(dtype))
            result.did(node, f"a MatMul of length {length.number}")
    return result


def _axis(node: gs.Node, context: Context) -> int | None:
    """Return the axis: an attribute up to opset 19, an input from 20 on."""
    if context.opset < 20:
        return int(node.attrs.get("axis", 1))
    if len(node.inputs) < 3 or not node.inputs[2].name:
        return -2
    value = constant(node.inputs[2])
    return None if value is None else int(value)


def _matrix(length: int, parts: int, attrs: dict[str, int]) -> Array:
    """Return W, of shape (n c, m 2)."""
    inverse = attrs.get("inverse", 0)
    kept = length // 2 + 1 if attrs.get("onesided", 0) else length
    # The product is reduced first: cos and sin of large angles lose digits.
    turns = np.outer(np.arange(length), np.arange(kept)) % length / length
    wave = np.exp((2j if inverse else -2j) * np.pi * turns) / (length if inverse else 1)
    real = np.stack([wave.real, wave.imag], axis=-1)
    imaginary = np.stack([-wave.imag, wave.real], axis=-1)
    return np.stack([real, imaginary][:parts], axis=1).reshape(length * parts, kept * 2)


def _rewrite(build: Builder, rank: int, axis: int, matrix: Array) -> None:
    x = build.inputs[0]
    order = [*(a for a in range(rank - 1) if a != axis), axis, rank - 1]
    same = order == list(range(rank))
    moved = x if same else build.add("Transpose", x, perm=order)
    rows = build.integers("row", *[0] * (rank - 2), matrix.shape[0])
    flat = build.add("Reshape", moved, rows)
    product = build.add("MatMul", flat, build.constant("waves", matrix))
    parts = build.integers("parts", *[0] * (rank - 2), matrix.shape[1] // 2, 2)
    last = build.add("Reshape", product, parts, output=build.outputs[0] if same else None)
    if not same:
        back = [order.index(a) for a in range(rank)]
        build.add("Transpose", last, perm=back, output=build.outputs[0])
