"""The range of each activation, chosen by what it does to the layers that read it.

    error(range) = sum over the readers of |(x - Q(x)) W^T|^2 / |x W^T|^2

What a range cuts off is weighed by the weights that would have read it: an outlier in a channel
that the next layer hardly looks at may go, one that decides its output stays. The candidates are
what the methods of `calibrate` choose, and steps between the largest value seen and a twentieth.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.data.ranges import BY_HAND, Histogram, Range, Ranges
from onnxgraft.graph import float8
from onnxgraft.graph.tensors import Array
from onnxgraft.progress import track
from onnxgraft.stages.quantize.improve.products import Product
from onnxgraft.stages.quantize.measure.thresholds import METHODS, choose_range
from onnxgraft.stages.quantize.place.placement import Placement, origin

__all__ = ["Grid", "activation_grid", "choose_activations", "fake_quantized"]

# Of the largest magnitude seen.
_FACTORS = np.geomspace(1.0, 0.05, 20)
# By so much finer steps have to be, where zero is not in the middle: half the noise.
_FINER = math.sqrt(2)
# The error of a part of it that is so much larger than the least can't become less further down.
_HOPELESS = 4.0
# For this choice a part of the vectors tells the same: so many, and so many numbers.
_VECTORS, _NUMBERS = 512, 1_000_000


@dataclass(frozen=True)
class Grid:
    """The values that eight bits stand for: ``scale * (number - zero_point)``.

    Attributes:
        scale: Of the numbers.
        zero_point: 0 of FP8.
        dtype: int8, uint8 or FP8.
    """

    scale: float
    zero_point: int
    dtype: np.dtype[Any]


def activation_grid(value: Range, table: Placement, operand: int | None = None) -> Grid:
    """Return how the target stores an activation with that range.

    Args:
        value: The range.
        table: Of the target.
        operand: Of a product of activations, which of them it is: kernels that have int8 want it in
            the second, as they do of weights, and no zero point but 0 in either.
    """
    if table.format == "fp8":
        return Grid(value.amax / float8.LARGEST, 0, float8.FLOAT8)
    low, high = min(value.low, 0.0), max(value.high, 0.0)
    scale = (high - low) / 255
    even = Grid(value.amax / 127, 0, np.dtype(np.int8))
    if table.symmetric:
        above = table.unsigned and low == 0 and operand != 1
        lopsided = table.lopsided and operand is None and scale * _FINER <= even.scale
        if not above and not lopsided:
            return even
    return Grid(scale, round(-low / scale), np.dtype(np.uint8))


def fake_quantized(x: Array, value: Range, table: Placement) -> Array:
    """Return what the numbers that are stored of ``x`` stand for, as float32."""
    grid = activation_grid(value, table)
    scaled = x / np.float32(grid.scale)
    if grid.dtype == float8.FLOAT8:
        numbers = float8.nearest(scaled).astype(np.float32)
    else:
        limits = np.iinfo(grid.dtype)
        numbers = np.clip(np.rint(scaled) + grid.zero_point, limits.min, limits.max)
    return np.asarray((numbers - grid.zero_point) * np.float32(grid.scale), np.float32)


def choose_activations(
    ranges: Ranges, products: Mapping[str, Product], table: Placement
) -> tuple[Ranges, dict[str, str]]:
    """Return the ranges with the best ones for the readers, and what each was chosen by.

    Those set by hand, and those of tensors that no product reads, stay as they are.
    """
    readers: dict[str, list[Product]] = {}
    for product in products.values():
        name = _known(product.node.inputs[0], ranges)
        if name is not None and ranges.tensors[name].origin != BY_HAND:
            readers.setdefault(name, []).append(product)
    tensors, chosen = dict(ranges.tensors), {}
    for name, found in track(readers.items(), "choosing activations", len(readers)):
        errors = _Errors(found, table)
        present, *others = _candidates(name, ranges)
        before = least = errors.of(present)
        best = present
        for candidate in [*others, *_lower(present)]:
            error = errors.of(candidate)
            if error < least:
                best, least = candidate, error
            elif candidate.origin not in METHODS and error > _HOPELESS * least:
                break  # what is lower still cuts off more
        if best is not present:
            best = replace(best, reason=_reason(found, before, least))
        tensors[name], chosen[name] = best, best.origin
    return replace(ranges, tensors=tensors), chosen


def _reason(readers: list[Product], before: float, after: float) -> str:
    first, *others = (str(product.node.name) for product in readers)
    whose = f"{first} and {len(others)} more" if others else first
    return f"least error in the outputs of {whose}: {after:.2%} of the signal, was {before:.2%}"


def _known(tensor: gs.Tensor, ranges: Ranges) -> str | None:
    for name in (tensor.name, origin(tensor).name):
        if name in ranges.tensors:
            return str(name)
    return None


def _candidates(name: str, ranges: Ranges) -> list[Range]:
    """Return the range as it is, which wins where all are equal, and what the methods choose."""
    present, histogram = ranges.tensors[name], _histogram(ranges, name)
    found = [choose_range(histogram, method) for method in METHODS] if histogram.amax > 0 else []
    return [present, *(value for value in found if value.amax != present.amax)]


def _lower(present: Range) -> Iterator[Range]:
    """Yield the parts of the largest magnitude seen, from the whole of it down."""
    largest = max(abs(present.minimum), abs(present.maximum))
    for factor in _FACTORS:
        amax = largest * factor
        low, high = max(present.minimum, -amax), min(present.maximum, amax)
        if low < high:
            yield Range(low, high, present.minimum, present.maximum, f"{factor:.0%}")


def _histogram(ranges: Ranges, name: str) -> Histogram:
    """Return what was counted of a tensor; nothing where the histograms were not loaded."""
    joined = Histogram()
    for site in ranges.sites.get(name, [name]):
        if site in ranges.histograms:
            joined.merge(ranges.histograms[site])
    return joined


class _Errors:
    """What ranges of one tensor do to the outputs of its readers, as a part of the signal."""

    def __init__(self, products: list[Product], table: Placement) -> None:
        self._table = table
        self._read = []
        for product in products:
            groups, total, depth = product.vectors.shape
            count = min(_VECTORS, _NUMBERS // (groups * depth) + 1)
            x = product.vectors[:, :: max(1, total // count)]
            weights = product.matrix(product.weights).transpose(0, 2, 1)
            right = float(np.square(x @ weights).sum(dtype=np.float64))
            if right:
                self._read.append((x, weights, right))

    def of(self, value: Range) -> float:
        """Return the sum over the readers."""
        if value.amax == 0:
            return float("inf")
        return sum(
            float(
                np.square((fake_quantized(x, value, self._table) - x) @ weights).sum(
                    dtype=np.float64
                )
            )
            / right
            for x, weights, right in self._read
        )
