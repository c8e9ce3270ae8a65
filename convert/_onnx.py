"""An ONNX file as the original: cut at any tensor."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnxgraft.errors import InputError, nearest
from onnxgraft.model import Model
from onnxgraft.tensor_option import TensorOption

__all__ = ["cut_onnx"]


def cut_onnx(
    model: Model, inputs: Sequence[TensorOption], outputs: Sequence[TensorOption]
) -> Model:
    """Return ``model`` between the named tensors; an empty list leaves that end as it is.

    Raises:
        InputError: A tensor is not in the graph, or nothing says what type it has.
    """
    if not inputs and not outputs:
        return model
    proto = onnx.shape_inference.infer_shapes(model.to_onnx())
    model = Model(gs.import_onnx(proto), model.source, model.names, model.file)
    graph = model.graph
    tensors = graph.tensors()
    for option in (*inputs, *outputs):
        if option.name not in tensors:
            raise InputError(
                f"{model.file}: no tensor is called {option.name!r}; "
                f"{nearest(option.name, tensors)}"
            )
    before = {id(tensor): tensor for tensor in graph.inputs}
    if inputs:
        graph.inputs = [_as_input(tensors[o.name], o) for o in inputs]
    if outputs:
        graph.outputs = [_as_output(tensors[option.name]) for option in outputs]
    graph.cleanup().toposort()
    left = before.keys() - {id(tensor) for tensor in graph.inputs}
    for node in graph.nodes:
        for tensor in node.inputs:
            if id(tensor) in left:
                raise InputError(
                    f"{model.file}: the outputs need the input {tensor.name!r} too; name it "
                    "in --inputs"
                )
    return model


def _as_output(tensor: gs.Tensor) -> gs.Tensor:
    if tensor.shape is None or tensor.dtype is None:
        raise InputError(f"the type or shape of {tensor.name!r} is not known; cut elsewhere")
    return tensor


def _as_input(tensor: gs.Tensor, option: TensorOption) -> gs.Tensor:
    if option.shape is not None:
        tensor.shape = [
            dim if dim >= 0 else f"{option.name}.{axis}" for axis, dim in enumerate(option.shape)
        ]
    if tensor.shape is None:
        raise InputError(f"the shape of {tensor.name!r} is not known; write {tensor.name}[1,...]")
    tensor.dtype = tensor.dtype or np.float32
    tensor.inputs.clear()
    return tensor
