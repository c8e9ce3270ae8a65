"""Named recipes: how the usual training pipelines of each framework prepare an image.

Each is held against the framework's own function in `tests/data/test_presets.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

__all__ = ["PRESETS", "Preset"]

_INPUT = "input"  # the height and width that the model takes
_TF_RESIZE = {"color": "rgb", "resize": _INPUT, "rounded": False}


@dataclass(frozen=True)
class Preset:
    """A recipe with a name.

    Attributes:
        name: As ``preset`` takes it.
        source: What computes the same.
        keys: Of ``[preprocess]``; a recipe may say other values beside the preset.
    """

    name: str
    source: str
    keys: dict[str, Any] = field(default_factory=dict)


# ImageNet's mean in blue, green, red, and its means and deviations in red, green, blue.
_BGR = (103.939, 116.779, 123.68)
_RGB = tuple(255 * value for value in (0.485, 0.456, 0.406))
_STD = tuple(255 * value for value in (0.229, 0.224, 0.225))

PRESETS = {
    preset.name: preset
    for preset in (
        Preset(
            "keras",
            "`keras.utils.image_dataset_from_directory`: RGB of 0 to 255; for models that scale it "
            "themselves (EfficientNet, MobileNetV3, ConvNeXt, a Rescaling layer)",
            _TF_RESIZE,
        ),
        Preset(
            "keras-tf",
            '`imagenet_utils.preprocess_input(mode="tf")`: MobileNet, MobileNetV2, InceptionV3, '
            "InceptionResNetV2, Xception, NASNet, ResNetV2",
            {**_TF_RESIZE, "mean": (127.5,), "scale": (1 / 127.5,)},
        ),
        Preset(
            "keras-caffe",
            '`imagenet_utils.preprocess_input(mode="caffe")`: ResNet, VGG16, VGG19',
            {**_TF_RESIZE, "color": "bgr", "mean": _BGR},
        ),
        Preset(
            "keras-torch",
            '`imagenet_utils.preprocess_input(mode="torch")`: DenseNet',
            {**_TF_RESIZE, "mean": _RGB, "std": _STD},
        ),
        Preset(
            "torch-imagenet",
            "torchvision's `ImageClassification` preset, on Pillow's images: `Resize(256)`, "
            "`CenterCrop`, `Normalize`",
            {
                "color": "rgb",
                "shorter_side": 256,
                "center_crop": _INPUT,
                "antialias": True,
                "mean": _RGB,
                "std": _STD,
            },
        ),
        Preset(
            "caffe-imagenet",
            "Caffe's `convert_imageset` to 256 x 256 and `transform_param` with the mean pixel of "
            "ILSVRC 2012, as `cv2.dnn.blobFromImage` computes it",
            {
                "color": "bgr",
                "resize": (256, 256),
                "center_crop": _INPUT,
                "mean": (104.00698793, 116.66876762, 122.67891434),
            },
        ),
        Preset(
            "tf-inception",
            "`tf.image.central_crop` to 0.875, `tf.image.resize`, and -1 to 1, as TensorFlow's "
            "slim evaluates Inception, MobileNet and NASNet",
            {**_TF_RESIZE, "central_fraction": 0.875, "mean": (127.5,), "scale": (1 / 127.5,)},
        ),
        Preset(
            "yolo",
            "Ultralytics' `LetterBox` and division by 255 (YOLOv5, YOLOv8 and later)",
            {"color": "rgb", "resize": _INPUT, "letterbox": 114, "scale": (1 / 255,)},
        ),
    )
}
