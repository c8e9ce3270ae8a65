"""Where each target gets QuantizeLinear and DequantizeLinear, and what they hold."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest

from onnxgraft.data.ranges import Range, Ranges
from onnxgraft.data.samples import open_samples
from onnxgraft.errors import InputError
from onnxgraft.graph.model import Model, Source
from onnxgraft.graph.tensors import Array
from onnxgraft.run.difference import Difference
from onnxgraft.run.feeds import random_feeds
from onnxgraft.run.session import OnnxRuntime
from onnxgraft.stages.quantize import calibrate, placement, quantize
from onnxgraft.stages.quantize.improve.activations import activation_grid
from onnxgraft.stages.quantize.measure.calibrate import fingerprint
from onnxgraft.targets import target_names
from tests.conftest import model_of, outputs_of
from tests.processor import exact_sums
from tests.quantize.networks import sqnr, weights

TARGETS = target_names()
SYMMETRIC = ["tensorrt", "openvino"]
# That a tensor which is never negative has above 0.
STEPS = {"tensorrt": 127, "openvino": 255}

# A step of 8 bits over normal values cut at 4 sigma is 8/255 sigma: its noise, step^2 / 12, is
# 41 dB below the signal. Three layers with two such roundings each lose about 10 dB of that; a
# wrong axis, scale or zero point leaves less than 10 dB.
LEAST_SQNR = 20.0

CHAIN = """
network (float[N, 3, 10, 10] image) => (float[N, 5] score) {
    [conv1] made1 = Conv <pads = [1, 1, 1, 1]> (image, weights1, bias1)
    [relu1] seen1 = Relu (made1)
    [pool1] small = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (seen1)
    [conv2] made2 = Conv (small, weights2, bias2)
    [relu2] seen2 = Relu (made2)
    [flatten] flat = Flatten (seen2)
    [dense] score = Gemm (flat, weights3, bias3)
}
"""
CHAIN_SHAPES = {
    "weights1": (4, 3, 3, 3), "bias1": (4,), "weights2": (6, 4, 3, 3), "bias2": (6,),
    "weights3": (54, 5), "bias3": (5,),
}  # fmt: skip

RESIDUAL = """
network (float[N, 3, 8, 8] image) => (float[N, 4, 8, 8] y) {
    [left] l = Conv <pads = [1, 1, 1, 1]> (image, weights1, bias1)
    [right] r = Conv <pads = [1, 1, 1, 1]> (image, weights2, bias2)
    [add] sum = Add (l, r)
    [relu] seen = Relu (sum)
    [last] y = Conv <pads = [1, 1, 1, 1]> (seen, weights3)
}
"""
RESIDUAL_SHAPES = {
    "weights1": (4, 3, 3, 3), "bias1": (4,), "weights2": (4, 3, 3, 3), "bias2": (4,),
    "weights3": (4, 4, 3, 3),
}  # fmt: skip

UPSAMPLING = """
network (float[N, 3, 8, 8] image) => (float[N, 2, 16, 16] y) {
    [conv] made = Conv <pads = [1, 1, 1, 1]> (image, weights1, bias1)
    [relu] seen = Relu (made)
    [up] y = ConvTranspose <strides = [2, 2]> (seen, weights2, bias2)
}
"""
UPSAMPLING_SHAPES = {
    "weights1": (4, 3, 3, 3), "bias1": (4,), "weights2": (4, 2, 2, 2), "bias2": (2,),
}  # fmt: skip


def built(text: str, shapes: dict[str, tuple[int, ...]], seed: int = 0) -> Model:
    """Return the network with seeded normal weights whose channels differ in size."""
    rng = np.random.default_rng(seed)
    constants = {}
    for name, shape in shapes.items():
        fan_in = math.prod(shape[1:]) if len(shape) == 4 else shape[0]
        spread = 1 / math.sqrt(fan_in) if len(shape) > 1 else 0.1
        channels = np.linspace(0.5, 2, shape[0]).reshape([-1] + [1] * (len(shape) - 1))
        constants[name] = (rng.standard_normal(shape) * spread * channels).astype(np.float32)
    return model_of(text, constants)


def chain() -> Model:
    return built(CHAIN, CHAIN_SHAPES)


def residual() -> Model:
    return built(RESIDUAL, RESIDUAL_SHAPES)


def upsampling() -> Model:
    return built(UPSAMPLING, UPSAMPLING_SHAPES)


NETWORKS = [chain, residual, upsampling]


def ranges_of(model: Model, folder: Path, **arrays: Array) -> Ranges:
    """Return the exact ranges over 32 seeded samples, or over the given ones."""
    np.savez(folder / "data.npz", **(arrays or random_feeds(model.inputs, 32, seed=5)))
    return calibrate(model, open_samples(folder / "data.npz", model.inputs), "minmax")


def quantized(model: Model, folder: Path, target: str, **options: Any) -> Model:
    """Return the graph for a target."""
    return quantize(model, ranges_of(model, folder), target, **options)[0]


def node(model: Model, name: str) -> gs.Node:
    """Return the node of that name."""
    return next(n for n in model.graph.nodes if n.name == name)


def maker(tensor: gs.Tensor) -> str:
    """Return the operator that makes a tensor, '' for what nothing makes."""
    return str(tensor.inputs[0].op) if tensor.inputs else ""


def quantized_tensors(model: Model) -> set[str]:
    """Return the names of the tensors that a QuantizeLinear reads."""
    return {n.inputs[0].name for n in model.graph.nodes if n.op == "QuantizeLinear"}


def pair(model: Model, tensor: str) -> tuple[gs.Node, gs.Node]:
    """Return the one QuantizeLinear of a tensor and the one DequantizeLinear behind it."""
    (first,) = (
        n for n in model.graph.nodes if n.op == "QuantizeLinear" and n.inputs[0].name == tensor
    )
    (second,) = first.outputs[0].outputs
    assert second.op == "DequantizeLinear"
    return first, second


def weight(model: Model, layer: str, index: int = 1) -> tuple[gs.Node, Array, Array, Array]:
    """Return a layer's weight DequantizeLinear, its integers, scale and zero point."""
    dequantize = node(model, layer).inputs[index].inputs[0]
    assert dequantize.op == "DequantizeLinear"
    integers, scale, zero = (tensor.values for tensor in dequantize.inputs)
    return dequantize, integers, scale, zero


