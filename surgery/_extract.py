"""The part of a graph between named tensors."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_graphsurgeon as gs

from onnxgraft.errors import InputError, nearest
from onnxgraft.model import Model
from onnxgraft.surgery._order import tidy
from onnxgraft.surgery._shapes import Shapes
from onnxgraft.tensor_option import TensorOption

__all__ = ["extract"]


def extract(
    model: Model, inputs: Sequence[TensorOption] = (), outputs: Sequence[TensorOption] = ()
) -> Model:
    """Return the part of ``model`` that computes ``outputs`` from ``inputs``.

    Args:
        model: Is not changed.
        inputs: The tensors to begin at, with the shapes that they get; those of the model if empty.
        outputs: The tensors to end at; those of the model if empty.

    Raises:
        InputError: A tensor is not in the graph, its type or rank is not known, or the outputs
            need an input that is not named.
    """
    part = model.copy()
    graph = part.graph
    tidy(graph)
    if not inputs and not outputs:
        return part
    shapes = Shapes(graph)
    known = {tensor.name: tensor for tensor in graph.inputs}
    known |= {t.name: t for node in graph.nodes for t in node.outputs if t.name}
    for option in (*inputs, *outputs):
        if option.name not in known:
            raise InputError(
                f"{model.file}: no tensor is called {option.name!r}; {nearest(option.name, known)}"
            )
    for option in (*inputs, *outputs):
        _declare(known[option.name], option, shapes, model.file)
    before = list(graph.inputs)
    if inputs:
        graph.inputs = [known[option.name] for option in inputs]
        for tensor in graph.inputs:
            tensor.inputs.clear()
    if outputs:
        graph.outputs = [known[option.name] for option in outputs]
    tidy(graph)
    for tensor in before:
        kept = any(tensor is other for other in graph.inputs)
        if not kept and tensor.outputs:
            raise InputError(
                f"{model.file}: the outputs need the input {tensor.name!r} too; name it in --inputs"
            )
    alive = graph.tensors()
    part.names = {name: origin for name, origin in part.names.items() if name in alive}
    return part


def _declare(tensor: gs.Tensor, option: TensorOption, shapes: Shapes, file: str) -> None:
    """Write type and shape of a tensor that becomes an input or an output."""
    dtype, shape = shapes.dtype(tensor), shapes.shape(tensor)
    if option.shape is not None:
        tensor.shape = [
            dim if dim >= 0 else f"{option.name}.{axis}" for axis, dim in enumerate(option.shape)
        ]
    elif shape is not None:
        tensor.shape = [
            dim.number if dim.fixed
            else str(dim) if not str(dim).startswith("?") else f"{option.name}.{axis}"
            for axis, dim in enumerate(shape)
        ]  # fmt: skip
    if dtype is None or tensor.shape is None:
        raise InputError(
            f"{file}: the type or shape of {option.name!r} is not known; write "
            f"{option.name}[1,...] or cut elsewhere"
        )
    tensor.dtype = dtype
