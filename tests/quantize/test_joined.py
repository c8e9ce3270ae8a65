"""What onnxruntime runs in integers between layers, though it has no weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest

from onnxgraft.data.ranges import Ranges
from onnxgraft.data.samples import open_samples
from onnxgraft.graph.model import Model
from onnxgraft.graph.tensors import Array
from onnxgraft.run.difference import Difference
from onnxgraft.run.feeds import random_feeds
from onnxgraft.run.session import OnnxRuntime
from onnxgraft.stages.quantize import calibrate, quantize
from onnxgraft.stages.quantize.place.placement import activations
from tests.conftest import model_of
from tests.processor import exact_sums

RNG = np.random.default_rng(0)
WEIGHTS = {
    name: RNG.normal(0, 27**-0.5, shape).astype(np.float32)
    for name, shape in (
        ("w1", (8, 3, 3, 3)), ("w2", (8, 8, 1, 1)), ("w3", (8, 8, 1, 1)), ("w4", (8, 8, 1, 1)),
    )
}  # fmt: skip
NUMBERS = {
    "zero": np.float32(0), "three": np.float32(3), "six": np.float32(6), "sixth": np.float32(1 / 6),
    "minus": np.full((1, 1, 1, 1), -0.5, np.float32),
}  # fmt: skip

# x relu6(x + 3) / 6, as TensorFlow writes it.
HARD_SWISH = """
network (float[N, 3, 8, 8] image) => (float[N, 8, 8, 8] y) {
    [first] made = Conv <pads = [1, 1, 1, 1]> (image, w1)
    [plus] moved = Add (made, three)
    [relu6] held = Clip (moved, zero, six)
    [over] gate = Mul (held, sixth)
    [times] seen = Mul (made, gate)
    [last] y = Conv (seen, w2)
}
"""
# A squeeze and excitation block: the mean of each channel decides how much of it is kept.
SQUEEZE = """
network (float[N, 3, 8, 8] image) => (float[N, 8, 8, 8] y) {
    [first] made = Conv <pads = [1, 1, 1, 1]> (image, w1)
    [relu] seen = Relu (made)
    [mean] mean = GlobalAveragePool (seen)
    [reduce] fewer = Conv (mean, w2)
    [relu2] positive = Relu (fewer)
    [expand] more = Conv (positive, w3)
    [plus] moved = Add (more, three)
    [relu6] held = Clip (moved, zero, six)
    [over] gate = Mul (held, sixth)
    [times] scaled = Mul (seen, gate)
    [last] y = Conv (scaled, w4)
}
"""


def network(text: str) -> Model:
    """Return a network of a text with the weights and numbers that it names."""
    used = {name: value for name, value in (WEIGHTS | NUMBERS).items() if name in text}
    return model_of(text, used)


def ranges_of(model: Model, folder: Path) -> Ranges:
    """Return the exact ranges over 32 seeded samples."""
    np.savez(folder / "data.npz", **random_feeds(model.inputs, 32, seed=5))
    return calibrate(model, open_samples(folder / "data.npz", model.inputs), "minmax")


def quantized(model: Model, folder: Path, **options: Any) -> Model:
    """Return the graph for onnxruntime."""
    return quantize(model, ranges_of(model, folder), "onnxruntime", **options)[0]


def run_operators(model: Model, folder: Path) -> set[str]:
    """Return the operators that onnxruntime runs."""
    with OnnxRuntime(model.to_onnx(), save_optimized=folder / "run.onnx"):
        return {node.op_type for node in onnx.load(folder / "run.onnx").graph.node}


def answer(model: Model, *, optimize: bool) -> Array:
    """Return what onnxruntime computes for seeded feeds that calibration did not see."""
    with OnnxRuntime(model.to_onnx(), optimize=optimize, configure=exact_sums) as session:
        return session.infer(random_feeds(session.inputs, 4, seed=1))["y"]


@pytest.mark.parametrize("text", [HARD_SWISH, SQUEEZE], ids=["hard_swish", "squeeze"])
def test_nothing_runs_in_float_between_the_layers(text: str, tmp_path: Path) -> None:
    run = run_operators(quantized(network(text), tmp_path), tmp_path)
    assert {"QLinearConv", "QLinearAdd", "QLinearMul"} <= run
    assert not run & {"Add", "Clip", "GlobalAveragePool", "Mul", "Relu"}


def test_only_a_clip_of_a_sum_is_a_gate_that_needs_no_range() -> None:
    assert "held" not in activations(network(HARD_SWISH).graph)
    small = HARD_SWISH.replace("Add (made, three)", "Mul (made, sixth)")
    assert "held" in activations(network(small).graph)


@pytest.mark.parametrize("text", [HARD_SWISH, SQUEEZE], ids=["hard_swish", "squeeze"])
def test_the_integers_answer_as_the_float_graph_does(text: str, tmp_path: Path) -> None:
    model = network(text)
    graph = quantized(model, tmp_path)
    expected = answer(model, optimize=False)
    difference = Difference()
    difference.add(expected, answer(graph, optimize=False))
    # Some five roundings at 8 bits in a row, about 35 dB each; a wrong scale leaves less than 10.
    assert difference.sqnr > 25
    # onnxruntime's integer kernels compute what the Q/DQ graph says, to some steps of rounding.
    step = np.ptp(expected) / 255
    assert np.abs(answer(graph, optimize=True) - answer(graph, optimize=False)).max() <= 3 * step


def test_a_mul_by_a_number_leaves_the_integers_as_they_are(tmp_path: Path) -> None:
    graph = quantized(network(HARD_SWISH), tmp_path).graph
    (times,) = (node for node in graph.nodes if node.name == "times")
    gate = next(tensor for tensor in times.inputs if tensor.name == "gate").inputs[0]
    assert "over" not in {node.name for node in graph.nodes}
    assert gate.op == "DequantizeLinear"
    assert gate.inputs[0].inputs[0].inputs[0].name == "held"
    # What relu6 lets through is 255 steps wide, and a sixth of that.
    assert gate.inputs[1].values == pytest.approx(1 / 255, rel=1e-6)


def test_a_mul_that_adds_dimensions_is_a_mul(tmp_path: Path) -> None:
    # 'minus' has four dimensions, what a dense layer makes has two: so has the product four.
    model = model_of(
        "net (float[N, 6] x) => (float[M, K, N, 6] y) { a = MatMul (x, w)  b = Relu (a)"
        " c = Mul (b, half)  y = Mul (c, b) }",
        {"w": np.eye(6, dtype=np.float32), "half": np.full((1, 1, 1, 1), 0.5, np.float32)},
    )
    graph = quantized(model, tmp_path)
    assert answer(graph, optimize=False).shape == (1, 1, 4, 6)
    assert [node.op for node in graph.graph.nodes].count("Mul") == 2


def test_nodes_without_names_are_told_apart(tmp_path: Path) -> None:
    text = """
    network (float[N, 3, 8, 8] image) => (float[N, 8, 8, 8] y) {
        made = Conv <pads = [1, 1, 1, 1]> (image, w1)
        one = Mul (made, sixth)  two = Mul (made, three)
        more = Add (one, three)  less = Add (two, three)
        sum = Add (more, less)
        y = Conv (sum, w2)
    }
    """
    model = network(text)
    for node in model.graph.nodes:
        node.name = ""
    model = Model(gs.import_onnx(model.to_onnx()), model.source)
    graph = quantized(model, tmp_path)
    difference = Difference()
    difference.add(answer(model, optimize=False), answer(graph, optimize=False))
    assert difference.sqnr > 25


def test_a_mul_that_a_layer_reads_is_a_mul(tmp_path: Path) -> None:
    model = network(
        "net (float[N, 3, 8, 8] image) => (float[N, 8, 8, 8] y) {"
        " made = Conv <pads = [1, 1, 1, 1]> (image, w1)  gate = Mul (made, sixth)"
        " y = Conv (gate, w2) }"
    )
    assert "QLinearMul" in run_operators(quantized(model, tmp_path), tmp_path)


@pytest.mark.parametrize("name", ["minus", "three"])
def test_a_number_is_stored_without_error(name: str, tmp_path: Path) -> None:
    model = network(HARD_SWISH.replace("(made, three)", f"(made, {name})"))
    graph = quantized(model, tmp_path).graph
    (plus,) = (node for node in graph.nodes if node.name == "plus")
    integers, scale, zero = (tensor.values for tensor in plus.inputs[1].inputs[0].inputs)
    assert integers.dtype == zero.dtype == np.uint8
    assert (integers.astype(float) - zero) * scale == NUMBERS[name]


def test_the_range_behind_a_clip_needs_no_measuring(tmp_path: Path) -> None:
    model = network(HARD_SWISH)
    assert set(ranges_of(model, tmp_path).tensors) == {"image", "made", "seen"}


@pytest.mark.parametrize("most", [100.0, np.inf, np.finfo(np.float32).max])
def test_a_clip_that_may_never_be_reached_is_measured(most: float, tmp_path: Path) -> None:
    model = model_of(HARD_SWISH, WEIGHTS | NUMBERS | {"six": np.float32(most)})
    held = ranges_of(model, tmp_path).tensors["held"]
    assert 0 < held.high < 20
    difference = Difference()
    difference.add(answer(model, optimize=False), answer(quantized(model, tmp_path), optimize=True))
    assert difference.sqnr > 25


def test_a_number_that_is_added_to_scaled_integers_is_stored_too(tmp_path: Path) -> None:
    # x (relu6(x) / 6 + 3): what is added meets a tensor that is itself only a scale.
    text = (
        HARD_SWISH
        .replace("Add (made, three)", "Add (made, minus)")
        .replace("Mul (made, gate)", "Mul (made, more)")
        .replace("[times]", "[more] more = Add (gate, three)  [times]")
    )
    model = network(text)
    graph = quantized(model, tmp_path)
    assert not run_operators(graph, tmp_path) & {"Add", "Clip", "Mul"}
    difference = Difference()
    difference.add(answer(model, optimize=False), answer(graph, optimize=True))
    assert difference.sqnr > 25


def test_behind_a_layer_that_stays_float_everything_does(tmp_path: Path) -> None:
    graph = quantized(network(HARD_SWISH), tmp_path, keep_float=["first"]).graph
    quantizers = [n.inputs[0].name for n in graph.nodes if n.op == "QuantizeLinear"]
    assert quantizers == ["seen"]
    assert {"plus", "relu6", "over", "times"} <= {node.name for node in graph.nodes}


def test_a_clip_behind_a_layer_ends_it(tmp_path: Path) -> None:
    model = network(
        "net (float[N, 3, 8, 8] image) => (float[N, 8, 8, 8] y) {"
        " made = Conv <pads = [1, 1, 1, 1]> (image, w1)  held = Clip (made, zero, six)"
        " y = Conv (held, w2) }"
    )
    graph = quantized(model, tmp_path)
    found = {n.inputs[0].name for n in graph.graph.nodes if n.op == "QuantizeLinear"}
    assert found == {"image", "held"}
    assert "Clip" not in run_operators(graph, tmp_path)


def test_a_clip_that_holds_back_zero_stays(tmp_path: Path) -> None:
    model = network(
        "net (float[N, 3, 8, 8] image) => (float[N, 8, 8, 8] y) {"
        " made = Conv <pads = [1, 1, 1, 1]> (image, w1)  held = Clip (made, three, six)"
        " y = Conv (held, w2) }"
    )
    graph = quantized(model, tmp_path)
    found = {n.inputs[0].name for n in graph.graph.nodes if n.op == "QuantizeLinear"}
    assert found == {"image", "made", "held"}
    difference = Difference()
    difference.add(answer(model, optimize=False), answer(graph, optimize=True))
    assert difference.sqnr > 25