def infer(model: Model, feeds: dict[str, Array], *, optimize: bool = False) -> dict[str, Array]:
    """Return what onnxruntime computes: every node as it stands, or with integer kernels."""
    with OnnxRuntime(model.to_onnx(), optimize=optimize, configure=exact_sums) as session:
        return session.infer(feeds)


# The activations.


@pytest.mark.parametrize("target", TARGETS)
def test_the_inputs_of_layers_are_quantized(tmp_path: Path, target: str) -> None:
    model, report = quantize(chain(), ranges_of(chain(), tmp_path), target)
    found = quantized_tensors(model)
    assert {"image", "seen1", "seen2"} <= found
    # onnxruntime's kernels that only move values want a pair on either side.
    between = {"small", "flat"} if placement(target).outputs else set()
    assert found - {"image", "seen1", "seen2"} <= between
    assert report.tensors == len(found)
    assert report.layers == ["conv1", "conv2", "dense"]
    assert report.float_layers == []


@pytest.mark.parametrize("name", ["pool1", "flatten"])
@pytest.mark.parametrize("target", TARGETS)
def test_the_point_is_before_what_only_moves_values(tmp_path: Path, target: str, name: str) -> None:
    model = quantized(chain(), tmp_path, target)
    moving = node(model, name)
    assert maker(moving.inputs[0]) == "DequantizeLinear"
    (reader,) = moving.outputs[0].outputs
    assert reader.op == (
        "QuantizeLinear"
        if placement(target).outputs
        else {"pool1": "Conv", "flatten": "Gemm"}[name]
    )


def test_the_pairs_around_what_only_moves_values_have_the_same_scale(tmp_path: Path) -> None:
    model = quantized(chain(), tmp_path, "onnxruntime")
    for before, behind in (("seen1", "small"), ("seen2", "flat")):
        for one, other in zip(
            pair(model, before)[0].inputs[1:], pair(model, behind)[0].inputs[1:], strict=True
        ):
            assert one.values == other.values


@pytest.mark.parametrize("target", TARGETS)
def test_the_point_is_behind_the_relu(tmp_path: Path, target: str) -> None:
    model = quantized(chain(), tmp_path, target)
    for relu, conv in (("relu1", "conv1"), ("relu2", "conv2")):
        assert maker(node(model, relu).inputs[0]) == "Conv"
        assert node(model, relu).inputs[0].inputs[0] is node(model, conv)


@pytest.mark.parametrize("target", TARGETS)
def test_a_max_pool_that_is_read_in_float_too_is_left_before_the_point(
    tmp_path: Path, target: str
) -> None:
    text = CHAIN.replace("float[N, 5] score)", "float[N, 5] score, float[N, 4, 5, 5] small)")
    model = quantized(built(text, CHAIN_SHAPES), tmp_path, target)
    assert maker(node(model, "conv2").inputs[0]) == "DequantizeLinear"
    assert "small" in quantized_tensors(model)
    assert [output.name for output in model.graph.outputs] == ["score", "small"]


@pytest.mark.parametrize("target", TARGETS)
def test_two_readers_share_one_pair(tmp_path: Path, target: str) -> None:
    model = quantized(residual(), tmp_path, target)
    _, dequantize = pair(model, "image")
    assert node(model, "left").inputs[0] is dequantize.outputs[0]
    assert node(model, "right").inputs[0] is dequantize.outputs[0]


@pytest.mark.parametrize(("target", "shortcut"), [("tensorrt", {"l"}), ("openvino", set())])
def test_outputs_of_layers_stay_float_for_a_symmetric_target(
    tmp_path: Path, target: str, shortcut: set[str]
) -> None:
    """But for the shortcut that TensorRT's kernels add to a layer's result."""
    model = quantized(residual(), tmp_path, target)
    assert quantized_tensors(model) == {"image", "seen"} | shortcut
    makers = {maker(tensor) for tensor in node(model, "add").inputs}
    assert makers == ({"Conv", "DequantizeLinear"} if shortcut else {"Conv"})


def test_outputs_of_layers_and_of_their_sum_are_quantized_for_onnxruntime(tmp_path: Path) -> None:
    model = quantized(residual(), tmp_path, "onnxruntime")
    assert quantized_tensors(model) == {"image", "l", "r", "seen"}
    assert {maker(tensor) for tensor in node(model, "add").inputs} == {"DequantizeLinear"}


