"""What a model tells of the images it was trained on: by its graph, its family, its metadata."""

from __future__ import annotations

import inspect
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from onnxgraft.commands import convert, surgery
from onnxgraft.commands._assumed import assumed
from onnxgraft.commands._reads import model_files
from onnxgraft.data.preprocess import Preprocess
from onnxgraft.data.presets import PRESETS
from onnxgraft.graph.model import Model, Source
from onnxgraft.graph.pictures import KEY, Told, of_metadata, read_told, scaled_by
from onnxgraft.graph.tensors import TensorSpec
from onnxgraft.stages.convert import Original, told_by
from onnxgraft.stages.convert.pictures import KERAS_FAMILIES
from tests.conftest import model_of
from tests.fuzz.readers import CORPUS

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
        ("mean_value: 127.5 crop_size: 8 mirror: true",
         Preprocess(mean=(127.5,), center_crop=(8, 8))),
    ],
    ids=["per_channel", "crop"],
)  # fmt: skip
def test_a_data_layer_of_caffe_tells(transform: str, recipe: Preprocess, tmp_path: Path) -> None:
    file = tmp_path / "net.prototxt"
    file.write_text(
        'layer { name: "data" type: "Data" top: "data" include { phase: TEST } '
        f"data_param {{ batch_size: 1 }} transform_param {{ {transform} }} }}"
    )
    told = told_by(str(file), "caffe", model_of(f"{HEAD} {{ y = Conv(x, w) }}", KERNEL))
    assert told is not None
    found, sentence = assumed(None, "images", {KEY: told.written()}, IMAGE)
    assert (found.mean, found.scale, found.color) == (recipe.mean, recipe.scale, "bgr")
    assert found.sized(IMAGE[0]).center_crop == recipe.center_crop
    assert "transform_param" in sentence


LEVELS = np.arange(3 * 4 * 5, dtype=np.float32).reshape(3, 4, 5)


def blob(values: np.ndarray) -> bytes:
    """Return a BlobProto of (channels, height, width), as protobuf's own library writes it."""
    pool = descriptor_pool.DescriptorPool()
    file = descriptor_pb2.FileDescriptorProto(name="blob.proto", syntax="proto2")
    message = file.message_type.add(name="BlobProto")
    kinds = descriptor_pb2.FieldDescriptorProto
    for number, name in enumerate(("num", "channels", "height", "width"), 1):
        message.field.add(name=name, number=number, type=kinds.TYPE_INT32, label=1)
    data = message.field.add(name="data", number=5, type=kinds.TYPE_FLOAT, label=3)
    data.options.packed = True
    pool.Add(file)
    made = message_factory.GetMessageClass(pool.FindMessageTypeByName("BlobProto"))()
    made.num, (made.channels, made.height, made.width) = 1, values.shape
    made.data.extend(values.ravel().tolist())
    return bytes(made.SerializeToString())


def caffe_told(folder: Path, transform: str | None) -> Told | None:
    layer = "" if transform is None else (
        'layer { name: "data" type: "Data" top: "data" data_param { batch_size: 1 } '
        f"transform_param {{ {transform} }} }}"
    )  # fmt: skip
    (folder / "net.prototxt").write_text(layer)
    return told_by(
        str(folder / "net.prototxt"), "caffe", model_of(f"{HEAD} {{ y = Conv(x, w) }}", KERNEL)
    )


@pytest.mark.parametrize(
    ("name", "transform"),
    [("mean.binaryproto", 'mean_file: "data/mean.binaryproto" scale: 0.5'),
     ("train_mean.binaryproto", None)],
    ids=["named", "beside"],
)  # fmt: skip
def test_a_mean_file_of_caffe_tells_the_mean_of_its_channels(
    name: str, transform: str | None, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(blob(LEVELS))
    told = caffe_told(tmp_path, transform)
    assert told is not None
    found, sentence = assumed(None, "images", {KEY: told.written()}, IMAGE)
    np.testing.assert_allclose(found.mean, LEVELS.mean((1, 2)))
    assert found.scale == ((0.5,) if transform else (1.0,))
    assert f"{name} " in sentence
    assert "5x4 pixels" in sentence


@pytest.mark.parametrize("data", [b"", b"\x2a\xff\xff\xff\x0fab", blob(LEVELS)[:-5]])
def test_a_mean_file_that_cannot_be_read_is_told(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "mean.binaryproto").write_bytes(data)
    told = caffe_told(tmp_path, 'mean_file: "mean.binaryproto"')
    assert told is not None
    assert "mean" not in told.keys
    assert "mean.binaryproto is named by" in told.why
    assert "can't be read: no mean is subtracted" in told.why


def test_a_mean_file_elsewhere_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "net").mkdir()
    (tmp_path / "mean.binaryproto").write_bytes(blob(LEVELS))
    told = caffe_told(tmp_path / "net", 'mean_file: "../mean.binaryproto"')
    assert told is not None
    assert "mean" not in told.keys


