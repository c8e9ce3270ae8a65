"""For TensorRT: write quantized operators as float ones between Q and DQ.

Given:  QLinearConv(x, xs, xz, w, ws, wz, ys, yz, b)
Result: QuantizeLinear(Conv(DequantizeLinear(x), DequantizeLinear(w), b * xs * ws), ys, yz)
Given:  QLinearMatMul(a, as, az, b, bs, bz, ys, yz)
Result: QuantizeLinear(MatMul(DequantizeLinear(a), DequantizeLinear(b)), ys, yz)

TensorRT takes explicit quantization only (its parser: no QLinearConv), and fuses what stands
between Q and DQ to the same integer kernels. Zero points are moved to 0 by lower_zero_points.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.graph.operators import is_op, nodes_of
from onnxgraft.graph.walk import detach
from onnxgraft.stages.surgery.running.rewrite import Context, Result, constant


def apply(graph: gs.Graph, context: Context) -> Result:
    """Rewrite every quantized convolution and matrix product."""
    result = Result()
    for node in nodes_of(graph, "QLinearConv", "QLinearMatMul"):
        parameters = [constant(tensor) for tensor in (*node.inputs[1:3], *node.inputs[4:8])]
        if any(value is None for value in parameters):
            result.refuse(node, "its scales are not constants")
            continue
        _rewrite(node, context)
        result.did(node, "written with QuantizeLinear and DequantizeLinear")
    return result


def _rewrite(node: gs.Node, context: Context) -> None:
    x, xs, xz, w, ws, wz, ys, yz, *bias = node.inputs
    conv = is_op(node, "QLinearConv")
    output, name, attrs = node.outputs[0], node.name, dict(node.attrs)
    scales = np.asarray(constant(ws))
    detach(node)

    def dequantized(tensor: gs.Tensor, scale: gs.Tensor, zero: gs.Tensor, axis: int) -> gs.Tensor:
        made = gs.Variable(context.free_name(f"{tensor.name}/{name}"), np.float32)
        more = {"axis": axis} if scale.values.size > 1 else {}
        context.add("DequantizeLinear", made.name, [_plain(scale), _plain(zero)], [made], **more)
        made.inputs[0].inputs.insert(0, tensor)
        return made

    def _plain(tensor: gs.Tensor) -> gs.Tensor:
        """Write a scale or zero point of one element without an axis."""
        value = np.asarray(tensor.values)
        if value.size > 1 or value.ndim == 0:
            return tensor
        return context.constant(tensor.name, value.reshape(()))

    inputs = [dequantized(x, xs, xz, 0), dequantized(w, ws, wz, 0 if conv else 1)]
    if bias:
        factor = np.asarray(constant(xs), np.float64) * scales.astype(np.float64)
        stored = np.asarray(constant(bias[0]), np.float64)
        inputs.append(context.constant(bias[0].name, (stored * factor).astype(np.float32)))
    product = gs.Variable(context.free_name(f"{name}/float"), np.float32)
    context.add("Conv" if conv else "MatMul", f"{name}/float", inputs, [product], **attrs)
    context.add("QuantizeLinear", name, [product, _plain(ys), _plain(yz)], [output])
