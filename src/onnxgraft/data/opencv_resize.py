"""Resizing as OpenCV defines it (``modules/imgproc/src/resize.cpp``), in numpy.

A pixel i of the result lies at c = (i + 0.5) in / out - 0.5 of the picture; ``bilinear`` weighs the
two pixels around it, ``bicubic`` the four by Keys' kernel with a = -0.75, and ``area`` all that it
covers. Levels of 8 bits are computed in whole numbers: weights of 11 bits, and between the two
steps of ``bilinear`` 4 bits fewer, as OpenCV does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from onnxgraft.graph.tensors import Array

__all__ = ["Interpolation", "resized"]

Interpolation = Literal["nearest", "bilinear", "bicubic", "area"]
Size = tuple[int, int]

_ONE = 1 << 11
# A remainder below it is no pixel's part.
_PART = 1e-3


def resized(pixels: Array, size: Size, interpolation: Interpolation) -> Array:
    """Return (height, width, channels) pixels in another size.

    Args:
        pixels: uint8, which stays so, or float32.
        size: Height and width.
        interpolation: How.
    """
    growths = tuple(new / old for new, old in zip(size, pixels.shape, strict=False))
    scales = tuple(1 / growth for growth in growths)
    if interpolation == "nearest":
        rows, columns = (
            np.minimum(np.floor(np.arange(new) * scale).astype(np.intp), old - 1)
            for new, scale, old in zip(size, scales, pixels.shape, strict=False)
        )
        return np.asarray(pixels[rows[:, None], columns])
    whole = all(scale == int(scale) for scale in scales)
    halved = interpolation == "bilinear" and scales == (2, 2) and pixels.dtype == np.uint8
    if halved or (interpolation == "area" and min(scales) >= 1):
        if whole:
            return _blocks(pixels, (int(scales[0]), int(scales[1])))
        return _covered(pixels, size, scales)
    of_axis = _TAPS[interpolation]
    rows = of_axis(size[0], growths[0]).inside(pixels.shape[0])
    columns = of_axis(size[1], growths[1])
    if interpolation != "bicubic":
        columns = columns.alone(pixels.shape[1])
    columns = columns.inside(pixels.shape[1])
    if pixels.dtype != np.uint8:
        return _weighed(_weighed(pixels, columns, 1), rows, 0)
    across = _weighed(pixels.astype(np.int32), columns.whole, 1)
    if interpolation == "bicubic":
        found = (_weighed(across, rows.whole, 0) + (1 << 21)) >> 22
    else:
        upper, lower = (
            (across[at] >> 4) * weight[:, None, None] >> 16
            for at, weight in zip(rows.places, rows.whole.weights, strict=True)
        )
        found = (upper + lower + 2) >> 2
    return np.asarray(np.clip(found, 0, 255), np.uint8)


class _Taps(NamedTuple):
    """The pixels of one axis that make each pixel of the result, and their weights."""

    places: NDArray[np.intp]
    weights: Array

    def inside(self, length: int) -> _Taps:
        """Return the same with the last pixels in place of those beyond them."""
        return _Taps(np.clip(self.places, 0, length - 1), self.weights)

    def alone(self, length: int) -> _Taps:
        """Return the same, of two taps, with the last pixel alone where one is beyond it."""
        first, second = self.places
        beyond = (first < 0) | (second >= length)
        weights = np.where(beyond, np.array([[1], [0]], np.float32), self.weights)
        return _Taps(np.where(first < 0, 0, self.places), weights)

    @property
    def whole(self) -> _Taps:
        """The same with weights of 11 bits."""
        return _Taps(self.places, np.rint(self.weights * np.float32(_ONE)).astype(np.int32))


def _weighed(pixels: Array, taps: _Taps, axis: int) -> Array:
    shape = (-1, 1, 1) if axis == 0 else (-1, 1)
    parts = (
        pixels.take(at, axis) * weight.reshape(shape)
        for at, weight in zip(taps.places, taps.weights, strict=True)
    )
    total: Array = next(parts)
    for part in parts:
        total += part
    return total


def _centres(new: int, growth: float) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Return the pixel before the centre of each pixel of the result, and how far it is."""
    centre = ((np.arange(new) + 0.5) * (1 / growth) - 0.5).astype(np.float32)
    before = np.floor(centre)
    return before.astype(np.intp), centre - before


