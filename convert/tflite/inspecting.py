"""What a TFLite file holds, read from the file itself."""

from __future__ import annotations

import collections
import math
import os

import numpy as np

from onnxgraft.errors import OnnxgraftError
from onnxgraft.graph.tensors import TensorSpec
from onnxgraft.stages.convert.inspection import Inspection, free_dimensions, inspect_onnx
from onnxgraft.stages.convert.tflite.lowering import lower_tflite, unsupported
from onnxgraft.stages.convert.tflite.preparing import prepare
from onnxgraft.stages.convert.tflite.reading import Lite, read_tflite, text
from onnxgraft.stages.convert.tflite.survey import sound

__all__ = ["inspect_tflite"]


def inspect_tflite(
    path: str | os.PathLike[str], opset: int, signature: str | None = None
) -> Inspection:
    """Return what the file holds, and what stands in the way of converting it."""
    lite = read_tflite(path, signature)
    with sound(lite.file):
        return _found(lite, path, opset, signature)


def _found(
    lite: Lite, path: str | os.PathLike[str], opset: int, signature: str | None
) -> Inspection:
    operators = [operator for graph in lite.model.subgraphs for operator in graph.operators]
    inputs = [_spec(lite, index) for index in lite.main.inputs]
    constants = [t for g in lite.model.subgraphs for t in g.tensors if lite.is_constant(t)]
    variables = {
        text(operator.builtinOptions.sharedName)
        for operator in operators
        if lite.kind(operator) == "VAR_HANDLE"
    }
    lacking, notes = _obstacles(path, opset, signature)
    return Inspection(
        path=os.fspath(path),
        framework="tflite",
        inputs=[str(spec) for spec in inputs],
        outputs=[str(_spec(lite, index)) for index in lite.main.outputs],
        operators=dict(collections.Counter(map(lite.kind, operators)).most_common()),
        parameters=sum(math.prod(lite.shape(tensor)) for tensor in constants),
        variables=sorted(variables),
        dynamic=free_dimensions(inputs),
        unsupported=lacking,
        notes=notes,
    )


def _obstacles(
    path: str | os.PathLike[str], opset: int, signature: str | None
) -> tuple[list[str], list[str]]:
    """Return what ONNX or TensorRT lacks of a file's operators, and what else there is to say."""
    try:
        lite = read_tflite(path, signature)
        prepare(lite)
        lacking = unsupported(lite)
        if lacking:
            return [f"{told}: ONNX has none" for told in lacking], []
        model, done = lower_tflite(path, opset, signature=signature)
    except OnnxgraftError as error:
        return [], [f"can't be converted: {error}"]
    return inspect_onnx(model).unsupported, done.notes


def _spec(lite: Lite, index: int) -> TensorSpec:
    tensor = lite.main.tensors[index]
    name, kind = tensor.name, lite.type_of(tensor).lower()
    signature = tensor.shapeSignature
    dims = lite.shape(tensor) if signature is None else [int(dim) for dim in np.ravel(signature)]
    shape = tuple(
        dim if dim >= 0 else ("N" if axis == 0 else f"{name}.{axis}")
        for axis, dim in enumerate(dims)
    )
    return TensorSpec(name, kind, shape)
