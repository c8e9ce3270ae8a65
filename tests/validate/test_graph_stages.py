"""Graphs and engines as stages: what is told of each node, and what became of it."""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np

from onnxgraft.graph.model import Origin
from onnxgraft.graph.source import Source
from onnxgraft.graph.tensors import Array
from onnxgraft.run.layers import Layer
from onnxgraft.stages.validate.report import LayerRow, RangeRow
from onnxgraft.stages.validate.views.graph import (
    Known,
    Link,
    Shown,
    ShownTensor,
    Stage,
    Walk,
    Weight,
    linked,
    stage_of_engine,
    stage_of_model,
)
from tests.conftest import model_of

RNG = np.random.default_rng(0)
NET = """n (float[N, 3, 8, 8] x) => (float[N, 4, 8, 8] y) {
  [conv] a = Conv<pads = [1, 1, 1, 1]>(x, w) [act] y = Relu(a) }"""
W = RNG.normal(size=(4, 3, 3, 3)).astype(np.float32)


def stage(text: str = NET, known: Known | None = None, **weights: Array) -> Stage:
    return stage_of_model(model_of(text, weights or {"w": W}), "original", "original", known)


def node(found: Stage, name: str) -> Shown:
    return found.nodes[found.places()[name]]


# A graph ----------------------------------------------------------------------------------------


def test_nodes_stand_between_the_inputs_and_outputs_and_are_joined_by_tensors() -> None:
    found = stage()
    assert [n.name for n in found.nodes] == ["x", "conv", "act", "y"]
    assert [n.role for n in found.nodes] == ["input", "", "", "output"]
    assert node(found, "conv").outputs == node(found, "act").inputs
    assert node(found, "act").outputs == node(found, "y").inputs


def test_a_tensor_has_its_shape_and_type() -> None:
    found = stage()
    (made,) = node(found, "conv").outputs
    assert found.tensors[made] == ShownTensor("a", "Nx4x8x8", "float32")


def test_a_node_has_its_attributes_and_the_frameworks_name() -> None:
    model = model_of(NET, {"w": W})
    model.names["a"] = Origin("scope/Conv2D:0")
    found = node(stage_of_model(model, "original", "original"), "conv")
    assert found.attributes == {"pads": "[1, 1, 1, 1]"}
    assert found.origin == "scope/Conv2D:0"


def test_weights_have_a_histogram_that_numpy_would_count() -> None:
    (weight,) = node(stage(), "conv").weights
    assert (weight.name, weight.shape, weight.dtype) == ("w", "4x3x3x3", "float32")
    assert (weight.low, weight.high) == (W.min(), W.max())
    assert weight.counts == tuple(np.histogram(W.astype(float), 32, (W.min(), W.max()))[0])


def test_few_values_are_written_out() -> None:
    text = "n (float[2] x) => (float[2] y) { [add] y = Add(x, c) }"
    (weight,) = node(stage(text, c=np.array([1.5, -2], np.float32)), "add").weights
    assert (weight.value, weight.counts) == ("[1.5, -2.0]", ())


def test_values_that_are_no_numbers_leave_the_histogram_of_the_others() -> None:
    text = "n (float[16] x) => (float[16] y) { [add] y = Add(x, c) }"
    values = np.arange(16, dtype=np.float32)
    values[3] = np.inf
    (weight,) = node(stage(text, c=values), "add").weights
    assert (weight.low, weight.high, sum(weight.counts)) == (0.0, 15.0, 15)


def test_a_constant_is_drawn_with_what_reads_it_and_not_as_a_node() -> None:
    text = """n (float[2] x) => (float[2] y) {
      [c] k = Constant<value_float = 2.0>() [i] l = Identity(k) [mul] y = Mul(x, l) }"""
    found = stage(text)
    assert [n.name for n in found.nodes] == ["x", "mul", "y"]
    assert found.folded == 2
    assert [weight.value for weight in node(found, "mul").weights] == ["2.0"]


def test_what_is_measured_stands_at_its_node() -> None:
    layers = [LayerRow("a", "a", "Conv", "int8", 0.01, 30.0, 28.0, "it is the first that differs")]
    known = Known({"conv": 6912}, {"conv": 1.5}, layers, {"conv": ["made by a pass"]})
    found = node(stage(known=known), "conv")
    assert (found.macs, found.milliseconds, found.error) == (6912, 1.5, 0.01)
    assert (found.sqnr, found.arrived) == (30.0, 28.0)
    assert found.notes == ["made by a pass", "it is the first that differs"]


