"""Weights as integers of four or eight bits, in blocks along the input axis with a scale each.

    w[k, n] = q[k, n] * scale[k // block, n]        q from -8 to 7, or from -127 to 127

Where the target takes it, a scale of four bits has the sign that gives -8 to the largest weight.
A block of the whole input axis is one scale for each output channel. Scales are those of the
smallest mean squared error; integers are the nearest, or, where it is known what the layer reads,
those by which its output has the smallest error (`improve.rounding`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnxgraft.graph.tensors import Array
from onnxgraft.stages.quantize.improve.rounding import (
    EIGHT_BITS,
    FOUR_BITS,
    mse_scale,
    nearest_numbers,
    output_numbers,
)
from onnxgraft.targets import BLOCKS, WeightType

__all__ = ["BITS", "Blocks", "fitting_block", "rounded", "rounded_by_output"]

BITS: dict[WeightType, int] = {"int8": 8, "int4": 4}
_NUMBERS = {8: EIGHT_BITS, 4: FOUR_BITS}
# Of the scale that keeps the largest weight, at 7 or at -8. A finer search gains 0.02 dB.
_FACTORS = np.append(np.linspace(1.0, 0.6, 21), 7 / 8)
# So many weights are looked at together, which fit into a processor's cache.
_TOGETHER = 1 << 17
# A scale for so many weights at most is good enough for four bits.
_MOST = 2 * BLOCKS[-1]


@dataclass(frozen=True)
class Blocks:
    """Weights as integers and scales.

    Attributes:
        integers: (groups, outputs, inputs) int8.
        scale: (groups, outputs, blocks) float32.
        block: Inputs that share a scale; the last block may have fewer.
        bits: Of an integer.
    """

    integers: Array
    scale: Array
    block: int
    bits: int

    @property
    def steps(self) -> Array:
        """The scale of each weight."""
        return np.repeat(self.scale, self.block, axis=2)[:, :, : self.integers.shape[2]]

    @property
    def values(self) -> Array:
        """The float32 weights that the integers stand for: (groups, outputs, inputs)."""
        return np.asarray(self.integers * self.steps, np.float32)

    @property
    def blocked(self) -> bool:
        """Whether there is more than a scale for each output."""
        return self.scale.shape[::2] != (1, 1)

    @property
    def bytes(self) -> int:
        """What a file needs for them."""
        return self.integers.size * self.bits // 8 + self.scale.nbytes


def fitting_block(depth: int, wanted: int, bits: int, *, whole: bool) -> int | None:
    """Return how many of ``depth`` inputs share a scale, or None where nothing fits.

    Args:
        depth: How many inputs there are.
        wanted: How many it should be; 0 for all of them.
        bits: Of an integer.
        whole: Whether ``depth`` has to be a multiple of it. Then the largest divisor that is no
            larger is taken, and all inputs where there is none; else the smallest of `BLOCKS` that
            holds them all, if that is smaller.

    >>> [fitting_block(depth, 32, 4, whole=True) for depth in (64, 50, 24, 37, 1031)]
    [32, 25, 24, 37, None]
    >>> [fitting_block(depth, 64, 4, whole=False) for depth in (64, 50, 24, 1031)]
    [64, 64, 32, 64]
    """
    if not wanted:
        return depth
    if not whole:
        return min([wanted, *(size for size in BLOCKS if size >= depth)])
    found = next(size for size in range(min(wanted, depth), 0, -1) if depth % size == 0)
    if found >= min(BLOCKS[0], depth):
        return found
    return depth if bits == 8 or depth <= _MOST else None


def rounded(matrix: Array, block: int, bits: int, *, signed: bool = True) -> Blocks:
    """Return the nearest integers, with the scales of the smallest mean squared error.

    Args:
        matrix: (groups, outputs, inputs) weights.
        block: Inputs that share a scale.
        bits: Of an integer.
        signed: Whether scales may be negative, so that the largest weight gets the level -8.
    """
    groups, outputs, depth = matrix.shape
    count = -(-depth // block)
    padded = np.zeros((groups, outputs, count * block), np.float32)
    padded[:, :, :depth] = matrix
    rows = padded.reshape(-1, block)
    integers, scale = np.empty(rows.shape, np.int8), np.empty(len(rows), np.float32)
    step = max(_TOGETHER // block, 1)
    for begin in range(0, len(rows), step):
        part = slice(begin, begin + step)
        values = rows[part]
        sign = np.ones(len(values), np.float32)
        if signed and bits == 4:
            sign[values.max(1) > -values.min(1)] = -1
        found = mse_scale(values * sign[:, None], 0, numbers=_NUMBERS[bits], factors=_FACTORS)
        scale[part] = found * sign
        integers[part] = nearest_numbers(values, scale[part], 0, _NUMBERS[bits])
    kept = np.ascontiguousarray(integers.reshape(padded.shape)[:, :, :depth])
    return Blocks(kept, scale.reshape(groups, outputs, count), block, bits)


def rounded_by_output(matrix: Array, found: Blocks, vectors: Array) -> Blocks:
    """Return other integers for the same scales, of a smaller error in what the layer makes.

    Args:
        matrix: (groups, outputs, inputs) weights.
        found: The nearest integers.
        vectors: (groups, n, inputs) that layers read.
    """
    integers = output_numbers(matrix, found.steps, vectors, _NUMBERS[found.bits])
    return Blocks(integers, found.scale, found.block, found.bits)
