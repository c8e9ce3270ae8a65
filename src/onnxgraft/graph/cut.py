"""The part of a graph between named tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnxgraft.errors import InputError, ModelError, nearest
from onnxgraft.graph.inference import TensorType, infer
from onnxgraft.graph.model import Model
from onnxgraft.graph.names import free
from onnxgraft.graph.tensor_option import TensorOption
from onnxgraft.graph.walk import tidy

__all__ = ["extract"]


def extract(
    model: Model, inputs: Sequence[TensorOption] = (), outputs: Sequence[TensorOption] = ()
) -> Model:
    """Return the part of ``model`` that computes ``outputs`` from ``inputs``.

    Args:
        model: Is not changed, and returned if neither is named.
        inputs: The tensors to begin at, with the shapes that they get; those of the model if empty.
        outputs: The tensors to end at; those of the model if empty.

    Raises:
        InputError: A tensor is not in the graph, its type or shape is not known, or the outputs
            need an input that is not named.
        ModelError: The graph has a cycle, or no outputs, and none are named.
    """
    if not outputs and not model.graph.outputs:
        raise ModelError(f"{model.file}: the graph has no outputs; name them with --outputs")
    if not inputs and not outputs:
        return model
    part = model.copy()
    graph = part.graph
    if graph.outputs:  # or nothing would be left to name
        tidy(graph)
    known = {tensor.name: tensor for tensor in graph.inputs}
    known |= {t.name: t for node in graph.nodes for t in node.outputs if t.name}
    for option in (*inputs, *outputs):
        if option.name not in known:
            raise InputError(
                f"{model.file}: no tensor is called {option.name!r}; {nearest(option.name, known)}"
            )
    inferred = infer(graph, declared=True)
    dims = {str(dim) for tensor in (*known.values(), *graph.outputs) for dim in tensor.shape or ()}
    for option in inputs:
        # What an unknown operator makes has no type that is known; it is a float as a rule.
        _declare(known[option.name], option, inferred, model.file, dims, np.float32)
    for option in outputs:
        _declare(known[option.name], option, inferred, model.file, dims)
    before = list(graph.inputs)
    if inputs:
        graph.inputs = [known[option.name] for option in inputs]
        for tensor in graph.inputs:
            tensor.inputs.clear()
    if outputs:
        graph.outputs = [known[option.name] for option in outputs]
    tidy(graph)
    kept = {id(tensor) for tensor in graph.inputs}
    for tensor in before:
        if id(tensor) not in kept and tensor.outputs:
            raise InputError(
                f"{model.file}: the outputs need the input {tensor.name!r} too; name it in --inputs"
            )
    alive = graph.tensors()
    part.names = {name: origin for name, origin in part.names.items() if name in alive}
    return part


def _declare(
    tensor: gs.Tensor, option: TensorOption, inferred: Mapping[str, TensorType],
    file: str, dims_taken: set[str], otherwise: Any = None,
) -> None:  # fmt: skip
    """Write type and shape of a tensor that becomes an input or an output.

    Free dimensions without a name get one that no other has: equal names mean equal sizes.
    """
    name, found = option.name, inferred[option.name]
    if tensor.dtype is None and found.element is not None:
        tensor.dtype = onnx.helper.tensor_dtype_to_np_dtype(found.element)
    dims: Sequence[Any] | None = option.shape
    if dims is None:
        dims = tensor.shape
    if dims is None and found.shape is not None:
        dims = [dim.written for dim in found.shape]
    if dims is None:
        raise InputError(
            f"{file}: the shape of {name!r} is not known; write {name}[1,...] or cut elsewhere"
        )
    tensor.shape = [
        free(dims_taken, f"{name}.{axis}")
        if dim in (None, "") or (isinstance(dim, int) and dim < 0)
        else dim
        for axis, dim in enumerate(dims)
    ]
    tensor.dtype = tensor.dtype if tensor.dtype is not None else otherwise
    if tensor.dtype is None:
        raise InputError(f"{file}: the type of {name!r} is not known; cut elsewhere")
