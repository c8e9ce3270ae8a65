"""Remove nodes that change nothing.

Given:  y = Reshape | Expand | Slice (forward) (x)      with y's shape equal to x's
        y = Pad(x) by zero everywhere
        y = Cast(x) to x's own type
        y = Transpose(x, [0, 1, 2, ...])
        y = Concat(x), of one input
Result: x takes y's place

Shapes are compared symbolically: (N, 10) equals (N, 10) whatever N is.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnxgraft.surgery._rewrite import Context, Result, bypass, constant


def apply(graph: gs.Graph, context: Context) -> Result:
    """Bypass every node that changes nothing."""
    result = Result()
    for node in graph.nodes:
        if node.inputs and node.outputs and _changes_nothing(node, context):
            if bypass(graph, node):
                result.did(node, f"{node.op} changed nothing")
            else:
                result.refuse(node, f"the {node.op} joins two tensors whose names are fixed")
    return result


def _changes_nothing(node: gs.Node, context: Context) -> bool:
    if node.op in ("Reshape", "Expand", "Slice"):
        shape = context.shapes.shape(node.inputs[0])
        same = shape is not None and shape == context.shapes.shape(node.outputs[0])
        return same and (node.op != "Slice" or _forward(node))
    if node.op == "Pad":
        pads = constant(node.inputs[1]) if len(node.inputs) > 1 else None
        return pads is not None and not pads.any()
    if node.op == "Cast":
        dtype = context.shapes.dtype(node.inputs[0])
        to = onnx.helper.tensor_dtype_to_np_dtype(int(node.attrs["to"]))
        return dtype is not None and np.dtype(dtype) == to
    if node.op == "Transpose":
        perm = node.attrs.get("perm")
        return perm is not None and list(perm) == list(range(len(perm)))
    return bool(node.op == "Concat" and len(node.inputs) == 1)


def _forward(node: gs.Node) -> bool:
    if len(node.inputs) < 5:
        return True
    steps = constant(node.inputs[4])
    return steps is not None and bool((steps > 0).all())
