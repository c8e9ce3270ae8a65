"""Remove Reshapes that only wrap what could be done without them.

Given:  Reshape(Reshape(x, s1), s2)
Result: Reshape(x, s2)                                     s2 has no 0

Given:  Reshape(f(Reshape(x: (N, H, W, C), [-1, C])), (N, H, W, C))      f elementwise, or a
Result: f(x)                                                             Softmax of the last axis

TensorFlow wraps the softmax of a 4-D tensor so.
"""

from __future__ import annotations

import onnx_graphsurgeon as gs

from onnxgraft.surgery._rewrite import Context, Result, constant, single_consumer

ELEMENTWISE = frozenset(
    {"Abs", "Cast", "Clip", "Elu", "Erf", "Exp", "HardSigmoid", "HardSwish", "LeakyRelu", "Log",
     "Neg", "Reciprocal", "Relu", "Sigmoid", "Softplus", "Sqrt", "Tanh"}
)  # fmt: skip
_LAST_AXIS = frozenset({"LogSoftmax", "Softmax"})


def apply(graph: gs.Graph, context: Context) -> Result:
    """Merge Reshapes that follow each other, and unwrap what stands between two."""
    result = Result()
    while _merge_one(graph, context, result):
        graph.cleanup()
        context.forget_shapes()
    return result


def _merge_one(graph: gs.Graph, context: Context, result: Result) -> bool:
    for node in graph.nodes:
        if node.op != "Reshape" or not node.outputs:
            continue
        inner = single_consumer(graph, node.outputs[0])
        if inner is None:
            continue
        if inner.op == "Reshape" and inner.inputs[0] is node.outputs[0]:
            target = constant(inner.inputs[1])
            if target is None or (target == 0).any() or inner.attrs.get("allowzero", 0):
                continue
            inner.inputs[0] = node.inputs[0]
            node.outputs.clear()
            result.did(node, f"merged into {inner.name}")
            return True
        if _wraps(graph, context, node, inner):
            outer = inner.outputs[0].outputs[0]
            rank = len(context.shapes.shape(node.inputs[0]) or ())
            if inner.op in _LAST_AXIS:
                inner.attrs["axis"] = rank - 1
            inner.inputs[0] = node.inputs[0]
            inner.outputs[0] = outer.outputs[0]
            outer.outputs.clear()
            node.outputs.clear()
            result.did(node, f"{inner.op} works on the shape before the Reshape")
            return True
    return False


def _wraps(graph: gs.Graph, context: Context, first: gs.Node, inner: gs.Node) -> bool:
    """Tell whether ``first`` and the Reshape after ``inner`` undo each other around it."""
    if inner.op not in ELEMENTWISE | _LAST_AXIS or inner.inputs[0] is not first.outputs[0]:
        return False
    outer = single_consumer(graph, inner.outputs[0])
    if outer is None or outer.op != "Reshape" or outer.inputs[0] is not inner.outputs[0]:
        return False
    before = context.shapes.shape(first.inputs[0])
    between = context.shapes.shape(first.outputs[0])
    after = context.shapes.shape(outer.outputs[0])
    if not before or not between or before != after:
        return False
    if inner.op in ELEMENTWISE:
        return True
    # Before opset 13 a softmax flattened its operand at the axis, 1 by default.
    axis = inner.attrs.get("axis", -1 if graph.opset >= 13 else 1)
    return axis in (-1, len(between) - 1) and before[-1] == between[-1]
