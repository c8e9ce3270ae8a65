"""Move the permutation of an NHWC flatten into the weights of the dense layer after it.

Given:  Gemm|MatMul(Reshape(Transpose(x: (N, C, H, W), [0, 2, 3, 1]), [0, H*W*C]), W, ...)
Result: Gemm|MatMul(Reshape(x, [0, C*H*W]), W', ...)

    W'[permuted row] = W[row]: the rows of W, seen as (H, W, C), are transposed to (C, H, W)

Any permutation that leaves the batch first is absorbed, and a Flatten of axis 1 is as good as a
Reshape.
"""

from __future__ import annotations

import math

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.graph.operators import is_op, nodes_of
from onnxgraft.stages.surgery.running.rewrite import Context, Result, constant


def apply(graph: gs.Graph, context: Context) -> Result:
    """Absorb the Transpose before every flatten of a dense layer."""
    result = Result()
    for flatten in nodes_of(graph, "Flatten", "Reshape"):
        if not flatten.inputs[0].inputs:
            continue
        transpose = flatten.inputs[0].inputs[0]
        shape = context.shapes.shape(flatten.inputs[0])
        flat = context.shapes.shape(flatten.outputs[0])
        if not is_op(transpose, "Transpose") or shape is None or flat is None or len(flat) != 2:
            continue
        perm = list(transpose.attrs.get("perm", reversed(range(len(shape)))))
        features = shape[1:]
        if perm[0] != 0 or not all(dim.fixed for dim in features) or flat[0] != shape[0]:
            result.refuse(flatten, "the flatten mixes the batch or a free dimension in")
            continue
        dense = context.single_consumer(flatten.outputs[0])
        weight = None if dense is None else _weight(dense, flatten.outputs[0])
        if dense is None or weight is None:
            result.refuse(flatten, "what is flattened is not used by one dense layer alone")
            continue
        if context.is_shared(weight):
            result.refuse(flatten, f"the weights {weight.name!r} are shared with another user")
            continue
        sizes = [dim.number for dim in features]
        rows_last = is_op(dense, "Gemm") and dense.attrs.get("transB", 0)
        matrix = weight.values.T if rows_last else weight.values
        if matrix.shape[0] != math.prod(sizes):
            continue
        back = np.argsort(np.array(perm[1:]) - 1)
        cube = matrix.reshape(*sizes, -1).transpose(*back, len(sizes))
        moved = np.ascontiguousarray(cube.reshape(matrix.shape))
        dense.inputs[1] = gs.Constant(weight.name, moved.T.copy() if rows_last else moved)
        # The flattened tensor holds its values in another order now: it is another tensor.
        name = context.free_name(f"{flatten.outputs[0].name}/{dense.name}")
        flattened = gs.Variable(name, flatten.outputs[0].dtype)
        dense.inputs[0] = flattened
        flatten.outputs = [flattened]
        flatten.inputs[0] = transpose.inputs[0]
        if is_op(flatten, "Reshape"):
            target = np.array([0, matrix.shape[0]], np.int64)
            flatten.inputs[1] = gs.Constant(context.free_name(f"{flatten.name}/target"), target)
            flatten.attrs.pop("allowzero", None)
        else:
            flatten.attrs["axis"] = 1
        result.did(flatten, f"the permutation {perm} went into the weights of {dense.name}")
    return result


def _weight(dense: gs.Node, source: gs.Tensor) -> gs.Constant | None:
    if not is_op(dense, "Gemm", "MatMul") or dense.inputs[0] is not source:
        return None
    if is_op(dense, "Gemm") and dense.attrs.get("transA", 0):
        return None
    value = constant(dense.inputs[1])
    return dense.inputs[1] if value is not None and value.ndim == 2 else None
