"""Attention in INT8: where its products are quantized, and what the runtimes make of it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnxgraft.data.samples import open_samples
from onnxgraft.graph.model import Model
from onnxgraft.run.difference import Difference
from onnxgraft.run.exact import exact
from onnxgraft.run.feeds import random_feeds
from onnxgraft.run.session import OnnxRuntime
from onnxgraft.stages import engine
from onnxgraft.stages.quantize import QuantizeReport, placement, quantize
from onnxgraft.targets import find_target
from onnxgraft.targets.cpu import find_cpu
from tests.conftest import model_of
from tests.quantize.networks import ATTENTION, attention, ranges_of, samples_of

TARGETS = ["tensorrt", "openvino", "onnxruntime"]

# In dB; a scale that is off by a tenth leaves 20, another tensor in its place 0.
CLOSE = 25
LAYERS = ["query", "key", "value", "scores", "context", "output"]


def made(model: Model, folder: Path, target: Any, **options: Any) -> tuple[Model, QuantizeReport]:
    return quantize(model, ranges_of(model, samples_of(model, folder)), target, **options)


def grid(model: Model, layer: str, place: int) -> tuple[np.dtype[Any], int, float]:
    """Return type, zero point and scale of the quantized tensor that reaches a layer."""
    tensor = next(n for n in model.graph.nodes if n.name == layer).inputs[place]
    while tensor.inputs[0].op != "DequantizeLinear":
        tensor = tensor.inputs[0].inputs[0]
    scale, zero = (each.values for each in tensor.inputs[0].inputs[1:])
    return zero.dtype, int(zero), float(scale)


def sqnr(model: Model, other: Model) -> float:
    feeds = random_feeds(model.inputs, 4, seed=11)
    with exact(model) as right, exact(other) as session:
        difference = Difference()
        difference.add(right.infer(feeds)["y"], session.infer(feeds)["y"])
    return difference.sqnr


@pytest.mark.parametrize("target", TARGETS)
def test_all_of_attention_runs_in_integers(target: str, tmp_path: Path) -> None:
    original = attention()
    model, report = made(original, tmp_path, target)
    assert report.layers == LAYERS
    assert report.float_layers == []
    onnx.checker.check_model(model.to_onnx(), full_check=True)
    assert sqnr(original, model) > CLOSE


@pytest.mark.parametrize("target", TARGETS)
def test_products_can_be_kept_in_float(target: str, tmp_path: Path) -> None:
    _, report = made(attention(), tmp_path, target, keep_float=["scores"])
    assert [layer.name for layer in report.float_layers] == ["scores"]
    assert report.layers == [name for name in LAYERS if name != "scores"]


def test_a_table_without_products_says_why_they_stay_float(tmp_path: Path) -> None:
    table = replace(placement("openvino"), products=False)
    _, report = made(attention(), tmp_path, table)
    assert [layer.name for layer in report.float_layers] == ["scores", "context"]
    assert "two activations are multiplied" in report.float_layers[0].reason


@pytest.mark.parametrize(("tokens", "left"), [(11, ["scores", "context"]), (12, [])])
def test_attention_over_more_tokens_than_a_target_fuses_stays_float(
    tokens: int, left: list[str], tmp_path: Path
) -> None:
    table = replace(placement("tensorrt"), tokens=tokens)
    _, report = made(attention(), tmp_path, table)
    assert [layer.name for layer in report.float_layers] == left
    assert all("up to 11 tokens" in layer.reason for layer in report.float_layers)


def test_a_cpu_whose_sums_saturate_multiplies_signed_activations_in_float(tmp_path: Path) -> None:
    for target, left in (("openvino", ["scores", "context"]), ("onnxruntime", [])):
        _, report = made(attention(), tmp_path, placement(target, find_cpu("avx2")))
        assert [layer.name for layer in report.float_layers] == left
        assert all("saturate" in layer.reason for layer in report.float_layers)


def test_the_second_input_is_int8_for_openvino_even_if_never_negative(tmp_path: Path) -> None:
    text = ATTENTION.replace("v2 = Reshape (v1", "r = Relu (v1)\n v2 = Reshape (r")
    model, _ = made(attention(text), tmp_path, "openvino")
    assert grid(model, "context", 0)[:2] == (np.uint8, 0)  # the Softmax
    assert grid(model, "context", 1)[:2] == (np.int8, 0)


@pytest.mark.parametrize("target", TARGETS)
def test_a_tensor_multiplied_by_itself_has_one_scale(target: str, tmp_path: Path) -> None:
    text = """network (float[N, 6, 16] x) => (float[N, 6, 6] y) {
        t = Transpose <perm = [0, 2, 1]> (x)
        [gram] y = MatMul (x, t)
    }"""
    original = model_of(text)
    model, report = made(original, tmp_path, target)
    assert report.layers == ["gram"]
    assert grid(model, "gram", 0) == grid(model, "gram", 1)
    assert sqnr(original, model) > CLOSE


@pytest.mark.parametrize("target", TARGETS)
def test_a_softmax_that_was_not_measured_has_its_own_range(target: str, tmp_path: Path) -> None:
    original = attention()
    ranges = ranges_of(original, samples_of(original, tmp_path))
    del ranges.tensors["p"]
    model, report = quantize(original, ranges, target)
    assert report.float_layers == []
    steps = 255 if grid(model, "context", 0)[0] == np.uint8 else 127
    assert grid(model, "context", 0)[1:] == (0, pytest.approx(1 / steps))


def test_weights_that_come_first_are_told(tmp_path: Path) -> None:
    text = """network (float[N, 6, 16] x) => (float[N, 5, 16] y) {
        [mix] y = MatMul (w, x)
    }"""
    original = model_of(text, {"w": np.ones((5, 6), np.float32)})
    layer = """network (float[N, 6, 16] x) => (float[N, 5, 16] y) {
        [dense] d = MatMul (x, u)
        [mix] y = MatMul (w, d)
    }"""
    original = model_of(layer, {"w": np.ones((5, 6), np.float32), "u": np.eye(16, dtype="f")})
    _, report = made(original, tmp_path, "openvino")
    assert [found.name for found in report.float_layers] == ["mix"]
    assert "not its second input" in report.float_layers[0].reason


# The factor between the scores and the Softmax.


def test_the_factor_of_attention_is_in_a_scale_for_onnxruntime(tmp_path: Path) -> None:
    original = attention()
    model, _ = made(original, tmp_path, "onnxruntime")
    assert "factor" not in {node.name for node in model.graph.nodes}
    divided = attention(ATTENTION.replace("Mul (s0", "Div (s0"), scale=np.float32(8**0.5))
    assert "factor" not in {
        node.name for node in made(divided, tmp_path, "onnxruntime")[0].graph.nodes
    }
    assert sqnr(divided, made(divided, tmp_path, "onnxruntime")[0]) > CLOSE


@pytest.mark.parametrize(
    ("old", "new", "scale"),
    [
        ("", "", np.float32(-0.5)),
        ("", "", np.full(12, 0.5, np.float32)),
        ("y = Add (x, o1)", "m = ReduceMax <keepdims = 0> (s0) t = Add (x, o1) y = Add (t, m)",
         np.float32(0.5)),
        ("Mul (s0, scale)", "Div (scale, s0)", np.float32(0.5)),
    ],
    ids=["negative", "several", "read twice", "divided by"],
)  # fmt: skip
def test_another_factor_stays(old: str, new: str, scale: Any, tmp_path: Path) -> None:
    model, _ = made(attention(ATTENTION.replace(old, new), scale=scale), tmp_path, "onnxruntime")
    assert "factor" in {node.name for node in model.graph.nodes}


def test_a_factor_that_adds_dimensions_stays(tmp_path: Path) -> None:
    text = """network (float[N, 6, 16] x, float[N, 16, 5] z) => (float[1, N, 6, 5] y) {
        [scores] s = MatMul (x, z)
        [factor] y = Mul (s, scale)
    }"""
    original = model_of(text, {"scale": np.full((1, 1, 1, 1), 0.5, np.float32)})
    model, _ = made(original, tmp_path, "onnxruntime")
    assert "factor" in {node.name for node in model.graph.nodes}


# Biases behind MatMuls.


def test_onnxruntime_gets_a_gemm_with_an_int32_bias(tmp_path: Path) -> None:
    original = attention()
    model, _ = made(original, tmp_path, "onnxruntime")
    gemms = [node for node in model.graph.nodes if node.op == "Gemm"]
    assert {node.name for node in gemms} == {"query", "key", "value", "output"}
    assert {node.inputs[2].inputs[0].inputs[0].values.dtype for node in gemms} == {np.dtype("i4")}


def test_a_matmul_in_float_stays_a_matmul(tmp_path: Path) -> None:
    model, _ = made(attention(), tmp_path, "onnxruntime", keep_float=LAYERS)
    assert "Gemm" not in {node.op for node in model.graph.nodes}


@pytest.mark.parametrize(
    ("shape", "text"),
    [
        ("N, M, 8", "d = MatMul (x, w) y = Add (d, b)"),  # a Reshape infers one dimension only
        ("N, 4, 8", "d = MatMul (x, w) y = Add (d, whole)"),
        ("N, 4, 8", "d = MatMul (x, w) e = Relu (d) f = Add (d, b) y = Add (e, f)"),
    ],
    ids=["two free dimensions", "a bias of more dimensions", "read twice"],
)
def test_a_matmul_that_is_no_gemm_stays(shape: str, text: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    constants = {name: rng.standard_normal(size).astype(np.float32)
                 for name, size in (("w", (8, 8)), ("b", (8,)), ("whole", (4, 8)))}  # fmt: skip
    used = {name: value for name, value in constants.items() if f" {name})" in text}
    original = model_of(f"network (float[{shape}] x) => (float[{shape}] y) {{ {text} }}", used)
    samples = samples_of(model_of(f"network (float[N, 4, 8] x) => (float[N, 4, 8] y) {{ {text} }}",
                                  used), tmp_path)  # fmt: skip
    model, report = quantize(original, ranges_of(original, samples), "onnxruntime")
    assert len(report.layers) == 1
    assert "MatMul" in {node.op for node in model.graph.nodes}


# What runtimes make of it.


def test_onnxruntime_runs_attention_in_integers(tmp_path: Path) -> None:
    original = attention()
    model, _ = made(original, tmp_path, "onnxruntime")
    file = tmp_path / "optimized.onnx"

    def keep(options: Any) -> None:
        options.optimized_model_filepath = str(file)
        options.add_session_config_entry("session.x64quantprecision", "1")

    feeds = random_feeds(model.inputs, 4, seed=11)
    with OnnxRuntime(model.to_onnx(), optimize=True, configure=keep) as session:
        fused = session.infer(feeds)["y"]
    found = Counter(node.op_type for node in onnx.load(file).graph.node)
    assert found["QGemm"] == 4
    assert (found["MatMulIntegerToFloat"], found["QLinearMatMul"]) == (1, 1)
    assert not {"FusedMatMul", "Gemm", "MatMul", "Mul", "QLinearSoftmax"} & set(found)
    with exact(model) as session:
        difference = Difference()
        difference.add(session.infer(feeds)["y"], fused)
    assert difference.sqnr > CLOSE


@pytest.mark.skipif(not find_target("openvino").cpu().wide_sums, reason="products stay in float")
def test_openvino_runs_attention_as_one_layer_on_bytes(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    model, _ = made(attention(), tmp_path, "openvino")
    engine.build(model, tmp_path / "e", "openvino")
    with engine.load(tmp_path / "e") as built:
        layers = engine.layers(built)
    (whole,) = (layer for layer in layers if "c0/QuantizeLinear" in layer.nodes)
    assert (whole.kind, whole.precision) == ("Subgraph", "i8")
    dense = [layer.precision for layer in layers if layer.kind == "FullyConnected"]
    assert dense == ["i8"] * 4
    assert not {"MatMul", "Softmax"} & {layer.kind for layer in layers}


# Weights that something makes of a constant.


TIED = """
network (int64[N, 6] ids) => (float[N, 6, 40] y) {
    x = Gather (embedding, ids)
    [dense] d = MatMul (x, w)
    turned = Transpose <perm = [1, 0]> (embedding)
    [last] y = MatMul (d, turned)
}
"""


def tied(text: str = TIED) -> Model:
    rng = np.random.default_rng(2)
    shapes = {"embedding": (40, 16), "w": (16, 16)}
    return model_of(text, {k: rng.standard_normal(v).astype("f") for k, v in shapes.items()})


@pytest.mark.parametrize("target", TARGETS)
def test_the_embedding_may_be_the_weights_of_the_last_layer(target: str, tmp_path: Path) -> None:
    original = tied()
    np.savez(tmp_path / "data.npz", ids=np.random.default_rng(0).integers(0, 40, (8, 6)))
    samples = open_samples(tmp_path / "data.npz", original.inputs)
    model, report = quantize(original, ranges_of(original, samples), target)
    assert report.layers == ["dense", "last"]
    weights = next(node for node in model.graph.nodes if node.name == "last").inputs[1].inputs[0]
    wanted = next(n for n in original.graph.nodes if n.op == "Gather").inputs[0].values.T
    stored = weights.inputs[0].values * weights.inputs[1].values
    assert np.abs(stored - wanted).max() <= weights.inputs[1].values.max() / 2 * 1.001
    feeds = next(iter(samples)).feeds
    with exact(original) as right, exact(model) as session:
        difference = Difference()
        difference.add(right.infer(feeds)["y"], session.infer(feeds)["y"])
    assert difference.sqnr > CLOSE


def test_weights_may_be_the_output_of_a_node(tmp_path: Path) -> None:
    text = """network (float[N, 2] x) => (float[N, 2] y) {
        w = Constant <value = float[2, 2] {1, 2, 3, 4}> ()
        same = Identity (w)
        [dense] y = MatMul (x, same)
    }"""
    assert made(model_of(text), tmp_path, "onnxruntime")[1].layers == ["dense"]


def test_two_layers_may_share_weights_one_of_them_turned(tmp_path: Path) -> None:
    text = """network (float[N, 4, 16] x) => (float[N, 4, 16] y) {
        [one] a = MatMul (x, w)
        t = Transpose (w)
        b = Relu (a)
        [two] y = MatMul (b, t)
    }"""
    original = model_of(text, {"w": np.random.default_rng(1).standard_normal((16, 9)).astype("f")})
    for target in TARGETS:
        model, report = made(original, tmp_path, target)
        assert report.layers == ["one", "two"]
        assert sqnr(original, model) > CLOSE


# Rows of channels around convolutions, as SegFormer has them.


ROWS = """
network (float[N, 12, 16] x) => (float[N, 12, 16] y) {
    [first] a = MatMul (x, w)
    t = Transpose <perm = [0, 2, 1]> (a)
    i = Reshape (t, image)
    [conv] c = Conv <pads = [1, 1, 1, 1], group = 16> (i, k)
    r = Reshape (c, flat)
    b = Transpose <perm = [0, 2, 1]> (r)
    s = Relu (b)
    [last] y = MatMul (s, w)
}
"""


def rows(text: str = ROWS) -> Model:
    rng = np.random.default_rng(5)
    return model_of(text, {
        "w": rng.standard_normal((16, 16)).astype("f") / 4,
        "k": rng.standard_normal((16, 1, 3, 3)).astype("f"),
        "image": np.array([0, 16, 3, 4]), "flat": np.array([0, 16, -1]),
    })  # fmt: skip


def test_channels_stay_last_around_a_convolution_for_onnxruntime(tmp_path: Path) -> None:
    original = rows()
    model, report = made(original, tmp_path, "onnxruntime")
    assert report.layers == ["first", "conv", "last"]
    assert sqnr(original, model) > CLOSE
    file = tmp_path / "optimized.onnx"
    with OnnxRuntime(
        model.to_onnx(),
        optimize=True,
        configure=lambda options: setattr(options, "optimized_model_filepath", str(file)),
    ):
        found = Counter(node.op_type for node in onnx.load(file).graph.node)
    assert found["QLinearConv"] == 1
    assert found["Transpose"] == 0


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (
            "s = Relu (b)",
            "u = Reshape (t, flat) v = Transpose <perm = [0, 2, 1]> (u) s = Add (b, v)",
        ),
        (
            "s = Relu (b)",
            "u = Reshape (r, flat) v = Transpose <perm = [0, 2, 1]> (u) s = Add (b, v)",
        ),
        ("a = MatMul (x, w)", "z = MatMul (x, w) a = Transpose <perm = [0, 1, 2]> (z)"),
    ],
    ids=["read twice before", "read twice behind", "another Transpose"],
)
def test_what_others_read_too_keeps_its_order(old: str, new: str, tmp_path: Path) -> None:
    original = rows(ROWS.replace(old, new))
    model, _ = made(original, tmp_path, "onnxruntime")
    onnx.checker.check_model(model.to_onnx(), full_check=True)
    assert sqnr(original, model) > CLOSE


def test_an_image_of_other_channels_is_left(tmp_path: Path) -> None:
    text = ROWS.replace("group = 16", "group = 4").replace("(c, flat)", "(c, square)")
    rng = np.random.default_rng(5)
    original = model_of(text, {
        "w": rng.standard_normal((16, 16)).astype("f") / 4, "square": np.array([0, 16, 12]),
        "k": rng.standard_normal((4, 1, 3, 3)).astype("f"), "image": np.array([0, 4, 6, 8]),
    })  # fmt: skip
    model, _ = made(original, tmp_path, "onnxruntime")
    assert sqnr(original, model) > CLOSE
