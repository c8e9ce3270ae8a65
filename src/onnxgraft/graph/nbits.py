"""onnxruntime's ``com.microsoft.MatMulNBits``: a MatMul whose weights are packed integers.

    y = x W          W[k, n] = (q[n, k] - z) * scale[n, k // block]

B holds q as (N, blocks, block * bits / 8) bytes, along k, the low bits of a byte first; what is
beyond K in the last block is not read. Without zero points z is half of the range, 8 or 128.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.graph.model import Model
from onnxgraft.graph.names import FreeNames
from onnxgraft.graph.node import Node
from onnxgraft.graph.operators import MICROSOFT, is_op, set_op
from onnxgraft.graph.tensors import Array
from onnxgraft.graph.walk import bodies, tidy

__all__ = ["packed", "stores_bits", "unpacked", "with_float_weights"]


def stores_bits(node: gs.Node) -> int:
    """Return in how many bits a MatMulNBits has its weights; 0 for any other node."""
    if not is_op(node, "MatMulNBits", domain=MICROSOFT):
        return 0
    return int(node.attrs.get("bits", 4))


def packed(integers: Array, bits: int, block: int) -> Array:
    """Return B of (rows, depth) integers around 0.

    >>> packed(np.array([[-8, 7, 0]]), 4, 16)[0, 0, :2].tolist()
    [240, 136]
    """
    rows, depth = integers.shape
    blocks = -(-depth // block)
    codes = np.full((rows, blocks * block), 1 << (bits - 1), np.uint8)
    codes[:, :depth] += integers.astype(np.int8).view(np.uint8)  # wraps, as it should
    groups = codes.reshape(rows, blocks, -1, 8 // bits)
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    return np.asarray(np.bitwise_or.reduce(groups << shifts, axis=3), np.uint8)


def unpacked(node: gs.Node) -> Array | None:
    """Return the float32 weights (K, N) of a MatMulNBits; None where they can't be told."""
    inputs = [tensor for tensor in node.inputs[1:4] if tensor.name]
    if not all(isinstance(tensor, gs.Constant) for tensor in inputs):
        return None
    if len(node.inputs) > 4 and node.inputs[4].name:
        return None  # an order of its own
    depth, rows, block = (int(node.attrs.get(name, 0)) for name in ("K", "N", "block_size"))
    bits, blocks = stores_bits(node), -(-depth // max(block, 1))
    if bits not in (2, 4, 8) or inputs[0].values.size * 8 != rows * blocks * block * bits:
        return None
    if inputs[1].values.size != rows * blocks:
        return None
    codes = _codes(inputs[0].values, bits).reshape(rows, blocks, block)
    scale = np.asarray(inputs[1].values, np.float32).reshape(rows, blocks, 1)
    zero: Array = np.full((1, 1, 1), 1 << (bits - 1), np.float32)
    if len(inputs) > 2:
        zero = np.asarray(inputs[2].values)
        if zero.dtype == np.uint8:
            zero = _codes(zero.reshape(rows, -1), bits)[:, :blocks]
        zero = zero.reshape(rows, blocks, 1).astype(np.float32)
    values = (codes.astype(np.float32) - zero) * scale
    return np.ascontiguousarray(values.reshape(rows, -1)[:, :depth].T)


def _codes(stored: Array, bits: int) -> Array:
    """Return the numbers that bytes hold, along the last axis."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    split = (np.asarray(stored)[..., None] >> shifts) & ((1 << bits) - 1)
    return split.reshape(*stored.shape[:-1], -1)


def with_float_weights(model: Model) -> Model:
    """Return a copy in which each MatMulNBits is a MatMul of floats; the model where none is.

    They compute with the floats that the integers stand for, and round no activation. One whose
    weights can't be told stays as it is.
    """
    if not any(stores_bits(node) for body in bodies(model.graph) for node in body.nodes):
        return model
    copy = model.copy()
    names = FreeNames(copy.graph, copy.names)
    found: dict[int, tuple[gs.Tensor, gs.Constant]] = {}
    for body in bodies(copy.graph):
        for node in list(body.nodes):
            values = unpacked(node) if stores_bits(node) else None
            if values is None:
                continue
            stored = node.inputs[1]
            if id(stored) not in found:
                floats = gs.Constant(names.tensor(f"{stored.name}/float"), values)
                found[id(stored)] = stored, floats
            bias = node.inputs[5] if len(node.inputs) > 5 and node.inputs[5].name else None
            node.inputs = [node.inputs[0], found[id(stored)][1]]
            set_op(node, "MatMul")
            node.attrs.clear()
            if bias is not None:
                target = node.outputs[0]
                product = gs.Variable(names.tensor(f"{target.name}/product"), target.dtype)
                node.outputs = [product]
                name = names.node(f"{node.name}/bias")
                body.nodes.append(Node("Add", name, {}, [product, bias], [target]))
    tidy(copy.graph)
    return copy
