"""Pooling, SPP and LRN."""

from __future__ import annotations

from functools import partial

from onnxgraft.run.session import OnnxRuntime
from tests.convert.caffe.net import (
    Case,
    assert_close,
    case,
    cases,
    check,
    check_or_refused,
    load,
    normal,
)
from tests.convert.caffe.reference_pooling import (
    average_pool,
    global_pool,
    lrn_across_channels,
    lrn_within_channel,
    max_pool,
    max_values,
    pool_3d,
    spp,
)

IMAGE = normal(3, 2, 7, 10)
# Negative values only: padding with zeros would win every maximum.
BELOW = -abs(IMAGE) - 1

WINDOWS = [
    ("fits", "kernel_size: 2 stride: 2", normal(3, 2, 6, 8), {"kernel": 2, "stride": 2}),
    ("stride_defaults_to_1", "kernel_size: 3", IMAGE, {"kernel": 3}),
    ("the_last_window_overshoots", "kernel_size: 2 stride: 2", IMAGE, {"kernel": 2, "stride": 2}),
    ("overshoots_by_2", "kernel_size: 3 stride: 3", normal(3, 2, 7, 7), {"kernel": 3, "stride": 3}),
    ("googlenet_3_2", "kernel_size: 3 stride: 2", normal(3, 2, 14, 14), {"kernel": 3, "stride": 2}),
    (
        "padded",
        "kernel_size: 3 stride: 2 pad: 1",
        IMAGE,
        {"kernel": 3, "stride": 2, "pad": 1},
    ),
    (
        # (8 + 2 - 2) / 2 + 1 = 5 rows, and (5 - 1) * 2 < 8 + 1: the last one reads padding.
        "the_last_window_is_padding_alone_but_kept",
        "kernel_size: 2 stride: 2 pad: 1",
        normal(3, 2, 7, 9),
        {"kernel": 2, "stride": 2, "pad": 1},
    ),
    (
        # ceil((6 + 2 - 2) / 3) + 1 = 3 and (3 - 1) * 3 < 7; ceil((7 + 2 - 2) / 3) + 1 = 4, and
        # (4 - 1) * 3 >= 8 clips it to 3.
        "the_last_window_beyond_the_padding_is_clipped",
        "kernel_size: 2 stride: 3 pad: 1",
        normal(3, 2, 6, 7),
        {"kernel": 2, "stride": 3, "pad": 1},
    ),
    (
        "a_padded_window_overshoots_the_padding",
        "kernel_size: 4 stride: 3 pad: 1",
        normal(3, 2, 7, 9),
        {"kernel": 4, "stride": 3, "pad": 1},
    ),
    (
        "padding_on_one_axis_turns_the_clip_rule_on_for_both",
        "kernel_h: 2 kernel_w: 2 stride: 3 pad_h: 1 pad_w: 0",
        normal(3, 2, 7, 9),
        {"kernel": 2, "stride": 3, "pad": (1, 0)},
    ),
    (
        "height_and_width_differ",
        "kernel_h: 3 kernel_w: 2 stride_h: 2 stride_w: 3 pad_h: 1 pad_w: 0",
        IMAGE,
        {"kernel": (3, 2), "stride": (2, 3), "pad": (1, 0)},
    ),
    (
        "kernel_as_large_as_the_image",
        "kernel_h: 7 kernel_w: 10",
        IMAGE,
        {"kernel": (7, 10)},
    ),
]  # fmt: skip

PAD_SIDES = [
    (
        "pads_of_each_side",
        "kernel_size: 2 stride: 1 pad_l: 0 pad_r: 1 pad_t: 0 pad_b: 1",
        normal(3, 2, 6, 8),
        {"kernel": 2, "sides": [(0, 1), (0, 1)]},
    ),
    (
        "pads_of_each_side_are_clipped",
        "kernel_size: 3 stride: 2 pad_l: 1 pad_r: 0 pad_t: 0 pad_b: 2",
        IMAGE,
        {"kernel": 3, "stride": 2, "sides": [(0, 2), (1, 0)]},
    ),
    (
        # ceil(7 / 2) and ceil(10 / 2) windows.
        "pad_type_same",
        "kernel_size: 3 stride: 2 pad_type: 1",
        IMAGE,
        {"kernel": 3, "stride": 2, "sides": [(1, 1), (0, 1)]},
    ),
]

FLOORS = [
    ("round_mode_floor", "kernel_size: 2 stride: 2", IMAGE, {"kernel": 2, "stride": 2}),
    (
        "round_mode_floor_with_padding",
        "kernel_size: 3 stride: 2 pad: 1",
        normal(3, 2, 6, 8),
        {"kernel": 3, "stride": 2, "pad": 1},
    ),
]

POOLINGS = [
    case(
        f"{pool.lower()}_{name}",
        "Pooling",
        f"pooling_param {{ pool: {pool} {params} }}",
        partial(function, **how),
        x,
        opencv="it clips each axis on its own" if "turns_the_clip" in name else "",
    )
    for pool, function in (("MAX", max_values), ("AVE", average_pool))
    for name, params, x, how in WINDOWS
]

