"""From what TensorFlow and Keras write to a frozen graph; the format is told by what is there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from onnxgraft.errors import InputError
from onnxgraft.files.trust import Trust
from onnxgraft.stages.convert.tensorflow.reading.checkpoint import (
    checkpoint_prefix,
    read_checkpoint,
)
from onnxgraft.stages.convert.tensorflow.reading.functions import read_keras, read_saved_model
from onnxgraft.stages.convert.tensorflow.reading.graphdef import Cut, FrozenGraph, read_graphdef

__all__ = ["kind_of", "read_tensorflow"]

# Files that hold variables: what they hold is reported of the graph that freezing makes.
_KERAS = (".keras", ".h5", ".hdf5")


def kind_of(
    path: str | os.PathLike[str],
) -> Literal["saved_model", "checkpoint", "keras", "graphdef"]:
    """Return which of TensorFlow's formats a path is in; what is none of the others is a graph."""
    file = Path(path)
    if file.is_dir():
        return "saved_model"
    if checkpoint_prefix(file) is not None:
        return "checkpoint"
    return "keras" if file.suffix.lower() in _KERAS else "graphdef"


def read_tensorflow(
    path: str | os.PathLike[str], cut: Cut, signature: str | None, trust: Trust
) -> FrozenGraph:
    """Read whatever TensorFlow writes, and freeze it.

    Raises:
        InputError: ``signature`` is given, and it is no SavedModel.
        ModelError: It can't be read, or holds what can't be frozen.
    """
    kind = kind_of(path)
    if signature is not None and kind != "saved_model":
        raise InputError(f"{os.fspath(path)}: --signature goes with a SavedModel alone")
    if kind == "saved_model":
        return read_saved_model(path, cut, signature)
    prefix = checkpoint_prefix(Path(path))
    if prefix is not None:
        return read_checkpoint(prefix, cut)
    return read_keras(path, cut, trust) if kind == "keras" else read_graphdef(path, cut)
