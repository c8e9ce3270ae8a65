"""The range of each activation, chosen by what it does to the layers that read it.

    error(range) = sum over the readers of |(x - Q(x)) W^T|^2 / |x W^T|^2

What a range cuts off is weighed by the weights that would have read it: an outlier in a channel
that the next layer hardly looks at may go, one that decides its output stays. The candidates are
what the methods of `calibrate` choose, and steps between the largest value seen and a twentieth.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.data.ranges import BY_HAND, Histogram, Range, Ranges
from onnxgraft.graph.tensors import Array
from onnxgraft.progress import track
from onnxgraft.stages.quantize.improve.products import Product
from onnxgraft.stages.quantize.measure.thresholds import METHODS, choose_range
from onnxgraft.stages.quantize.place.placement import Placement, origin

__all__ = ["Grid", "activation_grid", "choose_activations", "fake_quantized"]

# Of the largest magnitude seen.
_FACTORS = np.geomspace(1.0, 0.05, 20)
# For this choice a part of the vectors tells the same.
_VECTORS = 512


@dataclass(frozen=True)
class Grid:
    """The values that eight bits stand for: ``scale * (integer - zero_point)``."""

    scale: float
    zero_point: int
    dtype: type[np.int8 | np.uint8]


def activation_grid(value: Range, table: Placement, *, second: bool = False) -> Grid:
    """Return how the target stores an activation with that range.

    Args:
        value: The range.
        table: Of the target.
        second: Whether it is the second input of a product of activations: kernels that have int8
            want it there, as they do of weights.
    """
    if table.symmetric and not (table.unsigned and value.low >= 0 and not second):
        return Grid(value.amax / 127, 0, np.int8)
    low, high = min(value.low, 0.0), max(value.high, 0.0)
    scale = (high - low) / 255
    return Grid(scale, round(-low / scale), np.uint8)


def fake_quantized(x: Array, value: Range, table: Placement) -> Array:
    """Return what the integers of ``x`` stand for, as float32."""
    grid = activation_grid(value, table)
    limits = np.iinfo(grid.dtype)
    integers = np.clip(
        np.rint(x / np.float32(grid.scale)) + grid.zero_point, limits.min, limits.max
    )
    return np.asarray((integers - grid.zero_point) * np.float32(grid.scale), np.float32)


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
        candidates = _candidates(name, ranges)
        errors = [_error(found, candidate, table) for candidate in candidates]
        least = int(np.argmin(errors))
        best = candidates[least]
        if least:  # the first is the range as it was
            best = replace(best, reason=_reason(found, errors[0], errors[least]))
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
    """Return what may be chosen; the range as it is comes first, and wins where all are equal."""
    present = ranges.tensors[name]
    found = [present] if present.amax > 0 else []
    histogram = _histogram(ranges, name)
    if histogram.amax > 0:
        found += [choose_range(histogram, method) for method in METHODS]
    largest = max(abs(present.minimum), abs(present.maximum))
    for factor in _FACTORS:
        amax = largest * factor
        low, high = max(present.minimum, -amax), min(present.maximum, amax)
        if low < high:
            found.append(Range(low, high, present.minimum, present.maximum, f"{factor:.0%}"))
    return found or [present]


def _histogram(ranges: Ranges, name: str) -> Histogram:
    """Return what was counted of a tensor; nothing where the histograms were not loaded."""
    joined = Histogram()
    for site in ranges.sites.get(name, [name]):
        if site in ranges.histograms:
            joined.merge(ranges.histograms[site])
    return joined


def _error(products: list[Product], value: Range, table: Placement) -> float:
    if value.amax == 0:
        return float("inf")
    total = 0.0
    for product in products:
        x = product.vectors[:, :: max(1, product.vectors.shape[1] // _VECTORS)]
        weights = product.matrix(product.weights).transpose(0, 2, 1)
        right = float(np.square(x @ weights).sum(dtype=np.float64))
        wrong = float(
            np.square((fake_quantized(x, value, table) - x) @ weights).sum(dtype=np.float64)
        )
        total += wrong / right if right else 0.0
    return total
