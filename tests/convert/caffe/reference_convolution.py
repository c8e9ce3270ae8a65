"""Convolution, Deconvolution and Im2col, by their definitions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxgraft.graph.tensors import Array

Axes = int | Sequence[int]


def convolution(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    *,
    stride: Axes = 1,
    pad: Axes = 0,
    dilation: Axes = 1,
    group: int = 1,
    sides: Sequence[tuple[int, int]] = (),
) -> Array:
    """Return the convolution of (N, C, ...) with (O, C / group, ...), over any number of axes.

    ``sides`` are the pads before and after each axis, instead of ``pad``.
    """
    rank = x.ndim - 2
    strides, pads, dilations = (per_axis(value, rank) for value in (stride, pad, dilation))
    before_and_after = sides or [(amount, amount) for amount in pads]
    padded = np.pad(x, [(0, 0), (0, 0), *before_and_after])
    kernel = weight.shape[2:]
    sizes = [
        (n - (d * (k - 1) + 1)) // s + 1
        for n, k, s, d in zip(padded.shape[2:], kernel, strides, dilations, strict=True)
    ]
    outputs, channels = weight.shape[:2]
    y = np.zeros((x.shape[0], outputs, *sizes))
    for out in range(outputs):
        first = out // (outputs // group) * channels
        for channel in range(channels):
            for place in np.ndindex(*kernel):
                part = padded[:, first + channel][_strided(place, sizes, strides, dilations)]
                y[:, out] += float(weight[(out, channel, *place)]) * part
    return y if bias is None else y + _per_channel(bias, rank)


def deconvolution(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    *,
    stride: Axes = 1,
    pad: Axes = 0,
    dilation: Axes = 1,
    group: int = 1,
    sides: Sequence[tuple[int, int]] = (),
) -> Array:
    """Return what every value of (N, C, ...) scatters through (C, O / group, ...)."""
    rank = x.ndim - 2
    strides, pads, dilations = (per_axis(value, rank) for value in (stride, pad, dilation))
    kernel = weight.shape[2:]
    sizes = [
        s * (n - 1) + d * (k - 1) + 1
        for n, k, s, d in zip(x.shape[2:], kernel, strides, dilations, strict=True)
    ]
    channels, outputs = weight.shape[:2]
    y = np.zeros((x.shape[0], outputs * group, *sizes))
    for channel in range(channels):
        first = channel // (channels // group) * outputs
        for out in range(outputs):
            for place in np.ndindex(*kernel):
                where = _strided(place, x.shape[2:], strides, dilations)
                y[:, first + out][where] += float(weight[(channel, out, *place)]) * x[:, channel]
    cuts = sides or [(amount, amount) for amount in pads]
    inside = tuple(slice(a, n - b) for (a, b), n in zip(cuts, sizes, strict=True))
    y = y[(slice(None), slice(None), *inside)]
    return y if bias is None else y + _per_channel(bias, rank)


def im2col(x: Array, kernel: Axes, *, stride: Axes = 1, pad: Axes = 0, dilation: Axes = 1) -> Array:
    """Return (N, C * kernel, ...): a channel for every place of the kernel in every channel."""
    rank = x.ndim - 2
    kernels = per_axis(kernel, rank)
    places = int(np.prod(kernels))
    one_hot = np.eye(places).reshape(places, 1, *kernels)
    weight = np.concatenate([one_hot] * x.shape[1])
    return convolution(x, weight, stride=stride, pad=pad, dilation=dilation, group=x.shape[1])


def per_axis(value: Axes, rank: int) -> list[int]:
    """Return a value for each axis; one value stands for all of them."""
    values = [value] if isinstance(value, int) else list(value)
    return values * rank if len(values) == 1 else values


def _strided(
    place: Sequence[int], sizes: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> tuple[slice, ...]:
    """Return the index of all values of (N, ...) that meet one place of the kernel."""
    return (
        slice(None),
        *(
            slice(p * d, p * d + s * (n - 1) + 1, s)
            for p, n, s, d in zip(place, sizes, strides, dilations, strict=True)
        ),
    )


def _per_channel(bias: Array, rank: int) -> Array:
    return bias.astype(np.float64).reshape(-1, *[1] * rank)
