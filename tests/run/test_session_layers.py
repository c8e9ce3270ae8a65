"""onnxruntime's own account of its nodes, read rightly."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from onnxgraft.run.session import OnnxRuntime
from onnxgraft.run.session_layers import _times, optimized_layers, timed
from tests.conftest import model_of

NET = (
    "net (float[1, 8, 16, 16] x) => (float[1, 8, 16, 16] y) {"
    " [conv] c = Conv(x, w) [relu] r = Relu(c) [erf] y = Erf(r) }"
)
WEIGHTS = {"w": np.ones((8, 8, 1, 1), np.float32)}
FEEDS = {"x": np.ones((1, 8, 16, 16), np.float32)}


def event(name: str, ts: int, dur: int, kind: str = "Relu") -> dict[str, Any]:
    args = {"op_name": kind, "input_type_shape": [{"float": [1]}], "output_type_shape": []}
    return {"cat": "Node", "name": f"{name}_kernel_time", "ts": ts, "dur": dur, "args": args}


def spent(events: list[dict[str, Any]], runs: int = 1) -> dict[str, float]:
    found = _times([], events, runs)
    return {layer.name: 1000 * (layer.milliseconds or 0) for layer in found.layers}


def test_a_nodes_time_is_without_that_of_the_nodes_in_its_body() -> None:
    events = [
        {"name": "model_run", "ts": 0, "dur": 100}, event("inner", 12, 30),
        event("inner", 50, 20), event("loop", 10, 80, "Loop"), event("last", 91, 5),
    ]  # fmt: skip
    assert spent(events) == {"loop": 30, "inner": 50, "last": 5}


def test_nodes_that_overlap_by_the_clocks_microsecond_follow_each_other() -> None:
    events = [{"name": "model_run", "ts": 0, "dur": 600}, event("a", 0, 11), event("b", 10, 500)]
    assert spent(events) == {"a": 11, "b": 500}


def test_the_first_inferences_warm_up() -> None:
    events = []
    for number, dur in enumerate((900, 10, 30, 20)):
        start = 1000 * number
        events += [{"name": "model_run", "ts": start, "dur": 950}, event("a", start, dur)]
    assert spent(events, 3) == {"a": 20}


def test_layers_take_no_more_than_the_whole_and_are_those_that_run() -> None:
    model = model_of(NET, WEIGHTS).to_onnx()
    with OnnxRuntime(model) as plain:
        found = timed(model, lambda _: None, plain, FEEDS, 1)
    assert 0 < sum(layer.milliseconds or 0 for layer in found.layers) <= found.counted
    names = [layer.name for layer in optimized_layers(model, lambda _: None)]
    assert [layer.name for layer in found.layers] == names
    assert {layer.precision for layer in found.layers} == {"fp32"}


CONVERTED = (
    "net (float[1, 4] x) => (float[1, 4] y) { [q] a = QuantizeLinear(x, s, z)"
    " [dq] b = DequantizeLinear(a, s, z) [wide] h = Cast<to=11>(b) [mul] e = Mul(h, h)"
    " [back] y = Cast<to=1>(e) }"
)


@pytest.mark.parametrize("ran", [False, True], ids=["saved", "run"])
def test_conversions_tell_from_what_to_what(ran: bool) -> None:
    model = model_of(CONVERTED, {"s": np.float32(0.1), "z": np.uint8(0)}).to_onnx()
    found = optimized_layers(model, _plain)
    if ran:
        with OnnxRuntime(model) as plain:
            feeds = {"x": np.ones((1, 4), np.float32)}
            found = list(timed(model, _plain, plain, feeds, 1).layers)
    changes = {layer.name: layer.change for layer in found if layer.role == "conversion"}
    assert changes["q"] == "float to uint8"
    assert changes["dq"] == "uint8 to float"
    assert changes["wide"] == "float to double"


def _plain(options: Any) -> None:
    """Leave every node as it stands."""
    import onnxruntime

    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
