"""Convolution, Deconvolution, their depthwise forks, and Im2col."""

from __future__ import annotations

from functools import partial
from typing import Any

from onnxgraft.graph.tensors import Array
from tests.convert.caffe.net import (
    Case,
    assert_close,
    case,
    cases,
    check,
    inputs,
    layer,
    normal,
    run,
)
from tests.convert.caffe.reference_convolution import convolution, deconvolution, im2col

IMAGE = normal(3, 4, 9, 11)


def conv(
    name: str, params: str, weight: Array, x: Array = IMAGE, *, bias: bool = True, **how: Any
) -> Case:
    """Return a Convolution with weights of the given shape; ``params`` lacks num_output."""
    return _case("Convolution", convolution, name, params, weight, weight.shape[0], x, bias, how)


def deconv(
    name: str, params: str, weight: Array, x: Array = IMAGE, *, bias: bool = True, **how: Any
) -> Case:
    """Return a Deconvolution with weights of the given shape; ``params`` lacks num_output."""
    outputs = weight.shape[1] * how.get("group", 1)
    return _case("Deconvolution", deconvolution, name, params, weight, outputs, x, bias, how)


def _case(
    kind: str,
    function: Any,
    name: str,
    params: str,
    weight: Array,
    outputs: int,
    x: Array,
    bias: bool,
    how: dict[str, Any],
) -> Case:
    opencv = how.pop("opencv", "")
    blobs = (weight, normal(outputs, seed=9)) if bias else (weight,)
    term = "" if bias else " bias_term: false"
    return case(
        name,
        kind,
        f"convolution_param {{ num_output: {outputs}{term} {params} }}",
        partial(function, weight=weight, bias=blobs[1] if bias else None, **how),
        x,
        blobs=blobs,
        opencv=opencv,
    )


CONVOLUTIONS = [
    conv("defaults", "kernel_size: 3", normal(5, 4, 3, 3)),
    conv("no_bias", "kernel_size: 3", normal(5, 4, 3, 3), bias=False),
    conv("one_by_one", "kernel_size: 1", normal(5, 4, 1, 1)),
    conv("stride_and_pad", "kernel_size: 3 stride: 2 pad: 1", normal(5, 4, 3, 3), stride=2, pad=1),
    conv(
        "pad_beyond_the_kernel",
        "kernel_size: 2 pad: 3 stride: 3",
        normal(2, 4, 2, 2),
        stride=3,
        pad=3,
    ),
    conv(
        "lists_are_height_then_width",
        "kernel_size: 2 kernel_size: 3 stride: 3 stride: 1 pad: 0 pad: 2 dilation: 1 dilation: 2",
        normal(5, 4, 2, 3),
        stride=(3, 1),
        pad=(0, 2),
        dilation=(1, 2),
    ),
    conv(
        "fields_named_h_and_w",
        "kernel_h: 1 kernel_w: 3 stride_h: 2 stride_w: 1 pad_h: 0 pad_w: 1",
        normal(5, 4, 1, 3),
        stride=(2, 1),
        pad=(0, 1),
    ),
    conv("dilation", "kernel_size: 3 dilation: 2 pad: 2", normal(5, 4, 3, 3), dilation=2, pad=2),
    conv("group", "kernel_size: 3 group: 2", normal(6, 2, 3, 3), group=2),
    conv("depthwise", "kernel_size: 3 group: 4 pad: 1", normal(4, 1, 3, 3), group=4, pad=1),
    conv("depth_multiplier", "kernel_size: 3 group: 4", normal(8, 1, 3, 3), group=4),
    conv(
        "three_axes",
        "kernel_size: 3 stride: 2 pad: 1",
        normal(3, 2, 3, 3, 3),
        normal(3, 2, 5, 6, 7),
        stride=2,
        pad=1,
        opencv="three axes want three values",
    ),
    conv(
        "three_axes_with_lists",
        "kernel_size: 1 kernel_size: 3 kernel_size: 2 stride: 1 stride: 2 stride: 1"
        " pad: 0 pad: 1 pad: 1",
        normal(4, 2, 1, 3, 2),
        normal(3, 2, 4, 6, 5),
        stride=(1, 2, 1),
        pad=(0, 1, 1),
    ),
    conv(
        "one_axis",
        "kernel_size: 3 stride: 2 pad: 1",
        normal(4, 2, 3),
        normal(3, 2, 9),
        stride=2,
        pad=1,
    ),
    conv(
        "engine_and_fillers_are_ignored",
        'kernel_size: 3 engine: CUDNN axis: 1 weight_filler { type: "msra" }'
        ' bias_filler { type: "constant" value: 0.2 }',
        normal(5, 4, 3, 3),
    ),
]

