"""What a model file holds, for a person and for scripts."""

from __future__ import annotations

import collections
import os
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from onnxgraft.model import Model

if TYPE_CHECKING:
    from onnxgraft.convert._graphdef import FrozenGraph

__all__ = ["Inspection", "inspect_frozen", "inspect_graphdef", "inspect_onnx"]


@dataclass(frozen=True)
class Inspection:
    """The lint of a model file.

    Attributes:
        path: The file.
        framework: Whose it is.
        inputs: One line each.
        outputs: One line each.
        operators: How often each occurs, most frequent first.
        parameters: Number of values in constants.
        variables: Variables that are not frozen.
        training: Placeholders that switch between training and inference.
        layers: Of a Caffe network: one line each, with the shapes of its tops.
        notes: A sentence for each thing that is left out, or can't be converted.
    """

    path: str
    framework: str
    inputs: list[str]
    outputs: list[str]
    operators: dict[str, int]
    parameters: int
    variables: list[str] = field(default_factory=list)
    training: list[str] = field(default_factory=list)
    layers: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def inspect_onnx(model: Model) -> Inspection:
    """Return what an ONNX model holds."""
    from onnx_graphsurgeon import Constant

    constants = [t for t in model.graph.tensors().values() if isinstance(t, Constant)]
    return Inspection(
        path=model.file,
        framework="onnx",
        inputs=[str(spec) for spec in model.inputs],
        outputs=[str(spec) for spec in model.outputs],
        operators=model.operators(),
        parameters=sum(_size(tensor.shape) for tensor in constants),
    )


def inspect_graphdef(path: str | os.PathLike[str], graph_def: Any) -> Inspection:
    """Return what a TensorFlow graph holds, frozen or not."""
    from onnxgraft.convert._graphdef import (
        PLACEHOLDER_OPS,
        _import,
        loose_ends,
        training_flags,
        variables,
    )

    graph = _import(path, graph_def)
    flags = training_flags(graph_def)
    placeholders = [n.name for n in graph_def.node if n.op in PLACEHOLDER_OPS]
    return Inspection(
        path=os.fspath(path),
        framework="tensorflow",
        inputs=[
            _line(graph.get_tensor_by_name(f"{name}:0"))
            for name in placeholders
            if name not in flags
        ],
        outputs=[_line(tensor) for tensor in loose_ends(graph_def, graph)],
        operators=dict(collections.Counter(n.op for n in graph_def.node).most_common()),
        parameters=sum(
            _size([dim.size for dim in n.attr["value"].tensor.tensor_shape.dim])
            for n in graph_def.node
            if n.op == "Const"
        ),
        variables=variables(graph_def),
        training=flags,
    )


def inspect_frozen(frozen: FrozenGraph) -> Inspection:
    """Return what a SavedModel, a Keras file or a checkpoint holds, by its frozen graph."""
    found = inspect_graphdef(frozen.source.path, frozen.original)
    return replace(
        found,
        inputs=[str(spec) for spec in frozen.inputs],
        outputs=[str(spec) for spec in frozen.outputs],
        notes=list(frozen.notes),
    )


def _size(shape: Any) -> int:
    size = 1
    for dim in shape or ():
        size *= dim
    return size


def _line(tensor: Any) -> str:
    rank = tensor.shape.rank
    dims = "unknown" if rank is None else ", ".join(str(d or "?") for d in tensor.shape.as_list())
    return f"{tensor.name} ({dims}) {tensor.dtype.name}"
