"""Suppression in fixed sizes for TensorRT: the same boxes stay, and its builder takes it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from onnxgraft.errors import ModelError
from onnxgraft.graph.model import Model
from onnxgraft.stages import engine
from onnxgraft.stages.surgery import run
from tests.conftest import model_of
from tests.convert.caffe import test_detection as detection
from tests.convert.caffe.net import Case, cases, load
from tests.surgery.helpers import infer, report_of


def lowered(model: Model) -> Model:
    after, report = run(model, target="tensorrt", verify=True)
    assert report.passed
    assert not [entry.rolled_back for entry in report.passes if entry.rolled_back]
    return after


def operators(model: Model) -> set[str]:
    return {node.op for node in model.graph.nodes}


@cases(detection.DETECTIONS + detection.REFINED + [detection.POLYGONS])
def test_the_detections_of_an_ssd_stay(case: Case) -> None:
    before = load(case.text)
    after = lowered(load(case.text))
    assert not operators(after) & {"NonMaxSuppression", "NonZero", "Compress"}
    for batch in (1, 2):
        feeds = case.part(batch) | {"v": detection.BOXES}
        [expected], [actual] = infer(before, feeds).values(), infer(after, feeds).values()
        there = actual[0, 0, :, 0] >= 0
        assert (actual[:, :, ~there] == -1).all()
        np.testing.assert_allclose(actual[:, :, there], expected, rtol=0, atol=1e-5)
        assert actual.shape[2] % batch == 0


def test_a_chain_of_boxes_that_suppress_each_other() -> None:
    # Each box overlaps the next one alone: the first stays, so the second goes, so the third stays.
    count = 12
    step = np.arange(count, dtype=np.float32)[:, None]
    boxes = np.concatenate([step, 0 * step, step + 1.5, 0 * step + 1], axis=1)[None]
    scores = np.linspace(1, 0.5, count, dtype=np.float32)[None, None]
    text = f"""suppress (float[1,{count},4] b, float[1,1,{count}] s) => (float[1,1,{count}] y) {{
        most = Constant <value_ints = [{count}]> ()
        overlap = Constant <value_floats = [0.15]> ()
        least = Constant <value_floats = [0.0]> ()
        zero = Constant <value_float = 0.0> ()
        shape = Shape (s)
        nothing = Expand (zero, shape)
        chosen = NonMaxSuppression (b, s, most, overlap, least)
        found = GatherND (s, chosen)
        y = ScatterND (nothing, chosen, found)
    }}"""
    feeds = {"b": boxes, "s": scores}
    after = lowered(model_of(text))
    assert "Loop" in operators(after)
    [told] = infer(after, feeds).values()
    assert (told[0, 0] > 0).tolist() == [True, False] * (count // 2)
    np.testing.assert_array_equal(told, *infer(model_of(text), feeds).values())


def test_indices_that_are_used_otherwise_are_left_alone() -> None:
    text = """suppress (float[1,5,4] b, float[1,1,5] s) => (int64[M,3] y) {
        most = Constant <value_ints = [5]> ()
        overlap = Constant <value_floats = [0.5]> ()
        least = Constant <value_floats = [0.0]> ()
        y = NonMaxSuppression (b, s, most, overlap, least)
    }"""
    after, report = run(model_of(text), target="tensorrt")
    assert "NonMaxSuppression" in operators(after)
    refused = " ".join(str(entry) for entry in report_of(report, "lower_nms").refused)
    assert "used otherwise" in refused


@pytest.mark.parametrize("batch", ["free", "fixed"])
def test_tensorrt_builds_a_caffe_ssd(tmp_path: Path, batch: str) -> None:
    pytest.importorskip("tensorrt", reason="TensorRT is not installed")
    model = load(detection.HEAD, detection.HEAD_WEIGHTS)
    if batch == "fixed":
        for tensor in (*model.graph.inputs, *model.graph.outputs):
            tensor.shape = [2 if dim == "N" else dim for dim in tensor.shape]
    passport = engine.build(lowered(model), tmp_path / "e", "tensorrt")
    assert "tensorrt" in passport.versions


def test_the_error_of_one_that_was_not_written_otherwise_says_what_to_do(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt", reason="TensorRT is not installed")
    with pytest.raises(ModelError, match="onnxgraft surgery --for tensorrt"):
        engine.build(load(detection.HEAD, detection.HEAD_WEIGHTS), tmp_path / "e", "tensorrt")
