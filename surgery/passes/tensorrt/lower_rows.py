"""For TensorRT: keep the rows of detections at a fixed number, with -1 in those of nothing.

Given:  y = Unsqueeze(Compress(rows, present, axis=0), axes), y an output of the graph
Result: y = Unsqueeze(Where(present, rows, -1), axes)

It is the last step of what the DetectionOutput of a Caffe SSD becomes: rows (image, label, score,
corners) of the boxes that are there. TensorRT has no Compress, and its engines have outputs whose
size is known before they run. Rows stay in their order; one of nothing is -1 throughout, as Caffe
writes it where there is no detection.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.graph.operators import is_op, nodes_of
from onnxgraft.stages.surgery.passes.tensorrt._build import Builder
from onnxgraft.stages.surgery.running.rewrite import Context, Result, constant

__all__ = ["apply", "rows_of_an_output"]


def apply(graph: gs.Graph, context: Context) -> Result:
    """Rewrite every Compress that drops rows from an output of the graph."""
    result = Result()
    for node in nodes_of(graph, "Compress"):
        if not rows_of_an_output(node, context):
            continue  # lower_compress says why not
        build = Builder(context, node)
        rows, present = build.inputs
        axis = build.integers("axis", 1)
        mask = build.add("Unsqueeze", present, axis)
        nothing = build.constant("nothing", np.array(-1, np.float32))
        build.add("Where", mask, rows, nothing, output=build.outputs[0])
        result.did(node, "all rows stay, and those of nothing are -1")
    return result


def rows_of_an_output(node: gs.Node, context: Context) -> bool:
    """Tell whether a Compress drops rows of a matrix of floats that an output shows."""
    rows, present = node.inputs
    shape = context.shapes.shape(rows)
    floats = context.shapes.dtype(rows) == np.float32
    if shape is None or len(shape) != 2 or node.attrs.get("axis") != 0 or not floats:
        return False
    dropped = node.outputs[0]
    shown = context.single_consumer(dropped)
    ends = shown is not None and is_op(shown, "Unsqueeze") and context.is_output(shown.outputs[0])
    return constant(present) is None and (ends or context.is_output(dropped))
