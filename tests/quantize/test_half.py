"""FP16 graphs: strongly typed, near the original, and checked for what FP16 does not hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxgraft.data.ranges import Ranges
from onnxgraft.errors import InputError, NotSupportedError
from onnxgraft.graph.model import Model
from onnxgraft.run.feeds import random_feeds
from onnxgraft.run.tolerances import HALF_TOLERANCE
from onnxgraft.run.verdicts import hold
from onnxgraft.stages.quantize import calibrate, quantize, to_half
from tests.conftest import model_of
from tests.quantize.networks import infer, pair, samples_of, sqnr

LARGE = """
g (float[N, 3, 8, 8] image) => (float[N, 4, 8, 8] y) {
    [first] a = Conv <pads = [1, 1, 1, 1]> (image, w1)
    [relu] b = Relu (a)
    [second] y = Conv <pads = [1, 1, 1, 1]> (b, w2)
}
"""


def large(factor: float, back: float = 1.0) -> Model:
    """Return a network whose inner tensor reaches about 8 x factor."""
    rng = np.random.default_rng(0)
    return model_of(
        LARGE,
        {
            "w1": (rng.standard_normal((8, 3, 3, 3)) * factor / 3).astype(np.float32),
            "w2": (rng.standard_normal((4, 8, 3, 3)) * back / factor).astype(np.float32),
        },
    )


def every_range(model: Model, folder: Path) -> Ranges:
    return calibrate(model, samples_of(model, folder, 8), "minmax", tensors="all")


def types(model: Model) -> dict[str, str]:
    """Return what onnx infers as the element type of each tensor, from the graph alone."""
    proto = model.to_onnx()
    del proto.graph.value_info[:]
    typed = onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True)
    return {
        value.name: onnx.TensorProto.DataType.Name(value.type.tensor_type.elem_type)
        for value in [*typed.graph.input, *typed.graph.value_info, *typed.graph.output]
    }


def test_layers_are_half_and_inputs_and_outputs_are_not(tmp_path: Path) -> None:
    model = pair()
    half, report = to_half(model, every_range(model, tmp_path))
    found = types(half)
    assert found["image"] == found["y"] == "FLOAT"
    assert {found[name] for name in ("a", "b", "c", "d", "e")} == {"FLOAT16"}
    assert report.layers == [node.name for node in model.graph.nodes]
    assert (report.single, report.findings, report.unchecked) == ({}, [], [])
    assert half.operators()["Cast"] == 2


def test_a_half_graph_computes_the_same(tmp_path: Path) -> None:
    model = pair()
    half, _ = to_half(model, every_range(model, tmp_path))
    feeds = random_feeds(model.inputs, 4)
    (verdict,) = hold(infer(model, feeds), infer(half, feeds), HALF_TOLERANCE)
    assert verdict.passed


def test_the_original_is_left_alone(tmp_path: Path) -> None:
    model = pair()
    before = model.to_onnx().SerializeToString(deterministic=True)
    to_half(model)
    assert model.to_onnx().SerializeToString(deterministic=True) == before


def test_a_tensor_beyond_65504_is_named_with_its_headroom(tmp_path: Path) -> None:
    model = large(1e5)
    ranges = every_range(model, tmp_path)
    _, report = to_half(model, ranges)
    found = {finding.tensor: finding for finding in report.findings}
    assert found["b"].what == "overflows"
    assert found["b"].headroom == pytest.approx(65504 / ranges.tensors["b"].maximum)
    assert found["b"].done == "kept in FP32"
    assert set(report.single) == {"first", "relu", "second"}


@pytest.mark.parametrize("how", ["keep", "rescale"])
def test_what_overflows_computes_the_same_when_kept_or_rescaled(how: str, tmp_path: Path) -> None:
    model = large(1e5)
    half, report = to_half(model, every_range(model, tmp_path), on_overflow=how)  # type: ignore[arg-type]
    feeds = random_feeds(model.inputs, 8, seed=5)
    (verdict,) = hold(infer(model, feeds), infer(half, feeds), HALF_TOLERANCE)
    assert verdict.passed
    if how == "rescale":
        assert report.single == {}
        assert any("rescaled by 2^-" in finding.done for finding in report.findings)


def test_what_overflows_becomes_infinite_when_it_is_ignored(tmp_path: Path) -> None:
    model = large(1e5)
    half, report = to_half(model, every_range(model, tmp_path), on_overflow="ignore")
    assert report.single == {}
    assert report.findings
    assert not np.isfinite(infer(half, random_feeds(model.inputs, 8, seed=5))["y"]).all()


def test_a_tensor_that_comes_near_is_named(tmp_path: Path) -> None:
    model = large(4e3)
    _, report = to_half(model, every_range(model, tmp_path))
    assert {finding.what for finding in report.findings} == {"comes near 65504"}
    assert all(1 < finding.headroom < 4 for finding in report.findings)
    _, report = to_half(model, every_range(model, tmp_path), headroom=1.0)
    assert report.findings == []


@pytest.mark.parametrize("size", [1e-9, 3e-8, 1e6])
def test_weights_that_fp16_does_not_hold_stay_single(size: float, tmp_path: Path) -> None:
    model = large(1.0)
    weights = model.graph.nodes[2].inputs[1]
    weights.values = (weights.values * size).astype(np.float32)
    half, report = to_half(model, every_range(model, tmp_path))
    named = {finding.tensor: finding.what for finding in report.findings}
    assert "w2" in named
    assert ("flushes" in named["w2"]) == (size < 1)
    assert "second" in report.single
    feeds = random_feeds(model.inputs, 4)
    (verdict,) = hold(infer(model, feeds), infer(half, feeds), HALF_TOLERANCE)
    assert verdict.passed


def test_tensors_without_a_range_are_told() -> None:
    _, report = to_half(pair())
    assert report.unchecked == ["a", "b", "c", "d", "e", "y"]


def test_a_kept_node_computes_in_single(tmp_path: Path) -> None:
    half, report = to_half(pair(), keep=("second",))
    assert report.single == {"second": "requested"}
    found = types(half)
    assert found["d"] == "FLOAT"
    assert found["e"] == "FLOAT16"
    with pytest.raises(InputError, match="did you mean second"):
        to_half(pair(), keep=("secnd",))


def test_operators_that_sum_up_stay_single() -> None:
    text = """
    g (float[N, 4] x) => (float[N, 4] y) {
        e = Exp (x)
        s = ReduceSum <keepdims = 1> (e, one)
        y = Div (e, s)
    }
    """
    model = model_of(text, {"one": np.array([1], np.int64)})
    half, report = to_half(model)
    assert set(report.single) == {"e", "s"}  # nodes without a name are called by what they make
    feeds = random_feeds(model.inputs, 4)
    assert all(v.passed for v in hold(infer(model, feeds), infer(half, feeds), HALF_TOLERANCE))


def test_the_scales_of_a_resize_stay_float32() -> None:
    text = """
    g (float[N, 4, 8, 8] x) => (float[N, 4, 16, 16] y) {
        [up] y = Resize <mode = "linear"> (x, none, scales)
    }
    """
    constants = {"none": np.zeros(0, np.float32), "scales": np.array([1, 1, 2, 2], np.float32)}
    model = model_of(text, constants)
    half, _ = to_half(model)
    node = next(n for n in half.graph.nodes if n.op == "Resize")
    assert node.inputs[2].values.dtype == np.float32
    feeds = random_feeds(model.inputs, 2)
    assert all(v.passed for v in hold(infer(model, feeds), infer(half, feeds), HALF_TOLERANCE))


def test_a_graph_in_a_node_is_refused() -> None:
    branch = onnx.parser.parse_graph("b () => (float[2] z) { z = Identity (x) }")
    graph = onnx.parser.parse_graph("g (bool c, float[2] x) => (float[2] y) { y = Identity (x) }")
    graph.node[0].CopyFrom(
        onnx.helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
    )
    proto = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)])
    model = Model.from_onnx(proto, pair().source)
    with pytest.raises(NotSupportedError, match="holds a graph"):
        to_half(model)


def test_what_is_not_int8_becomes_half(tmp_path: Path) -> None:
    model = pair()
    ranges = every_range(model, tmp_path)
    mixed, _ = quantize(model, ranges, "tensorrt", keep_float=["second"])
    half, report = to_half(mixed, ranges)
    found = types(half)
    assert found["image/quantized"] == "INT8"
    assert found["a"] == found["d"] == "FLOAT16"
    assert half.graph.opset >= 19
    assert "second" in report.layers
    feeds = random_feeds(model.inputs, 4)
    expected = infer(model, feeds)["y"]
    # As far from the original as the INT8 graph is, to within what FP16 adds.
    noise = sqnr(expected, infer(mixed, feeds)["y"])
    assert sqnr(expected, infer(half, feeds)["y"]) > noise - 1


def test_a_scale_below_fp16s_normal_numbers_keeps_its_pair_single(tmp_path: Path) -> None:
    model = large(1e-4)
    ranges = every_range(model, tmp_path)
    mixed, _ = quantize(model, ranges, "tensorrt")
    half, report = to_half(mixed, ranges)
    assert any("normal numbers" in reason for reason in report.single.values())
    feeds = random_feeds(model.inputs, 4)
    expected = infer(model, feeds)["y"]
    noise = sqnr(expected, infer(mixed, feeds)["y"])
    assert sqnr(expected, infer(half, feeds)["y"]) > noise - 1
