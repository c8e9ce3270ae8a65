"""The numpy references against OpenCV, which runs Caffe nets: is the textbook right?

Every case says in its field ``opencv`` why it is left out here; empty means that OpenCV agrees.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from models.caffemodel import caffemodel
from onnxgraft import convert
from onnxgraft.errors import NotSupportedError
from onnxgraft.graph.tensors import Array
from onnxgraft.run.session import OnnxRuntime
from onnxgraft.stages.convert import Original
from onnxgraft.stages.convert.caffe.converting import load_net
from onnxgraft.stages.convert.caffe.running import departures
from tests.convert.caffe.net import ROUNDING, Case, every_case, inputs, layer

# OpenCV reads beyond the one value that stands for three axes; what is there may end the process.
UNSAFE = "three axes want three values"


def confirmed(opencv: bool) -> list[object]:
    """Return the cases that OpenCV can confirm, or those that it can't."""
    return [
        pytest.param(case, id=f"{group}-{case.name}")
        for group, cases in every_case().items()
        for case in cases
        if (not case.opencv) == opencv and case.opencv != UNSAFE
    ]


def in_opencv(case: Case, feeds: dict[str, Array]) -> list[Array]:
    """Return what OpenCV computes for the tops, in order."""
    text = replace(case, params=case.spelled_out or case.params).text
    weights = caffemodel(case.weights) if case.weights else b""
    net = cv2.dnn.readNetFromCaffe(
        np.frombuffer(text.encode(), np.uint8), np.frombuffer(weights, np.uint8)
    )
    net.setPreferableBackend(cv2.dnn.DNN_BACKEND_OPENCV)
    for name, feed in feeds.items():
        net.setInput(feed, name)
    # OpenCV may rename the layer, and a max pooling always has its places as second output.
    (name,) = net.getUnconnectedOutLayersNames()
    (values,) = net.forwardAndRetrieve([name])
    return [_same_rows(case, value) for value in values[: len(case.tops.split())]]


def _same_rows(case: Case, value: Array) -> Array:
    """Return detections in Caffe's order: OpenCV orders them by score alone, and adds zeros."""
    if case.kind != "DetectionOutput":
        return value
    rows = value.reshape(-1, 7)
    rows = rows[rows.any(axis=1)]
    return rows[np.lexsort((-rows[:, 2], rows[:, 1], rows[:, 0]))][None, None]


@pytest.mark.parametrize("case", confirmed(True))
def test_opencv_computes_what_the_reference_does(case: Case) -> None:
    feeds = case.part(None)
    expected = case.expected(feeds)
    for actual, value in zip(in_opencv(case, feeds), expected.values(), strict=True):
        assert actual.shape == value.shape
        np.testing.assert_allclose(
            actual, value, rtol=0, atol=ROUNDING * float(np.nanmax(np.abs(value)))
        )


@pytest.mark.parametrize(
    "case", [case for case in confirmed(True) if " " in case.values[0].tops.strip()]
)
def test_the_original_gives_each_top_of_a_layer_its_own_values(case: Case, tmp_path: Path) -> None:
    net, weights = tmp_path / "n.prototxt", tmp_path / "n.caffemodel"
    net.write_text(replace(case, params=case.spelled_out or case.params).text)
    if case.weights:
        weights.write_bytes(caffemodel(case.weights))
    feeds = case.part(None)
    with Original.of(net, weights=weights if case.weights else None).run() as original:
        found = original.infer(feeds)
    for name, value in case.expected(feeds).items():
        atol = ROUNDING * float(np.nanmax(np.abs(value)))
        np.testing.assert_allclose(found[name], value, rtol=0, atol=atol, err_msg=name)


def test_the_original_gives_what_stands_in_the_middle_and_at_the_end(tmp_path: Path) -> None:
    text = (
        inputs(x=(1, 6, 2, 2))
        + layer("Slice", "x", "a b c", "slice_param { slice_point: 1 slice_point: 4 }", "parts")
        + layer("Power", "b", "d", "power_param { scale: 2 }", "twice")
        + layer("Concat", "d c", "y", name="again")
    )
    (tmp_path / "n.prototxt").write_text(text)
    feed = np.arange(24, dtype=np.float32).reshape(1, 6, 2, 2)
    with Original.of(tmp_path / "n.prototxt").run() as original:
        found = original.infer({"x": feed})
        probed = original.probe(["a", "b", "c", "d"], {"x": feed})
    np.testing.assert_array_equal(found["a"], feed[:, :1])
    np.testing.assert_array_equal(
        found["y"], np.concatenate([2 * feed[:, 1:4], feed[:, 4:]], axis=1)
    )
    assert set(probed) == {"a", "d"}
    np.testing.assert_array_equal(probed["a"], feed[:, :1])
    np.testing.assert_array_equal(probed["d"], 2 * feed[:, 1:4])
    with pytest.raises(NotSupportedError, match="OpenCV can't be the reference for b"):
        Original.of(tmp_path / "n.prototxt", outputs="b").run()


@pytest.mark.parametrize("case", confirmed(False))
def test_what_is_left_out_is_refused_or_different_in_opencv(case: Case) -> None:
    feeds = case.part(None)
    try:
        actual = in_opencv(case, feeds)
    except cv2.error:
        return
    expected = case.expected(feeds).values()
    assert not all(
        one.shape == value.shape
        and np.allclose(one, value, rtol=0, atol=ROUNDING * float(np.nanmax(np.abs(value))))
        for one, value in zip(actual, expected, strict=True)
    )


@pytest.mark.parametrize("case", confirmed(False))
def test_opencv_is_no_judge_of_what_it_computes_otherwise(case: Case, tmp_path: Path) -> None:
    feeds = case.part(None)
    try:
        actual = in_opencv(case, feeds)
    except cv2.error:
        return
    expected = case.expected(feeds).values()
    if all(
        np.array_equal(one.squeeze(), value) for one, value in zip(actual, expected, strict=True)
    ):
        return  # its arrays have two axes at least
    net, weights = tmp_path / "net.prototxt", tmp_path / "net.caffemodel"
    net.write_text(case.text)
    weights.write_bytes(caffemodel(case.weights))
    told = departures(load_net(net, weights if case.weights else None))
    assert told, f"convert/caffe/running.py has no line that says so of {case.kind}"


def test_opencv_is_not_asked_to_scale_along_a_negative_axis(tmp_path: Path) -> None:
    """It raises an error of some, and crashes on others."""
    net, weights = tmp_path / "net.prototxt", tmp_path / "net.caffemodel"
    net.write_text(
        inputs(x=(2, 4, 7, 8)) + layer("Scale", params="scale_param { axis: -1 bias_term: true }")
    )
    weights.write_bytes(caffemodel({"it": ("Scale", [np.ones(8), np.ones(8)])}))
    result = convert(net, weights=weights)
    assert "it crashes on a negative axis" in result.warnings[0]
    with OnnxRuntime(result.model.to_onnx()) as session:
        found = session.infer({"x": np.ones((1, 4, 7, 8), np.float32)})["y"]
    assert (found == 2).all()