HOLE, SIDES = "hole is refused", "pads of each side are ignored"
CONVOLUTIONS += [
    conv("hole", "kernel_size: 3 hole: 2 pad: 2", normal(5, 4, 3, 3), dilation=2, pad=2,
         opencv=HOLE),
    conv("hole_of_rows_and_columns", "kernel_size: 3 hole_h: 2 hole_w: 1", normal(5, 4, 3, 3),
         dilation=(2, 1), opencv=HOLE),
    conv("pad_h_alone", "kernel_h: 3 kernel_w: 1 pad_h: 1", normal(5, 4, 3, 1), pad=(1, 0),
         opencv="it wants both"),
    conv("stride_w_alone", "kernel_size: 3 stride_w: 2", normal(5, 4, 3, 3), stride=(1, 2),
         opencv="it wants both"),
    conv("pads_of_each_side", "kernel_size: 3 stride: 2 pad_l: 0 pad_r: 1 pad_t: 2 pad_b: 1",
         normal(5, 4, 3, 3), stride=2, sides=[(2, 1), (0, 1)], opencv=SIDES),
    # (9, 11): 3 rows are lacking below a stride of 4, so one before; of 11 columns one.
    conv("pad_type_same", "kernel_size: 4 stride: 4 pad_type: 1", normal(5, 4, 4, 4), stride=4,
         sides=[(1, 2), (0, 1)], opencv=SIDES),
    conv("pad_type_same_stride_1", "kernel_size: 4 pad_type: 1", normal(5, 4, 4, 4),
         sides=[(1, 2), (1, 2)], opencv=SIDES),
    conv("pad_type_0", "kernel_size: 3 pad: 1 pad_type: 0", normal(5, 4, 3, 3), pad=1,
         opencv="pad_type is refused"),
]  # fmt: skip

THREE = normal(2, 3, 5, 8, 9)
C3D = [
    case(
        name,
        "Convolution3D",
        f"convolution_param {{ num_output: 4 kernel_size: 3 kernel_depth: 2 {params} }}",
        partial(convolution, weight=weight, bias=bias, **how),
        THREE,
        blobs=(weight, bias),
        batches=(1, 2),
        opencv="unknown layer",
    )
    for weight, bias in [(normal(4, 3, 2, 3, 3), normal(4))]
    for name, params, how in (
        ("defaults", "", {}),
        ("pad_and_temporal_pad", "pad: 1 temporal_pad: 2", {"pad": (2, 1, 1)}),
        ("stride_and_temporal_stride", "stride: 2 temporal_stride: 3", {"stride": (3, 2, 2)}),
        ("filter_group_changes_nothing", "filter_group: 2", {}),
    )
]

DECONVOLUTIONS = [
    deconv("defaults", "kernel_size: 3", normal(4, 5, 3, 3)),
    deconv("no_bias", "kernel_size: 3", normal(4, 5, 3, 3), bias=False),
    deconv(
        "fcn_stride_8",
        "kernel_size: 16 stride: 8",
        normal(2, 2, 16, 16),
        normal(3, 2, 3, 4),
        bias=False,
        stride=8,
    ),
    deconv(
        "stride_and_pad", "kernel_size: 4 stride: 2 pad: 1", normal(4, 3, 4, 4), stride=2, pad=1
    ),
    deconv("stride_beyond_the_kernel", "kernel_size: 2 stride: 3", normal(4, 3, 2, 2), stride=3),
    deconv(
        "asymmetric",
        "kernel_h: 2 kernel_w: 3 stride_h: 1 stride_w: 2 pad_h: 0 pad_w: 1",
        normal(4, 3, 2, 3),
        stride=(1, 2),
        pad=(0, 1),
    ),
    deconv("group", "kernel_size: 3 group: 2 stride: 2", normal(4, 3, 3, 3), group=2, stride=2),
    deconv(
        "depthwise_upsampling",
        "kernel_size: 4 stride: 2 pad: 1 group: 4",
        normal(4, 1, 4, 4),
        bias=False,
        group=4,
        stride=2,
        pad=1,
    ),
    deconv(
        "dilation",
        "kernel_size: 3 dilation: 2 stride: 2 pad: 1",
        normal(4, 3, 3, 3),
        dilation=2,
        stride=2,
        pad=1,
        opencv="dilation is ignored",
    ),
    deconv(
        "three_axes",
        "kernel_size: 2 stride: 2",
        normal(2, 3, 2, 2, 2),
        normal(3, 2, 3, 4, 3),
        stride=2,
        opencv="three axes run on no CPU kernel",
    ),
]

