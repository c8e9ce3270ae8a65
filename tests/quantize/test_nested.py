"""Recurrent layers, and layers in the bodies of If, Loop and Scan."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from onnxgraft.graph.model import Model
from onnxgraft.stages.quantize import placement, quantize, retarget
from onnxgraft.stages.quantize.place.costs import costs, shares
from onnxgraft.targets import find_target, target_names
from tests.conftest import model_of
from tests.quantize.networks import infer_exactly, ranges_of, samples_of, sqnr, weights

TARGETS = target_names()

RECURRENT = """
network (float[5, N, 6] x) => (float[a, b, c, d] y, float[e, f, g] z) {
    [dense] u = MatMul (x, w)
    [memory] y, last = LSTM <hidden_size = 4> (u, w_lstm, r_lstm)
    [gated] both, z = GRU <hidden_size = 3, direction = "bidirectional"> (u, w_gru, r_gru)
}
"""
RECURRENT_SHAPES = {
    "w": (6, 8), "w_lstm": (1, 16, 8), "r_lstm": (1, 16, 4), "w_gru": (2, 9, 8),
    "r_gru": (2, 9, 3),
}  # fmt: skip

BRANCHES = """
network (float[N, 8] x) => (float[N, 8] y) {
    [before] a = MatMul (x, w1)
    total = ReduceSum <keepdims = 0> (a)
    zero = Constant <value_float = 0.0> ()
    positive = Greater (total, zero)
    [choice] b = If (positive) <
        then_branch = one () => (float[N, 8] c) { [taken] c = MatMul (a, w2) },
        else_branch = other () => (float[N, 8] d) { [left] d = Gemm (a, w3) }
    >
    [after] y = MatMul (b, w4)
}
"""
BRANCHES_SHAPES = dict.fromkeys(("w1", "w2", "w3", "w4"), (8, 8))

REPEATED = """
network (float[N, 8] x) => (float[N, 8] y) {
    count = Constant <value_int = 3> ()
    [loop] y = Loop (count, , x) <
        body = turn (int64 i, bool go, float[N, 8] state) => (bool on, float[N, 8] next) {
            on = Identity (go)
            [inner] a = MatMul (state, w1)
            next = Tanh (a)
        }
    >
}
"""

SCANNED = """
network (float[8] start, float[6, 8] x) => (float[8] last, float[6, 8] y) {
    [scan] last, y = Scan <num_scan_inputs = 1, body = turn (float[8] state, float[8] row)
        => (float[8] next, float[8] out) {
            [inner] a = MatMul (row, w1)
            next = Add (state, a)
            out = Relu (next)
        }
    > (start, x)
}
"""


def recurrent() -> Model:
    return model_of(RECURRENT, weights(RECURRENT_SHAPES))


def branches() -> Model:
    return model_of(BRANCHES, weights(BRANCHES_SHAPES))


def test_multiplications_of_recurrent_layers_are_those_of_each_step() -> None:
    found = {name: cost.macs for name, cost in costs(recurrent()).items()}
    assert found == {
        "dense": 5 * 6 * 8,
        "memory": 5 * 4 * (8 + 4) * 4,
        "gated": 5 * 2 * 3 * (8 + 3) * 3,
    }


def test_of_an_if_both_branches_count() -> None:
    found = {name: cost.macs for name, cost in costs(branches()).items()}
    assert found == dict.fromkeys(["before", "taken", "left", "after"], 64)


@pytest.mark.parametrize(("text", "times"), [(REPEATED, 3), (SCANNED, 6)], ids=["loop", "scan"])
def test_a_body_counts_as_often_as_it_runs(text: str, times: int) -> None:
    (cost,) = costs(model_of(text, weights({"w1": (8, 8)}))).values()
    assert cost.macs == times * 64


def test_shares_add_up_to_one() -> None:
    assert sum(shares(recurrent()).values()) == pytest.approx(1)


@pytest.mark.parametrize("target", TARGETS)
def test_recurrent_layers_run_in_int8_or_are_named_with_the_target(
    tmp_path: Path, target: str
) -> None:
    model = recurrent()
    _, report = quantize(model, ranges_of(model, samples_of(model, tmp_path)), target)
    reasons = {layer.name: layer.reason for layer in report.float_layers}
    assert {*report.layers, *reasons} == {"dense", "memory", "gated"}
    able = find_target(target).placement.recurrent
    for name, op in (("memory", "LSTM"), ("gated", "GRU")):
        assert (name in report.layers) == (op in able)
        assert op in able or f"{target} has no INT8 {op}" in reasons[name]


def test_an_lstm_that_is_float_in_a_given_graph_stays_so(tmp_path: Path) -> None:
    model = recurrent()
    graph, _ = quantize(model, ranges_of(model, samples_of(model, tmp_path)), "openvino")
    assert set(retarget(graph, placement("onnxruntime")).float_layers) == {"memory"}


@pytest.mark.parametrize("target", TARGETS)
def test_onnxruntimes_own_lstm_is_taken_to_another_form(tmp_path: Path, target: str) -> None:
    model = recurrent()
    graph, _ = quantize(model, ranges_of(model, samples_of(model, tmp_path)), "onnxruntime")
    taken = retarget(graph, placement(target))
    again, report = quantize(
        taken.model, taken.ranges, target, keep_float=taken.float_layers, improved=taken.improved
    )
    assert ("memory" in report.layers) == ("LSTM" in find_target(target).placement.recurrent)
    feeds = next(iter(samples_of(model, tmp_path, 1, seed=8))).feeds
    right, found = infer_exactly(graph, feeds), infer_exactly(again, feeds)
    for name, value in right.items():
        assert sqnr(value, found[name]) > (120 if target == "onnxruntime" else 25)


def test_the_command_tells_reasons_and_shares(tmp_path: Path, cli: Any) -> None:
    model = recurrent()
    model.save(tmp_path / "model.onnx")
    ranges_of(model, samples_of(model, tmp_path)).save(tmp_path / "ranges.json")
    given = [
        "quantize", tmp_path / "model.onnx", "--ranges", tmp_path / "ranges.json",
        "--target", "openvino", "-o", tmp_path / "int8.onnx",
    ]  # fmt: skip
    told = {name: f"{share:.1%}" for name, share in shares(model).items()}
    printed = " ".join(cli(*given).stdout.split())
    assert f"what the graph says; {told['memory']} of the multiplications" in printed
    layers = json.loads(cli(*given, "--json").stdout)["float_layers"]
    assert {layer["name"]: f"{layer['share']:.1%}" for layer in layers} == {
        name: told[name] for name in ("memory", "gated")
    }
