"""Layers that move, join, cut and count values without weights.

Source: Caffe's layer sources of the same names; ShuffleChannel and Permute are of forks;
synopsys-caffe's reshape_layer.cpp (pixelshuffler); tianzhi0549/caffe's transpose_layer.cpp;
caffe-windows' flip_layer.cpp; lltcggie/caffe's crop_center_layer.cpp; intel/caffe's
continuation_indicator_layer.cpp; TextBoxes_plusplus' reverse_layer.cpp.
"""

from __future__ import annotations

import itertools
import math

import numpy as np

from onnxgraft.stages.convert.caffe.layers.emitter import (
    FREE,
    BatchIsFixed,
    Blob,
    Emitter,
    axis_of,
    count,
)
from onnxgraft.stages.convert.caffe.reading.net import Layer, dummy_shapes

__all__ = [
    "argmax", "batch_reindex", "concat", "continuation", "crop", "crop_center", "dummy_data",
    "flatten", "flip", "parameter", "permute", "reduction", "reshape", "reverse",
    "shuffle_channel", "slice_", "tile", "transpose",
]  # fmt: skip


# Steps of a series, and streams.
_LONGEST = 1 << 20


def concat(layer: Layer, bottoms: list[Blob], out: Emitter) -> list[Blob]:
    """Convert Concat."""
    settings = layer.parameter("concat_param")
    first = bottoms[0]
    axis = axis_of(layer, settings.integer("axis", settings.integer("concat_dim", 1)), first.rank)
    rest = {(*blob.shape[:axis], *blob.shape[axis + 1 :]) for blob in bottoms}
    out.check(len(rest) == 1, f"inputs of {[blob.shape for blob in bottoms]} can't be joined")
    if len(bottoms) == 1:
        return [out.unary("Identity", first)]
    shape = list(first.shape)
    shape[axis] = FREE if shape[axis] == FREE else sum(blob.shape[axis] for blob in bottoms)
    return [out.op("Concat", bottoms, shape, {"axis": axis})]


