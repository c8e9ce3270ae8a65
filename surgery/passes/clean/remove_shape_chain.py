"""Give a Reshape whose target is computed from shapes a constant target.

Given:  y = Reshape(x, Concat(Slice(Shape(x), 0, 1), [10]))      x: (N, 2, 5)
Result: y = Reshape(x, [0, 10])

Given:  y = f(Shape(x)), all of whose elements are known, such as Gather(Shape(x), 1)
Result: the constant y, whoever reads it: a Resize, Expand, Slice, Range ...

The target's elements are followed symbolically through Shape, Slice, Gather, Concat, Squeeze,
Unsqueeze, Cast and arithmetic. An element that equals x's own dimension at its place becomes 0,
one other element may stay unknown and becomes -1. The batch stays free; the chain is then dead. A
Reshape to [0, -1] refuses an empty batch, for which the chain gave a size.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.graph.dims import Dim, target_of
from onnxgraft.graph.operators import nodes_of
from onnxgraft.graph.shape_rules import FOLLOWED
from onnxgraft.stages.surgery.running.rewrite import Context, Result, replace


def apply(graph: gs.Graph, context: Context) -> Result:
    """Make the targets of Reshapes constant where that is possible."""
    result = Result()
    for node in nodes_of(graph, "Reshape"):
        if isinstance(node.inputs[1], gs.Constant):
            continue
        if node.attrs.get("allowzero", 0):
            result.refuse(node, "with allowzero a 0 in the target is a dimension of size 0")
            continue
        value = context.shapes.value(node.inputs[1])
        if value is None:
            result.refuse(node, "the target shape is not computed from shapes and constants alone")
            continue
        shape = context.shapes.shape(node.inputs[0]) or ()
        target = [
            0 if axis < len(shape) and dim == shape[axis] and not dim.fixed else _number(dim)
            for axis, dim in enumerate(value)
        ]
        if target.count(-1) > 1:
            # What is left to infer may be known: -1 of (N, 6) into (3*N, -1) is 2.
            found = context.shapes.shape(node.outputs[0])
            target = target_of(context.shapes.shape(node.inputs[0]), found) or target
        if target.count(-1) > 1:
            result.refuse(node, "more than one dimension of the target is not known")
            continue
        node.inputs[1] = gs.Constant(
            context.free_name(f"{node.name}/target"), np.array(target, np.int64)
        )
        result.did(node, f"target made constant: {target}")
    for node in nodes_of(graph, *FOLLOWED):
        if len(node.outputs) == 1:
            _settle(node, context, result)
    return result


def _settle(node: gs.Node, context: Context, result: Result) -> None:
    """Replace a tensor of known integers by a constant."""
    tensor = node.outputs[0]
    value, shape = context.shapes.value(tensor), context.shapes.shape(tensor)
    dtype = context.shapes.dtype(tensor)
    if value is None or shape is None or len(shape) > 1 or not tensor.outputs:
        return
    if context.is_output(tensor) or dtype is None or np.dtype(dtype).kind not in "iu":
        return
    numbers = [dim.number for dim in value if dim is not None and dim.fixed]
    if len(numbers) < len(value):
        return
    known = np.array(numbers, np.dtype(dtype)).reshape([dim.number for dim in shape])
    replace(tensor, context.constant(tensor.name, known))
    result.did(node, f"it is {numbers}, whatever the input")


def _number(dim: Dim | None) -> int:
    return dim.number if dim is not None and dim.fixed else -1
