"""Framework export -> `Model`: read what a user holds, lower it to ONNX, keep its names.

`load` gives the model as converted, `original` the same file running in its own framework, and
`inspect` what the file holds. The clean-up of the graph is surgery's, the comparison of the two
the pipeline's.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from onnxgraft.convert._inspection import Inspection, inspect_graphdef, inspect_onnx
from onnxgraft.convert._layout import IoLayout, set_io_layout
from onnxgraft.convert._onnx import cut_onnx
from onnxgraft.errors import InputError, NotSupportedError
from onnxgraft.files import existing_file
from onnxgraft.model import Model
from onnxgraft.runtime import Engine
from onnxgraft.tensor_option import parse_tensors, parse_values

__all__ = ["Inspection", "IoLayout", "detect", "inspect", "load", "original"]

DEFAULT_OPSET = 17

Framework = Literal["caffe", "onnx", "tensorflow"]

# Formats that are told by their name and can't be read yet, and what to use instead.
_LATER = {
    ".keras": "Keras files",
    ".h5": "Keras files",
    ".hdf5": "Keras files",
    ".meta": "TensorFlow checkpoints",
    ".ckpt": "TensorFlow checkpoints",
    ".tflite": "TFLite files",
}


def detect(path: str | os.PathLike[str]) -> Framework:
    """Return the framework whose file ``path`` is.

    Raises:
        InputError: There is no such file.
        NotSupportedError: Its format can't be read yet.
    """
    file = Path(path)
    if file.is_dir() and (file / "saved_model.pb").is_file():
        raise NotSupportedError(f"{file}: SavedModels can't be read yet; give a frozen graph")
    existing_file(file, "the model")
    kind = _LATER.get(file.suffix.lower())
    if kind:
        raise NotSupportedError(
            f"{file}: {kind} can't be read yet; give a frozen TensorFlow graph, a Caffe network or "
            "an ONNX file"
        )
    if file.suffix.lower() == ".caffemodel":
        raise InputError(f"{file}: name the prototxt first, and this with --weights")
    if file.suffix.lower() == ".prototxt":
        return "caffe"
    return "onnx" if file.suffix.lower() == ".onnx" else "tensorflow"


def load(
    path: str | os.PathLike[str],
    *,
    weights: str | os.PathLike[str] | None = None,
    inputs: str | None = None,
    outputs: str | None = None,
    values: Sequence[str] = (),
    opset: int = DEFAULT_OPSET,
    io_layout: IoLayout = "keep",
) -> tuple[Model, list[str]]:
    """Read ``path`` and lower it to ONNX, with no clean-up.

    Args:
        path: A frozen TensorFlow graph (binary or text), a Caffe prototxt or an ONNX file.
        weights: Of a Caffe network.
        inputs: Where to cut the graph's beginning, such as ``a:0,b:0[1,224,224,3]``; None finds
            them.
        outputs: Where to cut its end, such as ``c:0``; None takes what nothing else consumes.
        values: Placeholders to set, such as ``is_training=false``.
        opset: Of the ONNX graph.
        io_layout: ``nchw`` and ``nhwc`` change the layout of 4-D inputs and outputs.

    Returns:
        The model, and a sentence for each thing that was decided on the way.
    """
    options = parse_tensors(inputs), parse_tensors(outputs)
    framework = detect(path)
    _check_weights(framework, path, weights)
    if framework == "onnx":
        model = cut_onnx(Model.load(path), *options)
        notes = [] if not values else ["--set has no effect on an ONNX file"]
    elif framework == "caffe":
        from onnxgraft.convert.caffe import convert_caffe

        model, notes = convert_caffe(path, weights, *options, opset)
    else:
        from onnxgraft.convert._graphdef import read_graphdef
        from onnxgraft.convert._lowering import lower

        frozen = read_graphdef(path, *options, parse_values(values))
        model, notes = lower(frozen, opset)
    set_io_layout(model, io_layout)
    return model, notes


def original(
    path: str | os.PathLike[str],
    *,
    weights: str | os.PathLike[str] | None = None,
    inputs: str | None = None,
    outputs: str | None = None,
    values: Sequence[str] = (),
) -> Engine:
    """Return ``path`` running in its own framework: what every later stage is compared with.

    The parameters are those of `load`.
    """
    options = parse_tensors(inputs), parse_tensors(outputs)
    framework = detect(path)
    _check_weights(framework, path, weights)
    if framework == "caffe":
        from onnxgraft.convert.caffe import original_caffe

        return original_caffe(path, weights, *options)
    if framework == "onnx":
        from onnxgraft.reference import OnnxRuntime

        return OnnxRuntime(cut_onnx(Model.load(path), *options).to_onnx(), name="original")
    from onnxgraft.convert._graphdef import read_graphdef
    from onnxgraft.convert._tensorflow import TensorFlow

    return TensorFlow(read_graphdef(path, *options, parse_values(values)))


def inspect(
    path: str | os.PathLike[str], weights: str | os.PathLike[str] | None = None
) -> Inspection:
    """Return what a model file holds: inputs, outputs, operators, and what stands in the way."""
    framework = detect(path)
    _check_weights(framework, path, weights)
    if framework == "onnx":
        return inspect_onnx(Model.load(path))
    if framework == "caffe":
        from onnxgraft.convert.caffe import inspect_caffe

        return inspect_caffe(path, weights)
    from onnxgraft.convert._graphdef import parse_graphdef

    return inspect_graphdef(existing_file(path, "the model"), parse_graphdef(path))


def _check_weights(
    framework: Framework, path: str | os.PathLike[str], weights: str | os.PathLike[str] | None
) -> None:
    if weights is not None and framework != "caffe":
        raise InputError(f"{os.fspath(path)}: --weights goes with a Caffe prototxt alone")
