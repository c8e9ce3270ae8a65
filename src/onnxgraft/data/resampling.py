"""Resizing pictures: as OpenCV does it, or with antialiasing, as Pillow does it.

OpenCV's ways, `plain`, look at the nearest pixels alone, whatever is left out between them;
``area`` looks at all. They give the same bits where OpenCV is not installed.

With antialiasing the kernel is as wide as the picture shrinks: a pixel of the result is the sum
over the kernel K, with s = max(in / out, 1) and c = (i + 0.5) in / out:

    out[i] = sum_x in[x] K((x + 0.5 - c) / s) / sum_x K((x + 0.5 - c) / s)

for columns first, then for rows. Rounded, it is Pillow's arithmetic to the bit: weights of 22 bits,
and whole levels between the two steps (``src/libImaging/Resample.c``; from its version 13 on
Pillow begins with the rows where those shrink more, which is another level here and there). Not
rounded, it is what torch and TensorFlow call ``antialias=True``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from onnxgraft.data.opencv_resize import Interpolation, resized
from onnxgraft.graph.tensors import Array

__all__ = ["Interpolation", "antialiased", "plain"]

_BITS = 22


def plain(pixels: Array, size: tuple[int, int], interpolation: Interpolation) -> Array:
    """Return (height, width, channels) pixels in another size, as OpenCV defines it.

    OpenCV itself is faster, and does it where it is installed, but for what it leaves to Intel's
    IPP, whose last bits depend on the processor: bicubic, and bilinear of float32.

    Args:
        pixels: uint8, which stays so, or float32.
        size: Height and width.
        interpolation: How.
    """
    if interpolation == "bicubic" or (interpolation == "bilinear" and pixels.dtype != np.uint8):
        return resized(pixels, size, interpolation)
    try:
        import cv2
    except ModuleNotFoundError:
        return resized(pixels, size, interpolation)
    modes = {
        "nearest": cv2.INTER_NEAREST, "bilinear": cv2.INTER_LINEAR, "area": cv2.INTER_AREA,
    }  # fmt: skip
    height, width = size
    found = cv2.resize(pixels, (width, height), interpolation=modes[interpolation])
    return np.asarray(found.reshape(height, width, -1))


def antialiased(
    pixels: Array, size: tuple[int, int], interpolation: Literal["bilinear", "bicubic"]
) -> Array:
    """Return (height, width, channels) pixels in another size; uint8 as Pillow, else float32."""
    kernel, support = _KERNELS[interpolation]
    for axis in (1, 0):
        if pixels.shape[axis] != size[axis]:
            pixels = _along(pixels, axis, size[axis], kernel, support)
    return pixels


def _along(
    pixels: Array, axis: int, size: int, kernel: Callable[[Array], Array], support: float
) -> Array:
    rounded = pixels.dtype == np.uint8
    shape = list(pixels.shape)
    shape[axis] = size
    made = np.empty(shape, np.uint8 if rounded else np.float32)
    for index, (begin, weights) in enumerate(_weights(pixels.shape[axis], size, kernel, support)):
        part = slice(begin, begin + len(weights))
        read = (pixels[:, part] if axis else pixels[part]).astype(np.float64)
        if rounded:  # whole numbers below 2^53 are exact in float64
            whole = np.trunc(weights * (1 << _BITS) + np.copysign(0.5, weights))
            value = np.floor((np.tensordot(whole, read, (0, axis)) + (1 << (_BITS - 1))) / 2**_BITS)
            value = np.clip(value, 0, 255)
        else:
            value = np.tensordot(weights, read, (0, axis))
        if axis:
            made[:, index] = value
        else:
            made[index] = value
    return made


@functools.lru_cache(maxsize=8)
def _weights(
    have: int, size: int, kernel: Callable[[Array], Array], support: float
) -> tuple[tuple[int, NDArray[np.float64]], ...]:
    """Return for each pixel of the result the first that it reads, and the weights from there."""
    scale = have / size
    stretch = max(scale, 1.0)
    reach = support * stretch
    found = []
    for index in range(size):
        centre = (index + 0.5) * scale
        begin = max(int(centre - reach + 0.5), 0)
        end = min(int(centre + reach + 0.5), have)
        weights = kernel((np.arange(begin, end) - centre + 0.5) / stretch)
        found.append((begin, weights / weights.sum()))
    return tuple(found)


def _triangle(x: Array) -> Array:
    return np.asarray(np.clip(1 - np.abs(x), 0, None))


def _cubic(x: Array) -> Array:
    """Return Keys' kernel with a = -0.5."""
    x, a = np.abs(x), -0.5
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


_KERNELS = {"bilinear": (_triangle, 1.0), "bicubic": (_cubic, 2.0)}
