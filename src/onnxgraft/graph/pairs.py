"""Weights for CPUs that add two products of bytes in 16 bits, which saturate.

Without VNNI the kernels of onnxruntime and OpenVINO use VPMADDUBSW: two neighbouring products of an
unsigned by a signed byte are added, and what is beyond 16 bits is cut off. With activations of up
to 255 two weights of one sign must not be more than 128 together:

    255 (w_2i + w_2i+1)  <=  255 * 128  =  32640  <  2^15

Weights of seven bits always keep that. But it is rare that two large weights are neighbours, so a
channel's scale is only made as much larger as its own pairs need: most lose a fraction of a bit.
Neighbours are input channels at one tap, or, where a kernel lays the taps of a window one after the
other, those of the rows (tap, channel); both are kept.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.graph.operators import is_op
from onnxgraft.graph.tensors import Array

__all__ = ["MOST", "fitting", "pair_sums"]

# Of two neighbouring weights of one sign.
MOST = 128
# A larger scale rounds some weights up again.
_ROUNDS = 8


def fitting(
    node: gs.Node, scale: Array, axis: int | None, store: Callable[[Array], Array]
) -> tuple[Array, Array]:
    """Return int8 weights whose neighbours fit, and a scale that is as small as that allows.

    Args:
        node: The layer.
        scale: That would be taken otherwise: () or (channels,).
        axis: Of the channels; None for one scale.
        store: Returns int8 weights for a scale.
    """
    integers = store(scale)
    for _ in range(_ROUNDS):
        sums = pair_sums(node, integers)
        growth = (sums.max(initial=0) if axis is None else sums) / MOST
        if (growth <= 1).all():
            return integers, scale
        scale = np.asarray(scale * np.maximum(growth, 1.0), np.float32)
        integers = store(scale)
    sums = pair_sums(node, integers)
    over = sums.max(initial=0) > MOST if axis is None else sums > MOST
    halved = np.clip(integers, -MOST // 2, MOST // 2)  # which always fits
    shape = [-1 if a == axis else 1 for a in range(integers.ndim)]
    return np.where(np.reshape(over, shape), halved, integers), scale


def pair_sums(node: gs.Node, integers: Array) -> Array:
    """Return (outputs,) the largest sum of two neighbouring weights of one sign, without it."""
    rows = _rows(node, integers)
    flat = rows.reshape(len(rows), -1)
    sums = np.zeros(len(rows), np.int64)
    for neighbours in (rows, flat):
        length = neighbours.shape[-1]
        padded = np.zeros((*neighbours.shape[:-1], length + length % 2), np.int64)
        padded[..., :length] = neighbours
        pairs = padded.reshape(len(rows), -1, 2)
        for side in (pairs, -pairs):
            sums = np.maximum(sums, np.maximum(side, 0).sum(2).max(1, initial=0))
    return sums


def _rows(node: gs.Node, weights: Array) -> Array:
    """Return (outputs, taps, inputs) of a layer's weights."""
    if is_op(node, "Conv"):
        return np.moveaxis(weights, 1, -1).reshape(weights.shape[0], -1, weights.shape[1])
    if is_op(node, "ConvTranspose"):
        moved = weights.reshape(*weights.shape[:2], -1)
        return np.moveaxis(moved, 0, -1)
    if is_op(node, "Gemm") and node.attrs.get("transB", 0):
        weights = weights.T
    return weights.reshape(-1, *weights.shape[-2:]).transpose(2, 0, 1)