def test_another_mean_file_is_another_model_for_deploy(tmp_path: Path) -> None:
    caffe_told(tmp_path, None)
    before = model_files(Original.of(tmp_path / "net.prototxt"))
    (tmp_path / "mean.binaryproto").write_bytes(blob(LEVELS))
    assert model_files(Original.of(tmp_path / "net.prototxt")) != before


# TensorFlow Lite: metadata as the classes of tflite-support 0.4.4 wrote them.
METADATA = CORPUS / "lite_metadata"


def _converted(tf: Any, function: Any, kind: str) -> bytes:
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [function.get_concrete_function()], tf.Module()
    )
    if kind != "float32":
        ends = np.linspace(-1, 1, 192, dtype=np.float32).reshape(1, 8, 8, 3)
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: [[ends]]
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = getattr(tf, kind)
    return bytes(converter.convert())


def lite_file(place: Path, metadata: bytes, kind: str = "float32") -> Path:
    """Write a small TFLite network with metadata; its input is of float32 or quantized."""
    tf = pytest.importorskip("tensorflow")
    import flatbuffers
    from tensorflow.lite.python import schema_py_generated as schema

    kernel = tf.constant(np.ones((1, 1, 3, 4), np.float32))
    function = tf.function(
        lambda x: tf.nn.conv2d(x, kernel, 1, "VALID"),
        input_signature=[tf.TensorSpec((1, 8, 8, 3), tf.float32)],
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Statistics for quantized inputs")
        data = _converted(tf, function, kind)
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(data, 0))
    held, entry = schema.BufferT(), schema.MetadataT()
    held.data, entry.name, entry.buffer = metadata, "TFLITE_METADATA", len(model.buffers)
    model.buffers.append(held)
    model.metadata = [*(model.metadata or []), entry]
    builder = flatbuffers.Builder(0)
    builder.Finish(model.Pack(builder), b"TFL3")
    (place / "model.tflite").write_bytes(bytes(builder.Output()))
    return place / "model.tflite"


@pytest.mark.parametrize(
    ("name", "recipe"),
    [("rgb", Preprocess(color="rgb", mean=(127.5,), std=(127.5,), resize="input")),
     ("gray", Preprocess(color="gray", resize="input")),
     ("channels", Preprocess(color="rgb", mean=(0.5, 0.25, 0.125), scale=(2.0, 2.0, 4.0),
                             resize="input"))],
    ids=["rgb", "gray", "small_pixels"],
)  # fmt: skip
def test_the_metadata_of_a_tflite_file_tell(name: str, recipe: Preprocess, tmp_path: Path) -> None:
    told = told_of(lite_file(tmp_path, (METADATA / name).read_bytes()))
    assert told is not None
    spec = (TensorSpec("image", "float32", (1, 8, 8, 3)),)
    found, sentence = assumed(None, "images", {KEY: told.written()}, spec)
    assert found == recipe
    assert "the metadata of the TFLite file say so" in sentence


@pytest.mark.parametrize("kind", ["uint8", "int8"])
def test_integers_are_fed_so_that_they_stand_for_normal_pixels(kind: str, tmp_path: Path) -> None:
    file = lite_file(tmp_path, (METADATA / "rgb").read_bytes(), kind)
    model, _ = Original.of(file).lower()
    told = read_told(model.metadata)
    assert told is not None
    recipe, _ = assumed(None, "images", {KEY: told.written()}, model.inputs)
    pixels = np.arange(256, dtype=np.uint8).reshape(256, 1, 1).repeat(3, 2)
    fed = recipe.normalized(pixels)
    assert np.dtype(model.inputs[0].dtype) == np.dtype(kind)
    tf = pytest.importorskip("tensorflow")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*tf.lite.Interpreter is deprecated")
        interpreter = tf.lite.Interpreter(str(file))
    scale, zero = interpreter.get_input_details()[0]["quantization"]
    real = (pixels.astype(float) - 127.5) / 127.5
    np.testing.assert_allclose((fed - zero) * scale, real, atol=scale)


@pytest.mark.parametrize("cut", [0, 1, 4, 30, 90, 150])
def test_damaged_metadata_tell_nothing(cut: int, tmp_path: Path) -> None:
    whole = (METADATA / "rgb").read_bytes()
    noise = np.random.default_rng(cut).integers(0, 256, len(whole) - cut, np.uint8).tobytes()
    for data in (whole[:cut], whole[:cut] + noise):
        told = told_of(lite_file(tmp_path, data))
        assert told is None or set(told.keys) <= {"fit", "color", "mean", "std", "scale"}


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
