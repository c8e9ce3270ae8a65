"""Zero points move to 0 for TensorRT: its parser takes the graph, and the numbers stay near."""

from __future__ import annotations

import numpy as np
import pytest

from onnxgraft.graph.model import Model
from onnxgraft.graph.tensors import Array
from onnxgraft.stages.surgery import run
from tests.conftest import model_of
from tests.surgery.helpers import infer, report_of
from tests.surgery.test_lower_tensorrt import parses, quantized

SCALE = np.array(0.05, np.float32)


def lowered(model: Model) -> Model:
    after, report = run(model, target="tensorrt")
    assert report_of(report, "lower_zero_points").done
    assert not report_of(report, "lower_zero_points").rolled_back
    return after


def normal(*shape: int) -> Array:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def zeros(model: Model) -> set[int]:
    """Return the zero points of a graph."""
    return {
        int(value)
        for node in model.graph.nodes
        if node.op in ("QuantizeLinear", "DequantizeLinear")
        for value in np.ravel(node.inputs[2].values)
    }


@pytest.mark.parametrize("zero", [np.int8(-128), np.int8(5), np.uint8(0), np.uint8(130)])
def test_a_pair_holds_its_range_with_zero_point_0(zero: np.generic) -> None:
    model = model_of(
        "net (float[1,4] x) => (float[1,4] y)"
        " { q = QuantizeLinear(x, s, z)  y = DequantizeLinear(q, s, z) }",
        {"s": SCALE, "z": np.array(zero)},
    )
    after = lowered(model)
    assert zeros(after) == {0}
    assert parses(after)
    limits = np.iinfo(zero.dtype)
    least, most = (SCALE * (bound - int(zero)) for bound in (limits.min, limits.max))
    fed = {"x": np.linspace(least, most, 4, dtype=np.float32)[None]}
    step = max(most, -least) / 127
    np.testing.assert_allclose(infer(after, fed)["y"], fed["x"], atol=0.51 * step)


def test_what_moves_integers_moves_floats() -> None:
    model = model_of(
        "net (float[1,2,4,4] x, float[1,2,4,4] w) => (float[1,4,4,4] y) {"
        " q = QuantizeLinear(x, s, z)  p = QuantizeLinear(w, s, z)  c = Concat<axis=1>(q, p)"
        " t = Transpose<perm=[0,2,3,1]>(c)  y = DequantizeLinear(t, s, z) }",
        {"s": SCALE, "z": np.array(-3, np.int8)},
    )
    after = lowered(model)
    assert parses(after)
    fed = {"x": normal(1, 2, 4, 4), "w": normal(1, 2, 4, 4)[::-1]}
    np.testing.assert_allclose(infer(after, fed)["y"], infer(model, fed)["y"], atol=1.1 * SCALE)


def test_an_integer_input_and_output_keep_their_type_and_numbers() -> None:
    model = model_of(
        "net (uint8[1,4] x) => (uint8[1,4] y)"
        " { f = DequantizeLinear(x, s, z)  r = Relu(f)  y = QuantizeLinear(r, s, z) }",
        {"s": SCALE, "z": np.array(100, np.uint8)},
    )
    after = lowered(model)
    assert parses(after)
    assert [str(spec) for spec in after.outputs] == ["y (1, 4) uint8"]
    fed = {"x": np.array([[0, 100, 101, 255]], np.uint8)}
    assert (
        np.abs(infer(after, fed)["y"].astype(int) - infer(model, fed)["y"].astype(int)).max() <= 1
    )


def test_weights_and_biases_in_other_integers_are_written_as_tensorrt_takes_them() -> None:
    rng = np.random.default_rng(0)
    model = model_of(
        "net (float[1,2,5,5] x) => (float[1,3,3,3] y) {"
        " w = DequantizeLinear(wq, s, z)  b = DequantizeLinear(bq, s, zb)  y = Conv(x, w, b) }",
        {
            "wq": rng.integers(0, 256, (3, 2, 3, 3)).astype(np.uint8), "s": SCALE,
            "z": np.array(120, np.uint8), "bq": rng.integers(-99, 99, 3).astype(np.int32),
            "zb": np.array(0, np.int32),
        },
    )  # fmt: skip
    after = lowered(model)
    assert zeros(after) == {0}
    assert parses(after)
    fed = {"x": normal(1, 2, 5, 5)}
    expected = infer(model, fed)["y"]
    # Each weight moves by half a new step, of 135 / 127 old ones, at most.
    most = np.abs(fed["x"]).sum() * SCALE * 0.54
    assert 0 < np.abs(infer(after, fed)["y"] - expected).max() < most


def test_a_quantized_convolution_with_zero_points_is_written_for_tensorrt() -> None:
    model = quantized(3)
    after = lowered(model)
    assert "QLinearConv" not in after.operators()
    assert zeros(after) == {0}
    assert parses(after)


def test_a_symmetric_pair_is_left_alone() -> None:
    model = model_of(
        "net (float[1,4] x) => (float[1,4] y)"
        " { q = QuantizeLinear(x, s, z)  y = DequantizeLinear(q, s, z) }",
        {"s": SCALE, "z": np.array(0, np.int8)},
    )
    _, report = run(model, target="tensorrt")
    assert not report_of(report, "lower_zero_points").done


def test_a_scale_that_is_computed_is_refused() -> None:
    model = model_of(
        "net (float[1,4] x, float s) => (float[1,4] y)"
        " { q = QuantizeLinear(x, s, z)  y = DequantizeLinear(q, s, z) }",
        {"z": np.array(7, np.int8)},
    )
    _, report = run(model, target="tensorrt")
    (finding,) = report_of(report, "lower_zero_points").refused
    assert "not constant" in finding.sentence
