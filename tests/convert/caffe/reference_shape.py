"""Layers that move values about, and ArgMax, by their definitions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from onnxgraft.graph.tensors import Array


def concat(*xs: Array, axis: int = 1) -> Array:
    return np.concatenate(xs, axis=axis)


def slices(x: Array, tops: int, *, axis: int = 1, points: Sequence[int] = ()) -> tuple[Array, ...]:
    """Return the parts between the points, or equal parts."""
    return tuple(np.split(x, list(points) or tops, axis=axis))


def flatten(x: Array, *, axis: int = 1, end_axis: int = -1) -> Array:
    begin, end = axis % x.ndim, end_axis % x.ndim
    return x.reshape(*x.shape[:begin], math.prod(x.shape[begin : end + 1]), *x.shape[end + 1 :])


def reshape(x: Array, dims: Sequence[int], *, axis: int = 0, num_axes: int = -1) -> Array:
    """Return x with ``num_axes`` axes from ``axis`` on replaced by ``dims``.

    A 0 copies the axis of x at its own place, and one -1 takes what is left. A negative axis
    counts from one past the end, -1 of ``num_axes`` is all the rest.
    """
    begin = axis if axis >= 0 else x.ndim + axis + 1
    end = x.ndim if num_axes == -1 else begin + num_axes
    middle = [x.shape[begin + index] if dim == 0 else dim for index, dim in enumerate(dims)]
    return x.reshape(*x.shape[:begin], *middle, *x.shape[end:])


def permute(x: Array, order: Sequence[int]) -> Array:
    """Return x with its axes in this order; those not listed follow in theirs."""
    return x.transpose(*order, *(axis for axis in range(x.ndim) if axis not in order))


def crop(x: Array, like: Array, *, axis: int = 2, offset: Sequence[int] = ()) -> Array:
    """Return the part of x as large as ``like`` from ``axis`` on."""
    begin = axis % x.ndim
    cropped = x.ndim - begin
    offsets = list(offset) * cropped if len(offset) == 1 else list(offset) or [0] * cropped
    return x[
        (
            *[slice(None)] * begin,
            *(
                slice(first, first + size)
                for first, size in zip(offsets, like.shape[begin:], strict=True)
            ),
        )
    ]


def tile(x: Array, tiles: int, *, axis: int = 1) -> Array:
    return np.concatenate([x] * tiles, axis=axis)


def batch_reindex(x: Array, index: Array) -> Array:
    return x[index.astype(int)]


def shuffle_channel(x: Array, group: int) -> Array:
    """Return the first channel of every group, then the second of every group, and so on."""
    size = x.shape[1] // group
    return x[:, [part * size + index for index in range(size) for part in range(group)]]


def reorg(x: Array, stride: int) -> Array:
    """Return what darknet computes: C * s^2 channels of H / s rows and W / s columns.

    Darknet takes the buffer for (C / s^2, H * s, W * s), and gathers from there.
    """
    samples, channels, height, width = x.shape
    kept = channels // stride**2
    flat = x.reshape(samples, -1)
    y = np.empty_like(flat)
    for k in range(channels):
        for j in range(height):
            for i in range(width):
                column = i * stride + k // kept % stride
                row = j * stride + k // kept // stride
                place = column + width * stride * (row + height * stride * (k % kept))
                y[:, i + width * (j + height * k)] = flat[:, place]
    return y.reshape(samples, channels * stride**2, height // stride, width // stride)


def upsample(x: Array, mask: Array, size: Sequence[int]) -> Array:
    """Return planes of this size, where each value of x is put at its place in ``mask``."""
    y = np.zeros((*x.shape[:2], size[0] * size[1]))
    for n, c, i, j in np.ndindex(*x.shape):
        y[n, c, int(mask[n, c, i, j])] = x[n, c, i, j]
    return y.reshape(*x.shape[:2], *size)


def depth_to_space(x: Array, step: int) -> Array:
    """Return synopsys-caffe's pixelshuffler, by the place of each channel."""
    samples, channels, height, width = x.shape
    y = np.empty((samples, channels // step**2, height * step, width * step))
    for c in range(channels):
        y[:, c // step**2, c // step % step :: step, c % step :: step] = x[:, c]
    return y


def nearest_at(x: Array, size: Sequence[int]) -> Array:
    """Return x at floor(place * in / out), in whole numbers (yolov5_caffe's Upsample)."""
    rows, columns = (
        [place * n // length for place in range(length)]
        for n, length in zip(x.shape[2:], size, strict=True)
    )
    return x[:, :, rows][:, :, :, columns]


def nearest(x: Array, factor: int) -> Array:
    """Return x with every value repeated in rows and columns."""
    return x.repeat(factor, axis=2).repeat(factor, axis=3)


def interp(
    x: Array,
    size: Sequence[int] | None = None,
    *,
    zoom: int = 1,
    shrink: int = 1,
    pad_beg: int = 0,
    pad_end: int = 0,
) -> Array:
    """Return x, cropped by the negative pads, at this size: bilinear, with aligned corners."""
    x = x[:, :, -pad_beg : x.shape[2] + pad_end, -pad_beg : x.shape[3] + pad_end]
    for axis in (2, 3):
        n = x.shape[axis]
        out = size[axis - 2] if size else (n + (n - 1) * (zoom - 1) - 1) // shrink + 1
        parts = []
        for index in range(out):
            place = index * (n - 1) / (out - 1) if out > 1 else 0.0
            low = min(int(place), n - 1)
            high = min(low + 1, n - 1)
            parts.append(
                (low + 1 - place) * x.take(low, axis=axis) + (place - low) * x.take(high, axis=axis)
            )
        x = np.stack(parts, axis=axis)
    return x


def argmax(
    x: Array, *, axis: int | None = None, top_k: int = 1, out_max_val: bool = False
) -> Array:
    """Return indices, largest value first; of equal values, the one with the larger index."""
    if axis is None:
        flat = x.reshape(x.shape[0], -1)
        indices = _largest(flat, top_k)
        values = np.take_along_axis(flat, indices, axis=1)
        y = np.stack([indices, values], axis=1) if out_max_val else indices[:, None]
        return y.reshape(*y.shape, *[1] * (x.ndim - 3)).astype(np.float64)
    moved = np.moveaxis(x, axis, -1)
    indices = _largest(moved, top_k)
    y = np.take_along_axis(moved, indices, axis=-1) if out_max_val else indices
    return np.moveaxis(y, -1, axis).astype(np.float64)


def _largest(x: Array, count: int) -> Array:
    """Return the indices of the largest values along the last axis."""
    places = np.broadcast_to(np.arange(x.shape[-1]), x.shape)
    return np.lexsort((places, x), axis=-1)[..., ::-1][..., :count]
