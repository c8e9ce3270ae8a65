"""FP8's numbers, against the list of all of them, onnx's reference and onnxruntime."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from onnxgraft.graph.float8 import FLOAT8, LARGEST, is_float8, nearest
from onnxgraft.graph.model import Model
from onnxgraft.graph.quantized import input_ranges
from onnxgraft.graph.source import Source
from onnxgraft.graph.tensors import Array
from onnxgraft.run.session import OnnxRuntime
from tests.conftest import model_of

# E4M3FN as the paper "FP8 Formats for Deep Learning" (2022) has it; 1111 111 is NaN.
POSITIVE = np.array(
    [m * 2.0**-9 for m in range(8)]
    + [(8 + m) * 2.0 ** (e - 10) for e in range(1, 16) for m in range(8)][:-1]
)
RNG = np.random.default_rng(0)
MIDDLES = (POSITIVE[1:] + POSITIVE[:-1]) / 2


def textbook(x: Array) -> Array:
    """Return the nearest number of the list, of two as near the one with an even mantissa."""
    places = np.clip(np.searchsorted(POSITIVE, np.abs(x)), 1, len(POSITIVE) - 1)
    low, high = POSITIVE[places - 1], POSITIVE[places]
    below, above = np.abs(x) - low, high - np.abs(x)
    up = (above < below) | ((above == below) & (places % 2 == 0))
    return np.copysign(np.where(up, high, low), x)


def values() -> Array:
    spread = RNG.standard_normal(20_000) * 10.0 ** RNG.uniform(-4, 4, 20_000)
    edges = np.concatenate([POSITIVE, MIDDLES, np.nextafter(np.float32(MIDDLES), np.float32(1e9))])
    return np.concatenate([spread, edges, -edges, [448.0, 464.0, 465.0, 1e30]]).astype(np.float32)


def quantizers(opset: int) -> onnx.ModelProto:
    graph = helper.make_graph(
        [
            helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
            helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
        ],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N"])],
        [
            onnx.numpy_helper.from_array(np.float32(1), "s"),
            onnx.numpy_helper.from_array(np.zeros((), FLOAT8), "z"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model


def test_all_numbers_are_those_of_the_list() -> None:
    bits = np.arange(127, dtype=np.uint8).view(FLOAT8).astype(np.float64)
    np.testing.assert_array_equal(bits, POSITIVE)
    assert POSITIVE[-1] == LARGEST


def test_values_become_the_nearest_number_half_to_even_and_stop_at_448() -> None:
    x = values()
    np.testing.assert_array_equal(nearest(x).astype(np.float32), textbook(x).astype(np.float32))


def test_not_a_number_stays_so_and_infinity_becomes_the_largest() -> None:
    found = nearest(np.array([np.nan, np.inf, -np.inf], np.float32)).astype(np.float32)
    np.testing.assert_array_equal(found, [np.nan, 448.0, -448.0])


@pytest.mark.parametrize("opset", [19, 21, 23])
def test_onnxruntime_and_onnx_quantize_to_the_same_numbers(opset: int) -> None:
    model, x = quantizers(opset), np.append(values(), np.float32([np.nan, np.inf, -np.inf]))
    session = onnxruntime.InferenceSession(model.SerializeToString())
    mine = nearest(x).astype(np.float32)
    np.testing.assert_array_equal(session.run(None, {"x": x})[0], mine)
    np.testing.assert_array_equal(ReferenceEvaluator(model).run(None, {"x": x})[0], mine)


def test_a_model_keeps_constants_in_fp8() -> None:
    model = Model.from_onnx(quantizers(19), Source("net.onnx", "onnx", "0" * 64))
    again = model.copy().to_onnx()
    kinds = {entry.name: entry.data_type for entry in again.graph.initializer}
    assert kinds["z"] == TensorProto.FLOAT8E4M3FN
    with OnnxRuntime(again, name="again") as session:
        assert session.infer({"x": np.float32([17.0])})["y"] == 16.0


def test_a_type_is_told_by_numpys_name_and_onnxs_number() -> None:
    assert is_float8(FLOAT8)
    assert is_float8(TensorProto.FLOAT8E4M3FN)
    assert not is_float8(TensorProto.FLOAT8E5M2)
    assert not is_float8(np.dtype(np.int8))
    assert not is_float8(None)


def test_a_zero_point_that_is_fed_says_nothing_of_what_an_input_holds() -> None:
    model = model_of(
        "g (float[5] x, float8e5m2 zero) => (float8e5m2[5] y) <float scale = {0.5}>"
        " { y = QuantizeLinear(x, scale, zero) }",
        opset=21,
    )
    assert input_ranges(model) == {}
