"""A graph as it was, to go back to: its wiring is noted, its weights are not copied."""

from __future__ import annotations

from typing import Any

import onnx_graphsurgeon as gs

from onnxgraft.graph.walk import bodies

__all__ = ["Snapshot"]

# What nodes and tensors say of each other.
_LINKED = frozenset({"inputs", "outputs"})


class Snapshot:
    """What a graph and its bodies look like at one moment.

    Nodes and tensors are noted, not copied: after `restore` they are the same objects.
    """

    def __init__(self, graph: gs.Graph) -> None:
        """Note every node, tensor and list of the graph."""
        self._graph = graph
        self._lists: list[tuple[gs.Graph, list[Any], list[Any], list[Any]]] = []
        self._nodes: list[tuple[gs.Node, dict[str, Any], dict[str, Any], list[Any], list[Any]]] = []
        self._tensors: dict[int, tuple[gs.Tensor, dict[str, Any]]] = {}
        for body in bodies(graph):
            lists = list(body.nodes), list(body.inputs), list(body.outputs)
            self._lists.append((body, *lists))
            for tensor in (*body.inputs, *body.outputs):
                self._note(tensor)
            for node in body.nodes:
                fields = {k: v for k, v in vars(node).items() if k not in _LINKED}
                attrs = {k: list(v) if type(v) is list else v for k, v in node.attrs.items()}
                ends = list(node.inputs), list(node.outputs)
                self._nodes.append((node, fields, attrs, *ends))
                for tensor in (*node.inputs, *node.outputs):
                    self._note(tensor)

    def _note(self, tensor: gs.Tensor) -> None:
        if id(tensor) not in self._tensors:
            fields = {k: v for k, v in vars(tensor).items() if k not in _LINKED}
            if type(fields.get("shape")) is list:
                fields["shape"] = list(fields["shape"])
            self._tensors[id(tensor)] = (tensor, fields)

    def restore(self) -> None:
        """Make the graph what it was."""
        for body in list(bodies(self._graph)):
            for node in body.nodes:
                _unplug(node)
        for tensor, fields in self._tensors.values():
            list.clear(tensor.inputs)
            list.clear(tensor.outputs)
            vars(tensor).update(fields)
        for node, fields, attrs, inputs, outputs in self._nodes:
            _unplug(node)
            vars(node).update(fields)
            node.attrs.clear()
            node.attrs.update(attrs)
            node.inputs.extend(inputs)
            node.outputs.extend(outputs)
        for body, nodes, inputs, outputs in self._lists:
            body.nodes, body.inputs, body.outputs = nodes, inputs, outputs


def _unplug(node: gs.Node) -> None:
    """Empty a node's lists; what its tensors say of it is put right afterwards."""
    list.clear(node.inputs)
    list.clear(node.outputs)
