"""Whose model file it is, told by its name, by how it begins, and by what lies beside it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from onnxgraft.errors import InputError
from onnxgraft.files import existing_file
from onnxgraft.graph.foreign import is_onnx, refuse_foreign
from onnxgraft.stages.convert.tensorflow.reading import kind_of

__all__ = ["Framework", "detect"]

# What files of these suffixes are, which their own readers look at closer.
_KERAS = ("a ZIP archive", "a ZIP archive that is cut short", "a Keras model", "an HDF5 file")
_BY_SUFFIX = {".pt2": ("a program of PyTorch (.pt2)",), ".tflite": ("a TFLite model",)}

Framework = Literal["caffe", "onnx", "pytorch", "tensorflow", "tflite"]


def detect(
    path: str | os.PathLike[str], weights: str | os.PathLike[str] | None = None
) -> Framework:
    """Return the framework whose file ``path`` is; a caffemodel beside it tells a prototxt.

    Raises:
        InputError: There is no such file, or it is no model.
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
    refuse_foreign(file, but=_KERAS if kind == "keras" else _BY_SUFFIX.get(suffix, ()))
    by_suffix: dict[str, Framework] = {
        ".onnx": "onnx", ".prototxt": "caffe", ".pt2": "pytorch", ".tflite": "tflite",
    }  # fmt: skip
    if kind == "graphdef" and suffix not in by_suffix and is_onnx(file):
        return "onnx"
    if weights is not None and kind == "graphdef" and suffix not in (".pb", *by_suffix):
        return "caffe"
    return by_suffix.get(suffix, "tensorflow")
