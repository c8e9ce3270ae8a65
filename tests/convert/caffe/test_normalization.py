"""BatchNorm, the forks' BN, MVN and Normalize."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest

from onnxgraft.errors import InputError
from onnxgraft.graph.tensors import Array
from tests.convert.caffe import reference_arithmetic as reference
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
    positive,
    run,
)

X = 2 + normal(3, 4, 5, 6)
MEAN, VARIANCE = normal(4), positive(4)


def norm(
    name: str,
    params: str = "",
    x: Array = X,
    mean: Array = MEAN,
    variance: Array = VARIANCE,
    factor: float = 1.0,
    *,
    opencv: str = "",
    **how: Any,
) -> Case:
    """Return a BatchNorm of stored statistics."""
    blobs = (mean, variance, np.asarray([factor], np.float32))
    function = partial(reference.batch_norm, mean=mean, variance=variance, factor=blobs[2], **how)
    return case(name, "BatchNorm", params, function, x, blobs=blobs, opencv=opencv)


def batch_norm(params: str) -> str:
    return f"batch_norm_param {{ {params} }}"


NORMS = [
    norm("defaults"),
    norm("the_statistics_are_divided_by_the_factor", factor=999.98),
    norm("a_small_factor", factor=1e-3),
    norm("a_factor_of_0_makes_the_statistics_0", factor=0.0),
    norm("eps", batch_norm("eps: 0.1"), eps=0.1),
    norm("a_small_variance_shows_the_default_eps", variance=1e-5 * VARIANCE),
    norm("global_statistics_by_name", batch_norm("use_global_stats: true")),
    norm("two_axes", x=normal(3, 4)),
    norm("three_axes", x=normal(3, 4, 5)),
    norm("five_axes", x=normal(3, 4, 2, 3, 2)),
    norm(
        "three_params_are_not_weights",
        "param { lr_mult: 0 } param { lr_mult: 0 } param { lr_mult: 0 }",
    ),
]

OUTSIDE = "add_eps_before_sqrt is ignored"
NORMS += [
    norm("eps_outside_of_the_root", batch_norm("eps: 0.1 add_eps_before_sqrt: false"), eps=0.1,
         outside=True, opencv=OUTSIDE),
    norm("eps_inside_the_root", batch_norm("eps: 0.1 add_eps_before_sqrt: true"), eps=0.1,
         opencv=OUTSIDE),
]  # fmt: skip

GAIN, SHIFT = normal(4, seed=5), normal(4, seed=6)
NVCAFFE = [
    case(
        name,
        "BatchNorm",
        params,
        partial(reference.nv_batch_norm, mean=MEAN, variance=variance, gain=GAIN, shift=SHIFT,
                **how),
        X,
        blobs=(MEAN, variance, np.asarray([factor], np.float32), GAIN, SHIFT),
        opencv=opencv,
    )
    for name, params, variance, factor, how, opencv in (
        ("scale_bias", batch_norm("scale_bias: true"), VARIANCE, 1.0, {}, ""),
        ("five_blobs", "", VARIANCE, 1.0, {}, "the fifth blob is not its bias"),
        ("fillers_say_so_too", batch_norm("scale_filler { type: 'constant' value: 1 }"), VARIANCE,
         1.0, {}, "the fifth blob is not its bias"),
        ("the_third_blob_is_not_read", "", VARIANCE, 0.5, {}, "it divides"),
        ("eps_is_1e-5_at_least", batch_norm("eps: 1e-9 scale_bias: true"), 1e-5 * VARIANCE, 1.0,
         {"eps": 1e-9}, "eps is as given"),
        ("global_statistics_always", batch_norm("use_global_stats: false"), VARIANCE, 1.0, {},
         "it uses the batch's"),
    )
]  # fmt: skip

LENGTH_ONE = [
    case(f"{kind}_{x.ndim}_axes", "Normalize",
         f"normalize_param {{ normalize_type: '{kind}' }}",
         partial(reference.to_length_one, kind=kind), x, opencv="it wants a scale")
    for kind in ("L2", "L1") for x in (X, normal(3, 8))
] + [
    case("without_parameters", "Normalize", "", reference.to_length_one, X,
         opencv="it wants a scale"),
]  # fmt: skip

OF_THE_BATCH = [
    case(
        "eps_outside_of_the_root",
        "BatchNorm",
        batch_norm("use_global_stats: false eps: 0.5 add_eps_before_sqrt: false"),
        partial(reference.batch_norm_of_the_batch, eps=0.5, outside=True),
        X,
        blobs=(MEAN, VARIANCE, np.ones(1, np.float32)),
        opencv="refused beyond one sample",
    )
] + [
    case(
        f"{name}_{axes}",
        "BatchNorm",
        batch_norm(f"use_global_stats: false {params}"),
        partial(reference.batch_norm_of_the_batch, **how),
        x,
        blobs=(MEAN, VARIANCE, np.ones(1, np.float32)),
        opencv="refused beyond one sample",
    )
    for name, params, how in (("defaults", "", {}), ("eps", "eps: 0.5", {"eps": 0.5}))
    for axes, x in (("four_axes", X), ("two_axes", normal(3, 4)))
    if axes == "four_axes" or name == "eps"
]

SEGNET = [
    case(
        name,
        "BN",
        "bn_param { bn_mode: INFERENCE }",
        partial(reference.bn_segnet, slope=slope, shift=shift),
        X,
        blobs=(slope, shift),
        opencv="unknown layer",
    )
    for name, slope, shift in (
        ("blobs_of_four_axes", normal(1, 4, 1, 1), normal(1, 4, 1, 1, seed=1)),
        ("blobs_of_one_axis", normal(4), normal(4, seed=1)),
    )
]

EARLIER = "scale_filler { value: 1 } shift_filler { value: 0 }"
STATISTICS = (normal(1, 4, 1, 1), normal(1, 4, 1, 1, seed=1), normal(1, 4, 1, 1, seed=2),
              positive(1, 4, 1, 1))  # fmt: skip

# Of the earlier form of PSPNet's BN the default epsilon is 1e-10, which small variances show.
SMALL = (*STATISTICS[:3], 1e-6 * STATISTICS[3])
PSPNET = [
    case(
        name,
        "BN",
        f"bn_param {{ {params} }}",
        partial(
            reference.bn_pspnet,
            slope=blobs[0],
            bias=blobs[1],
            mean=blobs[2],
            variance=blobs[3],
            **how,
        ),
        X,
        blobs=blobs,
        opencv="unknown layer",
    )
    for name, params, how, blobs in (
        ("defaults", "frozen: true", {}, STATISTICS),
        ("eps", "eps: 0.1", {"eps": 0.1}, STATISTICS),
        (
            "params_and_fillers",
            "slope_filler { value: 1 } bias_filler { value: 0 }",
            {},
            STATISTICS,
        ),
        ("earlier", f"{EARLIER} moving_average: true decay: 0.05", {"eps": 1e-10}, SMALL),
        ("earlier_var_eps", "moving_average: true var_eps: 0.1 axis: 1", {"eps": 0.1}, STATISTICS),
        ("later", "moving_average: true eps: 0.1", {"eps": 0.1}, STATISTICS),
    )
]

MVNS = [
    case(
        name,
        "MVN",
        f"mvn_param {{ {params} }}" if params else "",
        partial(reference.mvn, **how),
        x,
        opencv=opencv,
    )
    for name, params, how, x, opencv in (
        ("each_plane", "", {}, X, ""),
        ("across_channels", "across_channels: true", {"across_channels": True}, X, ""),
        ("mean_alone", "normalize_variance: false", {"variance": False}, X, ""),
        (
            "eps_inside_the_root",
            "eps: 0.5 add_eps_before_sqrt: true",
            {"eps": 0.5, "inside": True},
            X,
            "",
        ),
        (
            "mean_alone_across_channels",
            "normalize_variance: false across_channels: true",
            {"variance": False, "across_channels": True},
            X,
            "",
        ),
        ("eps_is_outside_the_root", "eps: 0.5", {"eps": 0.5}, X, "eps is inside the root"),
        (
            "an_equal_plane_is_0",
            "",
            {},
            np.concatenate([X[:, :3], np.full((3, 1, 5, 6), 2, np.float32)], axis=1),
            "",
        ),
    )
]


def normalized(
    name: str, params: str, factor: Array | None, *, opencv: str = "", **how: Any
) -> Case:
    """Return an SSD Normalize."""
    return case(
        name,
        "Normalize",
        f"norm_param {{ {params} }}" if params else "",
        partial(reference.normalize, factor=factor, **how),
        X,
        blobs=() if factor is None else (factor,),
        opencv=opencv,
    )


SSD = "across_spatial: false channel_shared: false"

NORMALIZE = [
    normalized("ssd", SSD, positive(4), across_spatial=False),
    normalized("defaults_with_one_factor", "", positive(1)),
    normalized("a_factor_without_axes", "", np.asarray(1.5, np.float32),
               opencv="a blob without axes"),
    normalized("each_position_with_one_factor", "across_spatial: false", positive(1),
               across_spatial=False),
    normalized("whole_samples_with_channel_factors", "channel_shared: false", positive(4),
        opencv="refused"),
    normalized("eps_is_inside_the_root", f"{SSD} eps: 5", positive(4), across_spatial=False,
               eps=5.0),
]  # fmt: skip


@cases(NORMS)
def test_batch_norm(case: Case) -> None:
    check(case)


@cases(NVCAFFE)
def test_batch_norm_of_nvcaffe_has_a_scale_and_a_bias(case: Case) -> None:
    check(case)


def test_a_scale_and_a_bias_that_are_not_stored_do_nothing() -> None:
    case = NORMS[0]
    text = case.text.replace("top:", "batch_norm_param { scale_bias: true } top:")
    assert_close(run(text, case.weights, case.part(None)), case.expected(case.part(None)))


@cases(OF_THE_BATCH)
def test_batch_norm_told_not_to_use_the_stored_statistics_uses_the_batch(case: Case) -> None:
    check(case)


@cases(SEGNET)
def test_bn_of_segnet_has_two_blobs(case: Case) -> None:
    check(case)


@cases(PSPNET)
def test_bn_of_pspnet_has_four_blobs(case: Case) -> None:
    check(case)


@cases(MVNS)
def test_mvn(case: Case) -> None:
    check(case)


@cases(NORMALIZE)
def test_normalize(case: Case) -> None:
    check(case)


@cases(LENGTH_ONE)
def test_normalize_of_face_recognition(case: Case) -> None:
    check(case)


def test_a_normalize_without_weights_has_those_of_its_filler() -> None:
    x = normal(2, 4, 5, 6)
    params = f'norm_param {{ {SSD} scale_filler {{ type: "constant" value: 20 }} }}'
    expected = 20 * reference.normalize(x.astype(np.float64), across_spatial=False)
    text = inputs(x=x.shape) + layer("Normalize", params=params)
    assert_close(run(text, None, {"x": x}), {"y": expected})


@pytest.mark.parametrize("params", ["bn_mode: LEARN", "bn_mode: 0", "bn_mode: NORM", ""])
def test_bn_of_segnet_is_converted_in_its_mode_inference_only(params: str) -> None:
    text = inputs(x=X.shape) + layer("BN", params=f"bn_param {{ {params} }}")
    with pytest.raises(InputError, match="bn_mode: INFERENCE"):
        load(text, {"it": ("BN", (normal(1, 4, 1, 1), normal(1, 4, 1, 1)))})


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ("moving_average: false", "its batch"),
        (EARLIER, "its batch.*moving_average: true"),
        ("moving_average: true axis: 2", "axis: 2"),
    ],
)
def test_bn_of_pspnet_that_does_not_use_its_statistics_is_refused(params: str, words: str) -> None:
    text = inputs(x=X.shape) + layer("BN", params=f"bn_param {{ {params} }}")
    with pytest.raises(InputError, match=words):
        load(text, {"it": ("BN", STATISTICS)})


def test_batch_norm_then_scale() -> None:
    factor, gamma, beta = np.asarray([2], np.float32), normal(4, seed=3), normal(4, seed=4)
    text = (
        inputs(x=X.shape)
        + layer("BatchNorm", "x", "x", name="norm")
        + layer("Scale", "x", "y", "scale_param { bias_term: true }", name="affine")
    )
    weights = {
        "norm": ("BatchNorm", (MEAN, VARIANCE, factor)),
        "affine": ("Scale", (gamma, beta)),
    }
    middle = reference.batch_norm(X.astype(np.float64), MEAN, VARIANCE, factor)
    assert_close(run(text, weights, {"x": X}), {"y": reference.scale(middle, gamma, beta)})
