"""Pooling, SPP and LRN, by their definitions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from onnxgraft.graph.tensors import Array
from tests.convert.caffe.reference_convolution import Axes, per_axis

# A window of one axis: its beginning and end in the image, and how many values it counts.
Window = tuple[int, int, int]
# Pads before and after each axis, instead of one for both.
Sides = Sequence[tuple[int, int]]


def max_pool(
    x: Array,
    kernel: Axes,
    *,
    stride: Axes = 1,
    pad: Axes = 0,
    floor: bool = False,
    sides: Sides = (),
) -> tuple[Array, Array]:
    """Return the largest values, and their places ``h * W + w`` within their planes.

    The first of equal values counts. A window without any value has the smallest float32 and -1.
    """

    def largest(plane: Array, rows: Window, columns: Window) -> tuple[float, float]:
        found = (float(np.finfo(np.float32).min), -1.0)
        for row in range(rows[0], rows[1]):
            for column in range(columns[0], columns[1]):
                if plane[row, column] > found[0]:
                    found = (float(plane[row, column]), float(row * plane.shape[1] + column))
        return found

    values, places = _pool(x, kernel, stride, pad, floor, largest, sides)
    return values, places


def max_values(x: Array, kernel: Axes, **more: Any) -> Array:
    """Return the largest values alone."""
    return max_pool(x, kernel, **more)[0]


def average_pool(
    x: Array,
    kernel: Axes,
    *,
    stride: Axes = 1,
    pad: Axes = 0,
    floor: bool = False,
    inside: bool = False,
    sides: Sides = (),
) -> Array:
    """Return the sums of the windows over the number of places up to the end of the padding.

    ``inside`` counts the places within the image alone (AVE_EXC_PAD).
    """

    def average(plane: Array, rows: Window, columns: Window) -> tuple[float, float]:
        total = plane[rows[0] : max(rows[0], rows[1]), columns[0] : max(columns[0], columns[1])]
        places = rows[2] * columns[2]
        if inside:
            places = (rows[1] - rows[0]) * (columns[1] - columns[0])
        with np.errstate(invalid="ignore"):
            return float(np.float64(total.sum()) / places), 0.0

    return _pool(x, kernel, stride, pad, floor, average, sides)[0]


def global_pool(x: Array, *, average: bool) -> Array:
    """Return one value a plane, as (N, C, 1, 1)."""
    return (x.mean if average else x.max)(axis=(2, 3), keepdims=True)


def spp(x: Array, levels: int, *, average: bool = False) -> Array:
    """Return the pyramid: level i has 2^i by 2^i bins; one level alone is not flattened."""
    parts = []
    for level in range(levels):
        bins = 2**level
        kernel = [math.ceil(n / bins) for n in x.shape[2:]]
        pad = [(k * bins - n + 1) // 2 for k, n in zip(kernel, x.shape[2:], strict=True)]
        pool = average_pool if average else max_values
        parts.append(pool(x, kernel, stride=kernel, pad=pad))
    if levels == 1:
        return parts[0]
    return np.concatenate([part.reshape(x.shape[0], -1) for part in parts], axis=1)


def lrn_across_channels(
    x: Array, size: int = 5, alpha: float = 1.0, beta: float = 0.75, k: float = 1.0
) -> Array:
    """Return x over ``(k + alpha / size * sum of squares of the nearby channels) ^ beta``."""
    y = np.empty_like(x)
    for channel in range(x.shape[1]):
        near = slice(max(0, channel - size // 2), channel + size // 2 + 1)
        total = (x[:, near] ** 2).sum(axis=1)
        y[:, channel] = x[:, channel] / (k + alpha / size * total) ** beta
    return y


def lrn_within_channel(x: Array, size: int = 5, alpha: float = 1.0, beta: float = 0.75) -> Array:
    """Return x over ``(1 + alpha * average of squares nearby) ^ beta``, zeros outside."""
    return x / (1 + alpha * average_pool(x**2, size, pad=(size - 1) // 2)) ** beta


def _pool(
    x: Array,
    kernel: Axes,
    stride: Axes,
    pad: Axes,
    floor: bool,
    value: Callable[[Array, Window, Window], tuple[float, float]],
    sides: Sides = (),
) -> tuple[Array, Array]:
    pads = sides or [(amount, amount) for amount in per_axis(pad, 2)]
    padded = any(any(both) for both in pads)
    rows, columns = (
        _windows(n, k, s, p, floor=floor, clip=padded)
        for n, k, s, p in zip(
            x.shape[2:], per_axis(kernel, 2), per_axis(stride, 2), pads, strict=True
        )
    )
    first = np.empty((*x.shape[:2], len(rows), len(columns)))
    second = np.empty_like(first)
    for n, c, i, j in np.ndindex(*first.shape):
        first[n, c, i, j], second[n, c, i, j] = value(x[n, c], rows[i], columns[j])
    return first, second


def pool_3d(x: Array, kernel: Sequence[int], *, average: bool = False, **how: Any) -> Array:
    """Return C3D's Pooling3D, which never clips: of an average without padding, or a maximum."""
    stride, pad = how.get("stride", (1, 1, 1)), how.get("pad", (0, 0, 0))
    spans = [
        _windows(n, k, s, (p, p), floor=False, clip=False)
        for n, k, s, p in zip(x.shape[2:], kernel, stride, pad, strict=True)
    ]
    y = np.empty((*x.shape[:2], *map(len, spans)))
    for n, c, i, j, k in np.ndindex(*y.shape):
        windows = spans[0][i], spans[1][j], spans[2][k]
        part = x[n, c][tuple(slice(first, end) for first, end, _ in windows)]
        places = math.prod(length for _, _, length in windows)
        y[n, c, i, j, k] = part.sum() / places if average else part.max()
    return y


def _windows(
    n: int, k: int, s: int, pads: tuple[int, int], *, floor: bool, clip: bool
) -> list[Window]:
    p, after = pads
    count = (math.floor if floor else math.ceil)((n + p + after - k) / s) + 1
    if clip and (count - 1) * s >= n + p:
        count -= 1
    windows = []
    for index in range(count):
        begin = index * s - p
        end = min(begin + k, n + after)
        windows.append((max(begin, 0), min(end, n), end - begin))
    return windows
