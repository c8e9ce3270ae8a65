"""Scales moved between channels: the same outputs, evener channels."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from onnxgraft.graph.model import Model
from onnxgraft.graph.tensors import Array
from onnxgraft.run.feeds import random_feeds
from onnxgraft.run.session import OnnxRuntime, exposing
from onnxgraft.stages.quantize import calibrate, improve, quantize
from onnxgraft.stages.quantize.improve.equalize import equalize
from tests.conftest import model_of
from tests.quantize.networks import PAIR, PAIR_SHAPES, infer, pair, residual, samples_of, weights


def channels(model: Model, tensor: str) -> Array:
    """Return the largest magnitude of each channel of a tensor."""
    with OnnxRuntime(exposing(model.to_onnx(), [tensor]), optimize=False) as session:
        value = session.infer(random_feeds(model.inputs, 8, seed=3))[tensor]
    return np.asarray(np.abs(value).max(axis=(0, 2, 3)))


def spread(model: Model, tensor: str) -> float:
    """Return the largest channel over the median one."""
    sizes = channels(model, tensor)
    return float(sizes.max() / np.median(sizes))


def relu6() -> Model:
    text = PAIR.replace("Relu (a)", "Clip (a, zero, six)")
    limits = {"zero": np.float32(0), "six": np.float32(6)}
    return model_of(text, {**weights(PAIR_SHAPES), **limits})


def depthwise() -> Model:
    text = PAIR.replace("Conv <pads = [1, 1, 1, 1]> (c", "Conv <pads = [1, 1, 1, 1], group = 8> (c")
    return model_of(text, weights({**PAIR_SHAPES, "w2": (16, 1, 3, 3)}))


def upsampling() -> Model:
    text = PAIR.replace("float[N, 5, 8, 8] y", "float[N, 5, H, W] y").replace(
        "Conv <pads = [1, 1, 1, 1]> (c", "ConvTranspose <strides = [2, 2]> (c"
    )
    return model_of(text, weights({**PAIR_SHAPES, "w2": (8, 16, 2, 2)}))


@pytest.mark.parametrize("network", [pair, residual, relu6, depthwise, upsampling])
def test_the_outputs_stay_the_same(network: object, tmp_path: Path) -> None:
    model = network()  # type: ignore[operator]
    equalized, done = equalize(model, samples_of(model, tmp_path))
    assert done
    feeds = random_feeds(model.inputs, 4, seed=9)
    expected, actual = infer(model, feeds)["y"], infer(equalized, feeds)["y"]
    # Factors are powers of two, so nothing is rounded; sums may run in another order.
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize(("network", "tensor"), [(pair, "b"), (residual, "c"), (depthwise, "c")])
def test_the_channels_become_even(network: object, tensor: str, tmp_path: Path) -> None:
    model = network()  # type: ignore[operator]
    equalized, done = equalize(model, samples_of(model, tmp_path))
    assert tensor in done
    assert spread(equalized, tensor) < spread(model, tensor)


def test_inputs_and_outputs_of_the_graph_are_left(tmp_path: Path) -> None:
    model = pair()
    _, done = equalize(model, samples_of(model, tmp_path))
    assert not {"image", "y"} & set(done)


def test_a_tensor_that_something_else_reads_is_left(tmp_path: Path) -> None:
    text = PAIR.replace("[third]", "[extra] t = Sigmoid (b)  [third]").replace(
        "float[N, 5, 8, 8] y)", "float[N, 5, 8, 8] y, float[N, 8, 16, 16] t)"
    )
    model = model_of(text, weights(PAIR_SHAPES))
    _, done = equalize(model, samples_of(model, tmp_path))
    assert "b" not in done
    assert "d" in done


def test_shared_weights_are_left(tmp_path: Path) -> None:
    text = """
    g (float[N, 4, 8, 8] image) => (float[N, 4, 8, 8] y) {
        a = Conv <pads = [1, 1, 1, 1]> (image, w)
        b = Conv <pads = [1, 1, 1, 1]> (a, w)
        y = Conv <pads = [1, 1, 1, 1]> (b, w)
    }
    """
    model = model_of(text, weights({"w": (4, 4, 3, 3)}))
    assert equalize(model, samples_of(model, tmp_path))[1] == []


def test_a_branch_that_is_broadcast_is_left(tmp_path: Path) -> None:
    text = """
    g (float[N, 8, 8, 8] image) => (float[N, 4, 8, 8] y) {
        a = Conv <pads = [1, 1, 1, 1]> (image, w1)
        p = GlobalAveragePool (a)
        c = Add (a, p)
        y = Conv (c, w3)
    }
    """
    model = model_of(text, weights({"w1": (8, 8, 3, 3), "w3": (4, 8, 1, 1)}))
    assert equalize(model, samples_of(model, tmp_path))[1] == []


def test_a_channel_that_is_always_zero_keeps_its_weights(tmp_path: Path) -> None:
    constants = weights(PAIR_SHAPES)
    constants["w1"][3] = 0
    constants["b1"][3] = 0
    model = model_of(PAIR, constants)
    equalized, _ = equalize(model, samples_of(model, tmp_path))
    feeds = random_feeds(model.inputs, 2)
    assert np.isfinite(infer(equalized, feeds)["y"]).all()


HARD_SWISH = """
network (float[N, 3, 16, 16] image) => (float[N, 5, 16, 16] y) {
    [first] a = Conv <pads = [1, 1, 1, 1]> (image, w1, b1)
    [shift] s = Add (a, three)
    [clip] c = Clip (s, zero, six)
    [sixth] g = Mul (c, part)
    [act] b = Mul (a, g)
    [second] d = Conv <pads = [1, 1, 1, 1], group = 8> (b, w2, b2)
    [third] y = Conv (d, w3, b3)
}
"""
HARD_SWISH_SHAPES = {
    "w1": (8, 3, 3, 3), "b1": (8,), "w2": (8, 1, 3, 3), "b2": (8,), "w3": (5, 8, 1, 1), "b3": (5,),
}  # fmt: skip
GATE = """
network (float[N, 3, 16, 16] image) => (float[N, 5, 16, 16] y) {
    [first] a = Conv <pads = [1, 1, 1, 1]> (image, w1, b1)
    [relu] b = Relu (a)
    [pool] p = GlobalAveragePool (b)
    [squeeze] q = Conv (p, wq)
    [gate] g = HardSigmoid (q)
    [scale] c = Mul (b, g)
    [third] y = Conv (c, w3, b3)
}
"""
GATE_SHAPES = {
    "w1": (8, 3, 3, 3), "b1": (8,), "wq": (8, 8, 1, 1), "w3": (5, 8, 1, 1), "b3": (5,),
}  # fmt: skip


def hard_swish() -> Model:
    limits = {"three": 3, "zero": 0, "six": 6, "part": 1 / 6}
    constants = {name: np.float32(value) for name, value in limits.items()}
    return model_of(HARD_SWISH, {**weights(HARD_SWISH_SHAPES), **constants})


def gate() -> Model:
    return model_of(GATE, weights(GATE_SHAPES))


@pytest.mark.parametrize(
    ("network", "tensor"), [(hard_swish, "b"), (gate, "c")], ids=["hard_swish", "gate"]
)
def test_a_gate_s_factor_becomes_one_a_channel(
    network: Callable[[], Model], tensor: str, tmp_path: Path
) -> None:
    model = network()
    equalized, done = equalize(model, samples_of(model, tmp_path))
    assert tensor in done
    assert spread(equalized, tensor) < spread(model, tensor) / 2
    feeds = random_feeds(model.inputs, 4, seed=9)
    expected, actual = infer(model, feeds)["y"], infer(equalized, feeds)["y"]
    # The factors are powers of two, so that but for the order of sums nothing is rounded.
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())
    assert model.operators()["Mul"] + (network is gate) == equalized.operators()["Mul"]


def test_a_hard_swish_costs_no_operator(tmp_path: Path) -> None:
    model = hard_swish()
    equalized, _ = equalize(model, samples_of(model, tmp_path))
    assert equalized.operators() == model.operators()


def test_no_product_that_onnxruntime_has_in_integers_becomes_one_in_float(tmp_path: Path) -> None:
    model = hard_swish()
    samples = samples_of(model, tmp_path)
    found = improve(model, calibrate(model, samples), "onnxruntime", samples, ["equalize"])
    graph, _ = quantize(found.model, found.ranges, "onnxruntime", improved=found.improved)
    path = tmp_path / "optimized.onnx"
    OnnxRuntime(graph.to_onnx(), save_optimized=path).close()
    assert "Mul" not in Model.load(path).operators()


@pytest.mark.parametrize("network", [hard_swish, gate])
def test_products_keep_their_factors_where_that_is_asked_for(
    network: Callable[[], Model], tmp_path: Path
) -> None:
    model = network()
    _, done = equalize(model, samples_of(model, tmp_path), integers=["Mul"])
    assert not {"b", "c"} & {*done}


def test_a_depthwise_convolution_takes_the_whole_factor(tmp_path: Path) -> None:
    model = hard_swish()
    equalized, _ = equalize(model, samples_of(model, tmp_path))
    # Powers of two are within sqrt(2) of what they are for.
    assert spread(equalized, "b") < 2.5
    assert spread(model, "b") > 4


@pytest.mark.parametrize(
    ("old", "new", "products"),
    [
        ("[third]", "[extra] t = Sigmoid (g)  [third]", 1),
        ("[act] b = Mul (a, g)", "[act] b = Add (a, g)", 0),
        ("[sixth] g = Mul (c, part)", "[sixth] g = Mul (c, c)", 1),
    ],
    ids=["something else reads it", "no product", "no number"],
)
def test_a_gate_that_can_not_be_scaled_is_left(
    old: str, new: str, products: int, tmp_path: Path
) -> None:
    """What it makes may get a product of its own."""
    text = HARD_SWISH.replace(old, new)
    if "extra" in new:
        text = text.replace("16, 16] y)", "16, 16] y, float[N, 8, 16, 16] t)")
    limits = {"three": 3, "zero": 0, "six": 6, "part": 1 / 6}
    constants = {name: np.float32(value) for name, value in limits.items()}
    model = model_of(text, {**weights(HARD_SWISH_SHAPES), **constants})
    equalized, done = equalize(model, samples_of(model, tmp_path))
    assert "g" not in done
    assert equalized.operators()["Mul"] == model.operators()["Mul"] + products
    feeds = random_feeds(model.inputs, 2, seed=9)
    np.testing.assert_allclose(
        infer(equalized, feeds)["y"], infer(model, feeds)["y"], rtol=1e-4, atol=1e-4
    )


def curve(activation: str, second: str = "group = 8") -> Model:
    text = f"""
    network (float[N, 3, 16, 16] image) => (float[N, 5, 16, 16] y) {{
        [first] a = Conv <pads = [1, 1, 1, 1]> (image, w1, b1)
        {activation}
        [second] d = Conv <pads = [1, 1, 1, 1], {second}> (b, w2, b2)
        [third] y = Conv (d, w3, b3)
    }}
    """
    whole = {**HARD_SWISH_SHAPES, "w2": (8, 8, 3, 3)}
    return model_of(text, weights(HARD_SWISH_SHAPES if second == "group = 8" else whole))


CURVES = {
    "hard_swish": "[act] b = HardSwish (a)",
    "silu": "[gate] g = Sigmoid (a)  [act] b = Mul (a, g)",
    "sigmoid": "[act] b = Sigmoid (a)",
    "elu": "[act] b = Elu (a)",
}


@pytest.mark.parametrize("name", CURVES)
def test_what_a_curve_makes_for_a_depthwise_convolution_is_scaled(
    name: str, tmp_path: Path
) -> None:
    model = curve(CURVES[name])
    equalized, done = equalize(model, samples_of(model, tmp_path))
    assert "b" in done
    assert spread(equalized, "b") < 2.5
    assert equalized.operators()["Mul"] == model.operators().get("Mul", 0) + 1
    feeds = random_feeds(model.inputs, 4, seed=9)
    expected, actual = infer(model, feeds)["y"], infer(equalized, feeds)["y"]
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("name", CURVES)
def test_what_a_curve_makes_for_a_convolution_of_all_channels_is_left(
    name: str, tmp_path: Path
) -> None:
    model = curve(CURVES[name], "group = 1")
    assert "b" not in equalize(model, samples_of(model, tmp_path))[1]


def test_uneven_channels_behind_a_curve_keep_their_signal(tmp_path: Path) -> None:
    model = curve(CURVES["hard_swish"])
    samples = samples_of(model, tmp_path)
    found = improve(model, calibrate(model, samples), "tensorrt", samples, ["equalize"])
    assert found.methods == ("equalize",)


def test_a_gain_that_is_not_worth_another_pass_is_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = curve(CURVES["hard_swish"])
    samples = samples_of(model, tmp_path)
    ranges = calibrate(model, samples)
    monkeypatch.setattr(importlib.import_module(improve.__module__), "_WORTH", 99.0)
    found = improve(model, ranges, "tensorrt", samples, ["equalize"])
    assert (found.methods, found.ranges) == ((), ranges)
    assert "dB with it, too little for another pass over the samples, and " in found.notes[0]
