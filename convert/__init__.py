"""Framework export -> `Model`: read what a user holds, lower it to ONNX, keep its names.

`load` gives the model as converted, `original` the same file running in its own framework, and
`inspect` what the file holds. The clean-up of the graph is surgery's, the comparison of the two
the pipeline's.
"""

from __future__ import annotations

import functools
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Unpack

from onnxgraft.errors import InputError, ModelError, NotSupportedError
from onnxgraft.files import existing_file
from onnxgraft.graph.cut import extract
from onnxgraft.graph.model import Model
from onnxgraft.graph.tensor_option import TensorOption, parse_tensors, parse_values
from onnxgraft.run.engine import Engine
from onnxgraft.stages.convert.inspection import (
    Inspection,
    inspect_frozen,
    inspect_graphdef,
    inspect_onnx,
)
from onnxgraft.stages.convert.io_layout import IoLayout, set_io_layout
from onnxgraft.stages.convert.opening import Opening
from onnxgraft.stages.convert.tensorflow.reading.checkpoint import checkpoint_prefix

if TYPE_CHECKING:
    from onnxgraft.stages.convert.tensorflow.reading.graphdef import FrozenGraph

__all__ = ["Inspection", "IoLayout", "Opened", "Opening", "detect", "inspect", "load", "original"]

DEFAULT_OPSET = 17
# Before 13 a softmax flattened its operand and scales had no axis. tf2onnx writes up to 18; 20 is
# the newest that the tests of the Caffe layers run.
OLDEST_OPSET = 13
NEWEST_OPSET = {"caffe": 20, "tensorflow": 18, "tflite": 18}
# Files that hold variables: what they hold is told of the graph that freezing makes.
_MADE = (".keras", ".h5", ".hdf5")

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
    if checkpoint_prefix(file) is not None:
        return "tensorflow"
    existing_file(file, "the model")
    suffix = file.suffix.lower()
    if suffix == ".caffemodel":
        raise InputError(f"{file}: name the prototxt first, and this with --weights")
    by_suffix: dict[str, Framework] = {
        ".onnx": "onnx", ".prototxt": "caffe", ".tflite": "tflite",
    }  # fmt: skip
    if suffix not in (".pb", *by_suffix, *_MADE) and weights is not None:
        return "caffe"
    return by_suffix.get(suffix, "tensorflow")


def read_tensorflow(path: str | os.PathLike[str], **how: Unpack[Opening]) -> FrozenGraph:
    """Read whatever TensorFlow writes and freeze it; the formats are told by what is there."""
    from onnxgraft.stages.convert.tensorflow.reading.checkpoint import read_checkpoint
    from onnxgraft.stages.convert.tensorflow.reading.functions import read_keras, read_saved_model
    from onnxgraft.stages.convert.tensorflow.reading.graphdef import Cut, read_graphdef

    file, signature = Path(path), how.get("signature")
    cut = Cut(*_ends(how), parse_values(how.get("values", ())), how.get("freeze_batchnorm", False))
    if signature is not None and not file.is_dir():
        raise InputError(f"{file}: --signature goes with a SavedModel alone")
    if file.is_dir():
        return read_saved_model(path, cut, signature)
    prefix = checkpoint_prefix(file)
    if prefix is not None:
        return read_checkpoint(prefix, cut)
    if file.suffix.lower() in _MADE:
        return read_keras(path, cut, how.get("trust", False))
    return read_graphdef(path, cut)


def _ends(how: Opening) -> tuple[tuple[TensorOption, ...], tuple[TensorOption, ...]]:
    return parse_tensors(how.get("inputs")), parse_tensors(how.get("outputs"))