def _two(new: int, growth: float) -> _Taps:
    before, far = _centres(new, growth)
    return _Taps(np.stack([before, before + 1]), np.stack([1 - far, far]))


def _two_covered(new: int, growth: float) -> _Taps:
    """Return what ``area`` makes of a picture that grows along an axis."""
    index = np.arange(new)
    before = np.floor(index * (1 / growth)).astype(np.intp)
    far = ((index + 1) - (before + 1) * growth).astype(np.float32)
    far = np.where(far <= 0, np.float32(0), far - np.floor(far))
    return _Taps(np.stack([before, before + 1]), np.stack([1 - far, far]))


def _four(new: int, growth: float) -> _Taps:
    before, x = _centres(new, growth)
    a = np.float32(-0.75)
    far, rest = x + 1, 1 - x
    weights = [
        ((a * far - 5 * a) * far + 8 * a) * far - 4 * a,
        ((a + 2) * x - (a + 3)) * x * x + 1,
        ((a + 2) * rest - (a + 3)) * rest * rest + 1,
    ]
    weights.append(1 - weights[0] - weights[1] - weights[2])
    return _Taps(before + np.arange(-1, 3)[:, None], np.stack(weights))


_TAPS: dict[str, Callable[[int, float], _Taps]] = {
    "bilinear": _two,
    "bicubic": _four,
    "area": _two_covered,
}


def _blocks(pixels: Array, block: Size) -> Array:
    """Return the means of blocks of whole pixels."""
    height, width, channels = pixels.shape
    rounded = pixels.dtype == np.uint8
    split = pixels.reshape(height // block[0], block[0], width // block[1], block[1], channels)
    total = split.sum((1, 3), dtype=np.int32 if rounded else np.float32)
    if rounded and block == (2, 2) and channels != 2:
        return np.asarray((total + 2) >> 2, np.uint8)
    mean = total.astype(np.float32) * np.float32(1 / np.float32(block[0] * block[1]))
    return np.asarray(np.rint(mean) if rounded else mean, pixels.dtype)


def _covered(pixels: Array, size: Size, scales: tuple[float, ...]) -> Array:
    """Return the means of what pixels of the result cover, parts of pixels too."""
    found = pixels.astype(np.float32)
    for axis in (1, 0):
        found = _weighed(found, _cover(size[axis], pixels.shape[axis], scales[axis]), axis)
    return np.asarray(np.clip(np.rint(found), 0, 255) if pixels.dtype == np.uint8 else found,
                      pixels.dtype)  # fmt: skip


def _cover(new: int, old: int, scale: float) -> _Taps:
    """Return the taps of ``area``: as many for each pixel, filled up with a weight of nothing."""
    found: list[list[tuple[int, float]]] = []
    for index in range(new):
        begin = index * scale
        end = begin + scale
        width = min(scale, old - begin)
        last = min(int(np.floor(end)), old - 1)
        first = min(int(np.ceil(begin)), last)
        taps = [(first - 1, (first - begin) / width)] if first - begin > _PART else []
        taps += [(place, 1 / width) for place in range(first, last)]
        if end - last > _PART:
            taps.append((last, min(end - last, 1.0, width) / width))
        found.append(taps)
    most = max(map(len, found))
    filled = [taps + [(taps[-1][0], 0.0)] * (most - len(taps)) for taps in found]
    places = np.array([[place for place, _ in taps] for taps in filled], np.intp)
    weights = np.array([[weight for _, weight in taps] for taps in filled], np.float32)
    return _Taps(places.T, weights.T)