SIDED = [
    case(
        f"{pool.lower()}_{name}",
        "Pooling",
        f"pooling_param {{ pool: {pool} {params} }}",
        partial(function, **how),
        x,
        opencv="pads of each side are ignored",
    )
    for pool, function in (("MAX", max_values), ("AVE", average_pool))
    for name, params, x, how in PAD_SIDES
]

EXCLUDED = [
    case(
        f"{word.lower()}_{name}",
        "Pooling",
        f"pooling_param {{ pool: {word} {params} }}",
        partial(average_pool, inside=True, **how),
        x,
        opencv="unknown method",
    )
    for word in ("AVE_EXC_PAD", "AVE_TF")
    for name, params, x, how in (*WINDOWS, *PAD_SIDES)
    if word == "AVE_EXC_PAD" or name == "padded"
]

# Windows that begin beyond the image: of 0 values, which Caffe divides by 0.
EMPTY = [
    case(
        f"rows_{rows}_kernel_{kernel}_stride_{stride}",
        "Pooling",
        f"pooling_param {{ pool: AVE kernel_size: {kernel} stride: {stride} }}",
        partial(average_pool, kernel=kernel, stride=stride),
        normal(3, 2, rows, 9),
        opencv="it has another value there",
    )
    for rows, kernel, stride in ((4, 1, 2), (5, 1, 3), (6, 2, 3))
]

VOLUME = normal(2, 2, 5, 7, 8)
C3D = [
    case(
        name,
        "Pooling3D",
        f"pooling_param {{ {params} }}",
        partial(pool_3d, **how),
        VOLUME,
        batches=(1, 2),
        opencv="unknown layer",
    )
    for name, params, how in (
        ("max", "kernel_size: 2 kernel_depth: 1 stride: 2 temporal_stride: 1",
         {"kernel": (1, 2, 2), "stride": (1, 2, 2)}),
        ("max_rounds_up", "pool: MAX kernel_size: 2 kernel_depth: 2 stride: 2 temporal_stride: 2",
         {"kernel": (2, 2, 2), "stride": (2, 2, 2)}),
        ("average", "pool: AVE kernel_size: 3 kernel_depth: 2 stride: 2 temporal_stride: 2",
         {"kernel": (2, 3, 3), "stride": (2, 2, 2), "average": True}),
        ("average_padded", "pool: AVE kernel_size: 3 kernel_depth: 2 stride: 2 pad: 1",
         {"kernel": (2, 3, 3), "stride": (1, 2, 2), "pad": (0, 1, 1), "average": True}),
    )
]  # fmt: skip

FLOORED = [
    case(
        f"{pool.lower()}_{name}",
        "Pooling",
        f"pooling_param {{ pool: {pool} {params} round_mode: FLOOR }}",
        partial(function, floor=True, **how),
        x,
        opencv="round_mode is refused",
    )
    for pool, function in (("MAX", max_values), ("AVE", average_pool))
    for name, params, x, how in FLOORS
]

SPECIAL = [
    case(
        "the_method_defaults_to_max",
        "Pooling",
        "pooling_param { kernel_size: 3 stride: 2 }",
        partial(max_values, kernel=3, stride=2),
        IMAGE,
    ),
    case(
        "max_padding_never_wins",
        "Pooling",
        "pooling_param { pool: MAX kernel_size: 3 stride: 2 pad: 1 }",
        partial(max_values, kernel=3, stride=2, pad=1),
        BELOW,
    ),
    case(
        "the_method_by_number",
        "Pooling",
        "pooling_param { pool: 1 kernel_size: 3 stride: 2 }",
        partial(average_pool, kernel=3, stride=2),
        IMAGE,
    ),
    case(
        "global_average",
        "Pooling",
        "pooling_param { pool: AVE global_pooling: true }",
        partial(global_pool, average=True),
        IMAGE,
    ),
    case(
        "global_max",
        "Pooling",
        "pooling_param { pool: MAX global_pooling: true }",
        partial(global_pool, average=False),
        IMAGE,
    ),
    case(
        "global_pooling_defaults_to_max",
        "Pooling",
        "pooling_param { global_pooling: true }",
        partial(global_pool, average=False),
        IMAGE,
        opencv="refused without a method",
    ),
]

MASKS = [
    case(
        "mask_of_even_windows",
        "Pooling",
        "pooling_param { pool: MAX kernel_size: 2 stride: 2 }",
        partial(max_pool, kernel=2, stride=2),
        normal(3, 2, 6, 8),
        tops="y mask",
    ),
    case(
        "mask_of_overshooting_windows",
        "Pooling",
        "pooling_param { pool: MAX kernel_size: 2 stride: 2 }",
        partial(max_pool, kernel=2, stride=2),
        IMAGE,
        tops="y mask",
    ),
    case(
        "mask_counts_without_padding",
        "Pooling",
        "pooling_param { pool: MAX kernel_size: 3 stride: 2 pad: 1 }",
        partial(max_pool, kernel=3, stride=2, pad=1),
        BELOW,
        tops="y mask",
    ),
    case(
        "mask_of_the_first_of_equal_values",
        "Pooling",
        "pooling_param { pool: MAX kernel_size: 3 stride: 2 }",
        partial(max_pool, kernel=3, stride=2),
        normal(3, 2, 7, 9).clip(0, 0.5),
        tops="y mask",
    ),
]

