"""Types and shapes of all tensors of a graph at once: for whoever does not rewrite it meanwhile."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx
import onnx_graphsurgeon as gs

from onnxgraft.graph.dims import Shape
from onnxgraft.graph.shapes import Shapes
from onnxgraft.graph.walk import bodies

__all__ = ["TensorType", "infer", "write_types"]


@dataclass(frozen=True)
class TensorType:
    """What is known of a tensor.

    Attributes:
        element: onnx's number of its type; None where it is not known, or is no tensor's.
        shape: Its dimensions; None where not even their number is known.
    """

    element: int | None
    shape: Shape | None

    @property
    def sizes(self) -> tuple[int, ...] | None:
        """The shape, if all its dimensions are numbers."""
        if self.shape is None or not all(dim.fixed for dim in self.shape):
            return None
        return tuple(dim.number for dim in self.shape)

    @property
    def nbytes(self) -> int | None:
        """The bytes that its values take, if that is known."""
        if self.sizes is None or self.element is None:
            return None
        width = onnx.helper.tensor_dtype_to_np_dtype(self.element).itemsize
        return math.prod(self.sizes) * int(width)


def infer(
    graph: gs.Graph,
    sizes: Mapping[str, Sequence[int]] | None = None,
    *,
    free: int | None = None,
    declared: bool = False,
) -> dict[str, TensorType]:
    """Return what is known of each input of a graph and of each tensor that its nodes make.

    The parameters are those of `Shapes`.
    """
    shapes = Shapes(graph, sizes, free=free, declared=declared)
    made = (tensor for node in graph.nodes for tensor in node.outputs)
    return {
        tensor.name: TensorType(shapes.element(tensor), shapes.shape(tensor))
        for tensor in (*graph.inputs, *made)
        if tensor.name
    }


def write_types(graph: gs.Graph) -> None:
    """Write type and shape into each tensor of a graph and its bodies that lacks them.

    What the graph says itself is believed; the shapes of its inputs and outputs stay as they are.
    """
    shapes = Shapes(graph, declared=True)
    for body in bodies(graph):  # a node is asked about before its bodies, which then know more
        ends = {id(tensor) for tensor in (*body.inputs, *body.outputs)}
        for tensor in (*body.inputs, *(t for node in body.nodes for t in node.outputs)):
            if isinstance(tensor, gs.Constant) or not tensor.name:
                continue
            found = shapes.shape(tensor)
            if tensor.dtype is None:
                tensor.dtype = shapes.dtype(tensor)
            if found is not None and (tensor.shape is None or id(tensor) not in ends):
                tensor.shape = [dim.written for dim in found]
