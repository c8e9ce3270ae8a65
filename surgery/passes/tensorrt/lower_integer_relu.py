"""For TensorRT: write the Relu of integers as a Max.

Given:  Relu(x), x int32 or int64        Result: Max(x, 0)

TensorRT's activations are of floating-point numbers only.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.graph.operators import nodes_of, set_op
from onnxgraft.stages.surgery.running.rewrite import Context, Result


def apply(graph: gs.Graph, context: Context) -> Result:
    """Rewrite every Relu of integers."""
    result = Result()
    for node in nodes_of(graph, "Relu"):
        dtype = context.shapes.dtype(node.inputs[0])
        if dtype in (np.dtype(np.int32), np.dtype(np.int64)):
            set_op(node, "Max")
            node.inputs.append(context.constant(f"{node.name}/zero", np.zeros((), dtype)))
            result.did(node, "TensorRT takes no Relu of integers")
    return result
