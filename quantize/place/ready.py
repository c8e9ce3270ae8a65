"""A float graph in the form in which ranges are measured and layers quantized."""

from __future__ import annotations

import hashlib

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnxgraft.errors import NotSupportedError
from onnxgraft.graph.lift import lift
from onnxgraft.graph.messages import parts
from onnxgraft.graph.model import Model
from onnxgraft.graph.names import FreeNames
from onnxgraft.graph.operators import WEIGHTED, constant_value, is_op
from onnxgraft.graph.opset import raise_opset
from onnxgraft.graph.tensors import Array
from onnxgraft.graph.walk import bodies, nodes_within, tidy
from onnxgraft.stages.quantize.place.carried import carried, let_in

__all__ = ["OLDEST_OPSET", "fingerprint", "measurable", "ready"]

# Scales per channel came with it.
OLDEST_OPSET = 13


def ready(model: Model) -> Model:
    """Return a graph in float32, in an opset that has scales per channel, with plain weights.

    Raises:
        NotSupportedError: See `lift` and `raise_opset`.
    """
    return _plain(raise_opset(lift(model), OLDEST_OPSET))


def measurable(model: Model) -> Model:
    """Return the graph that is `ready`; one whose opset can't be raised in float32 alone.

    Its ranges can still be written to a calibration cache.
    """
    lifted = lift(model)
    try:
        return _plain(raise_opset(lifted, OLDEST_OPSET))
    except NotSupportedError:
        return _plain(lifted)


def _plain(model: Model) -> Model:
    """Return a copy whose layers read constants where something made weights of one.

    Such as a Transpose, where an embedding is the weights of the last layer too, or a Loop that
    carries them. No two bodies call different tensors by one name, so that ranges are told apart by
    names. Where nothing has to change it is the model itself.
    """
    if carried(model.graph):
        model = model.copy()
        let_in(model.graph)
        tidy(model.graph)
    made = any(_made(node) is not None for node in nodes_within(model.graph))
    if not made and not _named_twice(model.graph):
        return model
    plain = model.copy()
    names = FreeNames(plain.graph, plain.names)
    for tensor in _named_twice(plain.graph):
        tensor.name = names.tensor(tensor.name)
    found: dict[int, gs.Constant] = {}
    for node in nodes_within(plain.graph):
        values = _made(node)
        if values is not None:
            weights = node.inputs[1]
            if id(weights) not in found:
                found[id(weights)] = gs.Constant(names.tensor(f"{weights.name}/weights"), values)
            node.inputs[1] = found[id(weights)]
    tidy(plain.graph)
    return plain


def _named_twice(graph: gs.Graph) -> list[gs.Tensor]:
    """Return the tensors of bodies that have the name of another tensor."""
    taken: dict[str, gs.Tensor] = {}
    again: dict[int, gs.Tensor] = {}
    for part in bodies(graph):
        for tensor in (*part.inputs, *(made for node in part.nodes for made in node.outputs)):
            if tensor.name and taken.setdefault(tensor.name, tensor) is not tensor:
                again[id(tensor)] = tensor
    return list(again.values())


def _made(node: gs.Node) -> Array | None:
    """Return the weights that a layer reads, where operators make them of a constant."""
    if not is_op(node, *WEIGHTED) or len(node.inputs) < 2:
        return None
    tensor = node.inputs[1]
    return None if isinstance(tensor, gs.Constant) else _value(tensor)


def _value(tensor: gs.Tensor) -> Array | None:
    if isinstance(tensor, gs.Constant):
        return np.asarray(tensor.values)
    maker = tensor.inputs[0] if tensor.inputs else None
    if is_op(maker, "Constant"):
        return constant_value(maker)
    if not is_op(maker, "Identity", "Transpose"):
        return None
    values = _value(maker.inputs[0])
    if values is None or is_op(maker, "Identity"):
        return values
    return np.ascontiguousarray(values.transpose(maker.attrs.get("perm")))


def fingerprint(model: Model) -> str:
    """Return the SHA-256 of what the graph computes: its nodes and initializers, not its notes.

    A graph in float16, bfloat16 or an old opset is the same as the one in which it is measured.
    """
    proto = measurable(model).to_onnx()
    graph = proto.graph
    inside = [part for part in parts(proto) if isinstance(part, onnx.TensorProto)]
    for tensor in [*inside, *graph.initializer]:
        _canonical(tensor)
    digest = hashlib.sha256()
    for part in (*graph.input, *graph.node, *sorted(graph.initializer, key=lambda i: i.name)):
        digest.update(part.SerializeToString(deterministic=True))
    return digest.hexdigest()


def _canonical(tensor: onnx.TensorProto) -> None:
    """Write a tensor as one that was looked at is written: as bytes, and with no empty name."""
    if not tensor.HasField("raw_data"):
        values = onnx.numpy_helper.to_array(tensor)
        tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    if not tensor.name:
        tensor.ClearField("name")
