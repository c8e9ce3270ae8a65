"""Whose model file it is, told by its name, and by what lies beside it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from onnxgraft.errors import InputError
from onnxgraft.files import existing_file
from onnxgraft.stages.convert.tensorflow.reading import kind_of

__all__ = ["Framework", "detect"]

Framework = Literal["caffe", "onnx", "tensorflow", "tflite"]


def detect(
    path: str | os.PathLike[str], weights: str | os.PathLike[str] | None = None
) -> Framework:
    """Return the framework whose file ``path`` is; a caffemodel beside it tells a prototxt.

    Raises:
        InputError: There is no such file.
    """
    file = Path(path)
    if file.is_dir():
        if (file / "saved_model.pb").is_file() or (file / "saved_model.pbtxt").is_file():
            return "tensorflow"
        raise InputError(f"{file}: is a folder, and no SavedModel (it has no saved_model.pb)")
    kind = kind_of(file)
    if kind == "checkpoint":
        return "tensorflow"
    existing_file(file, "the model")
    suffix = file.suffix.lower()
    if suffix == ".caffemodel":
        raise InputError(f"{file}: name the prototxt first, and this with --weights")
    by_suffix: dict[str, Framework] = {
        ".onnx": "onnx", ".prototxt": "caffe", ".tflite": "tflite",
    }  # fmt: skip
    if weights is not None and kind == "graphdef" and suffix not in (".pb", *by_suffix):
        return "caffe"
    return by_suffix.get(suffix, "tensorflow")