def test_a_sequence_is_drawn_like_a_tensor() -> None:
    text = """n (float[4] x) => (float[2] y) {
      [split] s = SplitToSequence<axis = 0>(x, k) [at] y = SequenceAt(s, p) }"""
    found = stage(text, k=np.array(2, np.int64), p=np.array(0, np.int64))
    assert node(found, "split").outputs == node(found, "at").inputs


def test_the_nodes_of_a_body_are_a_block_called_after_the_node_around_them() -> None:
    text = """n (bool c, float[2] x) => (float[2] y) { [choose] y = If (c) <
      then_branch = t () => (float[2] a) { [one] a = Neg(x) },
      else_branch = e () => (float[2] b) { [two] p = Abs(x) [three] b = Sqrt(p) }> }"""
    found = stage(text)
    assert {found.blocks[n.block].name for n in found.nodes if n.name in ("one", "three")} == {
        "choose"
    }
    makers = set(node(found, "one").outputs) | set(node(found, "three").outputs)
    assert makers <= set(node(found, "choose").inputs)


def test_a_quantizer_is_in_the_block_of_the_node_that_it_serves() -> None:
    text = """n (float[1, 4] x) => (float[1, 4] y) {
      [a_0] a = Mul(x, x) [q] b = QuantizeLinear(a, k, z) [d] c = DequantizeLinear(b, k, z)
      [b_0] d = Neg(c) [b_1] e = Abs(d) [a_1] f = Neg(a) [b_2] y = Add(e, f) }"""
    model = model_of(text, {"k": np.array(0.1, np.float32), "z": np.array(0, np.int8)})
    for each in model.graph.nodes:
        each.name = each.name.replace("_", "/")
    found = stage_of_model(model, "graph", "quantized")
    assert node(found, "q").block == node(found, "a/0").block
    assert node(found, "d").block == node(found, "b/0").block
    assert node(found, "q").block != node(found, "d").block


def test_the_modules_of_pytorch_are_blocks_within_blocks() -> None:
    text = """n (float[4] x) => (float[4] y) {
      [a] a = Neg(x) [b] b = Abs(a) [c] c = Neg(b) [d] d = Abs(c) [e] y = Neg(d) }"""
    model = model_of(text)
    model.source = Source("net.pt2", "pytorch", "0" * 64)
    names = ("layer1.0.conv/Neg", "layer1.0.conv/Abs", "layer1.1/Neg", "layer1.1/Abs", "fc/Neg")
    for each, name in zip(model.graph.nodes, names, strict=True):
        each.name = name
    found = stage_of_model(model, "original", "original")
    assert [(block.name, block.parent) for block in found.blocks] == [
        ("layer1", -1), ("layer1.0.conv", 0), ("layer1.1", 0),
    ]  # fmt: skip


# What became of nodes ---------------------------------------------------------------------------


def pairs(before: Stage, after: Stage, *became: dict[str, set[str]]) -> set[tuple[str, str]]:
    return {
        (before.nodes[one].name, after.nodes[other].name)
        for one, other in linked(before, after, *became)
    }


def test_nodes_of_one_name_belong_together_and_so_do_inputs_and_outputs() -> None:
    assert pairs(stage(), stage()) == {("x", "x"), ("conv", "conv"), ("act", "act"), ("y", "y")}


def test_what_is_known_of_nodes_goes_before_their_names() -> None:
    other = stage("""n (float[N, 3, 8, 8] x) => (float[N, 4, 8, 8] y) {
      [one] y = Conv<pads = [1, 1, 1, 1]>(x, w) }""")
    found = pairs(stage(), other, {"conv": {"one"}, "act": {"one"}})
    assert found == {("x", "x"), ("conv", "one"), ("act", "one"), ("y", "y")}


def test_a_node_with_another_name_that_makes_the_same_tensor_is_the_same() -> None:
    assert ("act", "clip") in pairs(stage(), stage(NET.replace("[act]", "[clip]")))


def test_quantizers_belong_to_the_nodes_beside_them() -> None:
    text = """n (float[N, 3, 8, 8] x) => (float[N, 4, 8, 8] y) {
      [conv] a = Conv<pads = [1, 1, 1, 1]>(x, w)
      [q] b = QuantizeLinear(a, k, z) [d] c = DequantizeLinear(b, k, z) [act] y = Relu(c) }"""
    after = stage(text, w=W, k=np.array(0.1, np.float32), z=np.array(0, np.int8))
    assert {("conv", "q"), ("conv", "d")} <= pairs(stage(), after)


# An engine --------------------------------------------------------------------------------------


LAYERS = (
    Layer("x", "Input", "f32", (), makes=("x",)),
    Layer("w", "Const", "f32", (), makes=("w",)),
    Layer("x_nhwc", "Reorder", "f32", (), "reorder", "nchw to nhwc", ("x",), ("x_nhwc",)),
    Layer("conv+act", "Convolution", "u8", ("conv", "act"), reads=("x_nhwc", "w"), makes=("y",),
          milliseconds=2.5),
)  # fmt: skip