@pytest.mark.parametrize("target", TARGETS)
def test_an_output_of_the_graph_stays_float(tmp_path: Path, target: str) -> None:
    model = quantized(chain(), tmp_path, target)
    assert [(o.name, np.dtype(o.dtype)) for o in model.graph.outputs] == [("score", np.float32)]
    assert maker(model.graph.outputs[0]) == "Gemm"


@pytest.mark.parametrize("target", TARGETS)
def test_a_tensor_that_is_read_in_float_too_keeps_its_float_reader(
    tmp_path: Path, target: str
) -> None:
    text = """
    network (float[N, 4] x) => (float[N, 3] y, float[N, 4] z) {
        [dense] y = MatMul (x, weights)
        [tanh] z = Tanh (x)
    }
    """
    model = quantized(built(text, {"weights": (4, 3)}), tmp_path, target)
    assert maker(node(model, "dense").inputs[0]) == "DequantizeLinear"
    assert node(model, "tanh").inputs[0].name == "x"


def test_activations_are_int8_around_zero(tmp_path: Path) -> None:
    ranges = ranges_of(chain(), tmp_path)
    model, _ = quantize(chain(), ranges, "tensorrt")
    for name in quantized_tensors(model):
        for end in pair(model, name):
            _, scale, zero = end.inputs
            assert zero.values.dtype == np.int8
            assert zero.values == 0
            assert scale.values == np.float32(ranges.tensors[name].amax / 127)


def test_what_is_never_negative_is_uint8_for_openvino(tmp_path: Path) -> None:
    ranges = ranges_of(chain(), tmp_path)
    model, _ = quantize(chain(), ranges, "openvino")
    assert ranges.tensors["image"].low < 0 == ranges.tensors["seen1"].low
    for name, dtype, steps in (("image", np.int8, 127), ("seen1", np.uint8, 255)):
        for end in pair(model, name):
            _, scale, zero = end.inputs
            assert zero.values.dtype == dtype
            assert zero.values == 0
            assert scale.values == np.float32(ranges.tensors[name].amax / steps)


def test_uint8_halves_the_error_of_what_is_never_negative(tmp_path: Path) -> None:
    text = """
    network (float[N, 4, 8, 8] x) => (float[N, 4, 8, 8] y) { seen = Relu (x)  y = Conv (seen, w) }
    """
    # Weights that int8 holds without error.
    original = model_of(text, {"w": np.eye(4, dtype=np.float32)[:, :, None, None]})
    expected = outputs_of(original)["y"]
    errors = {}
    for target in SYMMETRIC:
        # A range that cuts nothing off.
        model = quantized(original, tmp_path, target, set_range={"seen": (0.0, 8.0)})
        errors[target] = np.abs(outputs_of(model)["y"] - expected).mean()
    assert errors["openvino"] == pytest.approx(errors["tensorrt"] * 127 / 255, rel=0.1)


@pytest.mark.parametrize(
    ("low", "high", "zero"),
    # As of a SiLU, an ELU, of what is never positive; and of what is much the same on both sides.
    [(-0.3, 10.0, 7), (-1.0, 4.0, 51), (-8.0, 0.0, 255), (-2.0, 0.5, 204), (-4.0, 6.0, None)],
)
def test_a_lopsided_tensor_has_a_zero_point_of_its_own_for_openvino(
    low: float, high: float, zero: int | None
) -> None:
    value = Range(low, high, low, high, "given")
    found = activation_grid(value, placement("openvino"))
    if zero is None:
        assert found == activation_grid(value, placement("tensorrt"))
    else:
        assert (found.dtype, found.zero_point) == (np.uint8, zero)
        assert found.scale == pytest.approx((high - low) / 255)
    # TensorRT takes no zero point, and OpenVINO's kernels for products of activations none either.
    for operand in (0, 1):
        even = activation_grid(value, placement("openvino"), operand)
        assert even == activation_grid(value, placement("tensorrt"))
        assert (even.dtype, even.zero_point) == (np.int8, 0)


def test_a_zero_point_halves_the_noise_of_what_is_lopsided(tmp_path: Path) -> None:
    text = """
    network (float[N, 4, 8, 8] x) => (float[N, 4, 8, 8] y) { seen = Elu (x)  y = Conv (seen, w) }
    """
    original = model_of(text, {"w": np.eye(4, dtype=np.float32)[:, :, None, None]})
    expected = outputs_of(original)["y"]
    errors = {}
    for target in SYMMETRIC:
        model = quantized(original, tmp_path, target, set_range={"seen": (-1.0, 8.0)})
        errors[target] = np.abs(outputs_of(model)["y"] - expected).mean()
    assert errors["openvino"] == pytest.approx(errors["tensorrt"] * 9 / 255 * 127 / 8, rel=0.1)


def test_activations_are_uint8_with_a_zero_point_for_onnxruntime(tmp_path: Path) -> None:
    ranges = ranges_of(chain(), tmp_path)
    model, _ = quantize(chain(), ranges, "onnxruntime")
    for name in ("image", "seen1", "seen2"):
        found = ranges.tensors[name]
        low, high = min(found.low, 0.0), max(found.high, 0.0)
        for end in pair(model, name):
            _, scale, zero = end.inputs
            assert zero.values.dtype == np.uint8
            assert scale.values == np.float32((high - low) / 255)
            assert zero.values == round(-low / ((high - low) / 255))


