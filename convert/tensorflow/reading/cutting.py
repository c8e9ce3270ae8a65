"""Where a graph is cut: the tensors that are fed become placeholders, with a shape for each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from onnxgraft.errors import InputError
from onnxgraft.graph.tensors import TensorSpec
from onnxgraft.stages.convert.tensorflow.names import node_of
from onnxgraft.stages.convert.tensorflow.reading.unshaped import (
    rank_by_trial,
    shape_from_use,
)
from onnxgraft.stages.convert.tensorflow.running import tensorflow

__all__ = [
    "fits",
    "input_spec",
    "make_placeholders",
    "output_spec",
    "reachable",
    "tensor_of",
    "without_clashes",
]


def make_placeholders(graph_def: Any, inputs: Sequence[TensorSpec]) -> list[str]:
    """Make a placeholder of each tensor that is fed; return their nodes.

    One of several outputs that are used gets a node of its own: ``queue:1`` becomes ``queue__1``.
    """
    tf = tensorflow()
    nodes = {node.name: node for node in graph_def.node}
    fed = {spec.name for spec in inputs}
    used = {tensor_of(name) for node in graph_def.node for name in node.input} | fed
    outputs = Counter(node_of(name) for name in used)
    places = []
    for spec in inputs:
        name, index = spec.name.rsplit(":", 1)
        node = nodes.get(name)
        if index != "0" or outputs[name] > 1 or node is None:
            name = f"{name}__{index}"
            while name in nodes:
                name += "_"
            node = graph_def.node.add(name=name)
            for other in graph_def.node:
                for at, source in enumerate(other.input):
                    if tensor_of(source) == spec.name:
                        other.input[at] = name
        node.op = "Placeholder"
        del node.input[:]
        node.ClearField("attr")
        node.attr["dtype"].type = tf.as_dtype(np.dtype(spec.dtype)).as_datatype_enum
        shape = [dim if isinstance(dim, int) else None for dim in spec.shape]
        node.attr["shape"].shape.CopyFrom(tf.TensorShape(shape).as_proto())
        places.append(name)
    return places


def reachable(graph_def: Any, ends: Iterable[str]) -> Any:
    """Return a copy with the nodes alone that the nodes ``ends`` need."""
    tf = tensorflow()
    nodes = {node.name: node for node in graph_def.node}
    wanted, stack = set(), list(ends)
    while stack:
        name = stack.pop()
        if name not in wanted and name in nodes:
            wanted.add(name)
            stack.extend(node_of(source) for source in nodes[name].input)
    kept = tf.compat.v1.GraphDef(versions=graph_def.versions, library=graph_def.library)
    kept.node.extend(node for node in graph_def.node if node.name in wanted)
    return kept


def input_spec(tensor: Any, shape: Sequence[int] | None, notes: list[str]) -> TensorSpec:
    """Return the spec of an input; where no shape is recorded, what consumes it tells.

    Args:
        tensor: Of a tf.Graph.
        shape: As the user gave it, -1 where it is free; None takes what is recorded.
        notes: Gets a sentence if a shape was told by what consumes the tensor.
    """
    if shape is not None and 0 in shape:
        raise InputError(f"--inputs {tensor.name}: a dimension of 0 leaves nothing to compute")
    if shape is None and tensor.shape.rank is None:
        told = shape_from_use(tensor)
        if told is None:
            rank = rank_by_trial(tensor)
            told = None if rank is None else ([-1] * rank, "the graph")
        if told is None:
            raise InputError(
                f"the rank of {tensor.name} is not recorded; give its shape with --inputs "
                f"{tensor.name}[...]"
            )
        shape, consumer = told
        dims = ", ".join(str(dim) if dim >= 0 else "?" for dim in shape)
        notes.append(
            f"{tensor.name} has no recorded shape; {consumer} wants ({dims}); --inputs "
            f"{tensor.name}[...] overrides it"
        )
    return _spec(tensor, shape)


def output_spec(tensor: Any) -> TensorSpec:
    """Return the spec of an output; where not even the rank is known its shape is ``...``."""
    if tensor.shape.rank is None:
        return TensorSpec(tensor.name, _dtype(tensor), ("...",))
    return _spec(tensor, None)


def _spec(tensor: Any, shape: Sequence[int] | None) -> TensorSpec:
    """Return the tensor's spec; a free dimension is called N on axis 0, else by its place."""
    if shape is None:
        shape = [-1 if dim is None else dim for dim in tensor.shape.as_list()]
    dims: tuple[int | str, ...] = tuple(
        dim if dim >= 0 else ("N" if axis == 0 else f"{tensor.op.name}.{axis}")
        for axis, dim in enumerate(shape)
    )
    return TensorSpec(tensor.name, _dtype(tensor), dims)


def _dtype(tensor: Any) -> str:
    return str(tensor.dtype.as_numpy_dtype.__name__)


def fits(tensor: Any, spec: TensorSpec) -> bool:
    """Tell whether the recorded shape admits all that ``spec`` does."""
    if tensor.shape.rank is None:
        return True
    recorded = tensor.shape.as_list()
    return len(recorded) == len(spec.shape) and all(
        mine is None or mine == dim for mine, dim in zip(recorded, spec.shape, strict=True)
    )


def tensor_of(name: str) -> str:
    """Return the tensor of an input: ``a:0`` for ``a``."""
    return name if ":" in name else f"{name}:0"


def without_clashes(
    inputs: Mapping[str, str], outputs: Mapping[str, str], notes: list[str]
) -> dict[str, str]:
    """Return ``inputs`` (tensor -> name) with another name where an output has the same."""
    named = dict(inputs)
    for tensor, name in inputs.items():
        if name in outputs.values():
            named[tensor] = f"{name}_input"
            notes.append(f"an input and an output are called {name}; the input is {name}_input")
    return named
