"""What a model tells of the images it was trained on: by its graph, its family, its metadata."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnxgraft.commands import convert, surgery
from onnxgraft.commands._assumed import assumed
from onnxgraft.data.preprocess import Preprocess
from onnxgraft.data.presets import PRESETS
from onnxgraft.graph.model import Model, Source
from onnxgraft.graph.pictures import KEY, Told, of_metadata, read_told, scaled_by
from onnxgraft.graph.tensors import TensorSpec
from onnxgraft.stages.convert import Original, told_by
from onnxgraft.stages.convert.pictures import KERAS_FAMILIES
from tests.conftest import model_of

IMAGE = (TensorSpec("image", "float32", ("N", 3, 8, 8)),)
HEAD = "net (float[N, 3, 8, 8] x) => (float[N, 4, 8, 8] y)"
KERNEL = {"w": np.ones((4, 3, 1, 1), np.float32)}


def told_of(file: Path) -> Told | None:
    """Return what a file tells."""
    return read_told(Original.of(file).lower()[0].metadata)


@pytest.mark.parametrize(
    ("line", "constant", "node"),
    [
        ("a = Mul(x, c)", 1 / 255, True),
        ("a = Div(x, c)", [[[255.0]], [[255.0]], [[255.0]]], True),
        ("a = Sub(x, c)", [[[104.0]], [[117.0]], [[123.0]]], True),
        ("t = Transpose(x) s = Transpose(t) a = Mul(s, c)", 1 / 127.5, True),
        ("a = Mul(x, c)", 0.5, False),
        ("a = Add(x, c)", 1.0, False),
        ("a = Relu(x)", 1.0, False),
    ],
    ids=["scale", "division", "mean", "behind_transposes", "half", "one", "none"],
)  # fmt: skip
def test_a_graph_that_scales_its_pixels_is_known(line: str, constant: Any, node: bool) -> None:
    model = model_of(f"{HEAD} {{ {line} y = Conv(a, w) }}", {"c": np.float32(constant), **KERNEL})
    assert (scaled_by(model.graph) is not None) == node


def test_a_large_kernel_is_no_scaling() -> None:
    weights = {"c": np.full((1, 3, 8, 8), 1 / 255, np.float32), **KERNEL}
    model = model_of(f"{HEAD} {{ a = Mul(x, c) y = Conv(a, w) }}", weights)
    assert scaled_by(model.graph) is None


@pytest.mark.parametrize(
    ("properties", "recipe"),
    [
        (
            {"Image.BitmapPixelFormat": "Rgb8", "Image.NominalPixelRange": "Normalized_0_1"},
            Preprocess(color="rgb", scale=(1 / 255,), resize="input"),
        ),
        (
            {"Image.BitmapPixelFormat": "Bgr8", "Image.NominalPixelRange": "Normalized_1_1"},
            Preprocess(mean=(127.5,), scale=(1 / 127.5,), resize="input"),
        ),
        ({"author": "Ultralytics", "task": "detect"}, Preprocess(preset="yolo")),
    ],
    ids=["zero_to_one", "minus_one_to_one", "ultralytics"],
)
def test_the_metadata_of_an_onnx_file_tell(
    properties: dict[str, str], recipe: Preprocess, tmp_path: Path
) -> None:
    model = model_of(f"{HEAD} {{ y = Conv(x, w) }}", KERNEL)
    proto = model.to_onnx()
    onnx.helper.set_model_props(proto, properties)
    onnx.save(proto, tmp_path / "model.onnx")
    found, sentence = assumed(None, "images", Model.load(tmp_path / "model.onnx").metadata, IMAGE)
    assert found == recipe
    assert "the ONNX file's metadata" in sentence


def test_video_levels_are_those_of_the_range() -> None:
    told = of_metadata({"Image.NominalPixelRange": "NominalRange_16_235"})
    assert told is not None
    keys = {key: value for key, value in told.keys.items() if key != "fit"}
    made = Preprocess.model_validate(keys).normalized(np.array([[[0], [255]]], np.float32))
    np.testing.assert_allclose(made.ravel(), [16, 235], rtol=1e-6)


def test_what_a_stranger_wrote_is_no_recipe_of_his() -> None:
    for text in ('{"keys": {"function": "a.py:f", "resize": [9, 9]}, "why": ""}', "[1]", "{", "7"):
        told = read_told({KEY: text})
        assert told is None or told.keys == {}
    recipe, _ = assumed(None, "images", {KEY: '{"keys": {"std": 1}, "why": "x"}'}, IMAGE)
    assert recipe == Preprocess()


def test_where_nothing_tells_that_is_said() -> None:
    recipe, sentence = assumed(None, "images", {}, IMAGE)
    assert recipe == Preprocess()
    assert "assumed BGR of 0 to 255 in the image's own size; nothing in the model" in sentence
    for given in (Preprocess(color="rgb"), Preprocess(color="bgr")):  # what is usual, said
        assert assumed(given, "images", {KEY: Told({"color": "rgb"}).written()}, IMAGE) == (
            given, "",
        )  # fmt: skip
    assert assumed(None, "data.npz", {}, IMAGE)[1] == ""


def test_a_size_that_is_free_is_left_to_the_images() -> None:
    spec = (TensorSpec("image", "float32", ("N", "H", "W", 3)),)
    recipe, _ = assumed(None, "images", {KEY: Told({"preset": "keras"}).written()}, spec)
    assert recipe.resize is None
    assert recipe.color == "rgb"


@pytest.mark.parametrize(
    ("transform", "recipe"),
    [
        ("mean_value: 104 mean_value: 117 mean_value: 123 scale: 0.5",
         Preprocess(mean=(104, 117, 123), scale=(0.5,))),
        ("mean_value: 127.5 crop_size: 8 mirror: true", Preprocess(mean=(127.5,))),
        ('mean_file: "mean.binaryproto"', None),
    ],
    ids=["per_channel", "one", "file"],
)  # fmt: skip
def test_a_data_layer_of_caffe_tells(
    transform: str, recipe: Preprocess | None, tmp_path: Path
) -> None:
    file = tmp_path / "net.prototxt"
    file.write_text(
        'layer { name: "data" type: "Data" top: "data" include { phase: TEST } '
        f"data_param {{ batch_size: 1 }} transform_param {{ {transform} }} }}"
    )
    told = told_by(str(file), "caffe", model_of(f"{HEAD} {{ y = Conv(x, w) }}", KERNEL))
    if recipe is None:
        assert told is None
        return
    assert told is not None
    found, sentence = assumed(None, "images", {KEY: told.written()}, IMAGE)
    assert (found.mean, found.scale, found.color) == (recipe.mean, recipe.scale, "bgr")
    assert "transform_param" in sentence


# Keras.


def keras_file(place: Path, name: str, *first: Any) -> Path:
    """Write a small Keras network with layers of ours at its beginning."""
    keras = pytest.importorskip("keras")
    layers = [keras.Input((8, 8, 3)), *first, keras.layers.Conv2D(4, 1)]
    keras.Sequential(layers, name=name).save(place / "model.keras")
    return place / "model.keras"


def test_a_rescaling_layer_tells_through_the_clean_up(tmp_path: Path) -> None:
    keras = pytest.importorskip("keras")
    file = keras_file(tmp_path, "mine", keras.layers.Rescaling(1 / 127.5, offset=-1))
    convert(file, tmp_path / "model.onnx", verify=False)
    told = read_told(Model.load(tmp_path / "model.onnx").metadata)
    assert told is not None
    assert told.keys == {"preset": "keras"}
    assert "scales its pixels itself" in told.why


def test_a_keras_application_tells_by_its_name(tmp_path: Path) -> None:
    told = told_of(keras_file(tmp_path, "vgg16"))
    assert told is not None
    assert told.keys == {"preset": "keras-caffe"}
    assert "a Keras application, vgg16" in told.why


def test_a_graph_tells_through_a_clean_up_of_its_own(tmp_path: Path) -> None:
    text = f"{HEAD} {{ a = Mul(x, c) y = Conv(a, w) }}"
    proto = model_of(text, {"c": np.float32(1 / 255), **KERNEL}).to_onnx()
    del proto.metadata_props[:]  # as another exporter writes it
    onnx.save(proto, tmp_path / "model.onnx")
    surgery(tmp_path / "model.onnx", tmp_path / "clean.onnx")
    told = read_told(Model.load(tmp_path / "clean.onnx").metadata)
    assert told is not None
    assert told.keys == {"color": "rgb", "fit": True}


def test_an_unknown_keras_model_tells_nothing(tmp_path: Path) -> None:
    assert told_of(keras_file(tmp_path, "mine")) is None


def test_the_families_are_those_of_keras() -> None:
    keras = pytest.importorskip("keras")
    applications = {
        name: function
        for name, function in vars(keras.applications).items()
        if inspect.isfunction(function)
    }
    families = {preset: set[str]() for preset in PRESETS}
    for title, function in applications.items():
        module = inspect.getmodule(inspect.unwrap(function))
        assert module is not None
        name = inspect.signature(function).parameters["name"].default or title
        preset = next(
            (
                preset
                for begin, preset in KERAS_FAMILIES.items()
                if f"{name.lower()}_".startswith(begin)
            ),
            None,
        )
        assert preset is not None, title
        families[preset].add(title)
        # Keras' own function, or none of its own: pixels of 0, 127.5 and 255 in red.
        pixels = np.array([[[255.0, 127.5, 0.0]]])
        own = getattr(keras.applications, module.__name__.rpartition(".")[2], None)
        if own is None:
            continue
        if title.endswith("V2") and title.startswith("ResNet"):
            own = keras.applications.resnet_v2
        mine = Preprocess(preset=preset)
        ordered = pixels[:, :, ::-1] if mine.color == "bgr" else pixels
        np.testing.assert_allclose(
            mine.normalized(ordered), own.preprocess_input(pixels.copy()), atol=1e-4
        )
    assert all(families[name] for name in ("keras", "keras-tf", "keras-caffe", "keras-torch"))


def test_a_model_made_here_keeps_what_it_was_told(tmp_path: Path) -> None:
    model = model_of(f"{HEAD} {{ y = Conv(x, w) }}", KERNEL)
    model.metadata[KEY] = Told({"color": "rgb"}, "so").written()
    model.save(tmp_path / "model.onnx")
    again = Model.from_onnx(onnx.load(tmp_path / "model.onnx"), Source("a", "onnx", "0" * 64))
    assert read_told(again.metadata) == Told({"color": "rgb"}, "so")
