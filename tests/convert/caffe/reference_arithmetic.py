"""Products, sums and normalizations, by their definitions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxgraft.graph.tensors import Array


def inner_product(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    *,
    axis: int = 1,
    transpose: bool = False,
    normalize: bool = False,
) -> Array:
    """Return the product of x, flattened from ``axis`` on, and (O, K), or (K, O) if transposed.

    ``normalize`` scales the buffer of the weights to length 1, K values at a time
    (tanghy2016/caffe's inner_product_layer.cpp).
    """
    axis %= x.ndim
    matrix = weight.astype(np.float64).reshape(weight.shape[-2:])
    if normalize:
        rows = matrix.reshape(*(matrix.shape[::-1] if transpose else matrix.shape))
        rows = rows / np.sqrt((rows**2).sum(axis=1, keepdims=True) + 1e-6)
        matrix = rows.reshape(matrix.shape)
    matrix = matrix if transpose else matrix.T
    y = x.reshape(*x.shape[:axis], -1) @ matrix
    return y if bias is None else y + bias.ravel()


def eltwise(*xs: Array, operation: str = "SUM", coeff: Sequence[float] = ()) -> Array:
    """Return the sum, weighted by ``coeff``, the product or the maximum."""
    y = xs[0] * (coeff[0] if coeff else 1.0)
    for index, x in enumerate(xs[1:], start=1):
        if operation == "PROD":
            y = y * x
        elif operation == "MAX":
            y = np.maximum(y, x)
        else:
            y = y + x * (coeff[index] if coeff else 1.0)
    return y


def batch_norm(
    x: Array,
    mean: Array,
    variance: Array,
    factor: Array,
    *,
    eps: float = 1e-5,
    outside: bool = False,
) -> Array:
    """Return x normalized by the stored statistics; a factor of 0 makes them 0.

    eps stands inside the root or, as synopsys-caffe may have it, outside.
    """
    divide = 0.0 if factor.item() == 0 else 1 / float(factor.item())
    return _normalized(x, mean * divide, variance * divide, eps, outside=outside)


def batch_norm_of_the_batch(x: Array, *, eps: float = 1e-5, outside: bool = False) -> Array:
    """Return x normalized by its own statistics."""
    axes = (0, *range(2, x.ndim))
    return _normalized(x, x.mean(axis=axes), x.var(axis=axes), eps, outside=outside)


def nv_batch_norm(
    x: Array, mean: Array, variance: Array, gain: Array, shift: Array, *, eps: float = 1e-5
) -> Array:
    """NVCaffe's with a scale and a bias: the third blob is not read, eps is 1e-5 at least."""
    return bn_segnet(_normalized(x, mean, variance, max(eps, 1e-5)), gain, shift)


def scale(x: Array, factor: Array | None, bias: Array | None = None, *, axis: int = 1) -> Array:
    """Return ``x * factor + bias``; both begin at ``axis`` of x, or are scalars."""
    y = x if factor is None else x * aligned(factor, x, axis)
    return y if bias is None else y + aligned(bias, x, axis)


def aligned(operand: Array, x: Array, axis: int) -> Array:
    """Return the operand with axes of size 1, so that its first axis is ``axis`` of x."""
    axis %= x.ndim
    if operand.ndim == 0:
        return operand.astype(np.float64)
    behind = x.ndim - axis - operand.ndim
    return operand.astype(np.float64).reshape(*[1] * axis, *operand.shape, *[1] * behind)


def bn_segnet(x: Array, slope: Array, shift: Array) -> Array:
    """SegNet's BN in its mode INFERENCE."""
    return x * _per_channel(slope, x) + _per_channel(shift, x)


def bn_pspnet(
    x: Array, slope: Array, bias: Array, mean: Array, variance: Array, *, eps: float = 1e-5
) -> Array:
    """PSPNet's BN at TEST."""
    return bn_segnet(_normalized(x, mean.ravel(), variance.ravel(), eps), slope, bias)


def mvn(
    x: Array,
    *,
    across_channels: bool = False,
    variance: bool = True,
    eps: float = 1e-9,
    inside: bool = False,
) -> Array:
    """Return every plane, or sample, less its mean, over its deviation."""
    axes = tuple(range(1 if across_channels else 2, x.ndim))
    y = x - x.mean(axis=axes, keepdims=True)
    if not variance:
        return y
    squares = (y**2).mean(axis=axes, keepdims=True)
    return y / (np.sqrt(squares + eps) if inside else np.sqrt(squares) + eps)


def normalize(
    x: Array, factor: Array | None = None, *, across_spatial: bool = True, eps: float = 1e-10
) -> Array:
    """Return x over its Euclidean norm, of a position or of the sample, times the factor."""
    axes = (1, 2, 3) if across_spatial else (1,)
    y = x / np.sqrt((x**2).sum(axis=axes, keepdims=True) + eps)
    if factor is None:
        return y
    return y * (float(factor.item()) if factor.size == 1 else _per_channel(factor, x))


def to_length_one(x: Array, kind: str = "L2") -> Array:
    """Return happynear/caffe-windows' Normalize: each position over its norm."""
    if kind == "L1":
        return x / (abs(x).sum(axis=1, keepdims=True) + 1e-6)
    return x / np.sqrt((x**2).sum(axis=1, keepdims=True) + 1e-6)


def axpy(factor: Array, x: Array, y: Array) -> Array:
    """Return ``factor * x + y`` with one factor for each channel of each sample."""
    return factor.reshape(*x.shape[:2], *[1] * (x.ndim - 2)) * x + y


def softmax(x: Array, axis: int = 1) -> Array:
    exponent = np.exp(x - x.max(axis=axis, keepdims=True))
    return exponent / exponent.sum(axis=axis, keepdims=True)


def reduction(x: Array, *, operation: str = "SUM", axis: int = 0, coeff: float = 1.0) -> Array:
    """Return one value for all that lies behind ``axis``."""
    flat = x.reshape(*x.shape[: axis % x.ndim], -1)
    values = {"SUM": flat, "ASUM": abs(flat), "SUMSQ": flat**2, "MEAN": flat / flat.shape[-1]}
    return np.asarray(coeff * values[operation].sum(axis=-1))


def embed(x: Array, weight: Array, bias: Array | None = None) -> Array:
    """Return a row of ``weight`` for each index."""
    y = weight.astype(np.float64)[x.astype(int)]
    return y if bias is None else y + bias


def _normalized(
    x: Array, mean: Array, variance: Array, eps: float, *, outside: bool = False
) -> Array:
    wide = variance.astype(np.float64)
    deviation = np.sqrt(wide) + eps if outside else np.sqrt(wide + eps)
    return (x - _per_channel(mean, x)) / _per_channel(deviation, x)


def _per_channel(values: Array, x: Array) -> Array:
    return values.astype(np.float64).reshape(-1, *[1] * (x.ndim - 2))
