"""Write the dense layers after a flatten as convolutions (an option).

Given:  Gemm|MatMul(Flatten|Reshape(x: (N, C, H, W), [N, C*H*W]), W: (C*H*W, M), b)
Result: Flatten(Conv(x, W', b)), W': (M, C, H, W), kernel (H, W)

The network then takes larger images, and gives a map of scores for them: "Fully Convolutional
Networks for Semantic Segmentation" (Long et al., 2015). Dense layers that follow become 1x1
convolutions. It is done only where it is asked for: engines run both equally well.
"""

from __future__ import annotations

import math

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.graph.operators import is_op, nodes_of, set_op
from onnxgraft.graph.tensors import Array
from onnxgraft.graph.walk import detach
from onnxgraft.stages.surgery.passes.layout._commute import ELEMENTWISE
from onnxgraft.stages.surgery.running.rewrite import Context, Result, constant


def apply(graph: gs.Graph, context: Context) -> Result:
    """Turn every dense layer after a flatten, or after the flatten of a Conv, into a Conv."""
    result = Result()
    for flatten in nodes_of(graph, "Flatten", "Reshape"):
        shape = context.shapes.shape(flatten.inputs[0])
        flat = context.shapes.shape(flatten.outputs[0])
        if shape is None or flat is None or len(shape) != 4 or len(flat) != 2:
            continue
        if flat[0] != shape[0] or not all(dim.fixed for dim in shape[1:]):
            continue
        sizes = [dim.number for dim in shape[1:]]
        # Activations between the flatten and the layer work on the image as well.
        between: list[gs.Node] = []
        tensor = flatten.outputs[0]
        dense = context.single_consumer(tensor)
        while is_op(dense, *ELEMENTWISE) and len(dense.inputs) == 1:
            between.append(dense)
            tensor = dense.outputs[0]
            dense = context.single_consumer(tensor)
        if not is_op(dense, "Gemm", "MatMul"):
            continue
        found = _parameters(dense, tensor, math.prod(sizes))
        if isinstance(found, str):
            result.refuse(dense, found)
            continue
        _rewrite(flatten, between, dense, sizes, *found, context)
        result.did(dense, f"made a Conv of {sizes[1]}x{sizes[2]} taps")
    return result


def _parameters(
    dense: gs.Node, source: gs.Tensor, features: int
) -> tuple[Array, Array | None] | str:
    """Return weights (features, M) and bias (M,) of a dense layer; or why it can't be a Conv."""
    if dense.inputs[0] is not source or dense.attrs.get("transA", 0):
        return "what is flattened is not its left operand"
    weight = constant(dense.inputs[1])
    if weight is None or weight.ndim != 2:
        return "its weights are not constants"
    matrix = np.asarray(weight.T if dense.attrs.get("transB", 0) else weight)
    if len(matrix) != features:
        return "its weights do not fit the image"
    matrix = matrix * np.asarray(dense.attrs.get("alpha", 1.0), matrix.dtype)
    if len(dense.inputs) < 3 or not dense.inputs[2].name:
        return matrix, None
    bias = constant(dense.inputs[2])
    outputs = matrix.shape[1]
    if bias is None or bias.shape not in ((), (1,), (outputs,), (1, outputs)):
        return "its bias is not one constant a column"
    scaled = bias.reshape(-1) * np.asarray(dense.attrs.get("beta", 1.0), bias.dtype)
    return matrix, np.broadcast_to(scaled, (outputs,)).copy()


def _rewrite(
    flatten: gs.Node,
    between: list[gs.Node],
    dense: gs.Node,
    sizes: list[int],
    matrix: Array,
    bias: Array | None,
    context: Context,
) -> None:
    image, output = flatten.inputs[0], dense.outputs[0]
    kernel = np.ascontiguousarray(matrix.T).reshape(-1, *sizes)
    inputs = [image, context.constant(f"{dense.inputs[1].name}/kernel", kernel)]
    if bias is not None:
        inputs.append(context.constant(f"{dense.name}/bias", bias))
    detach(flatten)
    for node in between:
        made = context.variable(f"{node.outputs[0].name}/image", output)
        node.inputs[0] = inputs[0]
        node.outputs = [made]
        inputs[0] = made
    detach(dense)
    scores = context.variable(f"{output.name}/map", output)
    set_op(dense, "Conv")
    dense.attrs.clear()
    dense.attrs["kernel_shape"] = sizes[1:]
    dense.inputs, dense.outputs = inputs, [scores]
    context.add("Flatten", f"{dense.name}/flatten", [scores], [output], axis=1)
