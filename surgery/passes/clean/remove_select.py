"""Remove a select whose condition is a constant.

Given:  y = Where(True, a, b)      Result: a takes y's place
Given:  y = Where(False, a, b)     Result: b takes y's place

A select selects: it is never rewritten as arithmetic with a mask, in which a NaN or Inf of the
branch not taken would reach the output. Where the branch taken would have been broadcast, the
select stays.
"""

from __future__ import annotations

import onnx_graphsurgeon as gs

from onnxgraft.graph.operators import nodes_of
from onnxgraft.stages.surgery.running.rewrite import Context, Result, constant


def apply(graph: gs.Graph, context: Context) -> Result:
    """Remove every Where that a constant decides."""
    result = Result()
    for node in nodes_of(graph, "Where"):
        condition = constant(node.inputs[0])
        if condition is None:
            result.refuse(node, "the condition is not a constant")
            continue
        if condition.size == 0 or condition.any() != condition.all():
            result.refuse(node, "the condition is neither all true nor all false")
            continue
        taken = 1 if condition.all() else 2
        whole = context.shapes.shape(node.outputs[0])
        if whole is None or context.shapes.shape(node.inputs[taken]) != whole:
            result.refuse(node, "the branch taken is broadcast, or its shape is not known")
        elif context.bypass(node, keep=taken):
            result.did(node, f"the {'first' if taken == 1 else 'second'} branch is always taken")
        else:
            result.refuse(node, "it joins two tensors whose names are fixed")
    return result
