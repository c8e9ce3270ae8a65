"""Pools of PyTorch's that its exporter lacks, or leaves a part out of."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from onnx import TensorProto

from onnxgraft.graph.tensors import Array
from onnxgraft.stages.convert.pytorch.formula import HALVES, Writer

__all__ = ["pooling"]


def _avg_pool(axes: int) -> Callable[..., Any]:
    """Return what lets the exporter write a pool, which leaves a divisor of its own out."""

    def written(
        self: Any,
        kernel_size: Sequence[int],
        stride: Sequence[int] = (),
        padding: Sequence[int] = (0,),
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> Any:
        from onnxscript.function_libs.torch_lib.ops import nn

        theirs = nn.aten_avg_pool2d if axes == 2 else nn.aten_avg_pool3d
        whole = count_include_pad or divisor_override is not None
        pads = list(padding) if len(padding) > 1 else list(padding) * axes
        found = theirs(self, kernel_size, stride, pads, ceil_mode, whole)
        if divisor_override is None:
            return found
        sides = list(kernel_size) if len(kernel_size) > 1 else list(kernel_size) * axes
        w = Writer()
        found.dtype = self.dtype
        return w.tensor(w.value(found) * (math.prod(sides) / divisor_override))

    return written


def _adaptive_average(self: Any, output_size: Sequence[int]) -> Any:
    """Write the means over windows, axis by axis."""
    w, axes = Writer(), len(output_size)
    first, value = len(self.shape) - axes, w.value(self)
    kind = value.dtype
    value = value.to(TensorProto.FLOAT) if kind in HALVES else value
    if all(count == 1 for count in output_size):
        return w.tensor(w.op("ReduceMean", value, w.longs(*range(-axes, 0)), keepdims=1).to(kind))
    for axis, (size, count) in reversed(list(enumerate(_sizes(self, output_size)))):
        if size == count:
            continue
        windows, behind = _windows(size, count), axes - axis - 1
        value = w.op(
            "Gather", value, w.const(_places(size, count), TensorProto.INT64), axis=first + axis
        )
        lengths = np.array([end - begin for begin, end in windows])
        within = np.arange(lengths.max()) < lengths[:, None]
        mask = w.const(within.reshape(*within.shape, *[1] * behind), TensorProto.BOOL)
        value = mask.where(value, w.const(0, value.dtype)).sum(first + axis + 1, keepdims=False)
        value = value / w.const(lengths.reshape(-1, *[1] * behind), value.dtype)
    return w.tensor(value.to(kind))


def _adaptive_most(self: Any, output_size: Sequence[int]) -> Any:
    """Write the largest of each window, and where in the picture it is."""
    w, rank, axes = Writer(), len(self.shape), len(output_size)
    first, value = rank - axes, w.value(self)
    if all(count == 1 for count in output_size):
        most = w.op("ReduceMax", value, w.longs(*range(-axes, 0)), keepdims=1)
        flat = value.reshape(*[0] * first, -1)
        where = w.op("ArgMax", flat, dtype=TensorProto.INT64, axis=-1, keepdims=1)
        return w.tensor(most), w.tensor(where.reshape(*[0] * (first + 1), *[1] * (axes - 1)))
    sizes = _sizes(self, output_size)
    places = [_places(size, count) for size, count in sizes]
    for axis in reversed(range(axes)):
        rows = w.const(places[axis], TensorProto.INT64)
        value = w.op("Gather", value, rows, axis=first + axis)
    # (..., count, window, count, window) to (..., count, count, window * window)
    outer = [first + 2 * axis for axis in range(axes)]
    value = value.transpose(*range(first), *outer, *(at + 1 for at in outer))
    counts = [count for _, count in sizes]
    value = value.reshape(*[0] * first, *counts, -1)
    where = w.op("ArgMax", value, dtype=TensorProto.INT64, axis=-1, keepdims=1)
    if all(size % count == 0 for size, count in sizes):
        sides = [size // count for size, count in sizes]
        most = w.op("MaxPool", w.value(self), kernel_shape=sides, strides=sides)
    else:
        most = w.op("ReduceMax", value, w.longs(-1), keepdims=0)
    table = w.const(_flat(places, [size for size, _ in sizes]), TensorProto.INT64)
    table = w.op("Expand", table, value.shape())
    found = w.op("GatherElements", table, where, axis=-1).squeeze(-1)
    return w.tensor(most), w.tensor(found)


def _sizes(tensor: Any, output_size: Sequence[int]) -> list[tuple[int, int]]:
    """Return the sizes of the pooled axes, and how many windows each has."""
    sizes = list(tensor.shape)[-len(output_size) :]
    if not all(isinstance(size, int) for size in (*sizes, *output_size)):
        raise ValueError("an adaptive pool of a picture of any size; export it with a fixed one")
    return list(zip(map(int, sizes), map(int, output_size), strict=True))


def _windows(size: int, count: int) -> list[tuple[int, int]]:
    """Return where windows begin and end, as ATen's AdaptivePooling.h has it."""
    return [(n * size // count, -(-(n + 1) * size // count)) for n in range(count)]


def _places(size: int, count: int) -> Array:
    """Return the places of each window, (count, longest window); shorter ones repeat their last."""
    windows = _windows(size, count)
    longest = max(end - begin for begin, end in windows)
    return np.array([
        [min(begin + step, end - 1) for step in range(longest)] for begin, end in windows
    ])


def _flat(places: Sequence[Array], sizes: Sequence[int]) -> Array:
    """Return the number in the picture of each place in each window: (counts..., windows)."""
    axes, found = len(places), np.zeros((), np.int64)
    for axis, rows in enumerate(places):
        shape = [1] * (2 * axes)
        shape[axis], shape[axes + axis] = rows.shape
        found = found * sizes[axis] + rows.reshape(shape)
    return found.reshape(*(len(rows) for rows in places), -1)


def pooling(aten: Any) -> dict[Any, Callable[..., Any]]:
    """Return what writes the pools, by PyTorch's operator."""
    return {
        aten.adaptive_avg_pool3d.default: _adaptive_average,
        aten.adaptive_max_pool2d.default: _adaptive_most,
        aten.adaptive_max_pool3d.default: _adaptive_most,
        aten.avg_pool2d.default: _avg_pool(2),
        aten.avg_pool3d.default: _avg_pool(3),
    }