DEPTHWISE = [
    case(
        f"{kind}_groups_by_input_channel",
        kind,
        "convolution_param { num_output: 4 kernel_size: 3 pad: 1 stride: 2 bias_term: false }",
        lambda x: convolution(x, normal(4, 1, 3, 3), group=4, pad=1, stride=2),
        IMAGE,
        blobs=[normal(4, 1, 3, 3)],
        opencv="unknown layer" if kind == "DepthwiseConvolution" else "",
    )
    for kind in ("ConvolutionDepthwise", "DepthwiseConvolution")
] + [
    case(
        f"{kind}_groups_by_input_channel",
        kind,
        "convolution_param { num_output: 4 kernel_size: 3 stride: 2 bias_term: false }",
        lambda x: deconvolution(x, normal(4, 1, 3, 3), group=4, stride=2),
        IMAGE,
        blobs=[normal(4, 1, 3, 3)],
        opencv="unknown layer",
    )
    for kind in ("DeconvolutionDepthwise", "DepthwiseDeconvolution")
]

IM2COLS = [
    case(
        "im2col",
        "Im2col",
        "convolution_param { kernel_size: 3 stride: 2 pad: 1 }",
        partial(im2col, kernel=3, stride=2, pad=1),
        IMAGE,
        opencv="unknown layer",
    ),
    case(
        "im2col_asymmetric_and_dilated",
        "Im2col",
        "convolution_param { kernel_h: 2 kernel_w: 3 dilation: 2 pad_h: 1 pad_w: 0 }",
        partial(im2col, kernel=(2, 3), dilation=2, pad=(1, 0)),
        IMAGE,
        opencv="unknown layer",
    ),
]


@cases(CONVOLUTIONS)
def test_convolution(case: Case) -> None:
    check(case)


@cases(C3D)
def test_convolution_of_c3d(case: Case) -> None:
    check(case)


@cases(DECONVOLUTIONS)
def test_deconvolution(case: Case) -> None:
    check(case)


@cases(DEPTHWISE)
def test_depthwise_convolution_of_the_forks(case: Case) -> None:
    check(case)


@cases(IM2COLS)
def test_im2col(case: Case) -> None:
    check(case)


def test_several_bottoms_share_the_weights() -> None:
    weight, x, z = normal(5, 4, 3, 3), normal(3, 4, 6, 7), normal(3, 4, 6, 7, seed=1)
    text = inputs(x=x.shape, z=z.shape) + layer(
        "Convolution",
        "x z",
        "y w",
        "convolution_param { num_output: 5 kernel_size: 3 bias_term: false }",
    )
    outputs = run(text, {"it": ("Convolution", [weight])}, {"x": x, "z": z})
    assert_close(outputs, {"y": convolution(x, weight), "w": convolution(z, weight)})


def test_a_bilinear_filler_stands_in_for_absent_weights() -> None:
    # With a kernel of 4, the filler's centre is (2 * 2 - 1 - 2 % 2) / (2 * 2) = 0.75.
    triangle = 1 - abs(normal(4) * 0 + [0, 1, 2, 3] - 1.5) / 2
    weight = (triangle[:, None] * triangle)[None, None].repeat(3, axis=0)
    x = normal(2, 3, 4, 5)
    text = inputs(x=x.shape) + layer(
        "Deconvolution",
        params="convolution_param { num_output: 3 group: 3 kernel_size: 4 stride: 2 pad: 1"
        ' bias_term: false weight_filler { type: "bilinear" } }',
    )
    expected = deconvolution(x, weight, stride=2, pad=1, group=3)
    assert_close(run(text, None, {"x": x}), {"y": expected})
