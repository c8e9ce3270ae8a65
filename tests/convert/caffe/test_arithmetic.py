"""InnerProduct, Eltwise, Scale, Bias, Axpy, Softmax, Reduction and Embed."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from onnxgraft.graph.tensors import Array
from tests.convert.caffe import reference_arithmetic as reference
from tests.convert.caffe.net import (
    Case,
    assert_close,
    case,
    cases,
    check,
    check_or_refused,
    inputs,
    layer,
    normal,
    positive,
    run,
)

X = normal(3, 4, 5, 6)
ONE = np.asarray(1.5, np.float32)


def dense(
    name: str, params: str, weight: Array, x: Array, *, bias: bool = True, **how: Any
) -> Case:
    """Return an InnerProduct; its number of outputs is read off the weights."""
    opencv = how.pop("opencv", "")
    outputs = weight.shape[-1 if how.get("transpose") else -2]
    blobs = (weight, normal(outputs, seed=9)) if bias else (weight,)
    function = partial(
        reference.inner_product, weight=weight, bias=blobs[1] if bias else None, **how
    )
    params = f"inner_product_param {{ num_output: {outputs} {params} }}"
    return case(name, "InnerProduct", params, function, x, blobs=blobs, opencv=opencv)


DENSE = [
    dense("two_axes", "", normal(7, 10), normal(3, 10)),
    dense("four_axes_are_flattened", "", normal(7, 120), X),
    dense("no_bias", "bias_term: false", normal(7, 120), X, bias=False),
    dense("transpose_is_false", "transpose: false", normal(7, 120), X),
    dense("transpose", "transpose: true", normal(120, 7), X, transpose=True,
          opencv="transpose is ignored"),
    dense("normalize", "normalize: true", normal(7, 120), X, normalize=True,
          opencv="normalize is ignored"),
    dense("normalize_transposed", "normalize: true transpose: true", normal(120, 7), X,
          normalize=True, transpose=True, opencv="normalize is ignored"),
    dense("square_transpose", "transpose: true", normal(9, 9), normal(3, 9), transpose=True,
          opencv="transpose is ignored"),
    dense("axis_2", "axis: 2", normal(7, 30), X, axis=2),
    replace(dense("of_the_whole_batch", "axis: 0", normal(7, 360), X, axis=0,
                  opencv="it puts an axis behind"), batches=None),
    replace(dense("of_the_whole_batch_from_the_end", "axis: -4", normal(7, 360), X, axis=-4,
                  opencv="it puts an axis behind"), batches=None),
    dense("the_last_axis", "axis: -1", normal(7, 6), X, axis=-1),
    dense("blobs_of_four_axes", "", normal(1, 1, 7, 120), X),
]  # fmt: skip

A, B, C, D = (normal(3, 2, 4, 5, seed=seed) for seed in range(4))

ELTWISE = [
    case(
        name,
        "Eltwise",
        f"eltwise_param {{ {params} }}" if params else "",
        partial(reference.eltwise, **how),
        *feeds,
        opencv=opencv,
    )
    for name, params, how, feeds, opencv in (
        ("the_sum_is_the_default", "", {}, (A, B), ""),
        ("sum_of_four", "operation: SUM", {}, (A, B, C, D), ""),
        ("difference", "coeff: 1 coeff: -1", {"coeff": (1, -1)}, (A, B), ""),
        (
            "weighted_sum_of_three",
            "operation: SUM coeff: 0.5 coeff: -2 coeff: 3",
            {"coeff": (0.5, -2, 3)},
            (A, B, C),
            "",
        ),
        ("product", "operation: PROD", {"operation": "PROD"}, (A, B), ""),
        ("product_of_three", "operation: PROD", {"operation": "PROD"}, (A, B, C), ""),
        ("maximum", "operation: MAX", {"operation": "MAX"}, (A, B), ""),
        ("maximum_of_four", "operation: MAX", {"operation": "MAX"}, (A, B, C, D), ""),
        ("0_is_the_product", "operation: 0", {"operation": "PROD"}, (A, B), ""),
        ("2_is_the_maximum", "operation: 2", {"operation": "MAX"}, (A, B), ""),
    )
]


def scaled(
    name: str,
    params: str,
    x: Array,
    factor: Array,
    bias: Array | None = None,
    *,
    axis: int = 1,
    **more: Any,
) -> Case:
    """Return a Scale with its factor, and bias, in blobs."""
    params = f"scale_param {{ {params}{'' if bias is None else ' bias_term: true'} }}"
    blobs = [factor] if bias is None else [factor, bias]
    function = partial(reference.scale, factor=factor, bias=bias, axis=axis)
    return case(name, "Scale", params, function, x, blobs=blobs, **more)


def scaled_by(
    name: str,
    params: str,
    x: Array,
    factor: Array,
    bias: Array | None = None,
    *,
    axis: int = 1,
    **more: Any,
) -> Case:
    """Return a Scale by a second bottom; a bias, if any, is its only blob."""
    params = f"scale_param {{ {params}{'' if bias is None else ' bias_term: true'} }}"

    def function(x: Array, factor: Array) -> Array:
        return reference.scale(x, factor, bias, axis=axis)

    return case(
        name, "Scale", params, function, x, factor, blobs=[] if bias is None else [bias], **more
    )


SCALES = [
    scaled("channels", "", X, normal(4)),
    scaled("channels_with_bias", "", X, normal(4), normal(4, seed=1)),
    # Numpy would align a factor of 6 values with the last axis here, and one of 5 not at all.
    scaled("as_many_channels_as_columns", "", normal(3, 6, 5, 6), normal(6)),
    scaled("two_axes", "", normal(3, 7), normal(7), normal(7, seed=1)),
    scaled("axis_2", "axis: 2", X, normal(5), axis=2),
    scaled("the_last_axis", "axis: -1", X, normal(6), axis=-1, opencv="negative axis"),
    scaled("a_negative_axis", "axis: -3 num_axes: 2", X, normal(4, 5), normal(4, 5, seed=1),
           axis=-3, opencv="negative axis"),
    scaled("two_of_the_axes", "axis: 1 num_axes: 2", X, normal(4, 5)),
    scaled("to_the_end", "axis: 1 num_axes: -1", X, normal(4, 5, 6), normal(4, 5, 6, seed=1)),
    scaled("a_scalar", "num_axes: 0", X, ONE, opencv="a blob without axes"),
    scaled("a_scalar_with_bias", "num_axes: 0", X, ONE, ONE / 2, opencv="a blob without axes"),
]  # fmt: skip

SCALES_BY_BOTTOMS = [
    scaled_by("by_the_same_shape", "axis: 0", X, normal(3, 4, 5, 6, seed=1), axis=0),
    scaled_by("by_a_value_for_each_channel_and_sample", "axis: 0", X, normal(3, 4), axis=0),
    scaled_by("by_channels", "axis: 1", X, normal(4), batches=None),
    scaled_by("by_rows", "axis: 2", X, normal(5), axis=2, batches=None),
    scaled_by(
        "by_channels_with_a_bias_in_a_blob",
        "axis: 1",
        X,
        normal(4),
        normal(4, seed=1),
        batches=None,
        opencv="drops the bias",
    ),
]

# Values for each sample tie the net to one batch size.
SCALES_OF_SAMPLES = [
    scaled("by_a_blob", "axis: 0", X, normal(3), axis=0, batches=None),
    scaled_by("by_a_bottom", "axis: 0", X, normal(3), axis=0, batches=None),
    scaled_by(
        "with_a_bias_for_each_channel_and_sample",
        "axis: 0",
        X,
        normal(3, 4),
        normal(3, 4, seed=1),
        axis=0,
        batches=None,
        opencv="drops the bias",
    ),
]

BIASES = [
    case(
        name,
        "Bias",
        f"bias_param {{ {params} }}" if params else "",
        partial(reference.scale, factor=None, bias=blob, axis=axis),
        x,
        blobs=[blob],
        opencv="unknown layer",
    )
    for name, params, axis, x, blob in (
        ("channels", "", 1, X, normal(4)),
        ("as_many_channels_as_columns", "", 1, normal(3, 6, 5, 6), normal(6)),
        ("axis_2", "axis: 2", 2, X, normal(5)),
        ("to_the_end", "num_axes: -1", 1, X, normal(4, 5, 6)),
        ("a_negative_axis", "axis: -2 num_axes: 2", -2, X, normal(5, 6)),
        ("a_scalar", "num_axes: 0", 1, X, ONE),
    )
] + [
    case(
        name,
        "Bias",
        f"bias_param {{ axis: {axis} }}",
        lambda x, z, axis=axis: reference.scale(x, None, z, axis=axis),
        X,
        second,
        batches=batches,
        opencv="unknown layer",
    )
    for name, axis, second, batches in (
        ("by_a_bottom_of_the_same_shape", 0, normal(3, 4, 5, 6, seed=1), (1, 3)),
        ("by_a_bottom_for_channels_and_samples", 0, normal(3, 4), (1, 3)),
        ("by_a_bottom_for_samples", 0, normal(3), None),
        ("by_a_bottom_for_channels", 1, normal(4), None),
    )
]

AXPYS = [
    case(name, "Axpy", "", reference.axpy, factor, X, normal(3, 4, 5, 6, seed=1),
         opencv="unknown layer")
    for name, factor in (("four_axes", normal(3, 4, 1, 1)), ("two_axes", normal(3, 4)))
]  # fmt: skip

SOFTMAXES = [
    case(
        name,
        "Softmax",
        f"softmax_param {{ {params} }}" if params else "",
        partial(reference.softmax, **how),
        x,
    )
    for name, params, how, x in (
        ("of_each_position", "", {}, X),
        ("of_two_axes", "", {}, normal(3, 10)),
        ("axis_2", "axis: 2", {"axis": 2}, X),
        ("the_last_axis", "axis: -1 engine: CAFFE", {"axis": -1}, X),
        ("of_large_values", "", {}, 1000 * normal(3, 4)),
    )
]

REDUCTIONS = [
    case(
        f"{operation.lower() if field else 'default'}_{name}",
        "Reduction",
        f"reduction_param {{ {field} {params} }}",
        partial(reference.reduction, operation=operation, **how),
        X,
        batches=batches,
        opencv="unknown layer",
    )
    for operation, field in (
        ("SUM", ""),
        ("SUM", "operation: SUM"),
        ("ASUM", "operation: ASUM"),
        ("SUMSQ", "operation: SUMSQ"),
        ("MEAN", "operation: MEAN"),
    )
    for name, params, how, batches in (
        ("per_sample", "axis: 1", {"axis": 1}, (1, 3)),
        ("per_position_with_coeff", "axis: -2 coeff: 0.5", {"axis": -2, "coeff": 0.5}, (1, 3)),
        ("of_everything", "", {}, None),
        ("of_the_last_axis", "axis: 3 coeff: -2", {"axis": 3, "coeff": -2.0}, (1, 3)),
    )
    if field or name == "per_sample"
]

INDICES = np.random.default_rng(0).integers(0, 9, (3, 4)).astype(np.float32)

EMBEDS = [
    case(
        name,
        "Embed",
        f"embed_param {{ num_output: 5 input_dim: 9 {params} }}",
        partial(reference.embed, **dict(zip(("weight", "bias"), blobs, strict=False))),
        x,
        blobs=blobs,
        batches=(1, 3) if x.ndim > 1 else None,
        opencv="unknown layer",
    )
    for name, params, x, blobs in (
        ("of_a_sequence", "", INDICES, (normal(9, 5), normal(5))),
        ("without_bias", "bias_term: false", INDICES, (normal(9, 5),)),
        ("of_one_axis", "", INDICES[:, 0], (normal(9, 5), normal(5))),
    )
]


@cases(DENSE)
def test_inner_product(case: Case) -> None:
    check(case)


@cases(ELTWISE)
def test_eltwise(case: Case) -> None:
    check(case)


@cases(SCALES)
def test_scale(case: Case) -> None:
    check(case)


@cases(SCALES_BY_BOTTOMS)
def test_scale_by_a_second_bottom(case: Case) -> None:
    check(case)


@cases(SCALES_OF_SAMPLES)
def test_a_scale_of_one_batch_size_is_computed_or_refused(case: Case) -> None:
    check_or_refused(case)


@cases(BIASES)
def test_bias(case: Case) -> None:
    check(case)


@cases(AXPYS)
def test_axpy(case: Case) -> None:
    check(case)


@cases(SOFTMAXES)
def test_softmax(case: Case) -> None:
    check(case)


@cases(REDUCTIONS)
def test_reduction(case: Case) -> None:
    check(case)


@cases(EMBEDS)
def test_embed(case: Case) -> None:
    check(case)


def test_a_scale_without_weights_has_those_of_its_filler() -> None:
    x = positive(2, 3, 4, 5)
    text = inputs(x=x.shape) + layer("Scale", params="scale_param { filler { value: 2.5 } }")
    assert_close(run(text, None, {"x": x}), {"y": 2.5 * x.astype(np.float64)})
