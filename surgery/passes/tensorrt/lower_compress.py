"""For TensorRT: write a Compress by a constant as a Gather.

Given:  Compress(x, [true, false, true], axis=a)        Result: Gather(x, [0, 2], axis=a)

TensorRT has no Compress.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.graph.operators import nodes_of, set_op
from onnxgraft.stages.surgery.passes.tensorrt.lower_rows import rows_of_an_output
from onnxgraft.stages.surgery.running.rewrite import Context, Result, constant


def apply(graph: gs.Graph, context: Context) -> Result:
    """Rewrite every Compress along an axis by a constant."""
    result = Result()
    for node in nodes_of(graph, "Compress"):
        condition = constant(node.inputs[1])
        if rows_of_an_output(node, context):
            continue  # lower_rows keeps them
        if condition is None or "axis" not in node.attrs:
            result.refuse(node, "TensorRT has no Compress, and this one is not by a constant")
            continue
        set_op(node, "Gather")
        kept = np.flatnonzero(condition).astype(np.int64)
        node.inputs[1] = context.constant(f"{node.name}/kept", kept)
        result.did(node, f"a Gather of {len(kept)} elements")
    return result