@pytest.mark.parametrize(
    ("low", "high", "scale", "zero"),
    [
        (-128.0, 127.0, 1.0, 128),
        (0.0, 255.0, 1.0, 0),
        (51.0, 255.0, 1.0, 0),
        (-255.0, 0.0, 1.0, 255),
        (-255.0, -51.0, 1.0, 255),
    ],
    ids=["both_sides", "positive", "above_zero", "negative", "below_zero"],
)
def test_an_asymmetric_range_is_widened_to_hold_zero(
    tmp_path: Path, low: float, high: float, scale: float, zero: int
) -> None:
    model = quantized(chain(), tmp_path, "onnxruntime", set_range={"image": (low, high)})
    _, found_scale, found_zero = pair(model, "image")[0].inputs
    assert (found_scale.values, found_zero.values) == (scale, zero)


# The weights.


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.__name__)
def test_weights_are_within_half_a_scale_of_the_originals(
    tmp_path: Path, network: Any, target: str
) -> None:
    original = network()
    model, report = quantize(original, ranges_of(original, tmp_path), target)
    assert report.layers
    for layer in report.layers:
        dequantize, integers, scale, zero = weight(model, layer)
        assert integers.dtype == np.int8
        assert integers.min() >= -127
        assert (zero == 0).all()
        assert zero.dtype == np.int8
        assert zero.shape == scale.shape
        if scale.ndim:
            shape = [1] * integers.ndim
            shape[dequantize.attrs["axis"]] = -1
            scale = scale.reshape(shape)
        expected = node(original, layer).inputs[1].values.astype(np.float64)
        # Half a scale, and the float32 rounding of the quotient.
        assert (np.abs(integers * scale.astype(np.float64) - expected) <= 0.50001 * scale).all()


@pytest.mark.parametrize("target", TARGETS)
def test_a_conv_has_a_scale_for_each_output_channel(tmp_path: Path, target: str) -> None:
    model = quantized(chain(), tmp_path, target)
    dequantize, integers, scale, _ = weight(model, "conv2")
    assert dequantize.attrs["axis"] == 0
    assert scale.shape == (6,)
    # Each channel uses its whole range of integers.
    assert (np.abs(integers).max(axis=(1, 2, 3)) == 127).all()


@pytest.mark.parametrize(
    ("dense", "shape", "axis"),
    [
        ("Gemm (flat, weights)", (8, 5), 1),
        ("Gemm <transB = 1> (flat, weights)", (5, 8), 0),
        ("MatMul (flat, weights)", (8, 5), 1),
    ],
    ids=["gemm", "transposed", "matmul"],
)
@pytest.mark.parametrize("target", TARGETS)
def test_a_dense_layer_has_a_scale_for_each_output(
    tmp_path: Path, target: str, dense: str, shape: tuple[int, int], axis: int
) -> None:
    original = built(
        f"network (float[N, 8] x) => (float[N, 5] y) {{ flat = Relu (x) [dense] y = {dense} }}",
        {"weights": shape},
    )
    model = quantized(original, tmp_path, target)
    dequantize, integers, scale, _ = weight(model, "dense")
    assert dequantize.attrs["axis"] == axis
    assert scale.shape == (5,)
    assert (np.abs(integers).max(axis=1 - axis) == 127).all()
    feeds = random_feeds(original.inputs, 8)
    for optimize in (False, True):
        difference = Difference()
        difference.add(infer(original, feeds)["y"], infer(model, feeds, optimize=optimize)["y"])
        assert difference.sqnr > LEAST_SQNR


@pytest.mark.parametrize("target", TARGETS)
def test_stacked_matrices_have_one_scale(tmp_path: Path, target: str) -> None:
    original = built(
        "network (float[2, N, 8] x) => (float[2, N, 5] y) { [dense] y = MatMul (x, weights) }",
        {"weights": (2, 8, 5)},
    )
    # The batch is not the first axis here, so the samples are given.
    ranges = ranges_of(chain(), tmp_path)
    ranges = replace(ranges, model=fingerprint(original), tensors={"x": ranges.tensors["image"]})
    model, report = quantize(original, ranges, target)
    assert report.layers == ["dense"]
    assert weight(model, "dense")[2].shape == ()


@pytest.mark.parametrize("target", SYMMETRIC)
def test_a_transposed_convolution_has_one_scale(tmp_path: Path, target: str) -> None:
    _, integers, scale, _ = weight(quantized(upsampling(), tmp_path, target), "up")
    assert scale.shape == ()
    assert np.abs(integers).max() == 127


def test_onnxruntime_leaves_a_transposed_convolution_in_float_and_says_why(
    tmp_path: Path,
) -> None:
    model, report = quantize(upsampling(), ranges_of(upsampling(), tmp_path), "onnxruntime")
    assert report.layers == ["conv"]
    ((name, reason),) = [(layer.name, layer.reason) for layer in report.float_layers]
    assert name == "up"
    assert "no INT8 ConvTranspose" in reason
    assert isinstance(node(model, "up").inputs[1], gs.Constant)
    # Its input is the conv's output, so onnxruntime still gets the pair that lets the conv fuse.
    assert quantized_tensors(model) == {"image", "seen"}


