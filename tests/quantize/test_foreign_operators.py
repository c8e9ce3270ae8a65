"""Operators of other domains are no layers, whatever they are called, and nothing passes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from onnxgraft.errors import InputError
from onnxgraft.stages.quantize import explain, placement, quantize, to_half
from onnxgraft.stages.quantize.improve.equalize import equalize, scale_groups
from onnxgraft.stages.quantize.measure.observers import every_tensor, find_sites
from onnxgraft.stages.quantize.place.costs import costs
from onnxgraft.stages.quantize.place.placement import activations, gate, joined, layers, points
from onnxgraft.stages.quantize.place.shapes import shapes_of
from onnxgraft.targets import target_names
from tests.conftest import model_of
from tests.foreign import foreign, microsoft
from tests.quantize.networks import (
    PAIR,
    PAIR_SHAPES,
    infer,
    pair,
    ranges_of,
    residual,
    samples_of,
    weights,
)

BLOCKED = "com.microsoft.nchwc"


@pytest.mark.parametrize("target", target_names())
@pytest.mark.parametrize("domain", ["acme", BLOCKED])
def test_a_foreign_conv_is_no_layer(target: str, domain: str) -> None:
    graph = foreign(pair(), "second", domain).graph
    assert [node.name for node in layers(graph, placement(target))] == ["first", "third"]


@pytest.mark.parametrize("target", target_names())
def test_a_foreign_conv_is_left_alone(target: str, tmp_path: Path) -> None:
    model = foreign(pair(), "second", BLOCKED)
    samples = samples_of(model, tmp_path)
    quantized, report = quantize(model, ranges_of(model, samples), target)
    assert report.layers == ["first", "third"]
    (node,) = (node for node in quantized.graph.nodes if node.name == "second")
    assert isinstance(node.inputs[1], gs.Constant)
    feeds = {name: value[:1] for name, value in samples.at(0).feeds.items()}
    assert np.isfinite(infer(quantized, feeds)["y"]).all()


def test_what_a_foreign_operator_makes_is_not_what_it_read() -> None:
    graph = foreign(pair(), "pool").graph
    table = placement("tensorrt")
    assert [point.tensor.name for point in points(graph, table, layers(graph, table))] == [
        "image", "c", "e",
    ]  # fmt: skip
    assert find_sites(graph, ["b", "c"]) == {"b": ("b",), "c": ("c",)}


def test_a_foreign_relu_is_no_part_of_the_layer_before_it() -> None:
    graph = foreign(pair(), "relu").graph
    table = placement("onnxruntime")
    assert {"a", "b"} <= {p.tensor.name for p in points(graph, table, layers(graph, table))}
    assert find_sites(graph, ["a"]) == {"a": ("a",)}


@pytest.mark.parametrize("target", ["tensorrt", "onnxruntime"])
def test_a_foreign_add_is_no_residual_addition(target: str) -> None:
    graph = foreign(residual(), "add").graph
    table = placement(target)
    assert not joined(graph, table, layers(graph, table)).nodes
    readers = [
        node.name
        for point in points(graph, table, layers(graph, table))
        for node in point.consumers or ()
    ]
    assert "add" not in readers


def test_a_foreign_clip_is_no_gate() -> None:
    text = PAIR.replace("Relu (a)", "Clip (shifted, low, high)").replace(
        "[relu]", "shifted = Add (a, three) [relu]"
    )
    limits = {"low": np.float32(0), "high": np.float32(6), "three": np.float32(3)}
    whole = model_of(text, {**weights(PAIR_SHAPES), **limits})
    for model, held in ((whole, (0.0, 6.0)), (foreign(whole, "relu"), None)):
        assert gate(model.graph.tensors()["b"]) == held


def test_a_foreign_constant_is_measured() -> None:
    model = model_of(
        "g (float[N,3] x) => (float[N,3] y) { [one] c = Constant<value_float = 2.0>()\n"
        " y = Mul(x, c) }"
    )
    assert every_tensor(model) == ["x", "y"]
    assert every_tensor(foreign(model, "one")) == ["x", "c", "y"]


@pytest.mark.parametrize("name", ["first", "second", "relu", "pool"])
def test_channels_are_not_scaled_across_a_foreign_operator(name: str, tmp_path: Path) -> None:
    model = foreign(pair(), name)
    # All that is left of image, a, b, c, d, e, y.
    found = {
        tensor.name
        for group in scale_groups(model.graph, shapes_of(model))
        for tensor in group.tensors
    }
    assert found <= ({"a", "b", "c"} if name == "second" else {"d", "e"})
    samples = samples_of(model, tmp_path)
    equalized, _ = equalize(model, samples)
    before, after = (infer(m, samples.at(0).feeds)["y"] for m in (model, equalized))
    np.testing.assert_allclose(after, before, rtol=0, atol=1e-5 * float(np.ptp(before)))


def test_a_foreign_conv_costs_nobody_knows_what() -> None:
    assert set(costs(foreign(pair(), "second"))) == {"first", "third"}


def test_what_is_said_of_foreign_operators(tmp_path: Path) -> None:
    model = foreign(pair(), "relu")
    graph, _ = quantize(model, ranges_of(model, samples_of(model, tmp_path)), "onnxruntime")
    (remark,) = (
        r for r in explain(graph.graph, placement("onnxruntime")) if r.kind == "no INT8 kernel"
    )
    assert remark.nodes == ("relu",)
    assert remark.sentence.startswith("acme.Relu stays float")


def test_a_foreign_operator_stays_in_float32() -> None:
    made, report = to_half(foreign(pair(), "second"))
    assert report.single == {
        "second": "acme.Conv is no operator of ONNX: it is not known whether it takes FP16"
    }
    (node,) = (node for node in made.graph.nodes if node.name == "second")
    assert {np.dtype(tensor.dtype).name for tensor in node.inputs} == {"float32"}


def test_a_graph_that_onnxruntime_s_own_quantizers_stand_in_is_quantized_already(
    tmp_path: Path,
) -> None:
    model = microsoft()
    ranges = ranges_of(model, samples_of(model, tmp_path))
    with pytest.raises(InputError, match="the graph is quantized already"):
        quantize(model, ranges, "onnxruntime")


def test_activations_of_a_graph_of_foreign_layers_are_none() -> None:
    model = pair()
    for name in ("first", "second", "third"):
        model = foreign(model, name, f"acme.{name}")
    assert activations(model.graph) == []


def test_onnxruntime_s_own_quantizers_run_in_fp16() -> None:
    _, report = to_half(microsoft())
    assert {"q", "dq"} <= set(report.layers)
