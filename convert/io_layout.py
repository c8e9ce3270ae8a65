"""The layout of a model's 4-D inputs and outputs, changed by transposes that surgery cancels."""

from __future__ import annotations

from typing import Literal

import onnx_graphsurgeon as gs

from onnxgraft.graph.model import Model, Origin
from onnxgraft.graph.names import FreeNames
from onnxgraft.graph.node import Node

__all__ = ["IoLayout", "set_io_layout"]

IoLayout = Literal["keep", "nchw", "nhwc"]

_TO_NCHW = (0, 3, 1, 2)
_TO_NHWC = (0, 2, 3, 1)


def set_io_layout(model: Model, layout: IoLayout) -> None:
    """Change ``model``'s 4-D inputs and outputs to ``layout``; their names stay.

    TensorFlow's are taken to be NHWC, all others NCHW, as ONNX has them.
    """
    present = "nhwc" if model.source.framework == "tensorflow" else "nchw"
    if layout in ("keep", present):
        return
    to, back = (_TO_NCHW, _TO_NHWC) if layout == "nchw" else (_TO_NHWC, _TO_NCHW)
    graph = model.graph
    names = FreeNames(graph, model.names)
    transposed: dict[int, gs.Variable] = {}
    for index, tensor in enumerate(graph.inputs):
        if tensor.shape is not None and len(tensor.shape) == 4:
            graph.inputs[index] = transposed[id(tensor)] = _renamed(model, tensor, to, names)
            graph.nodes.insert(0, _transpose(graph.inputs[index], tensor, back, names))
    for index, tensor in enumerate(graph.outputs):
        if id(tensor) in transposed:  # an input that is an output too
            graph.outputs[index] = transposed[id(tensor)]
        elif tensor.shape is not None and len(tensor.shape) == 4:
            graph.outputs[index] = _renamed(model, tensor, to, names)
            graph.nodes.append(_transpose(tensor, graph.outputs[index], to, names))
    graph.toposort()


def _renamed(
    model: Model, tensor: gs.Variable, perm: tuple[int, ...], names: FreeNames
) -> gs.Variable:
    """Return the tensor's transposed copy, which takes its name over."""
    name = tensor.name
    copy = gs.Variable(name, tensor.dtype, [tensor.shape[axis] for axis in perm])
    tensor.name = names.tensor(f"{name}/before_io_layout")
    origin = model.names.get(name, Origin(name))
    if origin.perm is None:
        model.names[tensor.name] = origin
        model.names[name] = Origin(origin.name, perm)
    return copy


def _transpose(
    source: gs.Variable, target: gs.Variable, perm: tuple[int, ...], names: FreeNames
) -> gs.Node:
    name = names.node(f"{source.name}->{target.name}")
    return Node("Transpose", name, {"perm": list(perm)}, [source], [target])