class Opened:
    """A model file that was read once, to be lowered and to be run in its own framework.

    Args:
        path: A frozen TensorFlow graph (binary or text), a SavedModel, a Keras or TFLite file, a
            TensorFlow checkpoint, a Caffe prototxt or an ONNX file.
        how: See `Opening`.
    """

    def __init__(self, path: str | os.PathLike[str], **how: Unpack[Opening]) -> None:
        self.path = path
        self.how = how
        self.framework = _detect(path, how)
        self._ends = _ends(how)

    @functools.cached_property
    def _frozen(self) -> FrozenGraph:
        return read_tensorflow(self.path, **self.how)

    def lower(
        self, opset: int = DEFAULT_OPSET, io_layout: IoLayout = "keep"
    ) -> tuple[Model, list[str]]:
        """Return the model as ONNX, with no clean-up, and a sentence for each thing decided.

        Args:
            opset: Of the ONNX graph.
            io_layout: ``nchw`` and ``nhwc`` change the layout of 4-D inputs and outputs.
        """
        notes: list[str] = []
        framework = self.framework
        if framework == "onnx":
            model = extract(Model.load(self.path), *self._ends)
            if opset != DEFAULT_OPSET:
                notes.append(
                    f"--opset has no effect: the ONNX file keeps its opset {model.graph.opset}"
                )
        elif not OLDEST_OPSET <= opset <= NEWEST_OPSET[framework]:
            newest = NEWEST_OPSET[framework]
            raise InputError(
                f"--opset {opset}: from {OLDEST_OPSET} to {newest} can be written of {framework}"
            )
        elif framework == "caffe":
            from onnxgraft.stages.convert.caffe import convert_caffe

            model, notes = convert_caffe(self.path, self.how.get("weights"), *self._ends, opset)
        elif framework == "tflite":
            from onnxgraft.stages.convert.tflite import lower_tflite

            model = extract(lower_tflite(self.path, opset), *self._ends)
        else:
            from onnxgraft.stages.convert.tensorflow.lower.lowering import lower

            model, notes = lower(self._frozen, opset)
        if framework != "tensorflow":
            notes += [
                f"{option} has no effect: it is for TensorFlow graphs"
                for option, asked in (
                    ("--set", self.how.get("values")),
                    ("--freeze-batchnorm", self.how.get("freeze_batchnorm")),
                )
                if asked
            ]
        set_io_layout(model, io_layout)
        return model, notes

    def original(self, *, frugal: bool = False) -> Engine:
        """Return the model running in its own framework: what later stages are compared with.

        Args:
            frugal: For a few inferences: hold the weights once, at the cost of speed.
        """
        framework = self.framework
        if framework == "caffe":
            from onnxgraft.stages.convert.caffe import original_caffe

            return original_caffe(self.path, self.how.get("weights"), *self._ends)
        if framework == "onnx":
            from onnxgraft.run.session import OnnxRuntime

            cut = extract(Model.load(self.path), *self._ends)
            return OnnxRuntime(cut.to_onnx(), name="original")
        if framework == "tflite":
            from onnxgraft.stages.convert.tflite import TfLite

            if any(self._ends):
                raise NotSupportedError(
                    f"{os.fspath(self.path)}: TFLite's interpreter runs whole models"
                )
            return TfLite(self.path)
        from onnxgraft.stages.convert.tensorflow.running import TensorFlow

        return TensorFlow(self._frozen, frugal=frugal)


def load(
    path: str | os.PathLike[str],
    *,
    opset: int = DEFAULT_OPSET,
    io_layout: IoLayout = "keep",
    **how: Unpack[Opening],
) -> tuple[Model, list[str]]:
    """Read ``path`` and lower it to ONNX, with no clean-up: see `Opened.lower`."""
    return Opened(path, **how).lower(opset, io_layout)


def original(path: str | os.PathLike[str], **how: Unpack[Opening]) -> Engine:
    """Return ``path`` running in its own framework: see `Opened.original`."""
    return Opened(path, **how).original()


def inspect(path: str | os.PathLike[str], **how: Unpack[Opening]) -> Inspection:
    """Return what a model file holds: inputs, outputs, operators, and what stands in the way."""
    framework = _detect(path, how)
    if framework == "onnx":
        return inspect_onnx(Model.load(path))
    if framework == "caffe":
        from onnxgraft.stages.convert.caffe import inspect_caffe

        return inspect_caffe(path, how.get("weights"))
    if framework == "tflite":
        from onnxgraft.stages.convert.tflite import lower_tflite

        return replace(inspect_onnx(lower_tflite(path, DEFAULT_OPSET)), framework="tflite")
    try:
        return inspect_frozen(read_tensorflow(path, **how))
    except (InputError, ModelError) as error:
        if Path(path).suffix.lower() in _MADE or Path(path).is_dir() or checkpoint_prefix(path):
            raise
        # A GraphDef that can't be converted as it is can still be looked at.
        from onnxgraft.stages.convert.tensorflow.reading.graphdef import parse_graphdef

        found = inspect_graphdef(path, parse_graphdef(path))
        return replace(found, notes=[f"can't be converted: {error}"])


def _detect(path: str | os.PathLike[str], how: Opening) -> Framework:
    framework = detect(path, how.get("weights"))
    if how.get("weights") is not None and framework != "caffe":
        raise InputError(f"{os.fspath(path)}: --weights goes with a Caffe prototxt alone")
    return framework
