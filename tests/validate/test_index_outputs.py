"""A detector's and a classifier's index outputs in INT8: by what they select."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxgraft import commands
from onnxgraft.data.samples import open_samples
from onnxgraft.graph.model import Model
from onnxgraft.graph.tensors import Array
from onnxgraft.stages.quantize import calibrate, quantize
from tests.conftest import model_of, only_ci

ANCHORS = 64
DETECTOR = (
    "net (float[1, 3, 8, 8] x) => (float[1, 64, 4] boxes, int64[K, 3] picked)"
    " { c = Conv<pads = [1, 1, 1, 1]>(x, w1) r = Relu(c)"
    "   moved = Conv(r, w2) flat = Reshape(moved, four) turned = Transpose<perm = [0, 2, 1]>(flat)"
    "   boxes = Add(turned, anchors)"
    "   l = Conv(r, w3) s = Reshape(l, one) p = Sigmoid(s)"
    "   picked = NonMaxSuppression(boxes, p, most, overlap, least) }"
)
RANKER = (
    "net (float[1, 3, 8, 8] x) => (int64[1, 8] best, int64[1, 8, 8] map)"
    " { c = Conv<pads = [1, 1, 1, 1]>(x, w1) r = Relu(c) l = Conv(r, w4)"
    "   map = ArgMax<axis = 1, keepdims = 0>(l)"
    "   m = GlobalAveragePool(l) f = Flatten(m) v, best = TopK<axis = 1>(f, eight) }"
)


def constants() -> dict[str, Array]:
    rng = np.random.default_rng(0)
    rows, columns = np.divmod(np.arange(ANCHORS, dtype=np.float32), 8)
    corners = np.stack([4 * rows, 4 * columns, 4 * rows + 9, 4 * columns + 9], 1)
    return {
        "w1": (rng.standard_normal((16, 3, 3, 3)) / 5).astype(np.float32),
        "w2": (rng.standard_normal((4, 16, 1, 1)) / 4).astype(np.float32),
        "w3": (rng.standard_normal((1, 16, 1, 1)) / 2).astype(np.float32),
        "w4": (rng.standard_normal((20, 16, 1, 1)) / 4).astype(np.float32),
        "anchors": corners[None], "four": np.array([1, 4, ANCHORS]), "one": np.array([1, 1, -1]),
        "most": np.array([20]), "overlap": np.array([0.4], np.float32),
        "least": np.array([0.5], np.float32), "eight": np.array([8]),
    }  # fmt: skip


@pytest.fixture(params=["detector", "ranker"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    text = DETECTOR if request.param == "detector" else RANKER
    used = {name: value for name, value in constants().items() if name in text}
    model_of(text, used).save(tmp_path / "net.onnx")
    model = Model.load(tmp_path / "net.onnx")
    rng = np.random.default_rng(1)
    np.savez(tmp_path / "data.npz", x=rng.standard_normal((24, 3, 8, 8)).astype(np.float32))
    samples = open_samples(tmp_path / "data.npz", model.inputs)
    graph, _ = quantize(model, calibrate(model, samples, "minmax"), "openvino")
    graph.save(tmp_path / "int8.onnx")
    return tmp_path


def test_indices_of_a_healthy_network_pass_though_the_numbers_differ(place: Path) -> None:
    report = commands.validate(place / "net.onnx", place / "int8.onnx", place / "data.npz")
    assert report.passed, report.candidates[1].verdict
    assert report.candidates[1].warnings == []


@only_ci
def test_several_processes_give_the_same_figures(place: Path) -> None:
    files = (place / "net.onnx", place / "int8.onnx", place / "data.npz")
    alone = commands.validate(*files)
    spread = commands.validate(*files, workers=2)
    assert spread.candidates == alone.candidates


@pytest.mark.parametrize("fault", ["zeros", "negated", "shifted"])
def test_indices_of_a_destroyed_network_fail(place: Path, fault: str) -> None:
    proto = onnx.load(place / "int8.onnx")
    # The scores' layer alone: boxes stay as they are.
    for entry in proto.graph.initializer:
        if list(entry.dims) in ([1, 16, 1, 1], [20, 16, 1, 1]) and entry.data_type == 3:
            value = onnx.numpy_helper.to_array(entry)
            wrong = {"zeros": 0 * value, "negated": -value, "shifted": np.roll(value, 5, 1)}[fault]
            entry.CopyFrom(onnx.numpy_helper.from_array(wrong, entry.name))
    onnx.save(proto, place / "wrong.onnx")
    report = commands.validate(place / "net.onnx", place / "wrong.onnx", place / "data.npz")
    assert not report.passed
