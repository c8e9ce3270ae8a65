"""Graphs that are repaired before tf2onnx sees them, against TensorFlow itself."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxgraft.errors import NotSupportedError
from onnxgraft.stages.convert import Original
from onnxgraft.stages.convert.tensorflow.lower.operators import handlers
from tests.convert.graphs import write
from tests.convert.one_operator import outputs, x

tf = pytest.importorskip("tensorflow")
keras = pytest.importorskip("keras")

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize(
    ("kernel", "stride", "extra"),
    [((1, 1), 2, 0), ((2, 2), 3, 0), ((1, 3), 3, 0), ((3, 3), 2, 0), ((2, 2), 3, 1)],
    ids=["1_stride_2", "2_stride_3", "1x3_stride_3", "3_stride_2", "2_stride_3_and_one_more"],
)
def test_a_transposed_convolution_of_any_kernel_and_stride(
    tmp_path: Path, padding: str, kernel: tuple[int, int], stride: int, extra: int
) -> None:
    weights = RNG.standard_normal((*kernel, 2, 3)).astype(np.float32)
    sizes = [
        n * stride if padding == "SAME" else (n - 1) * stride + k + extra
        for n, k in zip((4, 5), kernel, strict=True)
    ]

    def build() -> Any:
        value = x(None, 4, 5, 3)
        shape = tf.stack([tf.shape(value)[0], *sizes, 2])
        return tf.nn.conv2d_transpose(value, tf.constant(weights), shape, stride, padding)

    value = RNG.standard_normal((2, 4, 5, 3)).astype(np.float32)
    theirs, mine = outputs(tmp_path, build, x=value)
    # float32 sums of at most 27 products of size 1.
    np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("divisor", "operator"),
    [
        (np.float32(6), "Mul"),
        (np.array([2, -3, 1e30], np.float32), "Mul"),
        (np.array([2, 0, 3], np.float32), "Div"),
        (np.float32(3e38), "Div"),  # whose reciprocal is subnormal
        (np.float32(np.inf), "Div"),
    ],
    ids=["one", "channels", "zero", "large", "infinity"],
)
def test_a_division_by_a_constant_is_a_product(divisor: Any, operator: str, tmp_path: Path) -> None:
    def build() -> Any:
        return x(None, 3) / tf.constant(divisor)

    value = np.array([[1e6, 0, -7e6], [1e3, 5e6, 1e11], [np.inf, np.nan, 1e6]], np.float32)
    theirs, mine = outputs(tmp_path, build, x=value)
    # Two roundings in place of one.
    np.testing.assert_allclose(mine, theirs, rtol=2e-7, atol=0)
    model, _ = Original.of(write(tmp_path / "y.pb", lambda: tf.identity(build(), "y"))).lower()
    assert model.operators() == {operator: 1}


@pytest.mark.parametrize("step", ["floor", "cast", "later", "padded", "branch"])
def test_what_makes_steps_of_a_quotient_keeps_the_division(step: str, tmp_path: Path) -> None:
    def build() -> Any:
        value = x(None, 100) / tf.constant(49.0)
        if step == "cast":
            return tf.cast(value, tf.int32)
        if step == "padded":
            return tf.floor(tf.pad(value, [[0, 0], [1, 2]]))
        if step == "branch":
            some = tf.reduce_any(value > 1e9)
            return tf.cond(some, lambda: tf.floor(value) + 1, lambda: tf.floor(value))
        return tf.floor(tf.nn.relu(value) + 1.0 if step == "later" else value)

    whole = 49 * np.arange(200, dtype=np.float32).reshape(2, 100)  # 49 (1 / 49) is below 1
    theirs, mine = outputs(tmp_path, build, x=whole)
    np.testing.assert_array_equal(mine, theirs)


def test_complex_numbers_are_divided_by_a_constant(tmp_path: Path) -> None:
    def build() -> Any:
        value = tf.complex(x(None, 3), 2 * x(None, 3, name="y")) / tf.constant(3 - 4j, tf.complex64)
        return tf.math.real(value) - tf.math.imag(value)

    values = RNG.standard_normal((2, 2, 3)).astype(np.float32)
    theirs, mine = outputs(tmp_path, build, x=values[0], y=values[1])
    np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-6)


def test_whole_numbers_are_divided(tmp_path: Path) -> None:
    def build() -> Any:
        whole = tf.cast(x(None, 3), tf.int32)
        return tf.raw_ops.Div(x=whole, y=tf.constant(4)) + whole // 3

    value = np.array([[1, 7, -7], [8, -8, 11]], np.float32)
    theirs, mine = outputs(tmp_path, build, x=value)
    np.testing.assert_array_equal(mine, theirs)


def quantized(value: Any, low: Any, high: Any, **more: Any) -> Any:
    return tf.quantization.quantize_and_dequantize_v2(value, low, high, range_given=True, **more)


ENDS = np.array([1.0, 2.0, 3.0], np.float32)
QUANTIZED = {
    "narrow": lambda v: quantized(v, -1.0, 0.9, narrow_range=True),
    "narrow_above": lambda v: quantized(v, -0.5, 1.0, narrow_range=True),
    "narrow_by_channel": lambda v: tf.raw_ops.QuantizeAndDequantizeV3(
        input=v, input_min=-ENDS, input_max=ENDS, num_bits=8, narrow_range=True, axis=1
    ),
    "narrow_of_a_relu": lambda v: quantized(tf.nn.relu(v), -1.0, 1.0, narrow_range=True),
    "wide": lambda v: quantized(v, -1.0, 0.9),
    "unsigned": lambda v: quantized(v, 0.0, 1.0, signed_input=False),
    "third": lambda v: tf.raw_ops.QuantizeAndDequantizeV3(
        input=v, input_min=-1.0, input_max=1.0, num_bits=8, narrow_range=True
    ),
}


@pytest.mark.parametrize("kind", QUANTIZED)
def test_quantization_in_training_keeps_its_range(tmp_path: Path, kind: str) -> None:
    value = 3 * RNG.standard_normal((4, 3, 50)).astype(np.float32)
    theirs, mine = outputs(tmp_path, lambda: QUANTIZED[kind](x(None, 3, 50)), x=value)
    np.testing.assert_allclose(mine, theirs, rtol=1e-6, atol=1e-6)


SIGNS = {
    "argmax": lambda v: keras.ops.argmax(v, -1),
    "argmin": lambda v: keras.ops.argmin(v, -1),
    "signbit": lambda v: tf.cast(keras.ops.signbit(v), tf.int32),
}


@pytest.mark.parametrize("kind", SIGNS)
def test_signs_are_read_without_bits(tmp_path: Path, kind: str) -> None:
    value = RNG.standard_normal((6, 5)).astype(np.float32)
    value[1:] = RNG.choice(np.array([-0.0, 0.0, -1, -np.inf, np.inf], np.float32), (5, 5))
    theirs, mine = outputs(tmp_path, lambda: SIGNS[kind](x(None, 5)), x=value)
    np.testing.assert_array_equal(mine, theirs)


def test_quantization_to_other_bits_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(NotSupportedError, match=r"QuantizeAndDequantizeV4 \(.*not round to 8 bits"):
        outputs(tmp_path, lambda: quantized(x(None, 3), -1.0, 1.0, num_bits=4))


@pytest.mark.parametrize("stride", [1, 2])
def test_zeros_before_a_convolution_are_kept(tmp_path: Path, stride: int) -> None:
    # tf2onnx takes them into the convolution before it lowers it.
    image = RNG.standard_normal((2, 8, 10, 3)).astype(np.float32)
    kernel = RNG.standard_normal((3, 3, 3, 4)).astype(np.float32)
    expected, actual = outputs(
        tmp_path,
        lambda: tf.nn.conv2d(
            tf.pad(x(None, 8, 10, 3), [[0, 0], [1, 1], [2, 0], [0, 0]]), kernel, stride, "VALID"
        ),
        x=image,
    )
    # Sums of 27 products, in another order.
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


def test_what_tf2onnx_s_rewriters_call_is_its_own() -> None:
    import tf2onnx

    folder = Path(tf2onnx.__file__).parent
    called = {
        name
        for path in folder.rglob("*.py")
        for name in re.findall(r'find_effective_op\("(\w+)"\)', path.read_text())
    }
    assert called
    assert not called & handlers({}).keys()