@pytest.mark.parametrize("target", TARGETS)
def test_a_channel_of_zeros_has_a_scale_that_is_not_zero(tmp_path: Path, target: str) -> None:
    original = chain()
    node(original, "conv1").inputs[1].values[2] = 0.0
    original = Model(gs.import_onnx(original.to_onnx()), original.source)
    model = quantized(original, tmp_path, target)
    _, integers, scale, _ = weight(model, "conv1")
    assert (scale > 0).all()
    assert (integers[2] == 0).all()


@pytest.mark.parametrize("target", TARGETS)
def test_weights_that_two_layers_share_are_stored_for_both(tmp_path: Path, target: str) -> None:
    text = RESIDUAL.replace("weights2, bias2", "weights1, bias1")
    shapes = {k: v for k, v in RESIDUAL_SHAPES.items() if k not in ("weights2", "bias2")}
    original = built(text, shapes)
    model = quantized(original, tmp_path, target)
    onnx.checker.check_model(model.to_onnx(), full_check=True)
    assert (weight(model, "left")[1] == weight(model, "right")[1]).all()


@pytest.mark.parametrize("target", TARGETS)
def test_layers_without_names_can_share_weights(tmp_path: Path, target: str) -> None:
    text = RESIDUAL.replace("weights2, bias2", "weights1, bias1")
    for name in ("left", "right", "add", "relu", "last"):
        text = text.replace(f"[{name}] ", "")
    shapes = {k: v for k, v in RESIDUAL_SHAPES.items() if k not in ("weights2", "bias2")}
    model = quantized(built(text, shapes), tmp_path, target)
    onnx.checker.check_model(model.to_onnx(), full_check=True)
    infer(model, random_feeds(model.inputs, 1))


# The bias.


@pytest.mark.parametrize("target", SYMMETRIC)
@pytest.mark.parametrize("layer", ["conv1", "conv2", "dense"])
def test_a_bias_stays_float_for_a_symmetric_target(tmp_path: Path, target: str, layer: str) -> None:
    bias = node(quantized(chain(), tmp_path, target), layer).inputs[2]
    assert isinstance(bias, gs.Constant)
    assert bias.values.dtype == np.float32
    assert (bias.values == node(chain(), layer).inputs[2].values).all()


@pytest.mark.parametrize(
    ("layer", "source"), [("conv1", "image"), ("conv2", "seen1"), ("dense", "seen2")]
)
def test_a_bias_is_int32_in_the_scale_of_the_sum_for_onnxruntime(
    tmp_path: Path, layer: str, source: str
) -> None:
    model = quantized(chain(), tmp_path, "onnxruntime")
    dequantize, integers, scale, zero = weight(model, layer, index=2)
    activation = float(pair(model, source)[0].inputs[1].values)
    assert integers.dtype == zero.dtype == np.int32
    assert (zero == 0).all()
    expected = activation * weight(model, layer)[2].astype(np.float64)
    assert scale.shape == expected.shape
    # The activation's scale is rounded to float32 once more or less.
    assert np.abs(scale / expected - 1).max() < 2e-7
    assert dequantize.attrs.get("axis", 0) == 0
    original = node(chain(), layer).inputs[2].values
    assert (np.abs(integers * scale.astype(np.float64) - original) <= 0.50001 * scale).all()


# What comes out.


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.__name__)
def test_the_output_stays_close_to_float(tmp_path: Path, network: Any, target: str) -> None:
    original = network()
    model = quantized(original, tmp_path, target)
    onnx.checker.check_model(model.to_onnx(), full_check=True)
    feeds = random_feeds(original.inputs, 8, seed=6)  # not what it was calibrated on
    difference = Difference()
    for name, value in infer(original, feeds).items():
        difference.add(value, infer(model, feeds)[name])
    assert LEAST_SQNR < difference.sqnr < 60  # not untouched either


@pytest.mark.parametrize("target", TARGETS)
def test_values_on_the_grid_are_kept_exactly(tmp_path: Path, target: str) -> None:
    rng = np.random.default_rng(0)
    integers = rng.integers(-127, 128, (4, 3)).astype(np.float32)
    integers[0] = 127  # so that the scale is 1
    model = model_of(
        "network (float[N, 4] x) => (float[N, 3] y) { [dense] y = MatMul (x, weights) }",
        {"weights": integers},
    )
    limits = (-127.0, 127.0) if placement(target).symmetric else (-128.0, 127.0)
    int8 = quantized(model, tmp_path, target, set_range={"x": limits})
    x = rng.integers(-127, 128, (5, 4)).astype(np.float32)
    # Integers below 2^24 are exact in float32.
    assert (infer(int8, {"x": x})["y"] == x @ integers).all()


@pytest.mark.parametrize("target", TARGETS)
def test_values_beyond_the_range_saturate(tmp_path: Path, target: str) -> None:
    model = model_of(
        "network (float[N, 1] x) => (float[N, 1] y) { [dense] y = MatMul (x, weights) }",
        {"weights": np.full((1, 1), 127, np.float32)},
    )
    int8 = quantized(model, tmp_path, target, set_range={"x": (-127.0, 127.0)})
    y = infer(int8, {"x": np.array([[1e6], [-1e6]], np.float32)})["y"]
    # int8 goes one step further down, uint8 with its zero point at 128 by up to one either way.
    assert np.abs(np.abs(y / 127) - 127.5).max() <= 1.0


