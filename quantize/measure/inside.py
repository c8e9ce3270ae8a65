"""What tensors in the bodies of If, Loop and Scan hold, as tensors of the graph around them.

A body hands on what its node makes, and nothing else. So the node makes one tensor more for each
tensor that is wanted: a row of all values that it held, over all turns, and of none where the body
was not run.

    If      the branch ends with the values too, and the other branch with none
    Scan    collects them
    Loop    collects them where they are as many in each turn; else it carries them along, as a
            state that begins with none and to which each turn adds its own

What is two bodies deep is handed on twice.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.graph.model import Model
from onnxgraft.graph.names import FreeNames
from onnxgraft.graph.node import Node
from onnxgraft.graph.operators import is_op
from onnxgraft.graph.shapes import Shapes
from onnxgraft.graph.walk import tidy

__all__ = ["opened", "shut"]


@dataclass(frozen=True)
class _Door:
    """A node, the graph that it is in, and one of its bodies."""

    graph: gs.Graph
    node: gs.Node
    body: gs.Graph


@dataclass(frozen=True)
class _Place:
    """A tensor in a body.

    Attributes:
        tensor: The tensor.
        doors: On the way to it, from the main graph on.
        steady: Whether it holds as many values in each turn.
    """

    tensor: gs.Tensor
    doors: tuple[_Door, ...]
    steady: bool


def shut(graph: gs.Graph, wanted: Collection[str]) -> set[str]:
    """Return those of the ``wanted`` tensors whose values can't be handed on.

    A Scan collects as many values in each turn.
    """
    found = set()
    for place in _places(graph, wanted):
        *outer, last = (is_op(door.node, "Scan") for door in place.doors)
        if any(outer) or (last and not place.steady):
            found.add(str(place.tensor.name))
    return found


def opened(model: Model, wanted: Collection[str]) -> Model:
    """Return a model that has each ``wanted`` tensor of a body as an output, under its own name.

    It is (values,) there. Where there are none, it is the model itself.

    Args:
        model: Is not changed; no two of its tensors have one name.
        wanted: Names of tensors, none of them `shut`.
    """
    if not _places(model.graph, wanted):
        return model
    copy = model.copy()
    names = FreeNames(copy.graph, copy.names)
    for place in _places(copy.graph, wanted):
        name, steady = place.tensor.name, place.steady
        place.tensor.name = names.tensor(f"{name}/inside")
        values = _row(place.doors[-1].body, names, place.tensor)
        for door in reversed(place.doors):
            values = _handed_on(door, names, values, steady=steady)
            steady = False
        values.name = name
        copy.graph.outputs.append(values)
    tidy(copy.graph)
    return copy


def _places(graph: gs.Graph, wanted: Collection[str]) -> list[_Place]:
    shapes, names = Shapes(graph), set(wanted)
    return [
        _Place(tensor, doors, _steady(shapes, tensor))
        for doors, tensor in _within(graph, shapes, ())
        if tensor.name in names
    ]


def _within(
    graph: gs.Graph, shapes: Shapes, doors: tuple[_Door, ...]
) -> Iterator[tuple[tuple[_Door, ...], gs.Tensor]]:
    """Yield the tensors that bodies are fed or make, with the way to them."""
    for node in graph.nodes:
        for body in node.subgraphs():
            for tensor in node.outputs:  # who is asked about a node knows its bodies
                shapes.shape(tensor)
            way = (*doors, _Door(graph, node, body))
            for tensor in (*body.inputs, *(made for each in body.nodes for made in each.outputs)):
                yield way, tensor
            yield from _within(body, shapes, way)


def _steady(shapes: Shapes, tensor: gs.Tensor) -> bool:
    shape = shapes.shape(tensor)
    return shape is not None and all(dim.known for dim in shape)


def _handed_on(door: _Door, names: FreeNames, values: gs.Tensor, *, steady: bool) -> gs.Tensor:
    """Return, in the graph around a body, the ``values`` of all times that the body ran."""
    node, body, label = door.node, door.body, f"{values.name}/around"
    made = gs.Variable(names.tensor(label), np.float32)
    _complete(node, body, names)
    if is_op(node, "If"):
        for branch in node.subgraphs():
            branch.outputs.append(values if branch is body else _nothing(branch, names, label))
        node.outputs.append(made)
        return made
    if is_op(node, "Loop") and not steady:
        states = len(node.inputs) - 2
        carried = gs.Variable(names.tensor(f"{label}/before"), np.float32)
        grown = gs.Variable(names.tensor(f"{label}/after"), np.float32)
        body.nodes.append(
            Node("Concat", names.node(grown.name), {"axis": 0}, [carried, values], [grown])
        )
        body.inputs.append(carried)
        body.outputs.insert(1 + states, grown)
        node.inputs.append(_nothing(door.graph, names, label))
        node.outputs.insert(states, made)
        return made
    body.outputs.append(values)
    node.outputs.append(made)
    for key in ("scan_output_axes", "scan_output_directions"):
        if key in node.attrs:
            node.attrs[key] = [*node.attrs[key], 0]
    return _row(door.graph, names, made)


def _complete(node: gs.Node, body: gs.Graph, names: FreeNames) -> None:
    """Write the inputs and outputs of a node that may be left out at the end."""
    hidden = 1 if is_op(node, "Loop") else 0  # the condition
    while len(node.outputs) < len(body.outputs) - hidden:
        node.outputs.append(gs.Variable(names.tensor(f"{node.name}/unread")))
    while is_op(node, "Loop") and len(node.inputs) < 2:
        node.inputs.append(gs.Variable.empty())


def _row(graph: gs.Graph, names: FreeNames, tensor: gs.Tensor) -> gs.Variable:
    """Return the values of a tensor as (values,)."""
    row = gs.Variable(names.tensor(f"{tensor.name}/row"), np.float32)
    shape = gs.Constant(names.tensor(f"{row.name}/shape"), np.array([-1], np.int64))
    graph.nodes.append(Node("Reshape", names.node(row.name), {}, [tensor, shape], [row]))
    return row


def _nothing(graph: gs.Graph, names: FreeNames, label: str) -> gs.Variable:
    """Return (0,) float32."""
    none = gs.Variable(names.tensor(f"{label}/none"), np.float32)
    value = gs.Constant(names.tensor(f"{none.name}/value"), np.zeros(0, np.float32))
    graph.nodes.append(Node("Constant", names.node(none.name), {"value": value}, [], [none]))
    return none
