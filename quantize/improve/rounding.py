"""Integers of weights, and the scales that they are multiples of.

    nearest     q = round(w / s)
    by output   q so that |X (w - s q)^T| is small, not |w - s q|

The second follows Frantar et al., "GPTQ" (2022), which is Hassibi's optimal brain surgeon: the
columns of W are rounded one after the other, and what is lost in a column is made up for in those
that are still to come, by the inverse of H = X^T X. In closed form, without training.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnxgraft.graph.tensors import Array

__all__ = [
    "Stored", "along", "mse_scale", "nearest_integers", "output_integers", "store", "weight_scale",
]  # fmt: skip

LEVELS = 127
# The smallest and largest integer.
EIGHT_BITS = (-LEVELS, LEVELS)
# Added to the diagonal of H, as a part of its mean: what was not seen must not be free.
DAMPING = 0.01
_BLOCK = 128
# Of the largest magnitude. With few weights to a scale the best is often just below it, where the
# most of them happen to lie near a multiple.
_FACTORS = np.append(np.linspace(1.0, 0.9, 51), np.linspace(0.89, 0.5, 40))


@dataclass(frozen=True)
class Stored:
    """Weights as a file holds them.

    Attributes:
        integers: int8, of the weights' shape, from -127 to 127.
        scale: float32, () or (channels,).
        axis: Of the channels; None for one scale.
    """

    integers: Array
    scale: Array
    axis: int | None

    @property
    def values(self) -> Array:
        """The float32 weights that the integers stand for."""
        return np.asarray(
            self.integers * along(self.scale, self.axis, self.integers.ndim), np.float32
        )


def store(values: Array, axis: int | None) -> Stored:
    """Return weights by the plainest method: the largest one kept, the others rounded."""
    scale = weight_scale(values, axis)
    return Stored(nearest_integers(values, scale, axis), scale, axis)


def along(scale: Array, axis: int | None, rank: int) -> Array:
    """Return a scale so that it multiplies weights of ``rank`` dimensions."""
    return scale if axis is None else scale.reshape([-1 if a == axis else 1 for a in range(rank)])


def weight_scale(values: Array, axis: int | None) -> Array:
    """Return the float32 scale that keeps the largest weight: () or (channels,).

    A channel of nothing but zeros has scale 1.
    """
    axes = tuple(a for a in range(values.ndim) if a != axis)
    amax = np.abs(values).max(axis=axes)
    scale = np.asarray(amax, np.float64) / LEVELS
    return np.asarray(np.where(scale > 0, scale, 1.0), np.float32)


def mse_scale(
    values: Array,
    axis: int | None,
    importance: Array | None = None,
    levels: tuple[int, int] = EIGHT_BITS,
    factors: Array = _FACTORS,
) -> Array:
    """Return the float32 scale of the smallest mean squared error: () or (channels,).

    Args:
        values: The weights.
        axis: Of the channels.
        importance: Of each weight, of a shape that fits; None takes them for equal.
        levels: The smallest and largest integer.
        factors: Of the scale that keeps the largest weight: those that are tried.
    """
    whole = weight_scale(values, axis).astype(np.float64) * (LEVELS / levels[1])
    axes = tuple(a for a in range(values.ndim) if a != axis)
    best, best_error = whole, np.full(whole.shape, np.inf)
    for factor in factors:
        scale = along(whole * factor, axis, values.ndim)
        error = (np.clip(np.rint(values / scale), *levels) * scale - values) ** 2
        if importance is not None:
            error = error * importance
        summed = error.sum(axis=axes)
        better = summed < best_error
        best, best_error = (
            np.where(better, whole * factor, best),
            np.where(better, summed, best_error),
        )
    return np.asarray(best, np.float32)


def nearest_integers(
    values: Array, scale: Array, axis: int | None, levels: tuple[int, int] = EIGHT_BITS
) -> Array:
    """Return the int8 nearest to ``values / scale``, half to even."""
    quotient = values / along(scale, axis, values.ndim)
    return np.asarray(np.clip(np.rint(quotient), *levels), np.int8)


def output_integers(
    matrix: Array, scale: Array, vectors: Array, levels: tuple[int, int] = EIGHT_BITS
) -> Array:
    """Return (groups, rows, depth) int8 of the smallest error in ``vectors @ matrix.T``.

    Args:
        matrix: (groups, rows, depth) weights.
        scale: Of the same shape.
        vectors: (groups, n, depth) inputs, as the quantized layer gets them.
        levels: The smallest and largest integer.
    """
    # The rounding of these sums is far below the damping.
    hessian = (vectors.transpose(0, 2, 1) @ vectors).astype(np.float64)
    depth = matrix.shape[2]
    mean = np.einsum("gii->g", hessian) / depth
    hessian += np.eye(depth) * (DAMPING * mean + np.finfo(np.float64).tiny)[:, None, None]
    hessian[mean == 0] = np.eye(depth)  # nothing but zeros was seen: any rounding is as good
    result = np.empty(matrix.shape, np.int8)
    if depth <= _BLOCK:
        return _rounded(matrix, scale, hessian, levels)
    for group in range(len(matrix)):  # one after the other, for the memory
        one = slice(group, group + 1)
        result[one] = _rounded(matrix[one], scale[one], hessian[one], levels)
    return result


def _rounded(matrix: Array, scale: Array, hessian: Array, levels: tuple[int, int]) -> Array:
    """Round column after column, that of the most energy first.

    With H = L^T L, L lower triangular, and d what the weights lose, the error |L d|^2 is a sum over
    rows; column j is the last that its row knows, and makes it zero where d_j is
    -sum(L_ji d_i for i < j) / L_jj. That is the same as what is passed on by H^-1, without it:
    Chen et al., "The Geometry of LLM Quantization: GPTQ as Babai's Nearest Plane Algorithm" (2025).
    """
    order = np.argsort(-np.einsum("gii->gi", hessian), axis=1, kind="stable")
    rows = np.arange(len(matrix))[:, None]
    weights = matrix.astype(np.float64)[rows, :, order].swapaxes(1, 2)
    steps = np.broadcast_to(scale, matrix.shape).astype(np.float64)[rows, :, order].swapaxes(1, 2)
    back = order[:, ::-1]
    factor = np.linalg.cholesky(hessian[rows[:, :, None], back[:, :, None], back[:, None, :]])
    lower = factor[:, ::-1, ::-1].swapaxes(1, 2)
    passed = lower / np.einsum("gii->gi", lower)[:, :, None]
    integers = np.empty(matrix.shape, np.int8)
    lost = np.empty(matrix.shape)
    depth = matrix.shape[2]
    for start in range(0, depth, _BLOCK):
        end = min(start + _BLOCK, depth)
        before = lost[:, :, :start] @ passed[:, start:end, :start].swapaxes(1, 2)
        for column in range(start, end):
            within = lost[:, :, start:column] @ passed[:, column, start:column, None]
            wanted = weights[:, :, column] + before[:, :, column - start] + within[:, :, 0]
            step = steps[:, :, column]
            rounded = np.clip(np.rint(wanted / step), *levels)
            integers[:, :, column] = rounded
            lost[:, :, column] = weights[:, :, column] - rounded * step
    result = np.empty_like(integers)
    result[rows, :, order] = integers.swapaxes(1, 2)
    return result
