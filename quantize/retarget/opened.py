"""Quantized operators as float ones between DequantizeLinear and QuantizeLinear.

    QLinearConv(x, xs, xz, w, ws, wz, ys, yz, b)
    QuantizeLinear(Conv(DequantizeLinear(x), DequantizeLinear(w), DequantizeLinear(b)), ys, yz)

with the scale xs ws for b. So are all operators written that onnxruntime's `quantize_static` makes
in its operator form.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.errors import NotSupportedError
from onnxgraft.graph.names import FreeNames
from onnxgraft.graph.node import Node
from onnxgraft.graph.operators import is_op, op_of
from onnxgraft.graph.signs import fixed_value
from onnxgraft.graph.tensors import Array

__all__ = ["OPENED", "open_operators"]

# By the float operator that computes it: how many quantized inputs there are. Scales and zero
# points of the inputs stand behind each, those of the output at the end.
_PLAIN = {
    "com.microsoft.QLinearAdd": ("Add", 2),
    "com.microsoft.QLinearMul": ("Mul", 2),
    "com.microsoft.QLinearAveragePool": ("AveragePool", 1),
    "com.microsoft.QLinearGlobalAveragePool": ("GlobalAveragePool", 1),
    "com.microsoft.QLinearLeakyRelu": ("LeakyRelu", 1),
    "com.microsoft.QLinearSigmoid": ("Sigmoid", 1),
    "com.microsoft.QLinearSoftmax": ("Softmax", 1),
}
_OWN = ("QLinearConv", "QLinearMatMul")
OPENED = frozenset({*_PLAIN, *_OWN, "com.microsoft.QGemm", "com.microsoft.QLinearConcat"})
# What these operators have that the float ones do not.
_EXTRA = ("channels_last", "opset")


def open_operators(graph: gs.Graph, file: str) -> None:
    """Write each quantized operator of a graph as a float one, in place.

    Raises:
        NotSupportedError: A scale is not constant, or the layout is another.
    """
    opener = _Opener(graph, file)
    for node in list(graph.nodes):
        if op_of(node) in _PLAIN:
            operator, count = _PLAIN[op_of(node)]
            opener.write(node, operator, [node.inputs[3 * i : 3 * i + 3] for i in range(count)])
        elif is_op(node, *_OWN):
            opener.write(
                node, op_of(node).removeprefix("QLinear"), [node.inputs[:3], node.inputs[3:6]],
                node.inputs[8:9], node.inputs[6:8],
            )  # fmt: skip
        elif is_op(node, "QGemm", domain="com.microsoft"):
            opener.write(
                node, "Gemm", [node.inputs[:3], node.inputs[3:6]], node.inputs[6:7],
                node.inputs[7:9],
            )  # fmt: skip
        elif is_op(node, "QLinearConcat", domain="com.microsoft"):
            parts = [node.inputs[at : at + 3] for at in range(2, len(node.inputs), 3)]
            opener.write(node, "Concat", parts, (), node.inputs[:2])


class _Opener:
    def __init__(self, graph: gs.Graph, file: str) -> None:
        self.graph, self.file = graph, file
        self.names = FreeNames(graph)

    def write(
        self,
        node: gs.Node,
        operator: str,
        operands: list[list[gs.Tensor]],
        bias: Any = (),
        result: Any = None,
    ) -> None:
        """Put DequantizeLinear, the float operator and QuantizeLinear in the place of a node."""
        result = list(node.inputs[3 * len(operands) :] if result is None else result)
        attrs = dict(node.attrs)
        extra = {key: attrs.pop(key) for key in _EXTRA if key in attrs}
        if extra.get("channels_last"):
            raise NotSupportedError(
                f"{self.file}: {op_of(node)} {node.name!r} has its channels last; export the graph "
                "with Q and DQ in place of quantized operators"
            )
        if operator == "Softmax" and extra.get("opset", 13) < 13:
            attrs.setdefault("axis", 1)
        axes = [None, self._weights_axis(operator, attrs)]
        inputs = [
            self._dequantized(node, *operand, axis=axes[i] if i < 2 else None)
            for i, operand in enumerate(operands)
        ]
        if len(bias) and bias[0].name:
            scales = [self._value(node, operand[1]) for operand in operands]
            factor = float(attrs.get("alpha", 1.0)) if operator == "Gemm" else 1.0
            step = np.asarray(np.prod([np.float64(factor), scales[0].item()]) * scales[1])
            scale = np.asarray(step, np.float32)
            made = gs.Constant(self.names.tensor(f"{node.name}/bias_scale"), _single(scale))
            zero = gs.Constant(
                self.names.tensor(f"{node.name}/bias_zero_point"),
                np.zeros(made.values.shape, np.int32),
            )
            inputs.append(self._dequantized(node, bias[0], made, zero, axis=0))
        output, name = node.outputs[0], node.name
        node.inputs.clear()
        node.outputs.clear()
        if not result or not result[0].name:  # a QGemm may end in float
            self._add(operator, name, inputs, output, attrs)
            return
        product = gs.Variable(self.names.tensor(f"{output.name}/float"), np.float32, output.shape)
        self._add(operator, name, inputs, product, attrs)
        ends = [self._plain(tensor) for tensor in result]
        self._add("QuantizeLinear", f"{name}/QuantizeLinear", [product, *ends], output, {})

    def _weights_axis(self, operator: str, attrs: dict[str, Any]) -> int:
        """Return the axis of the scales of a second input."""
        if operator == "Gemm":
            return 0 if attrs.get("transB", 0) else 1
        return 0 if operator == "Conv" else -1

    def _dequantized(
        self,
        node: gs.Node,
        tensor: gs.Tensor,
        scale: gs.Tensor,
        zero: gs.Tensor | None = None,
        *,
        axis: int | None,
    ) -> gs.Tensor:
        made = gs.Variable(self.names.tensor(f"{tensor.name}/{node.name}"), np.float32)
        several = axis is not None and self._value(node, scale).size > 1
        inputs = [tensor, self._plain(scale)]
        if zero is not None and zero.name:
            inputs.append(self._plain(zero))
        attrs = {"axis": axis} if several else {}
        self._add("DequantizeLinear", made.name, inputs, made, attrs)
        return made

    def _value(self, node: gs.Node, tensor: gs.Tensor) -> Array:
        value = fixed_value(tensor)
        if value is None:
            raise NotSupportedError(
                f"{self.file}: the scale {tensor.name!r} of {op_of(node)} {node.name!r} is not "
                "constant, so that it can't be taken over; quantize the float model"
            )
        return value

    def _plain(self, tensor: gs.Tensor) -> gs.Tensor:
        """Return a scale or zero point of one element without an axis."""
        value = fixed_value(tensor)
        if value is None or value.ndim == 0 or value.size > 1:
            return tensor
        return gs.Constant(self.names.tensor(tensor.name), value.reshape(()))

    def _add(
        self, op: str, name: str, inputs: list[gs.Tensor], output: gs.Tensor, attrs: dict[str, Any]
    ) -> None:
        self.graph.nodes.append(Node(op, self.names.node(name), attrs, inputs, [output]))


def _single(scale: Array) -> Array:
    return scale.reshape(()) if scale.size == 1 else scale.reshape(-1)
