"""One call from a framework's model to an engine, as `tensorrt.lite.Engine` was."""

from pathlib import Path

import numpy as np
import pytest

import onnxgraft
from onnxgraft.data.classes import palette
from onnxgraft.errors import InputError
from onnxgraft.run.feeds import random_feeds
from onnxgraft.run.session import OnnxRuntime
from tests.conftest import model_of, only_ci

MEAN = np.array([71.60167789, 82.09696889, 72.30508881], np.float32).reshape(3, 1, 1)


@only_ci
def test_a_caffe_network_in_one_call(shared: Path) -> None:
    pytest.importorskip("openvino")
    folder = shared / "models/fcn_camvid"
    photo = np.random.default_rng(0).integers(0, 256, (3, 352, 480)).astype(np.float32)
    with onnxgraft.LiteEngine(
        folder / "fcn_camvid.prototxt", weights=folder / "fcn_camvid.caffemodel",
        target="openvino", preprocessors={"data": lambda image: image - MEAN},
        postprocessors={"score": lambda score: palette(11)[score.argmax(0)]},
    ) as engine:  # fmt: skip
        assert engine.passport.precision == "fp32"
        one = engine.infer(photo)["score"]
        two = engine.infer({"data": np.stack([photo, photo])})["score"]
    assert one.shape == (1, 352, 480, 3)
    np.testing.assert_array_equal(two[1], one[0])
    import cv2

    net = cv2.dnn.readNetFromCaffe(
        str(folder / "fcn_camvid.prototxt"), str(folder / "fcn_camvid.caffemodel")
    )
    net.setInput((photo - MEAN)[np.newaxis])
    expected = palette(11)[net.forward("score")[0].argmax(0)]
    # A pixel whose two best classes are equal to float32's last digits may go either way.
    assert np.mean(one[0] == expected) > 0.9999


def test_int8_with_its_data(tmp_path: Path) -> None:
    model = model_of(
        "net (float[N, 3, 8, 8] x) => (float[N, 4, 6, 6] y) { c = Conv(x, w)  y = Relu(c) }",
        {"w": np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float32)},
    )
    model.save(tmp_path / "net.onnx")
    data = np.random.default_rng(1).standard_normal((16, 3, 8, 8)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=data)
    with (
        onnxgraft.LiteEngine(
            tmp_path / "net.onnx", target="onnxruntime", precision="int8",
            calibration=tmp_path / "data.npz", path=tmp_path / "kept",
        ) as engine,
        OnnxRuntime(model.to_onnx()) as reference,
    ):  # fmt: skip
        feeds = random_feeds(reference.inputs, 2)
        found, expected = engine.infer(feeds)["y"], reference.infer(feeds)["y"]
    # Eight bits, and the largest values are clipped: the rest is close.
    assert np.sqrt(np.mean((found - expected) ** 2)) < 0.01 * np.ptp(expected)
    assert (tmp_path / "kept.json").is_file()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"precision": "int8"}, "representative data"),
        ({"preprocessors": {"xx": abs}}, "preprocessors: 'xx' is not there; did you mean x"),
        ({"postprocessors": {"z": abs}}, "there are: y"),
    ],
    ids=["data", "preprocessor", "postprocessor"],
)
def test_what_is_missing_is_said(tmp_path: Path, options: dict[str, object], words: str) -> None:
    model = model_of("net (float[N, 4] x) => (float[N, 4] y) { y = Relu(x) }")
    model.save(tmp_path / "net.onnx")
    with pytest.raises(InputError, match=words):
        onnxgraft.LiteEngine(tmp_path / "net.onnx", target="onnxruntime", **options)  # type: ignore[arg-type]