@pytest.mark.parametrize(
    ("layers", "attributes"), [("transB0", "transB = 0"), ("transB1", "transB = 1")]
)
@pytest.mark.parametrize("target", TARGETS)
def test_a_gemm_is_quantized_either_way_round(
    tmp_path: Path, target: str, layers: str, attributes: str
) -> None:
    shape = (3, 6) if layers == "transB1" else (6, 3)
    text = f"""
    network (float[N, 6] x) => (float[N, 3] y) {{
        [dense] y = Gemm <{attributes}> (x, weights, bias)
    }}
    """
    original = built(text, {"weights": shape, "bias": (3,)})
    model = quantized(original, tmp_path, target)
    feeds = random_feeds(original.inputs, 8)
    difference = Difference()
    difference.add(infer(original, feeds)["y"], infer(model, feeds)["y"])
    assert LEAST_SQNR < difference.sqnr < 60


def optimized(model: Model, folder: Path) -> onnx.ModelProto:
    """Return the graph as onnxruntime optimized it."""
    OnnxRuntime(model.to_onnx(), save_optimized=folder / "optimized.onnx").close()
    return onnx.load(folder / "optimized.onnx")


@pytest.mark.parametrize(
    ("network", "left"), [(chain, 0), (residual, 1)], ids=["chain", "residual"]
)
def test_onnxruntime_fuses_its_form_into_integer_convolutions(
    tmp_path: Path, network: Any, left: int
) -> None:
    graph = optimized(quantized(network(), tmp_path, "onnxruntime"), tmp_path).graph
    names = [n.op_type for n in graph.node]
    assert names.count("QLinearConv") == 2
    # The last convolution of `residual` writes the graph's float output and can't be integer.
    assert names.count("Conv") == left


def test_onnxruntime_fuses_a_sum_of_two_layers(tmp_path: Path) -> None:
    graph = optimized(quantized(residual(), tmp_path, "onnxruntime"), tmp_path).graph
    names = {n.op_type for n in graph.node}
    assert "QLinearAdd" in names
    assert "Add" not in names


@pytest.mark.parametrize("between", ["Flatten", "Reshape", "Transpose"])
def test_onnxruntime_fuses_a_dense_layer_behind_an_operator_that_moves_values(
    tmp_path: Path, between: str
) -> None:
    moving = {
        "Flatten": "flat = Flatten (seen)",
        "Reshape": "flat = Reshape (seen, target)",
        "Transpose": """
        moved = Transpose <perm = [0, 2, 3, 1]> (seen)
        flat = Reshape (moved, target)
        """,
    }
    text = f"""
    network (float[N, 3, 8, 8] image) => (float[N, 5] score) {{
        [conv] made = Conv (image, weights1, bias1)
        [relu] seen = Relu (made)
        {moving[between]}
        [dense] score = Gemm (flat, weights2, bias2)
    }}
    """
    shapes = {"weights1": (4, 3, 3, 3), "bias1": (4,), "weights2": (144, 5), "bias2": (5,)}
    rng = np.random.default_rng(0)
    constants = {k: (0.1 * rng.standard_normal(v)).astype(np.float32) for k, v in shapes.items()}
    original = model_of(text, {**constants, "target": np.array([-1, 144])})
    model, report = quantize(original, ranges_of(original, tmp_path), "onnxruntime")
    assert report.layers == ["conv", "dense"]
    names = [n.op_type for n in optimized(model, tmp_path).graph.node]
    assert "QGemm" in names
    # Nothing is left that would compute in float.
    assert not {"Gemm", "MatMul", "MatMulNBits", "Conv"} & set(names)


def test_the_fused_graph_computes_the_same(tmp_path: Path) -> None:
    model = quantized(chain(), tmp_path, "onnxruntime")
    feeds = random_feeds(model.inputs, 4)
    plain, fused = infer(model, feeds)["score"], infer(model, feeds, optimize=True)["score"]
    difference = Difference()
    difference.add(plain, fused)
    # Kernels may round an integer the other way: one step of 255 here and there, 30 dB and better.
    assert difference.sqnr > 30


@pytest.mark.parametrize("target", TARGETS)
def test_the_file_is_about_a_quarter(tmp_path: Path, target: str) -> None:
    text = "network (float[N, 512] x) => (float[N, 512] y) { [dense] y = MatMul (x, weights) }"
    original = built(text, {"weights": (512, 512)})
    original.save(tmp_path / "float.onnx")
    quantized(original, tmp_path, target).save(tmp_path / "int8.onnx")
    before, after = ((tmp_path / f"{n}.onnx").stat().st_size for n in ("float", "int8"))
    assert 0.25 < after / before < 0.26


@pytest.mark.parametrize("target", TARGETS)
def test_the_float_model_is_not_touched(tmp_path: Path, target: str) -> None:
    original = chain()
    before = original.to_onnx().SerializeToString(deterministic=True)
    quantized(original, tmp_path, target)
    assert original.to_onnx().SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("target", TARGETS)
def test_the_graph_for_a_target_can_be_saved_and_loaded(tmp_path: Path, target: str) -> None:
    model = quantized(chain(), tmp_path, target)
    model.save(tmp_path / "int8.onnx")
    feeds = random_feeds(model.inputs, 2)
    loaded = infer(Model.load(tmp_path / "int8.onnx"), feeds)
    assert (loaded["score"] == infer(model, feeds)["score"]).all()


