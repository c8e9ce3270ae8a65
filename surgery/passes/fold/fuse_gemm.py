"""Join a MatMul by a constant and the Add of a constant to a Gemm.

Given:  Add(MatMul(x, W), b)      x: (N, K), W: (K, M) and b: (M) or (1, M) constant
Result: Gemm(x, W, b)

Whole numbers are left alone: onnxruntime has no Gemm of them.
"""

from __future__ import annotations

import onnx_graphsurgeon as gs

from onnxgraft.graph.operators import is_op, nodes_of, set_op
from onnxgraft.stages.surgery.passes.fold._affine import rounds
from onnxgraft.stages.surgery.running.rewrite import Context, Result, constant


def apply(graph: gs.Graph, context: Context) -> Result:
    """Fuse every MatMul and Add that a Gemm can do."""
    result = Result()
    for node in nodes_of(graph, "MatMul"):
        weight = constant(node.inputs[1])
        shape = context.shapes.shape(node.inputs[0])
        if weight is None or weight.ndim != 2 or shape is None or len(shape) != 2:
            continue
        if weight.dtype.kind in "iu":
            continue
        add = context.single_consumer(node.outputs[0])
        if not is_op(add, "Add"):
            continue
        bias = add.inputs[0 if add.inputs[1] is node.outputs[0] else 1]
        value = constant(bias)
        if value is None or value.shape not in ((weight.shape[1],), (1, weight.shape[1])):
            result.refuse(node, "what is added is not one constant a column")
            continue
        if rounds(add, context):
            result.refuse(node, f"{add.name!r} and the step after it round")
            continue
        set_op(node, "Gemm")
        node.inputs.append(bias)
        node.outputs = [add.outputs[0]]
        add.outputs.clear()
        result.did(node, f"joined with {add.name}")
    return result