def engine() -> tuple[Stage, set[tuple[str, str]]]:
    model = model_of(NET, {"w": W})
    layers = [LayerRow("a", "a", "Conv", "fp32", 0.5, 3.0, None)]
    graph = stage_of_model(model, "graph", "quantized", Known({"conv": 10}, layers=layers))
    made, found = stage_of_engine("openvino fp32", model, LAYERS, graph, {})
    return made, {(graph.nodes[one].name, made.nodes[other].name) for one, other in found}


def test_an_engines_layers_are_joined_as_its_library_says_without_its_constants() -> None:
    made, _ = engine()
    assert [n.name for n in made.nodes] == ["x", "x_nhwc", "conv+act", "y"]
    joined = [(n.inputs, n.outputs) for n in made.nodes]
    assert all(set(one[1]) & set(other[0]) for one, other in pairwise(joined))


def test_the_nodes_in_a_layer_are_linked_with_it() -> None:
    _, found = engine()
    assert found == {("x", "x"), ("conv", "conv+act"), ("act", "conv+act"), ("y", "y")}


def test_a_layer_has_the_engines_precision_and_the_graphs_beside_it() -> None:
    made, _ = engine()
    layer = node(made, "conv+act")
    assert (layer.precision, layer.graph, layer.milliseconds) == ("int8", "fp32", 2.5)
    assert (layer.macs, layer.error, layer.sqnr) == (10, 0.5, 3.0)
    assert layer.notes[0] == "computes Conv conv, Relu act"


def test_what_moves_data_says_what_it_changes_and_what_for() -> None:
    made, _ = engine()
    layer = node(made, "x_nhwc")
    assert layer.role == "reorder"
    assert layer.notes == ["changes nchw to nhwc", "is there for conv"]


def test_a_library_that_tells_no_tensors_has_its_layers_joined_by_the_graphs() -> None:
    model = model_of(NET, {"w": W})
    graph = stage_of_model(model, "graph", "quantized")
    layers = [Layer("one", "Conv", "", ("conv",)), Layer("two", "Relu", "", ("act",))]
    made, _ = stage_of_engine("engine", model, layers, graph, {"conv": 3.0})
    assert [n.name for n in made.nodes] == ["x", "one", "two", "y"]
    assert node(made, "one").outputs == node(made, "two").inputs
    assert node(made, "one").milliseconds == 3.0


# What a page holds ------------------------------------------------------------------------------


def test_a_page_holds_weights_once_that_several_stages_share() -> None:
    told = json.loads(Walk("net", [stage(), stage()], [Link(0, 1, [(0, 0)])]).drawn().data)
    assert len(told["weights"]) == 1
    assert [s["nodes"][1]["w"] for s in told["stages"]] == [[0], [0]]
    assert told["links"] == [[0, 1, [[0, 0]]]]


def test_nothing_in_it_ends_a_script() -> None:
    found = Stage("</script>", "original", [Shown("<script>alert(1)</script>", "<!--")])
    drawn = Walk("net", [found]).drawn()
    assert "<" not in drawn.data
    assert json.loads(drawn.data)["stages"][0]["nodes"][0]["n"] == "<script>alert(1)</script>"


def test_a_histogram_is_a_character_a_bar_the_highest_the_last() -> None:
    shown = Shown("a", "Conv", weights=[Weight("w", "9", "float32", "", 0.0, 1.0, (0, 1, 1000))])
    told = json.loads(Walk("net", [Stage("s", "original", [shown])]).drawn().data)
    assert told["weights"][0]["c"][0] == "0"
    assert told["weights"][0]["c"][2] == "z"


def test_ranges_are_told_by_tensor_with_what_each_target_keeps() -> None:
    row = RangeRow("a", {"openvino": (-1.0, 2.0)}, -3.0, 4.0, [1.0, 2.0], {"openvino": "mse"})
    told = json.loads(Walk("net", [stage()], ranges=[row]).drawn().data)
    assert told["ranges"]["a"]["r"] == [-3.0, 4.0]
    assert told["ranges"]["a"]["k"] == [["openvino", -1.0, 2.0, "mse"]]


def test_what_is_not_finite_is_left_out() -> None:
    shown = Shown("a", "Conv", error=float("inf"), sqnr=float("nan"), milliseconds=0.0)
    told = json.loads(Walk("net", [Stage("s", "original", [shown])]).drawn().data)
    assert told["stages"][0]["nodes"][0] == {"n": "a", "o": "Conv", "b": -1, "t": 0.0}
