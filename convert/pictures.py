"""What a model file tells of the images it was trained on, by its framework."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

from onnxgraft.errors import OnnxgraftError
from onnxgraft.graph.model import Model
from onnxgraft.graph.pictures import Told, read_told, scaled_by
from onnxgraft.stages.convert.detection import Framework
from onnxgraft.stages.convert.tensorflow.reading import kind_of
from onnxgraft.stages.convert.tensorflow.reading.functions import keras_names

__all__ = ["KERAS_FAMILIES", "told_by"]

# How the names of `keras.applications` begin, the longest first, and their preset.
KERAS_FAMILIES = {
    "inception_resnet_v2": "keras-tf",
    "inception_v3": "keras-tf",
    "resnet50v2": "keras-tf",
    "resnet101v2": "keras-tf",
    "resnet152v2": "keras-tf",
    "resnet50": "keras-caffe",
    "resnet101": "keras-caffe",
    "resnet152": "keras-caffe",
    "vgg16": "keras-caffe",
    "vgg19": "keras-caffe",
    "densenet": "keras-torch",
    "mobilenetv3": "keras",
    "mobilenetv2": "keras-tf",
    "mobilenet_": "keras-tf",
    "nasnet": "keras-tf",
    "xception": "keras-tf",
    "efficientnet": "keras",
    "convnext": "keras",
}


def told_by(path: str, framework: Framework, model: Model) -> Told | None:
    """Return what a model tells, where it tells anything.

    Args:
        path: Of its file.
        framework: Whose file it is.
        model: As it was converted, before any clean-up.
    """
    known = read_told(model.metadata)
    if known is not None:
        return known
    if framework == "onnx" and model.source.framework != "onnx":
        return None
    keras = framework == "tensorflow" and kind_of(path) == "keras"
    if framework == "tflite":
        from onnxgraft.stages.convert.tflite.metadata import normalized_by

        normal = normalized_by(Path(path), model.inputs)
        if normal is not None:
            return normal
    scaled = scaled_by(model.graph)
    if scaled is not None and framework != "caffe":
        return Told(
            {"preset": "keras"} if framework == "tensorflow" else {"color": "rgb", "fit": True},
            f"the model scales its pixels itself (at {scaled})",
        )
    if scaled is not None:
        return Told({}, f"the network scales its pixels itself (at {scaled}), and Caffe reads BGR")
    if framework == "caffe":
        return _transformed(Path(path))
    if not keras:
        return None
    try:
        names = keras_names(Path(path))
    except OnnxgraftError:  # what is wrong with the file is told where it is read
        return None
    for name in names:
        for begin, preset in KERAS_FAMILIES.items():
            if name.lower().startswith(begin):
                return Told({"preset": preset}, f"it is a Keras application, {name}")
    return None


def _transformed(file: Path) -> Told | None:
    """Return what the data layer of a prototxt does to images, where it has one.

    Given  transform_param { mean_value: 104 mean_value: 117 mean_value: 123 scale: 0.017 }
    Result (BGR - mean) * scale, see Caffe's ``data_transformer.cpp``

    With ``crop_size`` the middle is cut out, and nothing is mirrored, as in its phase TEST. Without
    a data layer, a mean file beside the prototxt tells the mean.
    """
    from onnxgraft.stages.convert.caffe.reading.prototxt import parse_prototxt

    try:
        document = parse_prototxt(file.read_text(encoding="utf-8-sig", errors="replace"))
        layers = [*document.messages("layer"), *document.messages("layers")]
        found = [
            layer.message("transform_param") for layer in layers if layer.has("transform_param")
        ]
        if not found:
            beside = sorted(file.parent.glob("*mean*.binaryproto"))
            return _averaged(beside[0], {}, "lies beside it") if len(beside) == 1 else None
        transform = found[-1]
        mean, scale = transform.numbers("mean_value"), transform.number("scale", 1.0)
        crop, named = transform.integer("crop_size"), transform.text("mean_file")
    except OnnxgraftError:  # what is wrong with the file is told where it is read
        return None
    keys: dict[str, Any] = {"scale": [scale]} | ({"crop": True} if crop else {})
    why = "the transform_param of its data layer says so, and Caffe reads BGR"
    if not named:
        return Told({**keys, "mean": mean} if mean else keys, why)
    place = file.parent / PurePosixPath(named).name
    return _averaged(place, keys, "is named by the transform_param of its data layer")


def _averaged(file: Path, keys: dict[str, Any], place: str) -> Told:
    """Return what a mean file tells: for each channel the mean over its pixels."""
    from onnxgraft.stages.convert.caffe.reading.wire import read_blob

    try:
        mean = read_blob(file)
        channels, height, width = mean.shape[-3:]
    except (OnnxgraftError, OSError, ValueError):
        why = f"the mean file {file.name} {place}, and can't be read: no mean is subtracted"
        return Told(keys, why)
    values = mean.reshape(-1, channels, height * width)[0].mean(1, dtype=float)
    color = {"color": "gray"} if channels == 1 else {}
    why = (
        f"the mean file {file.name} {place}: {width}x{height} pixels, of which the mean of each "
        "channel is taken"
    )
    return Told({**keys, **color, "mean": [float(value) for value in values]}, why)
