"""Biases as int32, and weights whose scales leave them room.

    q = round(b / (s_x s_w))        added to the sum of products of integers, whose step is s_x s_w

Where a channel's weights are tiny, as of a folded batch norm with a dead gamma, q passes int32 for
any usual bias. So its scale is raised until |q| is at most 2^30, and the other half of int32 is
the sum's:

    s_w >= max|b| / (2^30 s_x)

That costs next to nothing: weights are then off by at most half a step, and a sum of k products by
k 127 s_x s_w / 2 = 6e-8 k |b|, which is about what float32 keeps of a sum with b in it. Only where
all channels share one scale may it cost the others something, and then a note says so.

A channel of nothing but zeros may have any scale: it gets the one that is best for its bias.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.graph.operators import is_op
from onnxgraft.graph.tensors import Array
from onnxgraft.stages.quantize.improve.rounding import Stored, along, nearest_numbers

__all__ = ["Bias", "int32_bias", "raised"]

_LARGEST = 2.0**30
_TINY = 2 * float(np.finfo(np.float32).tiny)
# A step of an 8-bit output, as a part of its range: less than that is not worth a note.
_STEP = 1 / 255


@dataclass(frozen=True)
class Bias:
    """A layer's bias, once for each scale of its weights.

    Attributes:
        values: (channels,) float64.
        axis: Of the weights, along which the channels are.
        groups: How often they occur along it: the channels of a ConvTranspose of several groups
            share the weights' second axis.
    """

    values: Array
    axis: int
    groups: int = 1

    def steps(self, stored: Stored, activation_scale: float) -> Array:
        """Return the float32 step of the sums that the bias is added to: () or (channels,)."""
        step = np.asarray(activation_scale * stored.scale.astype(np.float64), np.float32)
        return np.tile(step, self.groups) if step.ndim else step


def int32_bias(node: gs.Node, stored: Stored, activation_scale: float) -> Bias | None:
    """Return the bias of a layer, if there is one that can be stored as int32.

    None where it is not constant, not finite, not one value a channel, where the channels with a
    scale of their own are not those of the output, or where no float32 scale leaves it room.
    """
    if len(node.inputs) < 3 or not isinstance(node.inputs[2], gs.Constant):
        return None
    shape = stored.numbers.shape
    groups = 1
    if is_op(node, "ConvTranspose"):
        groups = int(node.attrs.get("group", 1))
        axis, channels = 1, shape[1] * groups
    elif is_op(node, "Gemm"):
        axis = 0 if node.attrs.get("transB", 0) else 1
        channels = shape[axis]
    else:
        axis, channels = 0, shape[0]
    if stored.axis not in (None, axis):
        return None
    values = np.asarray(node.inputs[2].values, np.float64)
    one_each = values.size == channels == values.shape[-1] if values.ndim else False
    if not (values.size == 1 or one_each) or not np.isfinite(values).all():
        return None
    if np.abs(values).max() / (_LARGEST * activation_scale) > np.finfo(np.float32).max / 2:
        return None
    return Bias(np.broadcast_to(values.reshape(-1), channels), axis, groups)


def raised(
    weights: Array, stored: Stored, bias: Bias, activation_scale: float
) -> tuple[Stored, float]:
    """Return weights whose scales suit the bias, and what that costs.

    The cost is the largest error of an output by coarser weights, as a part of the output's range;
    0.0 where nothing was raised, or nothing was lost that is worth a note.

    Args:
        weights: In float.
        stored: As integers.
        bias: That is added to the layer's sums.
        activation_scale: Of the layer's input.
    """
    sizes = np.abs(bias.values).reshape(bias.groups, -1).max(axis=0)
    if stored.axis is None:
        sizes = sizes.max()
    biased = sizes > 0
    # Scale and step are divided by: they have to be among float32's normal numbers.
    least = np.maximum(sizes / _LARGEST, _TINY) / activation_scale
    least = np.maximum(least, _TINY)
    axes = tuple(axis for axis in range(weights.ndim) if axis != stored.axis)
    short = (stored.scale < least) | (biased & ~stored.numbers.any(axis=axes))
    if not short.any():
        return stored, 0.0
    scale = np.asarray(np.where(short, least, stored.scale), np.float32)
    integers = nearest_numbers(weights, scale, stored.axis)
    if stored.axis is not None:  # those that had room keep the integers that were chosen
        mine = along(short, stored.axis, weights.ndim)
        integers = np.where(mine, integers, stored.numbers)
    coarse = Stored(integers, scale, stored.axis)
    before, after = (_lost(weights, kind, bias, activation_scale) for kind in (stored, coarse))
    told = (after > _STEP) & (after > 2 * before)
    return coarse, float(np.max(after, where=told, initial=0.0))


def _lost(weights: Array, stored: Stored, bias: Bias, activation_scale: float) -> Array:
    """Return (channels,) the largest error of an output, as a part of the largest output."""
    axes = tuple(axis for axis in range(weights.ndim) if axis != bias.axis)
    whole, lost = (
        255 * activation_scale * np.abs(values).sum(axis=axes, dtype=np.float64)
        for values in (weights, weights - stored.values)
    )
    offset = np.abs(bias.values).reshape(bias.groups, -1).min(axis=0)
    total = whole + offset
    return np.asarray(np.divide(lost, total, out=np.zeros_like(total), where=total > 0))
