"""Nodes in the order in which they can run, and without those that nobody reads."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterator
from typing import Any

import onnx_graphsurgeon as gs

from onnxgraft.errors import ModelError
from onnxgraft.graph.operators import op_of

__all__ = [
    "bodies", "detach", "every_node", "nodes_within", "own_bodies", "parts", "pinned", "read_by",
    "tidy",
]  # fmt: skip


def own_bodies(node: gs.Node) -> list[gs.Graph]:
    """Return a node's own bodies: the branches of an If, the body of a Loop or Scan.

    onnx-graphsurgeon's `Node.subgraphs` takes several times as long, for every node of a graph.
    """
    return [value for value in node.attrs.values() if isinstance(value, gs.Graph)]


def bodies(graph: gs.Graph) -> Iterator[gs.Graph]:
    """Yield the graph itself and the bodies of its Ifs, Loops and Scans, at any depth."""
    yield graph
    for node in graph.nodes:
        for body in own_bodies(node):
            yield from bodies(body)


def nodes_within(graph: gs.Graph) -> Iterator[gs.Node]:
    """Yield the nodes of a graph and of the bodies in it."""
    for body in bodies(graph):
        yield from body.nodes


def parts(graph: gs.Graph) -> Iterator[Any]:
    """Yield a graph, the bodies in it, and the functions of the model with theirs."""
    for part in (graph, *graph.functions):
        yield from bodies(part)


def every_node(graph: gs.Graph) -> Iterator[gs.Node]:
    """Yield the nodes of a graph, of the bodies in it, and of the model's functions."""
    for part in parts(graph):
        yield from part.nodes


def pinned(graph: gs.Graph) -> dict[int, gs.Tensor]:
    """Return the outputs of the graph and of all bodies in it, by their ids."""
    return {id(tensor): tensor for body in bodies(graph) for tensor in body.outputs}


def read_by(node: gs.Node) -> Iterator[gs.Tensor]:
    """Yield what a node reads, in its bodies too."""
    yield from node.inputs
    for body in own_bodies(node):
        yield from body.outputs
        for inner in body.nodes:
            yield from read_by(inner)


def detach(node: gs.Node) -> None:
    """Take a node and its bodies off all tensors."""
    for body in own_bodies(node):
        for inner in body.nodes:
            detach(inner)
    node.inputs.clear()
    node.outputs.clear()


def tidy(graph: gs.Graph) -> None:
    """Sort the nodes of the graph and its bodies, and remove those that no output depends on.

    Nodes that are in order already stay where they are.

    Raises:
        ModelError: The graph has a cycle.
    """
    kept = pinned(graph)
    for body in list(bodies(graph)):
        _sort(body)
    _prune(graph, kept)


def _sort(graph: gs.Graph) -> None:
    place = {id(node): index for index, node in enumerate(graph.nodes)}
    waiting: list[set[int]] = []
    for node in graph.nodes:
        producers = (place.get(id(p)) for tensor in read_by(node) for p in tensor.inputs)
        waiting.append({index for index in producers if index is not None})
    if all(max(before, default=-1) < index for index, before in enumerate(waiting)):
        return
    following: list[list[int]] = [[] for _ in waiting]
    for index, before in enumerate(waiting):
        for earlier in before:
            following[earlier].append(index)
    ready = [index for index, before in enumerate(waiting) if not before]
    order: list[int] = []
    while ready:
        index = heapq.heappop(ready)
        order.append(index)
        for later in following[index]:
            waiting[later].discard(index)
            if not waiting[later]:
                heapq.heappush(ready, later)
    if len(order) < len(graph.nodes):
        left = min(set(range(len(graph.nodes))) - set(order))
        node = graph.nodes[left]
        raise ModelError(f"the graph has a cycle through the {op_of(node)} {node.name!r}")
    nodes = list(graph.nodes)
    graph.nodes = [nodes[index] for index in order]


def _prune(graph: gs.Graph, kept: Collection[int]) -> None:
    living = []
    for node in reversed(graph.nodes):
        if any(tensor.outputs or id(tensor) in kept for tensor in node.outputs):
            living.append(node)
        else:
            detach(node)
    if len(living) < len(graph.nodes):
        graph.nodes = living[::-1]
    for node in graph.nodes:
        for body in own_bodies(node):
            _prune(body, kept)