def slice_(layer: Layer, bottoms: list[Blob], out: Emitter) -> list[Blob]:
    """Convert Slice: cut at the slice points, or into equal parts."""
    [x] = bottoms
    settings = layer.parameter("slice_param")
    axis = axis_of(layer, settings.integer("axis", settings.integer("slice_dim", 1)), x.rank)
    if x.shape[axis] == FREE:
        raise BatchIsFixed
    points, parts = settings.integers("slice_point"), len(layer.tops)
    if not points:
        out.check(x.shape[axis] % parts == 0, f"{x.shape[axis]} can't be cut into {parts} parts")
        points = [x.shape[axis] // parts * i for i in range(1, parts)]
    out.check(len(points) == parts - 1, f"{len(points)} slice points for {parts} tops")
    edges = [0, *points, x.shape[axis]]
    rising = all(a < b for a, b in itertools.pairwise(edges))
    out.check(rising, f"the slice points {points} do not rise within {x.shape[axis]}")
    if parts == 1:
        return [out.unary("Identity", x)]
    return [out.slice(x, axis, a, b) for a, b in itertools.pairwise(edges)]


def flatten(layer: Layer, bottoms: list[Blob], out: Emitter) -> list[Blob]:
    """Convert Flatten: the axes from ``axis`` to ``end_axis`` become one."""
    [x] = bottoms
    settings = layer.parameter("flatten_param")
    first = axis_of(layer, settings.integer("axis", 1), x.rank)
    last = axis_of(layer, settings.integer("end_axis", -1), x.rank)
    out.check(first <= last, f"axis {first} is behind end_axis {last}")
    middle = FREE if FREE in x.shape[first : last + 1] else math.prod(x.shape[first : last + 1])
    return [_reshaped(x, (*x.shape[:first], middle, *x.shape[last + 1 :]), out)]


def reshape(layer: Layer, bottoms: list[Blob], out: Emitter) -> list[Blob]:
    """Convert Reshape: 0 copies the input's axis at its place, one -1 takes what is left.

    Synopsys' ``pixelshuffler: r`` moves r x r channels into each position instead.
    """
    [x] = bottoms
    settings = layer.parameter("reshape_param")
    if settings.integer("pixelshuffler", 1) != 1:
        return [_depth_to_space(x, settings.integer("pixelshuffler"), out)]
    dims = settings.message("shape").integers("dim")
    start = settings.integer("axis", 0)
    start = start + x.rank + 1 if start < 0 else start
    axes = settings.integer("num_axes", -1)
    end = x.rank if axes == -1 else start + axes
    out.check(0 <= start <= end <= x.rank, f"axis {start} and num_axes {axes} do not fit")
    made: list[int] = []
    for index, dim in enumerate(dims):
        out.check(dim != 0 or start + index < x.rank, f"no axis {start + index} to copy")
        out.check(dim >= -1, f"the dimension {dim} is impossible")
        made.append(x.shape[start + index] if dim == 0 else dim)
    copied = [index for index, dim in enumerate(dims) if dim == 0]
    shape = [*x.shape[:start], *made, *x.shape[end:]]
    open_at = [start + index for index, dim in enumerate(dims) if dim == -1]
    out.check(len(open_at) <= 1, "more than one dimension is -1")
    free_in = FREE in x.shape
    keeps_batch = free_in and (start > 0 or 0 in copied)
    if free_in and not keeps_batch:
        # The batch goes into whatever is left, which has to be the first axis.
        if open_at != [0]:
            raise BatchIsFixed
    elif open_at:
        known = math.prod(d for i, d in enumerate(shape) if i not in open_at and d != FREE)
        out.check(known > 0 and count(x.shape) % known == 0, f"{x.shape} does not fit into {dims}")
        shape[open_at[0]] = count(x.shape) // known
    if not free_in or keeps_batch:
        out.check(count(shape) == count(x.shape), f"{x.shape} does not fit into {dims}")
    return [_reshaped(x, shape, out)]


def _depth_to_space(x: Blob, step: int, out: Emitter) -> Blob:
    """Return (N, C r^2, H, W) as (N, C, H r, W r); whatever shape the layer says is not read."""
    out.check(x.rank == 4 and step >= 1 and x.shape[1] % step**2 == 0,
              f"{x.shape} does not divide by a pixelshuffler of {step}")  # fmt: skip
    batch, channels, height, width = x.shape
    shape = (batch, channels // step**2, height * step, width * step)
    return out.op("DepthToSpace", [x], shape, {"blocksize": step, "mode": "CRD"})


def permute(layer: Layer, bottoms: list[Blob], out: Emitter) -> list[Blob]:
    """Convert Permute; axes that are not listed follow in order."""
    [x] = bottoms
    order = layer.parameter("permute_param").integers("order")
    out.check(len(set(order)) == len(order) and set(order) <= set(range(x.rank)),
              f"the order {order} is impossible")  # fmt: skip
    order += [axis for axis in range(x.rank) if axis not in order]
    return [out.transpose(x, order)]


def transpose(layer: Layer, bottoms: list[Blob], out: Emitter) -> list[Blob]:
    """Convert CTPN's Transpose: ``dim`` lists every axis."""
    [x] = bottoms
    order = layer.parameter("transpose_param").integers("dim")
    out.check(sorted(order) == list(range(x.rank)), f"the order {order} is not of {x.rank} axes")
    return [out.transpose(x, order)]


def flip(layer: Layer, bottoms: list[Blob], out: Emitter) -> list[Blob]:
    """Convert Flip: columns backwards unless flip_width is false, rows if flip_height is true."""
    [x] = bottoms
    settings = layer.parameter("flip_param")
    out.check(x.rank == 4, f"{x.shape} has no height and width")
    flags = [settings.flag("flip_height", False), settings.flag("flip_width", True)]
    y = x
    for axis, backwards in zip((2, 3), flags, strict=True):
        y = _backwards(y, axis, out) if backwards else y
    return [out.unary("Identity", x) if y is x else y]


def reverse(layer: Layer, bottoms: list[Blob], out: Emitter) -> list[Blob]:
    """Convert Reverse: one axis backwards, the first by default."""
    [x] = bottoms
    axis = axis_of(layer, layer.parameter("reverse_param").integer("axis", 0), x.rank)
    return [_backwards(x, axis, out)]


def _backwards(x: Blob, axis: int, out: Emitter) -> Blob:
    if x.shape[axis] == FREE:
        raise BatchIsFixed
    index = np.arange(x.shape[axis] - 1, -1, -1, dtype=np.int64)
    return out.op("Gather", [x, index], x.shape, {"axis": axis})


def continuation(layer: Layer, bottoms: list[Blob], out: Emitter) -> list[Blob]:
    """Convert ContinuationIndicator: (time_step, batch_size), 0 at the first step, 1 behind it."""
    if out.free:
        raise BatchIsFixed
    settings = layer.parameter("continuation_indicator_param")
    shape = settings.integer("time_step"), settings.integer("batch_size")
    out.check(min(shape) >= 1 and max(shape) <= _LONGEST, f"{shape} is no series of steps")
    values = np.ones(shape, np.float32)
    values[0] = 0
    return [out.op("Identity", [values], shape)]


def crop_center(layer: Layer, bottoms: list[Blob], out: Emitter) -> list[Blob]:
    """Convert CropCenter: as much as ``crop_size`` says goes from both ends of each axis."""
    [x] = bottoms
    sizes = layer.parameter("crop_center_param").integers("crop_size")
    out.check(len(sizes) == x.rank, f"{len(sizes)} sizes for {x.rank} axes")
    y = x
    for axis, size in enumerate(sizes):
        if size == 0:
            continue
        if x.shape[axis] == FREE:
            raise BatchIsFixed
        out.check(0 < 2 * size < x.shape[axis], f"{size} can't go twice from {x.shape[axis]}")
        y = out.slice(y, axis, size, x.shape[axis] - size)
    return [out.unary("Identity", x) if y is x else y]


def crop(layer: Layer, bottoms: list[Blob], out: Emitter) -> list[Blob]:
    """Convert Crop: from ``axis`` on, the size of the second input, at an offset."""
    out.check(len(bottoms) == 2, "it needs what to crop, and what gives the size")
    x, sized = bottoms
    settings = layer.parameter("crop_param")
    axis = axis_of(layer, settings.integer("axis", 2), x.rank)
    offsets = settings.integers("offset") or [0]
    axes = x.rank - axis
    out.check(len(offsets) in (1, axes), f"{len(offsets)} offsets for {axes} axes")
    out.check(sized.rank == x.rank, f"{sized.shape} gives no size for {x.shape}")
    offsets = offsets * axes if len(offsets) == 1 else offsets
    y = x
    for index, offset in enumerate(offsets):
        size = sized.shape[axis + index]
        if size == FREE and y.shape[axis + index] == FREE and offset == 0:
            continue
        if FREE in (size, y.shape[axis + index]):
            raise BatchIsFixed
        fits = 0 <= offset and offset + size <= y.shape[axis + index]
        out.check(fits, f"{size} at {offset} is not within {y.shape[axis + index]}")
        if size != y.shape[axis + index]:
            y = out.slice(y, axis + index, offset, offset + size)
    return [out.unary("Identity", x) if y is x else y]


def tile(layer: Layer, bottoms: list[Blob], out: Emitter) -> list[Blob]:
    """Convert Tile: ``tiles`` copies along ``axis``."""
    [x] = bottoms
    settings = layer.parameter("tile_param")
    axis, tiles = axis_of(layer, settings.integer("axis", 1), x.rank), settings.integer("tiles")
    out.check(tiles >= 1, f"{tiles} tiles are impossible")
    repeats = np.ones(x.rank, np.int64)
    repeats[axis] = tiles
    shape = [dim if i != axis or dim == FREE else dim * tiles for i, dim in enumerate(x.shape)]
    return [out.op("Tile", [x, repeats], shape)]


def reduction(layer: Layer, bottoms: list[Blob], out: Emitter) -> list[Blob]:
    """Convert Reduction: the sum, sum of magnitudes or squares, or mean from ``axis`` on."""
    [x] = bottoms
    settings = layer.parameter("reduction_param")
    axis = axis_of(layer, settings.integer("axis", 0), x.rank)
    kinds = {"SUM": "ReduceSum", "ASUM": "ReduceL1", "SUMSQ": "ReduceSumSquare",
             "MEAN": "ReduceMean"}  # fmt: skip
    operation = settings.choice("operation", "SUM", list(kinds), first=1)
    out.check(operation in kinds, f"the operation {operation} is unknown")
    y = out.reduce(kinds[operation], x, list(range(axis, x.rank)), keep=False)
    coefficient = settings.number("coeff", 1.0)
    return [y if coefficient == 1.0 else out.binary("Mul", y, coefficient)]


def argmax(layer: Layer, bottoms: list[Blob], out: Emitter) -> list[Blob]:
    """Convert ArgMax: indices as floats, of one axis or of the whole flattened sample.

    Without an axis the result is (N, 1, top_k) and, with ``out_max_val``, (N, 2, top_k) with the
    values behind the indices, with ones behind up to the input's rank. Of equal values Caffe takes
    the last first.
    """
    [x] = bottoms
    settings = layer.parameter("argmax_param")
    top, values = settings.integer("top_k", 1), settings.flag("out_max_val", False)
    if settings.has("axis"):
        axis = axis_of(layer, settings.integer("axis"), x.rank)
        best, index = _top(x, axis, top, out)
        return [best if values else index]
    width = count(x.shape[1:])
    best, index = _top(out.reshape(x, (x.shape[0], width)), 1, top, out)
    tail = [1] * max(0, x.rank - 3)
    shape = (x.shape[0], 1, top, *tail)
    index = out.reshape(index, shape)
    if not values:
        return [index]
    joined = (x.shape[0], 2, top, *tail)
    return [out.op("Concat", [index, out.reshape(best, shape)], joined, {"axis": 1})]


def _top(x: Blob, axis: int, top: int, out: Emitter) -> tuple[Blob, Blob]:
    """Return the largest values along an axis and, as floats, where they are."""
    if x.shape[axis] == FREE:
        raise BatchIsFixed
    out.check(1 <= top <= x.shape[axis], f"top_k {top} of {x.shape[axis]} is impossible")
    shape = [top if i == axis else dim for i, dim in enumerate(x.shape)]
    if top == 1:
        attrs = {"axis": axis, "keepdims": 1, "select_last_index": 1}
        found = out.op("ArgMax", [x], shape, attrs, dtype=np.int64)
        best = out.reduce("ReduceMax", x, [axis])
    else:
        # ONNX takes the first of equal values first, so it is given the axis backwards.
        last = x.shape[axis] - 1
        backwards = np.arange(last, -1, -1, dtype=np.int64)
        turned = out.op("Gather", [x, backwards], x.shape, {"axis": axis})
        count_ = np.array([top], np.int64)
        best = out.op("TopK", [turned, count_], shape, {"axis": axis}, outputs=2)
        found = out.op(
            "Sub", [np.array(last, np.int64), out.second(best, shape)], shape, dtype=np.int64
        )
    return best, out.op("Cast", [found], shape, {"to": 1})


def shuffle_channel(layer: Layer, bottoms: list[Blob], out: Emitter) -> list[Blob]:
    """Convert ShuffleChannel: channels as (group, c) become (c, group)."""
    [x] = bottoms
    group = layer.parameter("shuffle_channel_param").integer("group", 1)
    channels, rest = x.shape[1], x.shape[2:]
    out.check(group >= 1 and channels % group == 0, f"{channels} channels in {group} groups")
    split = out.reshape(x, (x.shape[0], group, channels // group, *rest))
    mixed = out.transpose(split, [0, 2, 1, *range(3, 3 + len(rest))])
    return [out.reshape(mixed, x.shape)]


def batch_reindex(layer: Layer, bottoms: list[Blob], out: Emitter) -> list[Blob]:
    """Convert BatchReindex: the samples that the second input names."""
    out.check(len(bottoms) == 2, "it needs samples and indices")
    x, index = bottoms
    rows = out.op("Cast", [index], index.shape, {"to": 7}, dtype=np.int64)
    return [out.op("Gather", [x, rows], (index.shape[0], *x.shape[1:]), {"axis": 0})]


def parameter(layer: Layer, bottoms: list[Blob], out: Emitter) -> list[Blob]:
    """Convert Parameter: a blob of its own."""
    shape = layer.parameter("parameter_param").message("shape").integers("dim")
    return [out.op("Identity", [out.weight(0, shape, what="values")], shape)]


def dummy_data(layer: Layer, bottoms: list[Blob], out: Emitter) -> list[Blob]:
    """Convert a DummyData whose fillers leave nothing to chance; without one it is 0."""
    if out.free:
        raise BatchIsFixed
    fillers = layer.parameter("dummy_data_param").messages("data_filler")
    shapes, tops = dummy_shapes(layer), len(layer.tops)
    out.check(len(shapes) in (1, tops), f"{len(shapes)} shapes for {tops} tops")
    out.check(len(fillers) in (0, 1, tops), f"{len(fillers)} fillers for {tops} tops")
    shapes = shapes * tops if len(shapes) == 1 else shapes
    values = [filler.number("value", 0.0) for filler in fillers] or [0.0]
    values = values * tops if len(values) == 1 else values
    return [
        out.op("Expand", [np.array(value, np.float32), np.array(shape, np.int64)], shape)
        for value, shape in zip(values, shapes, strict=True)
    ]


def _reshaped(x: Blob, shape: tuple[int, ...] | list[int], out: Emitter) -> Blob:
    if FREE in tuple(shape)[1:]:
        raise BatchIsFixed
    y = out.reshape(x, shape)
    return out.unary("Identity", x) if y is x else y
