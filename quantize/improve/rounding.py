"""Weights in eight or four bits: integers or FP8, and the scales that they are multiples of.

    nearest     q = round(w / s)
    by output   q so that |X (w - s q)^T| is small, not |w - s q|

q is an integer, or a number of FP8, whose steps grow with it.

The second follows Frantar et al., "GPTQ" (2022), which is Hassibi's optimal brain surgeon: the
columns of W are rounded one after the other, and what is lost in a column is made up for in those
that are still to come, by the inverse of H = X^T X. In closed form, without training.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np

from onnxgraft.graph import float8
from onnxgraft.graph.tensors import Array
from onnxgraft.targets import Format

__all__ = [
    "EIGHT_BITS", "FLOAT8", "FOUR_BITS", "Numbers", "Stored", "along", "mse_scale",
    "nearest_numbers", "numbers_of", "output_numbers", "store", "weight_scale",
]  # fmt: skip


class Numbers(Protocol):
    """What can be stored in place of a weight over its scale.

    Attributes:
        most: The largest.
        dtype: In which they are stored.
    """

    @property
    def most(self) -> float: ...  # noqa: D102
    @property
    def dtype(self) -> np.dtype[Any]: ...  # noqa: D102

    def nearest(self, values: Array) -> Array:
        """Return the nearest ones, half to even."""


@dataclass(frozen=True)
class _Integers:
    least: int
    most: int
    dtype: ClassVar[np.dtype[Any]] = np.dtype(np.int8)

    def nearest(self, values: Array) -> Array:
        return np.clip(np.rint(values), self.least, self.most)


class _Float8:
    most = float8.LARGEST
    dtype = float8.FLOAT8

    def nearest(self, values: Array) -> Array:
        return float8.nearest(values).astype(np.float64)


EIGHT_BITS: Numbers = _Integers(-127, 127)
FOUR_BITS: Numbers = _Integers(-8, 7)
FLOAT8: Numbers = _Float8()
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
        numbers: Of the weights' shape: int8 from -127 to 127, or FP8.
        scale: float32, () or (channels,).
        axis: Of the channels; None for one scale.
    """

    numbers: Array
    scale: Array
    axis: int | None

    @property
    def values(self) -> Array:
        """The float32 weights that the numbers stand for."""
        return np.asarray(
            self.numbers * along(self.scale, self.axis, self.numbers.ndim), np.float32
        )


def numbers_of(kind: Format) -> Numbers:
    """Return the numbers of a format."""
    return FLOAT8 if kind == "fp8" else EIGHT_BITS


def store(values: Array, axis: int | None, numbers: Numbers = EIGHT_BITS) -> Stored:
    """Return weights by the plainest method: the largest one kept, the others rounded."""
    scale = weight_scale(values, axis, numbers)
    return Stored(nearest_numbers(values, scale, axis, numbers), scale, axis)


def along(scale: Array, axis: int | None, rank: int) -> Array:
    """Return a scale so that it multiplies weights of ``rank`` dimensions."""
    return scale if axis is None else scale.reshape([-1 if a == axis else 1 for a in range(rank)])


def weight_scale(values: Array, axis: int | None, numbers: Numbers = EIGHT_BITS) -> Array:
    """Return the float32 scale that keeps the largest weight: () or (channels,).

    A channel of nothing but zeros has scale 1.
    """
    axes = tuple(a for a in range(values.ndim) if a != axis)
    amax = np.abs(values).max(axis=axes)
    scale = np.asarray(amax, np.float64) / numbers.most
    return np.asarray(np.where(scale > 0, scale, 1.0), np.float32)


def mse_scale(
    values: Array,
    axis: int | None,
    importance: Array | None = None,
    numbers: Numbers = EIGHT_BITS,
    factors: Array = _FACTORS,
) -> Array:
    """Return the float32 scale of the smallest mean squared error: () or (channels,).

    Args:
        values: The weights.
        axis: Of the channels.
        importance: Of each weight, of a shape that fits; None takes them for equal.
        numbers: That can be stored.
        factors: Of the scale that keeps the largest weight: those that are tried.
    """
    whole = weight_scale(values, axis).astype(np.float64) * (EIGHT_BITS.most / numbers.most)
    axes = tuple(a for a in range(values.ndim) if a != axis)
    best, best_error = whole, np.full(whole.shape, np.inf)
    for factor in factors:
        scale = along(whole * factor, axis, values.ndim)
        error = (numbers.nearest(values / scale) * scale - values) ** 2
        if importance is not None:
            error = error * importance
        summed = error.sum(axis=axes)
        better = summed < best_error
        best, best_error = (
            np.where(better, whole * factor, best),
            np.where(better, summed, best_error),
        )
    return np.asarray(best, np.float32)


def nearest_numbers(
    values: Array, scale: Array, axis: int | None, numbers: Numbers = EIGHT_BITS
) -> Array:
    """Return the numbers nearest to ``values / scale``, half to even."""
    quotient = values / along(scale, axis, values.ndim)
    return np.asarray(numbers.nearest(quotient), numbers.dtype)


def output_numbers(
    matrix: Array, scale: Array, vectors: Array, numbers: Numbers = EIGHT_BITS
) -> Array:
    """Return (groups, rows, depth) numbers of the smallest error in ``vectors @ matrix.T``.

    Args:
        matrix: (groups, rows, depth) weights.
        scale: Of the same shape.
        vectors: (groups, n, depth) inputs, as the quantized layer gets them.
        numbers: That can be stored.
    """
    # The rounding of these sums is far below the damping.
    hessian = (vectors.transpose(0, 2, 1) @ vectors).astype(np.float64)
    depth = matrix.shape[2]
    mean = np.einsum("gii->g", hessian) / depth
    hessian += np.eye(depth) * (DAMPING * mean + np.finfo(np.float64).tiny)[:, None, None]
    hessian[mean == 0] = np.eye(depth)  # nothing but zeros was seen: any rounding is as good
    result = np.empty(matrix.shape, numbers.dtype)
    if depth <= _BLOCK:
        return _rounded(matrix, scale, hessian, numbers)
    for group in range(len(matrix)):  # one after the other, for the memory
        one = slice(group, group + 1)
        result[one] = _rounded(matrix[one], scale[one], hessian[one], numbers)
    return result


def _rounded(matrix: Array, scale: Array, hessian: Array, numbers: Numbers) -> Array:
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
    stored = np.empty(matrix.shape, numbers.dtype)
    lost = np.empty(matrix.shape)
    depth = matrix.shape[2]
    for start in range(0, depth, _BLOCK):
        end = min(start + _BLOCK, depth)
        before = lost[:, :, :start] @ passed[:, start:end, :start].swapaxes(1, 2)
        for column in range(start, end):
            within = lost[:, :, start:column] @ passed[:, column, start:column, None]
            wanted = weights[:, :, column] + before[:, :, column - start] + within[:, :, 0]
            step = steps[:, :, column]
            rounded = numbers.nearest(wanted / step)
            stored[:, :, column] = rounded
            lost[:, :, column] = weights[:, :, column] - rounded * step
    result = np.empty_like(stored)
    result[rows, :, order] = stored.swapaxes(1, 2)
    return result