# What the user decides.


@pytest.mark.parametrize("target", TARGETS)
def test_a_layer_can_be_kept_in_float(tmp_path: Path, target: str) -> None:
    model, report = quantize(chain(), ranges_of(chain(), tmp_path), target, keep_float=["conv2"])
    assert report.layers == ["conv1", "dense"]
    assert [(layer.name, layer.reason) for layer in report.float_layers] == [("conv2", "requested")]
    assert isinstance(node(model, "conv2").inputs[1], gs.Constant)
    assert isinstance(node(model, "conv2").inputs[2], gs.Constant)
    feeds = random_feeds(model.inputs, 4)
    difference = Difference()
    difference.add(infer(chain(), feeds)["score"], infer(model, feeds)["score"])
    assert LEAST_SQNR < difference.sqnr < 60


@pytest.mark.parametrize("target", TARGETS)
def test_keeping_every_layer_in_float_changes_no_number(tmp_path: Path, target: str) -> None:
    model, report = quantize(
        chain(), ranges_of(chain(), tmp_path), target, keep_float=["conv1", "conv2", "dense"]
    )
    assert report.layers == []
    assert quantized_tensors(model) == set()
    feeds = random_feeds(model.inputs, 4)
    assert (infer(chain(), feeds)["score"] == infer(model, feeds)["score"]).all()


@pytest.mark.parametrize("target", SYMMETRIC)
def test_the_range_before_a_max_pool_holds_behind_it(tmp_path: Path, target: str) -> None:
    # One of two readers of the pool is kept in float, so the point moves behind the pool, to a
    # tensor that was not calibrated: its values are those of 'seen'.
    text = """
    network (float[N, 3, 8, 8] image) => (float[N, 4, 4, 4] y, float[N, 4, 4, 4] z) {
        [relu] seen = Relu (image)
        [pool] small = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (seen)
        [one] y = Conv <pads = [1, 1, 1, 1]> (small, weights1)
        [two] z = Conv <pads = [1, 1, 1, 1]> (small, weights2)
    }
    """
    original = built(text, {"weights1": (4, 3, 3, 3), "weights2": (4, 3, 3, 3)})
    ranges = ranges_of(original, tmp_path)
    assert "small" not in ranges.tensors
    model, report = quantize(original, ranges, target, keep_float=["two"])
    assert report.layers == ["one"]
    assert quantized_tensors(model) == {"small"}
    scale = pair(model, "small")[0].inputs[1].values
    assert scale == np.float32(ranges.tensors["seen"].amax / STEPS[target])


@pytest.mark.parametrize("target", TARGETS)
def test_keeping_an_unknown_layer_names_the_nearest(tmp_path: Path, target: str) -> None:
    with pytest.raises(InputError, match=r"--keep-float conv3: no such layer; did you mean conv"):
        quantized(chain(), tmp_path, target, keep_float=["conv3"])


@pytest.mark.parametrize("target", SYMMETRIC)
def test_a_range_can_be_set_by_hand(tmp_path: Path, target: str) -> None:
    ranges = ranges_of(chain(), tmp_path)
    model, _ = quantize(chain(), ranges, target, set_range={"seen1": (0.0, 12.7)})
    assert pair(model, "seen1")[0].inputs[1].values == np.float32(12.7 / STEPS[target])
    # The others stay as calibrated, and so does what was handed in.
    amax = ranges.tensors["image"].amax
    assert pair(model, "image")[0].inputs[1].values == np.float32(amax / 127)
    assert ranges.tensors["seen1"].origin == "minmax"


def test_setting_the_range_of_an_unknown_tensor_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--set-range seen: .*did you mean seen"):
        quantized(chain(), tmp_path, "tensorrt", set_range={"seen": (0.0, 1.0)})


@pytest.mark.parametrize(
    "limits",
    [(1.0, -1.0), (math.nan, 1.0), (0.0, math.inf)],
    ids=["upside_down", "nan", "infinite"],
)
@pytest.mark.parametrize("target", TARGETS)
def test_an_impossible_range_by_hand_is_refused(
    tmp_path: Path, target: str, limits: tuple[float, float]
) -> None:
    with pytest.raises(InputError, match="image"):
        quantized(chain(), tmp_path, target, set_range={"image": limits})


# What can't be quantized.


@pytest.mark.parametrize("target", TARGETS)
def test_a_layer_whose_range_is_missing_stays_in_float_with_the_reason(
    tmp_path: Path, target: str
) -> None:
    ranges = ranges_of(chain(), tmp_path)
    del ranges.tensors["image"]
    model, report = quantize(chain(), ranges, target)
    assert report.layers == ["conv2", "dense"]
    assert [(layer.name, layer.reason) for layer in report.float_layers] == [
        ("conv1", "the range of its input 'image' is missing")
    ]
    assert node(model, "conv1").inputs[0].name == "image"
    onnx.checker.check_model(model.to_onnx(), full_check=True)


