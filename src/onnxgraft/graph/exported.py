"""A graph's ONNX form, kept until the graph changes: many steps ask for the same one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnxgraft.graph.operators import op_key
from onnxgraft.graph.surgeon import proto_of
from onnxgraft.graph.walk import own_bodies

__all__ = ["Exported"]

# Larger ones are not held a second time, in bytes of constants.
_MOST_BYTES = 64 << 20
# What a graph or a function says of itself.
_FIELDS = (
    "name", "domain", "opset", "doc_string", "producer_name", "producer_version", "ir_version",
    "import_domains",
)  # fmt: skip


@dataclass(frozen=True)
class Exported:
    """What a graph was exported to.

    Attributes:
        proto: The model.
        state: What the graph was, down to the arrays of its constants.
        alive: What ``state`` knows by its address, so that no address is used again.
    """

    proto: onnx.ModelProto
    state: tuple[object, ...]
    alive: tuple[object, ...]

    @classmethod
    def of(cls, graph: gs.Graph, kept: Exported | None) -> tuple[onnx.ModelProto, Exported | None]:
        """Return a fresh copy of a graph's ONNX form, and what to keep for the next time."""
        if sum(value.nbytes for value in _values(graph)) > _MOST_BYTES:
            return proto_of(graph), None
        alive: list[object] = []
        state = tuple(entry for part in (graph, *graph.functions) for entry in _state(part, alive))
        if kept is None or kept.state != state:
            kept = cls(proto_of(graph), state, tuple(alive))
        proto = onnx.ModelProto()
        proto.CopyFrom(kept.proto)
        return proto, kept


def _values(graph: gs.Graph) -> Iterator[Any]:
    for tensor in graph.tensors().values():
        if isinstance(tensor, gs.Constant):
            yield tensor._values
    for node in graph.nodes:
        for body in own_bodies(node):
            yield from _values(body)


def _state(graph: gs.Graph, alive: list[object]) -> Iterator[object]:
    """Yield everything that the exported form depends on; arrays by their address."""
    known = vars(graph)
    yield tuple(repr(known.get(field)) for field in _FIELDS)
    for tensors in (graph.inputs, graph.outputs):
        yield tuple(map(_tensor, tensors))
    for tensor in graph.tensors().values():
        yield _tensor(tensor)
        if isinstance(tensor, gs.Constant):
            alive.append(tensor._values)
            yield id(tensor._values)
    for node in graph.nodes:
        yield op_key(node), node.name, len(node.attrs)
        yield tuple(tensor.name for tensor in node.inputs)
        yield tuple(tensor.name for tensor in node.outputs)
        for name, value in node.attrs.items():
            yield name
            if isinstance(value, gs.Graph):
                yield from _state(value, alive)
            elif isinstance(value, np.ndarray | gs.Tensor):
                alive.append(value)
                yield id(value)
                if isinstance(value, gs.Constant):
                    alive.append(value._values)
                    yield id(value._values)
            else:
                yield repr(value)


def _tensor(tensor: gs.Tensor) -> tuple[object, ...]:
    return tensor.name, type(tensor).__name__, str(tensor.dtype), repr(tensor.shape)