# What Caffe itself refuses, or computes from no value at all.
ODD = [
    case(
        "max_of_a_window_beyond_the_image",
        "Pooling",
        "pooling_param { pool: MAX kernel_size: 1 stride: 2 }",
        partial(max_values, kernel=1, stride=2),
        normal(3, 2, 6, 7),
        opencv="it has infinity there",
    ),
    case(
        "global_pooling_ignores_a_kernel",
        "Pooling",
        "pooling_param { pool: AVE kernel_size: 2 global_pooling: true }",
        partial(global_pool, average=True),
        IMAGE,
        opencv="a kernel with global_pooling is refused",
    ),
]

PYRAMIDS = [
    case(
        name,
        "SPP",
        f"spp_param {{ {params} }}",
        partial(spp, **how),
        x,
        opencv="unknown layer",
    )
    for name, params, x, how in (
        ("three_levels", "pyramid_height: 3 pool: MAX", normal(3, 2, 8, 8), {"levels": 3}),
        ("odd_sizes", "pyramid_height: 3", normal(3, 2, 7, 10), {"levels": 3}),
        ("one_level_stays_4d", "pyramid_height: 1", IMAGE, {"levels": 1}),
        ("average", "pyramid_height: 3 pool: AVE", IMAGE, {"levels": 3, "average": True}),
        ("all_negative", "pyramid_height: 3", BELOW, {"levels": 3}),
    )
]

CHANNELS = 2 * normal(3, 7, 4, 5)

ACROSS = [
    case(
        name,
        "LRN",
        params,
        partial(lrn_across_channels, **how),
        CHANNELS,
        opencv=opencv,
        # OpenCV's default is 0.0001.
        spelled_out="" if params else "lrn_param { alpha: 1 }",
    )
    for name, params, how, opencv in (
        ("defaults", "", {}, ""),
        (
            "alexnet",
            "lrn_param { local_size: 5 alpha: 0.0001 beta: 0.75 }",
            {"alpha": 0.0001},
            "",
        ),
        (
            "three_channels",
            "lrn_param { local_size: 3 alpha: 2 beta: 0.5 norm_region: ACROSS_CHANNELS }",
            {"size": 3, "alpha": 2.0, "beta": 0.5},
            "",
        ),
        (
            "more_channels_than_there_are",
            "lrn_param { local_size: 11 alpha: 2 }",
            {"size": 11, "alpha": 2.0},
            "",
        ),
        ("k", "lrn_param { alpha: 0.5 k: 2 }", {"alpha": 0.5, "k": 2.0}, "k is ignored"),
    )
]

WITHIN = [
    case(
        name,
        "LRN",
        f"lrn_param {{ norm_region: WITHIN_CHANNEL {params} }}",
        partial(lrn_within_channel, **how),
        CHANNELS,
        spelled_out=""
        if "alpha" in params
        else f"lrn_param {{ norm_region: WITHIN_CHANNEL alpha: 1 {params} }}",
    )
    for name, params, how in (
        ("defaults", "", {}),
        (
            "three_places",
            "local_size: 3 alpha: 2 beta: 0.5",
            {"size": 3, "alpha": 2.0, "beta": 0.5},
        ),
        ("k_is_ignored", "alpha: 3 k: 4", {"alpha": 3.0}),
    )
]


@cases(POOLINGS)
def test_pooling_rounds_up_clips_and_counts_padding(case: Case) -> None:
    check(case)


@cases(SIDED)
def test_pooling_with_pads_of_each_side(case: Case) -> None:
    check(case)


@cases(EXCLUDED)
def test_an_average_of_the_image_alone(case: Case) -> None:
    check(case)


@cases(EMPTY)
def test_an_average_of_windows_beyond_the_image(case: Case) -> None:
    check(case)
    # onnxruntime's optimizations would join a Pad with the pooling behind it, and fail.
    with OnnxRuntime(load(case.text).to_onnx()) as session:
        assert_close(session.infer(case.part(None)), case.expected(case.part(None)))


@cases(C3D)
def test_pooling_of_c3d(case: Case) -> None:
    check(case)


@cases(FLOORED)
def test_pooling_rounds_down_where_it_says_so(case: Case) -> None:
    check(case)


@cases(SPECIAL)
def test_pooling(case: Case) -> None:
    check(case)


@cases(MASKS)
def test_the_second_top_of_max_pooling_is_the_place_within_the_plane(case: Case) -> None:
    check(case)


@cases(ODD)
def test_odd_pooling_is_computed_or_refused(case: Case) -> None:
    check_or_refused(case)


@cases(PYRAMIDS)
def test_spatial_pyramid(case: Case) -> None:
    check(case)


@cases(ACROSS)
def test_lrn_across_channels(case: Case) -> None:
    check(case)


@cases(WITHIN)
def test_lrn_within_channel(case: Case) -> None:
    check(case)
