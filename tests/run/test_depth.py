"""How many roundings an output has behind it, and what it has to keep of the signal."""

from __future__ import annotations

import numpy as np
import pytest

from onnxgraft.data.ranges import Ranges
from onnxgraft.data.samples import open_samples
from onnxgraft.run.depth import depths
from onnxgraft.run.feeds import random_feeds
from onnxgraft.run.tolerances import LEAST_SQNR, PEAKY_ROUNDING, USUAL_ROUNDING, least_sqnr
from onnxgraft.stages.quantize import calibrate, quantize
from onnxgraft.stages.quantize.place.ready import fingerprint
from tests.conftest import model_of
from tests.quantize.networks import PAIR, PAIR_SHAPES, weights


def test_a_float_graph_has_no_depth() -> None:
    assert depths(model_of(PAIR, weights(PAIR_SHAPES))) == {"y": 0}


@pytest.mark.parametrize(
    ("target", "kept", "depth"),
    [
        # Three layers in a row: the input of each, and its weights.
        ("tensorrt", (), 6),
        ("tensorrt", ("second",), 4),
        ("tensorrt", ("first", "second", "third"), 0),
        # The outputs too.
        ("onnxruntime", (), 7),
    ],
)
def test_each_quantized_tensor_on_the_way_counts_once(
    target: str, kept: tuple[str, ...], depth: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    model = model_of(PAIR, weights(PAIR_SHAPES))
    place = tmp_path_factory.mktemp("depth") / "data.npz"
    np.savez(place, **random_feeds(model.inputs, 4))
    ranges = calibrate(model, open_samples(place, model.inputs), "minmax")
    graph, _ = quantize(model, ranges, target, keep_float=dict.fromkeys(kept, "asked for"))
    assert depths(graph) == {"y": depth}


def test_in_a_body_inputs_and_weights_count() -> None:
    text = """
    net (bool go, float[1, 2] x) => (float[1, 2] y) {
        y = If (go) <
            then_branch = one () => (float[1, 2] a) {
                q = QuantizeLinear (x, s, z)
                d = DequantizeLinear (q, s, z)
                v = DequantizeLinear (w, s, z)
                a = MatMul (d, v)
            },
            else_branch = other () => (float[1, 2] b) { b = Identity (x) }
        >
    }
    """
    constants = {"s": np.float32(0.1), "z": np.int8(0), "w": np.ones((2, 2), np.int8)}
    assert depths(model_of(text, constants)) == {"y": 2}


def test_an_lstm_that_quantizes_itself_counts_input_state_and_weights() -> None:
    text = """
    net (float[3, 1, 2] x) => (float[3, 1, 1, 2] y) { y = LSTM <hidden_size = 2> (x, w, r) }
    """
    model = model_of(text, weights({"w": (1, 8, 2), "r": (1, 8, 2)}))
    ranges = Ranges("minmax", 0, fingerprint(model), "", "", {})
    assert depths(quantize(model, ranges, "onnxruntime")[0]) == {"y": 3}
    assert depths(quantize(model, ranges, "tensorrt")[0]) == {"y": 1}


DYNAMIC = """
    i, s, z = DynamicQuantizeLinear(x)  m = MatMulInteger(i, w, z)
    f = Cast<to = 1>(m)  y = Mul(f, s)"""
PRODUCT = """
    q = QuantizeLinear(x, one, zero)  m = QLinearMatMul(q, one, zero, w, one, zero, one, zero)
    y = DequantizeLinear(m, one, zero)"""
FUNCTION = """
    q = QuantizeLinear(x, one, zero)
    m = com.microsoft.QLinearSigmoid(q, one, zero, one, zero)
    y = DequantizeLinear(m, one, zero)"""


@pytest.mark.parametrize(
    ("nodes", "count"),
    [
        (DYNAMIC, 2),
        ("y = com.microsoft.DynamicQuantizeMatMul(x, w, one)", 2),
        (PRODUCT, 3),
        (FUNCTION, 2),
    ],
    ids=["dynamic", "dynamic_at_once", "product", "function"],
)
def test_operators_of_integers_count_what_they_make_and_their_weights(
    nodes: str, count: int
) -> None:
    constants = {"w": np.ones((2, 2), np.uint8), "one": np.float32(1), "zero": np.uint8(0)}
    model = model_of(f"net (float[N, 2] x) => (float[N, 2] y) {{ {nodes} }}", constants)
    assert depths(model) == {"y": count}


def test_the_longer_way_counts_where_two_meet() -> None:
    q = "QuantizeLinear({}, s, z)  {}d = DequantizeLinear({}, s, z) "
    text = (
        "net (float[1, 4] x) => (float[1, 4] y, float[1, 4] plain) {"
        f" a = {q.format('x', 'a', 'a')}  m = Mul(ad, w)  b = {q.format('m', 'b', 'b')}"
        " y = Add(ad, bd)  plain = Mul(x, w) }"
    )
    model = model_of(
        text,
        {"s": np.float32(0.1), "z": np.int8(0), "w": np.ones(4, np.float32)},
    )
    assert depths(model) == {"y": 2, "plain": 0}


def test_the_noise_of_roundings_adds_up_as_the_formula_says() -> None:
    # An independent witness: normal values, rounded again and again between random rotations.
    rng = np.random.default_rng(0)
    signal = value = rng.standard_normal((64, 4096))
    for depth in range(1, 33):
        turn, _ = np.linalg.qr(rng.standard_normal((64, 64)))
        signal, value = turn @ signal, turn @ value
        step = 2 * 4 * value.std() / 255
        value = np.clip(np.rint(value / step), -127, 127) * step
        kept = 10 * np.log10(np.square(signal).sum() / np.square(signal - value).sum())
        assert abs(kept - (USUAL_ROUNDING - 10 * np.log10(depth))) < 1.0
        assert kept > least_sqnr(depth)


def test_a_peaky_tensor_keeps_what_the_formula_says() -> None:
    value = np.random.default_rng(0).standard_normal(1 << 20)
    value[0] = 12 * np.sqrt(np.mean(value**2))
    step = 2 * value[0] / 255
    kept = -10 * np.log10(np.mean((value - np.rint(value / step) * step) ** 2))
    assert abs(kept - PEAKY_ROUNDING) < 0.1


def test_however_deep_a_network_is_something_is_asked_for() -> None:
    assert least_sqnr(0) == USUAL_ROUNDING
    assert least_sqnr(100_000) == LEAST_SQNR
    assert all(least_sqnr(n) >= least_sqnr(n + 1) for n in range(1000))
