"""Remove Identity, and Dropout as it is at inference.

Given:  y = Identity(x)   or   y = Dropout(x) with training_mode absent or false
Result: x takes y's place
"""

from __future__ import annotations

import onnx_graphsurgeon as gs

from onnxgraft.graph.operators import is_op, nodes_of, op_of
from onnxgraft.stages.surgery.running.rewrite import Context, Result, constant


def apply(graph: gs.Graph, context: Context) -> Result:
    """Bypass every Identity and every Dropout that does nothing."""
    result = Result()
    for node in nodes_of(graph, "Dropout", "Identity"):
        if is_op(node, "Dropout"):
            training = constant(node.inputs[2]) if len(node.inputs) > 2 else None
            if len(node.inputs) > 2 and (training is None or training.any()):
                result.refuse(node, "the Dropout is not known to be in inference mode")
                continue
            mask = node.outputs[1] if len(node.outputs) > 1 else None
            if mask is not None and (mask.outputs or context.is_output(mask)):
                result.refuse(node, "the Dropout's mask is used")
                continue
        if context.bypass(node):
            result.did(node, f"{op_of(node)} removed")
        else:
            result.refuse(node, f"the {op_of(node)} joins two tensors whose names are fixed")
    return result
