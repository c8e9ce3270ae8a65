"""The exact reference of FP8 graphs: the same bits as sums of products in float64, in any order."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from onnxgraft.graph.float8 import FLOAT8, nearest
from onnxgraft.graph.model import Model
from onnxgraft.graph.tensors import Array
from onnxgraft.run.exact import exact, exact_graph
from onnxgraft.run.session import OnnxRuntime
from tests.conftest import model_of

SCALE, BIAS = np.float32(0.037), np.float32([0.3, -1.7, 0.011, 5.0])
RNG = np.random.default_rng(0)


def numbers(*shape: int) -> Array:
    """Return FP8 numbers of all sizes: their sums need many more bits than float32 has."""
    return nearest(RNG.standard_normal(shape) * 2.0 ** RNG.uniform(-9, 9, shape))


def fp8(text: str, constants: dict[str, Array]) -> Model:
    return model_of(text, constants, opset=21)


def outputs(model: Model, **feeds: Array) -> Array:
    with exact(model) as session:
        return session.infer(feeds)["y"]


def read(x: Array) -> Array:
    """Return the numbers that a QuantizeLinear makes, in float64."""
    return nearest(np.asarray(x / SCALE, np.float32)).astype(np.float64)


def layer(op: str, attributes: str, weights: Array, axis: int, x: str, bias: bool = True) -> Model:
    scales = RNG.uniform(1e-3, 1e-2, weights.shape[axis]).astype(np.float32)
    extra = ", b" if bias else ""
    return fp8(
        f"net (float[{x}] x) => (float y) {{"
        " q = QuantizeLinear(x, s, z)  d = DequantizeLinear(q, s, z)"
        f" k = DequantizeLinear<axis={axis}>(w, ws, wz)  y = {op}{attributes}(d, k{extra}) }}",
        {
            "s": SCALE, "z": np.zeros((), FLOAT8), "w": weights, "ws": scales,
            "wz": np.zeros(scales.shape, FLOAT8), "b": BIAS,
        },
    )  # fmt: skip


def scales_of(model: Model) -> Array:
    return np.asarray(model.graph.tensors()["ws"].values, np.float64)


def finished(sums: Array, model: Model, behind: int, bias: bool = True) -> Array:
    """Return what a layer makes of exact sums: one factor, a bias, one rounding to float32."""
    shape = (-1, *(1,) * behind)
    found = sums * (scales_of(model) * np.float64(SCALE)).reshape(shape)
    return np.asarray(found + BIAS.astype(np.float64).reshape(shape) * bias, np.float32)


@pytest.mark.parametrize("inputs", [3, 64])
def test_a_convolution_has_the_bits_of_float64(inputs: int) -> None:
    weights = numbers(4, inputs, 3, 3)
    model = layer("Conv", "<pads=[1,1,1,1], strides=[2,1]>", weights, 0, f"N, {inputs}, 6, 5")
    x = (RNG.standard_normal((2, inputs, 6, 5)) * 5).astype(np.float32)
    padded = np.pad(read(x), ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (2, 3))[:, :, ::2]
    sums = np.einsum("nchwij,ocij->nohw", windows, weights.astype(np.float64))
    np.testing.assert_array_equal(outputs(model, x=x), finished(sums, model, 2))


def test_strides_dilations_and_one_axis_have_the_bits_of_float64() -> None:
    weights = numbers(4, 5, 3)
    attributes = "<pads=[2,1], strides=[2], dilations=[2]>"
    model = layer("Conv", attributes, weights, 0, "N, 5, L")
    x = (RNG.standard_normal((3, 5, 12)) * 5).astype(np.float32)
    padded = np.pad(read(x), ((0, 0), (0, 0), (2, 1)))
    places = [padded[:, :, 2 * k : padded.shape[2] - 2 * (2 - k)][:, :, ::2] for k in range(3)]
    sums = sum(
        np.einsum("ncp,oc->nop", part, weights.astype(np.float64)[:, :, k])
        for k, part in enumerate(places)
    )
    np.testing.assert_array_equal(outputs(model, x=x), finished(sums, model, 1))


def test_pads_that_follow_from_the_shape_have_the_bits_of_float64() -> None:
    weights = numbers(4, 8, 3, 3)
    model = layer("Conv", '<auto_pad="SAME_UPPER">', weights, 0, "N, 8, 6, 5")
    other = layer("Conv", "<pads=[1,1,1,1]>", weights, 0, "N, 8, 6, 5")
    other.graph.tensors()["ws"].values = np.float32(scales_of(model))
    x = (RNG.standard_normal((2, 8, 6, 5)) * 5).astype(np.float32)
    assert "Conv" not in [node.op_type for node in exact_graph(model).graph.node]
    np.testing.assert_array_equal(outputs(model, x=x), outputs(other, x=x))


def test_a_transposed_convolution_is_near_that_of_float64() -> None:
    weights = numbers(8, 4, 2, 2)
    model = layer("ConvTranspose", "<strides=[2,2]>", weights, 1, "N, 8, 3, 3")
    x = (RNG.standard_normal((1, 8, 3, 3)) * 5).astype(np.float32)
    spread = np.einsum("nchw,coij->nohiwj", read(x), weights.astype(np.float64))
    wanted = finished(spread.reshape(1, 4, 6, 6), model, 2)
    atol = 1e-6 * np.abs(wanted).max()
    np.testing.assert_allclose(outputs(model, x=x), wanted, rtol=0, atol=atol)


def test_a_convolution_in_groups_has_the_bits_of_float64() -> None:
    weights = numbers(4, 2, 1, 1)
    model = layer("Conv", "<group=2>", weights, 0, "N, 4, 3, 3")
    x = (RNG.standard_normal((2, 4, 3, 3)) * 5).astype(np.float32)
    parts = read(x).reshape(2, 2, 2, 3, 3)
    kernels = weights.astype(np.float64).reshape(2, 2, 2)
    sums = np.einsum("ngchw,goc->ngohw", parts, kernels).reshape(2, 4, 3, 3)
    np.testing.assert_array_equal(outputs(model, x=x), finished(sums, model, 2))


@pytest.mark.parametrize(("op", "attributes"), [("Gemm", "<transB=1>"), ("MatMul", "")])
def test_a_product_with_weights_has_the_bits_of_float64(op: str, attributes: str) -> None:
    weights = numbers(500, 4)
    stored, axis = (weights.T, 0) if op == "Gemm" else (weights, 1)
    bias = op == "Gemm"
    model = layer(op, attributes, np.ascontiguousarray(stored), axis, "N, 500", bias)
    x = (RNG.standard_normal((3, 500)) * 5).astype(np.float32)
    sums = read(x) @ weights.astype(np.float64)
    np.testing.assert_array_equal(outputs(model, x=x), finished(sums, model, 0, bias))


def test_a_product_of_two_activations_has_the_bits_of_float64() -> None:
    model = fp8(
        "net (float[N, 7, 300] x, float[N, 300, 5] v) => (float y) {"
        " q = QuantizeLinear(x, s, z)  d = DequantizeLinear(q, s, z)"
        " r = QuantizeLinear(v, s, z)  e = DequantizeLinear(r, s, z)  y = MatMul(d, e) }",
        {"s": SCALE, "z": np.zeros((), FLOAT8)},
    )
    x, v = (RNG.standard_normal(shape).astype(np.float32) for shape in ((2, 7, 300), (2, 300, 5)))
    wanted = (read(x) @ read(v)) * (np.float64(SCALE) * np.float64(SCALE))
    np.testing.assert_array_equal(outputs(model, x=x, v=v), wanted.astype(np.float32))


def test_sums_in_float64_are_those_of_fractions() -> None:
    weights = numbers(1, 40, 1, 1)
    model = layer("Conv", "", weights, 0, "1, 40, 1, 1", bias=False)
    x = (RNG.standard_normal((1, 40, 1, 1)) * 5).astype(np.float32)
    pairs = zip(read(x).ravel().tolist(), weights.astype(float).ravel().tolist(), strict=True)
    total = sum((Fraction(a) * Fraction(b) for a, b in pairs), Fraction(0))
    factor = float(scales_of(model)[0] * np.float64(SCALE))
    assert outputs(model, x=x).item() == np.float32(float(total) * factor)


def test_plain_float32_sums_have_other_bits() -> None:
    weights = numbers(4, 64, 3, 3)
    model = layer("Conv", "", weights, 0, "N, 64, 6, 5")
    x = (RNG.standard_normal((2, 64, 6, 5)) * 5).astype(np.float32)
    with OnnxRuntime(model.to_onnx(), name="as it stands", optimize=False) as session:
        plain = session.infer({"x": x})["y"]
    found = outputs(model, x=x)
    assert not np.array_equal(found, plain)
    np.testing.assert_allclose(found, plain, rtol=0, atol=1e-4 * np.abs(found).max())


def test_what_keeps_values_passes_numbers_on() -> None:
    weights = numbers(4, 8, 1, 1)
    model = fp8(
        "net (float[N, 8, 4, 4] x) => (float y) {"
        " q = QuantizeLinear(x, s, z)  d = DequantizeLinear(q, s, z)"
        " p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(d)"
        " k = DequantizeLinear<axis=0>(w, ws, wz)  y = Conv(p, k) }",
        {
            "s": SCALE, "z": np.zeros((), FLOAT8), "w": weights,
            "ws": np.full(4, 0.01, np.float32), "wz": np.zeros(4, FLOAT8),
        },
    )  # fmt: skip
    x = (RNG.standard_normal((2, 8, 4, 4)) * 5).astype(np.float32)
    pooled = read(x).reshape(2, 8, 2, 2, 2, 2).max((3, 5))
    sums = np.einsum("nchw,oc->nohw", pooled, weights.astype(np.float64)[:, :, 0, 0])
    wanted = sums * (np.float64(SCALE) * np.float64(np.float32(0.01)))
    np.testing.assert_array_equal(outputs(model, x=x), wanted.astype(np.float32))


def test_weights_that_are_quantized_in_the_graph_are_rounded_as_onnx_does() -> None:
    weights = RNG.standard_normal((4, 8, 1, 1)).astype(np.float32)
    model = fp8(
        "net (float[N, 8, 2, 2] x) => (float y) {"
        " q = QuantizeLinear(x, s, z)  d = DequantizeLinear(q, s, z)"
        " v = QuantizeLinear(w, t, z)  k = DequantizeLinear(v, t, z)  y = Conv(d, k) }",
        {"s": SCALE, "t": np.float32(0.01), "z": np.zeros((), FLOAT8), "w": weights},
    )
    x = (RNG.standard_normal((2, 8, 2, 2)) * 5).astype(np.float32)
    kernel = nearest(weights / np.float32(0.01)).astype(np.float64)[:, :, 0, 0]
    sums = np.einsum("nchw,oc->nohw", read(x), kernel)
    wanted = sums * (np.float64(SCALE) * np.float64(np.float32(0.01)))
    np.testing.assert_array_equal(outputs(model, x=x), wanted.astype(np.float32))
    assert "Conv" not in [node.op_type for node in exact_graph(model).graph.node]


@pytest.mark.parametrize("optimize", [True, False])
def test_a_relu_before_fp8_takes_effect(optimize: bool) -> None:
    model = fp8(
        "net (float[N] x) => (float[N] y) {"
        " r = Relu(x)  q = QuantizeLinear(r, s, z)  y = DequantizeLinear(q, s, z) }",
        {"s": np.float32(1), "z": np.zeros((), FLOAT8)},
    )
    x = np.float32([-2, -0.5, 0.5, 2])
    with OnnxRuntime(model.to_onnx(), name="net", optimize=optimize) as session:
        np.testing.assert_array_equal(session.infer({"x": x})["y"], [0, 0, 0.5, 2])
