"""A graph as it was, to go back to: its wiring is noted, its weights are not copied."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import onnx_graphsurgeon as gs

from onnxgraft.graph.operators import op_key
from onnxgraft.graph.walk import bodies

__all__ = ["Noted", "Snapshot"]

# What nodes and tensors say of each other.
_LINKED = frozenset({"inputs", "outputs"})


@dataclass(frozen=True)
class Noted:
    """A node as it was.

    Attributes:
        node: The object, which may be another by now.
        key: Its operator's domain and type.
        fields: What it said of itself, without its attributes and ends.
        attrs: Its attributes.
        inputs: What it read.
        outputs: What it made.
    """

    node: gs.Node
    key: tuple[str, str]
    fields: dict[str, Any]
    attrs: dict[str, Any]
    inputs: list[gs.Tensor]
    outputs: list[gs.Tensor]

    @property
    def name(self) -> str:
        """What it was called."""
        return str(self.fields["name"])


@dataclass(frozen=True)
class _NotedTensor:
    """A tensor as it was, with what made and read it, in the graph or around it."""

    tensor: gs.Tensor
    fields: dict[str, Any]
    inputs: list[gs.Node]
    outputs: list[gs.Node]


class Snapshot:
    """What a graph and its bodies look like at one moment.

    Nodes and tensors are noted, not copied: after `restore` they are the same objects.
    """

    def __init__(self, graph: gs.Graph) -> None:
        """Note every node, tensor and list of the graph."""
        self._graph = graph
        self._lists: list[tuple[gs.Graph, list[Any], list[Any], list[Any]]] = []
        self._nodes: list[Noted] = []
        self._tensors: dict[int, _NotedTensor] = {}
        for body in bodies(graph):
            lists = list(body.nodes), list(body.inputs), list(body.outputs)
            self._lists.append((body, *lists))
            for tensor in (*body.inputs, *body.outputs):
                self._note(tensor)
            for node in body.nodes:
                fields = {k: v for k, v in vars(node).items() if k not in _LINKED}
                attrs = {k: list(v) if type(v) is list else v for k, v in node.attrs.items()}
                ends = list(node.inputs), list(node.outputs)
                self._nodes.append(Noted(node, op_key(node), fields, attrs, *ends))
                for tensor in (*node.inputs, *node.outputs):
                    self._note(tensor)

    def _note(self, tensor: gs.Tensor) -> None:
        if id(tensor) not in self._tensors:
            fields = {k: v for k, v in vars(tensor).items() if k not in _LINKED}
            if type(fields.get("shape")) is list:
                fields["shape"] = list(fields["shape"])
            self._tensors[id(tensor)] = _NotedTensor(
                tensor, fields, list(tensor.inputs), list(tensor.outputs)
            )

    @property
    def nodes(self) -> Sequence[Noted]:
        """The nodes of the graph and of its bodies."""
        return self._nodes

    def restore(self) -> None:
        """Make the graph what it was."""
        for body in list(bodies(self._graph)):
            for node in body.nodes:
                _put(node, [], [])
        for noted in self._nodes:
            vars(noted.node).update(noted.fields)
            noted.node.attrs.clear()
            noted.node.attrs.update(noted.attrs)
            _put(noted.node, noted.inputs, noted.outputs)
        for tensor in self._tensors.values():
            vars(tensor.tensor).update(tensor.fields)
            _put(tensor.tensor, tensor.inputs, tensor.outputs)
        for body, nodes, inputs, outputs in self._lists:
            body.nodes, body.inputs, body.outputs = nodes, inputs, outputs


def _put(end: gs.Node | gs.Tensor, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
    """Fill the lists of a node or tensor, and nothing at their other ends."""
    for there, wanted in ((end.inputs, inputs), (end.outputs, outputs)):
        list.clear(there)
        list.extend(there, wanted)
