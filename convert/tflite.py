"""TFLite files: lowered by tf2onnx, compared with TensorFlow's own interpreter."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from onnxgraft.errors import ModelError
from onnxgraft.files import existing_file, sha256
from onnxgraft.files.limits import BUFFER_BYTES
from onnxgraft.graph.model import Model, Origin, Source
from onnxgraft.graph.tensors import Feeds, Outputs, TensorSpec
from onnxgraft.optional import optional
from onnxgraft.run.engine import Resource, check_feeds
from onnxgraft.stages.convert.tensorflow.lower.lowering import check_operators
from onnxgraft.stages.convert.tensorflow.lower.operators import handlers
from onnxgraft.stages.convert.tensorflow.quiet import quiet
from onnxgraft.stages.convert.tensorflow.reading.forbidden import check_text
from onnxgraft.stages.convert.tensorflow.running import tensorflow
from onnxgraft.stages.convert.tflite_survey import check_tflite

__all__ = ["TfLite", "lower_tflite"]

# What a FlatBuffer of this schema has in its bytes 4 to 8.
_MAGIC = b"TFL3"


def lower_tflite(path: str | os.PathLike[str], opset: int) -> Model:
    """Return the model as ONNX.

    Raises:
        ModelError: The file is damaged, or tf2onnx can't convert it.
    """
    file = existing_file(path, "the TFLite model", BUFFER_BYTES)
    _check(file)
    with optional("Converting a TFLite model", "tensorflow"):
        tensorflow()
        import tf2onnx
    with quiet():
        try:
            proto, _ = tf2onnx.convert.from_tflite(
                os.fspath(file), opset=opset, custom_op_handlers=handlers()
            )
        except Exception as error:  # the FlatBuffer reader raises whatever it meets
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ModelError(f"{file}: tf2onnx can't convert the model: {reason}") from error
    check_operators(os.fspath(path), proto)
    for value in (*proto.graph.input, *proto.graph.output):
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            if dim.dim_param.startswith("unk__"):
                dim.dim_param = "N" if axis == 0 else f"{value.name}.{axis}"
    del proto.graph.value_info[:]
    names = {value.name: Origin(value.name) for value in (*proto.graph.input, *proto.graph.output)}
    return Model.from_onnx(proto, Source(os.fspath(path), "tensorflow", sha256(file)), names)


class TfLite(Resource):
    """A TFLite model in TensorFlow's interpreter."""

    name = "tflite"

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Load the model.

        Raises:
            ModelError: TensorFlow refuses it.
        """
        file = existing_file(path, "the TFLite model", BUFFER_BYTES)
        _check(file)
        tf = tensorflow()
        with quiet(), warnings.catch_warnings():
            # TensorFlow says that its interpreter will move to another package.
            warnings.simplefilter("ignore")
            try:
                self._interpreter: Any = tf.lite.Interpreter(model_content=file.read_bytes())
            except (ValueError, RuntimeError) as error:
                raise ModelError(f"{file}: TensorFlow can't load the model: {error}") from error
        self._inputs = self._interpreter.get_input_details()
        self._outputs = self._interpreter.get_output_details()
        self.inputs = tuple(_spec(entry) for entry in self._inputs)
        self.outputs = tuple(_spec(entry) for entry in self._outputs)

    def infer(self, feeds: Feeds) -> Outputs:
        """Return the outputs, by name, for ``feeds``, by name."""
        checked = check_feeds(self.name, self.inputs, feeds)
        for entry in self._inputs:
            self._interpreter.resize_tensor_input(entry["index"], checked[entry["name"]].shape)
        try:
            with quiet():  # it tells of its delegates
                self._interpreter.allocate_tensors()
                for entry in self._inputs:
                    self._interpreter.set_tensor(entry["index"], checked[entry["name"]])
                self._interpreter.invoke()
        except (ValueError, RuntimeError) as error:
            raise ModelError(f"TensorFlow can't run the model: {error}") from error
        return {
            entry["name"]: np.array(self._interpreter.get_tensor(entry["index"]))
            for entry in self._outputs
        }

    def close(self) -> None:
        """Give back the interpreter."""
        self._interpreter = None


def _check(file: Path) -> None:
    """Raise ModelError if it is no TFLite model, or has operators that reach out of it."""
    data = file.read_bytes()
    if data[4:8] != _MAGIC:
        raise ModelError(f"{file}: not a TFLite model")
    tensorflow()
    check_tflite(file, data)
    check_text(str(file), data, b"Flex")  # TensorFlow's own operators in it


def _spec(entry: dict[str, Any]) -> TensorSpec:
    dims = [int(dim) for dim in entry["shape_signature"]]
    shape = tuple(
        dim if dim >= 0 else ("N" if axis == 0 else f"{entry['name']}.{axis}")
        for axis, dim in enumerate(dims)
    )
    return TensorSpec(entry["name"], np.dtype(entry["dtype"]).name, shape)
