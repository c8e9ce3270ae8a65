"""Layers that move values about, and ArgMax."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import onnx
import pytest

from onnxgraft.graph.tensors import Array
from tests.convert.caffe import reference_shape as reference
from tests.convert.caffe.net import (
    Case,
    assert_close,
    case,
    cases,
    check,
    inputs,
    layer,
    load,
    normal,
    run,
)
from tests.convert.caffe.reference_pooling import max_pool

X = normal(3, 4, 5, 6)


def shaped(name: str, kind: str, params: str, function: Any, x: Array = X, **more: Any) -> Case:
    """Return a layer with one bottom; ``params`` is what stands in ``<kind>_param``."""
    field = {"ArgMax": "argmax", "ShuffleChannel": "shuffle_channel"}.get(kind, kind.lower())
    return case(name, kind, f"{field}_param {{ {params} }}", function, x, **more)


CONCATS = [
    case(name, "Concat", params, partial(reference.concat, axis=axis), *feeds, opencv=opencv,
         batches=batches)
    for name, params, axis, feeds, batches, opencv in (
        ("channels", "", 1, (X, normal(3, 2, 5, 6)), (1, 3), ""),
        ("three", "", 1, (X, normal(3, 2, 5, 6), normal(3, 1, 5, 6)), (1, 3), ""),
        ("axis_2", "concat_param { axis: 2 }", 2, (X, normal(3, 4, 2, 6)), (1, 3), ""),
        ("the_last_axis", "concat_param { axis: -1 }", -1, (X, normal(3, 4, 5, 2)), (1, 3), ""),
        ("legacy_concat_dim", "concat_param { concat_dim: 3 }", 3, (X, normal(3, 4, 5, 2)),
         (1, 3), "concat_dim is ignored"),
        ("the_batch", "concat_param { axis: 0 }", 0, (X, normal(2, 4, 5, 6)), None, ""),
        ("two_axes", "", 1, (normal(3, 4), normal(3, 2)), (1, 3), ""),
    )
]  # fmt: skip

WIDE = normal(3, 6, 8, 4)

SLICES = [
    case(
        name,
        "Slice",
        f"slice_param {{ {params} }}" if params else "",
        partial(reference.slices, tops=len(tops.split()), **how),
        WIDE,
        tops=tops,
        opencv=opencv,
    )
    for name, params, how, tops, opencv in (
        ("equal_parts", "", {}, "a b c", "it counts consumers, not tops"),
        ("one_point", "slice_point: 2", {"points": (2,)}, "a b", ""),
        (
            "three_points",
            "axis: 2 slice_point: 1 slice_point: 3 slice_point: 7",
            {"axis": 2, "points": (1, 3, 7)},
            "a b c d",
            "",
        ),
        ("the_last_axis", "axis: -1", {"axis": -1}, "a b", "it counts consumers, not tops"),
        ("legacy_slice_dim", "slice_dim: 2", {"axis": 2}, "a b", "slice_dim is ignored"),
    )
]

FLATTENS = [
    shaped("channels_to_the_end", "Flatten", "", reference.flatten),
    shaped("axis_2", "Flatten", "axis: 2", partial(reference.flatten, axis=2)),
    shaped(
        "the_inner_axes",
        "Flatten",
        "axis: 1 end_axis: 2",
        partial(reference.flatten, axis=1, end_axis=2),
    ),
    shaped(
        "negative_axes",
        "Flatten",
        "axis: -3 end_axis: -2",
        partial(reference.flatten, axis=-3, end_axis=-2),
    ),
    shaped("two_axes_stay", "Flatten", "", reference.flatten, normal(3, 7)),
    shaped(
        "everything",
        "Flatten",
        "axis: 0",
        partial(reference.flatten, axis=0),
        batches=None,
        opencv="its arrays have two axes at least",
    ),
]


def reshaped(
    name: str,
    dims: tuple[int, ...],
    params: str = "",
    x: Array = X,
    *,
    batches: tuple[int, ...] | None = (1, 3),
    opencv: str = "",
    **how: Any,
) -> Case:
    """Return a Reshape to these dims."""
    shape = " ".join(f"dim: {dim}" for dim in dims)
    return shaped(
        name,
        "Reshape",
        f"shape {{ {shape} }} {params}",
        partial(reference.reshape, dims=dims, **how),
        x,
        batches=batches,
        opencv=opencv,
    )


RESHAPES = [
    reshaped("copy_and_infer", (0, -1)),
    reshaped("copy_several", (0, 0, -1)),
    reshaped("a_copy_behind_new_axes_is_of_its_own_place", (0, 2, 2, 0, 6), x=normal(3, 4, 6, 5)),
    reshaped("infer_the_batch", (-1, 4, 30)),
    reshaped("fixed_shape", (6, 60), batches=None),
    reshaped("axis_1", (2, 60), "axis: 1", axis=1),
    reshaped("a_copy_behind_axis_1_is_of_axis_1", (0, -1), "axis: 1", axis=1),
    reshaped("a_copy_of_the_second_axis_behind_axis_1", (-1, 0, 3), "axis: 1",
             normal(3, 4, 5, 6), axis=1),
    reshaped("num_axes_1", (2, 2), "axis: 1 num_axes: 1", axis=1, num_axes=1),
    reshaped("num_axes_2", (-1,), "axis: 1 num_axes: 2", axis=1, num_axes=2),
    reshaped("num_axes_0_inserts", (1, 1), "axis: 2 num_axes: 0", axis=2, num_axes=0,
             opencv="the last axis is lost"),
    reshaped("a_negative_axis_counts_from_one_past_the_end", (1,), "axis: -1 num_axes: 0",
             axis=-1, num_axes=0, opencv="the last axis is lost"),
    reshaped("axis_minus_2_is_the_last", (2, -1), "axis: -2", axis=-2, opencv="refused"),
    reshaped("ssd_confidences", (0, -1, 3), x=normal(3, 12)),
]  # fmt: skip

PERMUTES = [
    shaped(
        name,
        "Permute",
        " ".join(f"order: {axis}" for axis in order),
        partial(reference.permute, order=order),
        x,
        batches=batches,
        opencv=opencv,
    )
    for name, order, x, batches, opencv in (
        ("ssd", (0, 2, 3, 1), X, (1, 3), ""),
        ("identity", (0, 1, 2, 3), X, (1, 3), ""),
        ("what_is_not_listed_follows", (0, 3), X, (1, 3), "short orders are refused"),
        ("one_listed", (2,), X, None, "short orders are refused"),
        ("three_axes", (0, 2, 1), normal(3, 4, 5), (1, 3), ""),
    )
]

SMALL = normal(3, 2, 3, 4)

CROPS = [
    case(
        name,
        "Crop",
        f"crop_param {{ {params} }}" if params else "",
        partial(reference.crop, **how),
        X,
        like,
        batches=batches,
        opencv=opencv,
    )
    for name, params, how, like, batches, opencv in (
        ("rows_and_columns_by_default", "", {}, SMALL, (1, 3), ""),
        ("one_offset", "offset: 1", {"offset": (1,)}, SMALL, (1, 3), ""),
        ("an_offset_for_each_axis", "offset: 2 offset: 1", {"offset": (2, 1)}, SMALL, (1, 3), ""),
        ("axis_1", "axis: 1 offset: 1", {"axis": 1, "offset": (1,)}, SMALL, (1, 3), ""),
        (
            "axis_1_with_offsets",
            "axis: 1 offset: 2 offset: 0 offset: 1",
            {"axis": 1, "offset": (2, 0, 1)},
            SMALL,
            (1, 3),
            "",
        ),
        ("the_last_axis", "axis: -1 offset: 2", {"axis": -1, "offset": (2,)}, SMALL, (1, 3), ""),
        ("axis_3", "axis: 3 offset: 1", {"axis": 3, "offset": (1,)}, SMALL, (1, 3), ""),
        ("nothing_to_crop", "axis: 2", {}, normal(3, 1, 5, 6), (1, 3), ""),
    )
]

TILES = [
    shaped("channels", "Tile", "tiles: 3", partial(reference.tile, tiles=3), opencv="refused"),
    shaped(
        "axis_2",
        "Tile",
        "tiles: 2 axis: 2",
        partial(reference.tile, tiles=2, axis=2),
        opencv="refused",
    ),
    shaped(
        "the_last_axis",
        "Tile",
        "tiles: 2 axis: -1",
        partial(reference.tile, tiles=2, axis=-1),
        opencv="refused",
    ),
]

REINDEXED = case(
    "repeats_and_drops",
    "BatchReindex",
    "",
    reference.batch_reindex,
    X,
    np.asarray([2, 0, 0, 1, 2], np.float32),
    batches=None,
    opencv="unknown layer",
)

SHUFFLES = [
    shaped(
        f"group_{group}",
        "ShuffleChannel",
        f"group: {group}",
        partial(reference.shuffle_channel, group=group),
        normal(3, 6, 2, 3),
    )
    for group in (1, 2, 3, 6)
]

REORGS = [
    shaped(
        f"stride_{stride}_of_{rows}_by_{columns}",
        "Reorg",
        f"stride: {stride}",
        partial(reference.reorg, stride=stride),
        normal(3, channels, rows, columns),
        opencv="" if stride == 2 else "the stride is ignored",
    )
    for stride, channels, rows, columns in ((2, 8, 4, 6), (2, 4, 6, 2), (3, 18, 6, 3))
]

INTERPS = [
    shaped(name, "Interp", params, partial(reference.interp, **how), x, opencv=opencv)
    for name, params, how, x, opencv in (
        ("to_a_size", "height: 9 width: 13", {"size": (9, 13)}, X, ""),
        ("to_a_smaller_size", "height: 3 width: 4", {"size": (3, 4)}, X, ""),
        ("to_the_same_size", "height: 5 width: 6", {"size": (5, 6)}, X, ""),
        ("to_one_place", "height: 1 width: 1", {"size": (1, 1)}, X, ""),
        ("from_one_place", "height: 4 width: 3", {"size": (4, 3)}, normal(3, 4, 1, 1), ""),
        ("zoom", "zoom_factor: 4", {"zoom": 4}, X, ""),
        ("zoom_1", "zoom_factor: 1", {"zoom": 1}, X, ""),
        ("shrink", "shrink_factor: 2", {"shrink": 2}, normal(3, 2, 7, 10), "refused"),
        (
            "negative_pads_crop",
            "height: 9 width: 13 pad_beg: -1 pad_end: -2",
            {"size": (9, 13), "pad_beg": -1, "pad_end": -2},
            X,
            "pads are not taken",
        ),
        (
            "zoom_of_what_is_cropped",
            "zoom_factor: 3 pad_beg: 0 pad_end: -1",
            {"zoom": 3, "pad_end": -1},
            X,
            "pads are not taken",
        ),
    )
]

ARGMAXES = [
    shaped(
        name,
        "ArgMax",
        params,
        partial(reference.argmax, **how),
        x,
        opencv="unknown layer" if opencv is None else opencv,
    )
    for name, params, how, x, opencv in (
        ("of_the_sample", "", {}, X, None),
        ("of_the_sample_of_two_axes", "", {}, normal(3, 10), None),
        ("of_the_sample_of_three_axes", "", {}, normal(3, 4, 5), None),
        ("top_5", "top_k: 5", {"top_k": 5}, normal(3, 10), None),
        ("top_3_with_values", "top_k: 3 out_max_val: true",
         {"top_k": 3, "out_max_val": True}, X, None),
        ("values_of_two_axes", "out_max_val: true", {"out_max_val": True}, normal(3, 10), None),
        ("channels", "axis: 1", {"axis": 1}, X, None),
        ("top_2_channels", "axis: 1 top_k: 2", {"axis": 1, "top_k": 2}, X, None),
        ("values_of_channels", "axis: 1 out_max_val: true", {"axis": 1, "out_max_val": True}, X,
         None),
        ("the_last_axis", "axis: -1 top_k: 2", {"axis": -1, "top_k": 2}, X, None),
    )
]  # fmt: skip

TIES = [
    shaped(name, "ArgMax", params, partial(reference.argmax, **how), np.round(X).clip(-1, 1),
           opencv="unknown layer")
    for name, params, how in (
        ("of_channels", "axis: 1", {"axis": 1}),
        ("of_samples", "top_k: 3", {"top_k": 3}),
    )
]  # fmt: skip

# The values to put back differ from those that were pooled, so that places are told from values.
POOLED, PLACES = max_pool(normal(3, 2, 7, 10).astype(np.float64), 2, stride=2)

UPSAMPLES = [
    case(
        name,
        "Upsample",
        f"upsample_param {{ {params} }}",
        partial(reference.upsample, size=size),
        normal(*PLACES.shape),
        PLACES.astype(np.float32),
        opencv="unknown layer",
    )
    for name, params, size in (
        ("odd_size", "upsample_h: 7 upsample_w: 10", (7, 10)),
        ("a_size_beyond_the_pooled", "upsample_h: 8 upsample_w: 10", (8, 10)),
        ("scale", "scale: 2", (8, 10)),
        ("padded_out", "scale: 2 pad_out_h: true", (7, 10)),
        ("scale_of_rows_and_columns", "scale_h: 2 scale_w: 3", (8, 15)),
    )
]

NEAREST = [
    shaped(
        f"scale_{factor}",
        "Upsample",
        f"scale: {factor}",
        partial(reference.nearest, factor=factor),
        opencv="unknown layer",
    )
    for factor in (2, 3)
]


MOVED = [
    case("transpose", "Transpose", "transpose_param { dim: 0 dim: 3 dim: 1 dim: 2 }",
         lambda x: x.transpose(0, 3, 1, 2), X, opencv="unknown layer"),
    case("transpose_of_the_batch", "Transpose", "transpose_param { dim: 3 dim: 2 dim: 0 dim: 1 }",
         lambda x: x.transpose(3, 2, 0, 1), X, batches=None, opencv="unknown layer"),
    case("flip_columns_by_default", "Flip", "", lambda x: x[..., ::-1], X, opencv="unknown layer"),
    case("flip_rows", "Flip", "flip_param { flip_height: true flip_width: false }",
         lambda x: x[:, :, ::-1], X, opencv="unknown layer"),
    case("flip_both", "Flip", "flip_param { flip_height: true flip_width: true }",
         lambda x: x[:, :, ::-1, ::-1], X, opencv="unknown layer"),
    case("reverse_the_first_axis", "Reverse", "", lambda x: x[::-1], X, batches=None,
         opencv="unknown layer"),
    case("reverse_axis", "Reverse", "reverse_param { axis: 2 }", lambda x: x[:, :, ::-1], X,
         opencv="unknown layer"),
    case("crop_center", "CropCenter",
         "crop_center_param { crop_size: 0 crop_size: 0 crop_size: 1 crop_size: 2 }",
         lambda x: x[:, :, 1:-1, 2:-2], X, opencv="unknown layer"),
]  # fmt: skip

SHUFFLED = [
    case(
        f"by_{step}",
        "Reshape",
        f"reshape_param {{ shape {{ dim: 0 dim: -1 }} pixelshuffler: {step} }}",
        partial(reference.depth_to_space, step=step),
        normal(3, 2 * step**2, 3, 4),
        opencv="pixelshuffler is refused",
    )
    for step in (2, 3)
]

RESIZED = [
    case(
        name,
        "Upsample",
        f"upsample_param {{ {params} }}",
        function,
        normal(3, 2, 4, 5),
        opencv="unknown layer",
    )
    for name, params, function in (
        ("bilinear_by_default", "height_scale: 2 width_scale: 3",
         partial(reference.interp, size=(8, 15))),
        ("bilinear", "height_scale: 4 width_scale: 4 mode: BILINEAR",
         partial(reference.interp, size=(16, 20))),
        ("height_and_width", "height: 7 width: 6", partial(reference.interp, size=(7, 6))),
        ("nearest", "height_scale: 2 width_scale: 3 mode: NEAREST",
         partial(reference.nearest_at, size=(8, 15))),
        ("nearest_between", "height: 7 width: 13 mode: NEAREST",
         partial(reference.nearest_at, size=(7, 13))),
    )
] + [
    case(
        f"{mode.lower()}_as_large_as_a_second_input",
        "Upsample",
        f"upsample_param {{ mode: {mode} }}",
        lambda x, other, function=function: function(x, size=other.shape[2:]),
        normal(3, 2, 4, 5),
        normal(3, 1, 9, 11),
        opencv="unknown layer",
    )
    for mode, function in (("BILINEAR", reference.interp), ("NEAREST", reference.nearest_at))
]  # fmt: skip


@cases(MOVED)
def test_layers_of_forks_that_move_values(case: Case) -> None:
    check(case)


@cases(SHUFFLED)
def test_reshape_with_a_pixelshuffler(case: Case) -> None:
    check(case)


@cases(RESIZED)
def test_upsample_that_says_how(case: Case) -> None:
    check(case)


@pytest.mark.parametrize("dim", [1, 6, 7, 33])
def test_interp_reaches_every_size(dim: int) -> None:
    # The type inference of ONNX multiplies in float64, onnxruntime in float32.
    for size in range(1, 130):
        text = inputs(x=(1, 1, dim, dim), z=(1, 1, size, 2 * size)) + layer(
            "Interp", "x", "y", f"interp_param {{ height: {size} width: {2 * size} }}", name="i"
        ) + layer("Eltwise", "y z", "w", name="s")  # fmt: skip
        model = load(text).to_onnx()
        scales = next(onnx.numpy_helper.to_array(t) for t in model.graph.initializer if t.dims)
        reached = [np.floor(dim * np.float32(s)) for s in scales[2:]]
        wide = [math.floor(dim * float(s)) for s in scales[2:]]
        assert reached == wide == [size, 2 * size]
    onnx.shape_inference.infer_shapes(model, strict_mode=True)


@cases(CONCATS)
def test_concat(case: Case) -> None:
    check(case)


@cases(SLICES)
def test_slice(case: Case) -> None:
    check(case)


@cases(FLATTENS)
def test_flatten(case: Case) -> None:
    check(case)


@cases(RESHAPES)
def test_reshape(case: Case) -> None:
    check(case)


@cases(PERMUTES)
def test_permute(case: Case) -> None:
    check(case)


@cases(CROPS)
def test_crop(case: Case) -> None:
    check(case)


@cases(TILES)
def test_tile(case: Case) -> None:
    check(case)


def test_batch_reindex() -> None:
    check(REINDEXED)


@cases(SHUFFLES)
def test_shuffle_channel(case: Case) -> None:
    check(case)


@cases(REORGS)
def test_reorg_follows_darknet(case: Case) -> None:
    check(case)


@cases(INTERPS)
def test_interp(case: Case) -> None:
    check(case)


@cases(ARGMAXES)
def test_argmax(case: Case) -> None:
    check(case)


@cases(TIES)
def test_argmax_of_equal_values_is_the_last_of_them(case: Case) -> None:
    check(case)


@cases(UPSAMPLES)
def test_upsample_puts_values_back_by_the_mask(case: Case) -> None:
    check(case)


@cases(NEAREST)
def test_upsample_without_a_mask_repeats_values(case: Case) -> None:
    check(case)


def test_pooling_and_upsampling_of_an_odd_image() -> None:
    x = normal(2, 3, 7, 9)
    text = (
        inputs(x=x.shape)
        + layer("Pooling", "x", "p mask", "pooling_param { kernel_size: 2 stride: 2 }", name="pool")
        + layer("Upsample", "p mask", "y", "upsample_param { upsample_h: 7 upsample_w: 9 }")
    )
    values, places = max_pool(x.astype(np.float64), 2, stride=2)
    assert_close(run(text, None, {"x": x}), {"y": reference.upsample(values, places, (7, 9))})


def test_two_layers_of_pooling_and_upsampling_with_a_size_beyond_the_image() -> None:
    # As SegNet has it: 45 rows are pooled to 23 and put back into 46.
    x = normal(1, 2, 9, 6)
    pool = "pooling_param { kernel_size: 2 stride: 2 }"
    text = (
        inputs(x=x.shape)
        + layer("Pooling", "x", "p1 mask1", pool, name="pool1")
        + layer("Pooling", "p1", "p2 mask2", pool, name="pool2")
        + layer("Upsample", "p2 mask2", "u2", "upsample_param { scale: 2 }", name="up2")
        + layer("Crop", "u2 p1", "c2", name="crop2")
        + layer("Upsample", "c2 mask1", "y", "upsample_param { scale: 2 }", name="up1")
    )
    first, places1 = max_pool(x.astype(np.float64), 2, stride=2)
    second, places2 = max_pool(first, 2, stride=2)
    middle = reference.crop(reference.upsample(second, places2, (6, 4)), first)
    assert_close(run(text, None, {"x": x}), {"y": reference.upsample(middle, places1, (10, 6))})
