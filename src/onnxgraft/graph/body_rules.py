"""What the bodies of If, Loop and Scan say of the types and shapes around them, and the reverse.

Of an If what all branches agree on is known. A state of a Loop has the type that it starts with,
and the shape too if the body ends with that; what a Loop collects has one axis more. A state of a
Scan keeps its shape; what is scanned loses an axis in the body, and what is collected gets it back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_graphsurgeon as gs

from onnxgraft.graph.dims import Shape
from onnxgraft.graph.operators import is_op
from onnxgraft.graph.walk import own_bodies

if TYPE_CHECKING:
    from onnxgraft.graph.shapes import Shapes

__all__ = ["bind_bodies", "made_by_bodies", "scanned_inputs"]


def bind_bodies(shapes: Shapes, node: gs.Node) -> None:
    """Tell the inputs of a node's body from what the node reads."""
    if is_op(node, "Loop"):
        for tensor, start in zip(node.attrs["body"].inputs[2:], node.inputs[2:], strict=False):
            shapes.bind(tensor, start)
    elif scanned_inputs(node):
        inputs, (states, axes, _) = node.attrs["body"].inputs, _parts(node)
        for tensor, start in zip(inputs[:states], node.inputs, strict=False):
            shapes.bind(tensor, start, shapes.shape(start))
        for tensor, whole, axis in zip(inputs[states:], node.inputs[states:], axes, strict=False):
            shape = shapes.shape(whole)
            if shape:
                place = axis % len(shape)
                shape = shape[:place] + shape[place + 1 :]
            shapes.bind(tensor, whole, shape)


def made_by_bodies(shapes: Shapes, node: gs.Node) -> None:
    """Tell what a node with bodies makes from what its bodies end with."""
    if is_op(node, "If"):
        branches = [body.outputs for body in own_bodies(node)]
        for tensor, *ends in zip(node.outputs, *branches, strict=False):
            shapes.put(tensor, ends[0], _common(shapes, [shapes.shape(end) for end in ends]))
    elif is_op(node, "Loop"):
        starts = node.inputs[2:]
        for index, (tensor, end) in enumerate(
            zip(node.outputs, node.attrs["body"].outputs[1:], strict=False)
        ):
            shape = shapes.shape(end)
            if index < len(starts):
                shapes.put(tensor, starts[index])
                shape = _common(shapes, [shapes.shape(starts[index]), shape])
            elif shape is not None:
                shape = (shapes.unknown(), *shape)
            shapes.put(tensor, end, shape)
    elif scanned_inputs(node):
        states, inner, outer = _parts(node)
        whole = shapes.shape(node.inputs[states])
        length = whole[inner[0] % len(whole)] if whole else shapes.unknown()
        for index, (tensor, end) in enumerate(
            zip(node.outputs, node.attrs["body"].outputs, strict=False)
        ):
            shape = shapes.shape(end)
            if index < states:
                shape = shapes.shape(node.inputs[index])
            elif shape is not None:
                place = outer[index - states] % (len(shape) + 1)
                shape = (*shape[:place], length, *shape[place:])
            shapes.put(tensor, end, shape)


def scanned_inputs(node: gs.Node) -> int:
    """Return how many of a node's inputs a Scan of opset 9 or later goes through; else 0.

    That of opset 8 has a batch. One that claims more than there are no library runs.
    """
    if not is_op(node, "Scan") or "directions" in node.attrs:
        return 0
    count = int(node.attrs.get("num_scan_inputs", 0))
    return count if 0 < count <= len(node.inputs) else 0


def _parts(node: gs.Node) -> tuple[int, list[int], list[int]]:
    """Return the number of a Scan's states, and the axes that its inputs and outputs lose."""
    scanned = scanned_inputs(node)
    states = len(node.inputs) - scanned
    made = max(len(node.outputs) - states, 0)
    axes = _axes(node, "scan_input_axes", scanned)
    return states, axes, _axes(node, "scan_output_axes", made)


def _axes(node: gs.Node, attribute: str, count: int) -> list[int]:
    axes = list(node.attrs.get(attribute, ()))
    return axes if len(axes) == count else [0] * count


def _common(shapes: Shapes, found: list[Shape | None]) -> Shape | None:
    """Return what is true of all of several shapes; None unless they have one rank."""
    known = [shape for shape in found if shape is not None]
    if len(known) < len(found) or len({len(shape) for shape in known}) != 1:
        return None
    return tuple(
        dims[0] if len(set(dims)) == 1 else shapes.unknown() for dims in zip(*known, strict=True)
    )
