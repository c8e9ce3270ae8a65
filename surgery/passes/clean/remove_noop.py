"""Remove nodes that change nothing.

Given:  y = Reshape | Flatten | Squeeze | Unsqueeze | Expand | Tile (x)  with y's shape equal to x's
        y = Slice(x) of everything, forward
        y = Pad(x) by zero everywhere
        y = Cast(x) to x's own type
        y = Transpose(x, [0, 1, 2, ...])
        y = Concat | Sum | Max | Min | Mean (x), of one input
        y = x + 0, x - 0, x * 1, x / 1, x ^ 1, with y's shape equal to x's; or a tensor of zeros
            or ones, such as a mask that hides nothing
        y = Relu(x), where a Relu has made x
        y = Resize(x) by 1 along all axes
Result: x takes y's place

Shapes are compared symbolically: (N, 10) equals (N, 10) whatever N is.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnxgraft.graph.operators import is_op, op_of
from onnxgraft.stages.surgery.running.rewrite import Context, Result, constant

_SHAPED = frozenset({"Expand", "Flatten", "Reshape", "Squeeze", "Tile", "Unsqueeze"})
_OF_ONE = frozenset({"Concat", "Max", "Mean", "Min", "Sum"})
# The neutral number, and which operand it may be.
_NEUTRAL = {"Add": (0, (0, 1)), "Sub": (0, (1,)), "Mul": (1, (0, 1)), "Div": (1, (1,)),
            "Pow": (1, (1,))}  # fmt: skip
# An end of a Slice that no dimension reaches: exporters write the largest int32 or int64.
_FAR = (1 << 31) - 1


def apply(graph: gs.Graph, context: Context) -> Result:
    """Bypass every node that changes nothing."""
    result = Result()
    for node in graph.nodes:
        if not node.inputs or not node.outputs:
            continue
        kept = _idle(node, context)
        if kept is None:
            continue
        if context.bypass(node, keep=kept):
            result.did(node, f"{op_of(node)} changed nothing")
        else:
            result.refuse(node, f"the {op_of(node)} joins two tensors whose names are fixed")
    return result


def _idle(node: gs.Node, context: Context) -> int | None:
    """Return which input passes through unchanged, or None."""
    if is_op(node, *_NEUTRAL) and len(node.inputs) == 2:
        neutral, places = _NEUTRAL[op_of(node)]
        for index in places:
            value = constant(node.inputs[index])
            if value is not None and value.size and (value == neutral).all():
                kept = 1 - index
                return kept if _same_shape(node, context, kept) else None
        return None
    return 0 if _changes_nothing(node, context) else None


def _same_shape(node: gs.Node, context: Context, index: int = 0) -> bool:
    shape = context.shapes.shape(node.inputs[index])
    return shape is not None and shape == context.shapes.shape(node.outputs[0])


def _changes_nothing(node: gs.Node, context: Context) -> bool:
    if is_op(node, "Tile"):
        times = constant(node.inputs[1])
        if times is not None and (times == 1).all():
            return True
    if is_op(node, *_SHAPED):
        return _same_shape(node, context)
    if is_op(node, "Slice"):
        return _covers(node) or (_same_shape(node, context) and _forward(node))
    if is_op(node, "Pad"):
        pads = constant(node.inputs[1]) if len(node.inputs) > 1 else None
        return pads is not None and not pads.any()
    if is_op(node, "Cast"):
        dtype = context.shapes.dtype(node.inputs[0])
        if isinstance(dtype, int):  # one of onnx's own types
            return bool(dtype == node.attrs["to"])
        to = onnx.helper.tensor_dtype_to_np_dtype(int(node.attrs["to"]))
        return dtype is not None and np.dtype(dtype) == to
    if is_op(node, "Transpose"):
        perm = node.attrs.get("perm")
        return perm is not None and list(perm) == list(range(len(perm)))
    if is_op(node, "Relu"):
        before = context.producer(node.inputs[0])
        return is_op(before, "Relu")
    if is_op(node, "Resize"):
        scales = constant(node.inputs[2]) if len(node.inputs) == 3 else None
        crop = node.attrs.get("coordinate_transformation_mode") == "tf_crop_and_resize"
        return scales is not None and scales.size > 0 and bool((scales == 1).all()) and not crop
    return is_op(node, *_OF_ONE) and len(node.inputs) == 1


def _covers(node: gs.Node) -> bool:
    """Tell whether a Slice takes everything, whatever there is."""
    ends = [constant(tensor) for tensor in node.inputs[1:3]]
    if len(ends) < 2 or ends[0] is None or ends[1] is None:
        return False
    return not ends[0].any() and bool((ends[1] >= _FAR).all()) and _forward(node, 1)


def _forward(node: gs.Node, most: int | None = None) -> bool:
    if len(node.inputs) < 5 or not node.inputs[4].name:
        return True
    steps = constant(node.inputs[4])
    return (
        steps is not None
        and bool((steps > 0).all())
        and (most is None or bool((steps <= most).all()))
    )