@pytest.mark.parametrize("target", SYMMETRIC)
def test_a_range_behind_what_passes_values_on_does_not_stand_for_the_one_before(
    tmp_path: Path, target: str
) -> None:
    """A cache may have the one alone; what is quantized is the tensor before the Flatten."""
    ranges = ranges_of(chain(), tmp_path)
    ranges.tensors["flat"] = ranges.tensors.pop("seen2")
    model, report = quantize(chain(), ranges, target)
    assert report.layers == ["conv1", "conv2"]
    assert [(layer.name, layer.reason) for layer in report.float_layers] == [
        ("dense", "the range of 'seen2', which becomes its input, is missing")
    ]
    onnx.checker.check_model(model.to_onnx(), full_check=True)


@pytest.mark.parametrize("target", TARGETS)
def test_a_layer_whose_input_is_always_zero_stays_in_float_with_the_reason(
    tmp_path: Path, target: str
) -> None:
    original = chain()
    node(original, "conv1").inputs[2].values[:] = -1000.0  # nothing passes the first Relu
    original = Model(gs.import_onnx(original.to_onnx()), original.source)
    model, report = quantize(original, ranges_of(original, tmp_path), target)
    assert [(layer.name, layer.reason) for layer in report.float_layers] == [
        ("conv2", "the range of its input 'small' is zero")
    ]
    assert "seen1" not in quantized_tensors(model)
    feeds = random_feeds(original.inputs, 4)
    difference = Difference()
    difference.add(infer(original, feeds)["score"], infer(model, feeds)["score"])
    assert difference.sqnr > LEAST_SQNR


@pytest.mark.parametrize("target", TARGETS)
def test_no_scale_is_ever_zero_or_infinite(tmp_path: Path, target: str) -> None:
    # The smallest range that float32 can hold: amax / 127 would be zero.
    ranges = ranges_of(chain(), tmp_path)
    tiny = 1e-44
    ranges.tensors["image"] = replace(ranges.tensors["image"], low=-tiny, high=tiny)
    model, _ = quantize(chain(), ranges, target)
    for n in model.graph.nodes:
        if n.op in ("QuantizeLinear", "DequantizeLinear"):
            scale = n.inputs[1].values
            assert (scale > 0).all(), n.name
            assert np.isfinite(scale).all(), n.name


@pytest.mark.parametrize("target", TARGETS)
def test_ranges_of_another_model_are_refused(tmp_path: Path, target: str) -> None:
    ranges = ranges_of(chain(), tmp_path)
    with pytest.raises(InputError, match="measured on another graph than"):
        quantize(built(CHAIN, CHAIN_SHAPES, seed=1), ranges, target)


@pytest.mark.parametrize("target", TARGETS)
def test_ranges_that_were_saved_fit_the_model_that_was_saved(tmp_path: Path, target: str) -> None:
    chain().save(tmp_path / "model.onnx")
    ranges_of(chain(), tmp_path).save(tmp_path / "ranges.json")
    loaded, ranges = Model.load(tmp_path / "model.onnx"), Ranges.load(tmp_path / "ranges.json")
    _, report = quantize(loaded, ranges, target)
    assert report.layers == ["conv1", "conv2", "dense"]


@pytest.mark.parametrize("target", TARGETS)
def test_a_graph_that_is_quantized_already_is_refused(tmp_path: Path, target: str) -> None:
    ranges = ranges_of(chain(), tmp_path)
    model, _ = quantize(chain(), ranges, target)
    with pytest.raises(InputError, match="quantized already"):
        quantize(model, ranges, target)


@pytest.mark.parametrize("target", TARGETS)
def test_an_opset_without_scales_per_channel_is_raised(tmp_path: Path, target: str) -> None:
    proto = chain().to_onnx()
    proto.opset_import[0].version = 11
    onnx.checker.check_model(proto)
    old = Model.from_onnx(proto, Source("old.onnx", "onnx", "0" * 64))
    made, report = quantize(old, ranges_of(old, tmp_path), target)
    assert made.graph.opset == 13
    assert report.notes[0] == "opset 11 was raised to 13"
    assert report.layers == ["conv1", "conv2", "dense"]
    later = Model.from_onnx(chain().to_onnx(), Source("new.onnx", "onnx", "0" * 64))
    expected, _ = quantize(later, ranges_of(later, tmp_path), target)
    assert made.operators() == expected.operators()


def test_an_unknown_target_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"'tensort'; did you mean tensorrt\?"):
        quantized(chain(), tmp_path, "tensort")


@pytest.mark.parametrize("target", TARGETS)
def test_a_gemm_whose_bias_is_computed_is_float_where_kernels_add_constants_alone(
    target: str, tmp_path: Path
) -> None:
    text = """
    network (float[N, 16] x) => (float[N, 8] y) {
        c = MatMul (x, w2)
        [layer] y = Gemm (x, w1, c)
    }
    """
    model = model_of(text, weights({"w1": (16, 8), "w2": (16, 8)}))
    graph, report = quantize(model, ranges_of(model, tmp_path), target)
    assert ("layer" in report.layers) == (target != "onnxruntime")
    run = OnnxRuntime(graph.to_onnx(), save_optimized=tmp_path / "optimized.onnx")
    run.close()
    nodes = onnx.load(tmp_path / "optimized.onnx").graph.node
    if target == "onnxruntime":  # what is in integers is so in its kernels
        assert "DequantizeLinear" not in [node.op_type for node in nodes]
    feeds = {"x": np.random.default_rng(1).standard_normal((3, 16)).astype(np.float32)}
    assert sqnr(infer(model, feeds)["y"], infer(graph, feeds)["y"]) > 25
