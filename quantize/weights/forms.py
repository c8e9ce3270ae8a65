"""How stored weights stand in a graph.

DequantizeLinear (q, scale) -> MatMul or Gemm        ONNX's own; blocks from opset 21 on
MatMulNBits (x, q, scale)                            onnxruntime's, for a MatMul or a plain Gemm
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnxgraft.graph.names import FreeNames
from onnxgraft.graph.nbits import packed
from onnxgraft.graph.node import Node
from onnxgraft.graph.operators import MICROSOFT, is_op, set_op
from onnxgraft.graph.tensors import Array
from onnxgraft.stages.quantize.weights.blocks import Blocks

__all__ = ["Writer", "matrix_of", "plain_gemm", "turned"]

_INT4 = onnx.helper.tensor_dtype_to_np_dtype(onnx.TensorProto.INT4)
# Of MatMulNBits: activations are not rounded.
_FLOAT_ACTIVATIONS = 1


def turned(node: gs.Node) -> bool:
    """Tell whether a layer's weights are (outputs, inputs)."""
    return is_op(node, "Gemm") and bool(node.attrs.get("transB", 0))


def plain_gemm(node: gs.Node) -> bool:
    """Tell whether a Gemm is a product and a sum, so that a MatMul and an Add do the same."""
    factors = float(node.attrs.get("alpha", 1.0)), float(node.attrs.get("beta", 1.0))
    return factors == (1.0, 1.0) and not node.attrs.get("transA", 0)


def matrix_of(node: gs.Node) -> Array:
    """Return a layer's weights as (groups, outputs, inputs)."""
    values = np.asarray(node.inputs[1].values)
    if turned(node):
        return values[np.newaxis]
    return values.reshape(-1, *values.shape[-2:]).swapaxes(1, 2)


class Writer:
    """Writes layers with stored weights; layers that share weights share what is stored.

    Args:
        names: Those that are taken in the graph.
    """

    def __init__(self, names: FreeNames) -> None:
        self._names = names
        self._made: dict[tuple[int, ...], tuple[object, list[gs.Tensor]]] = {}

    def dequantize(self, body: gs.Graph, node: gs.Node, found: Blocks) -> None:
        """Let a layer of ``body`` read its weights through a DequantizeLinear."""
        weights = node.inputs[1]

        def make() -> list[gs.Tensor]:
            rank = weights.values.ndim
            integers, scale = (
                _as_stored(values, weights.values.shape[:-2], turned(node))
                for values in (found.integers, found.scale)
            )
            attrs = {"axis": 1 if turned(node) else rank - 2, "block_size": found.block}
            if not found.blocked:
                scale, attrs = scale.reshape(-1), {"axis": 0 if turned(node) else rank - 1}
            kind = _INT4 if found.bits == 4 else np.int8
            made = gs.Variable(
                self._names.tensor(f"{weights.name}/dequantized"), np.float32, integers.shape
            )
            inputs = [
                gs.Constant(self._names.tensor(f"{weights.name}/integers"), integers.astype(kind)),
                gs.Constant(self._names.tensor(f"{weights.name}/scale"), scale),
            ]
            name = self._names.node(f"{weights.name}/DequantizeLinear")
            body.nodes.append(Node("DequantizeLinear", name, attrs, inputs, [made]))
            return [made]

        (node.inputs[1],) = self._once((id(body), id(weights), turned(node)), found, make)

    def pack(self, body: gs.Graph, node: gs.Node, found: Blocks) -> None:
        """Make a MatMulNBits of a layer of ``body``, and an Add of a Gemm's bias."""
        weights = node.inputs[1]

        def make() -> list[gs.Tensor]:
            stored = packed(found.integers[0], found.bits, found.block)
            return [
                gs.Constant(self._names.tensor(f"{weights.name}/packed"), stored),
                gs.Constant(self._names.tensor(f"{weights.name}/scale"), found.scale[0]),
            ]

        inputs = self._once((id(weights), turned(node)), found, make)
        bias = node.inputs[2] if len(node.inputs) > 2 and node.inputs[2].name else None
        _, outputs, depth = found.integers.shape
        set_op(node, "MatMulNBits", MICROSOFT)
        node.attrs.clear()
        node.attrs |= {
            "K": depth, "N": outputs, "bits": found.bits, "block_size": found.block,
            "accuracy_level": _FLOAT_ACTIVATIONS,
        }  # fmt: skip
        node.inputs = [node.inputs[0], *inputs]
        if bias is not None:
            target = node.outputs[0]
            product = gs.Variable(self._names.tensor(f"{target.name}/product"), np.float32)
            node.outputs = [product]
            name = self._names.node(f"{target.name}/Add")
            body.nodes.append(Node("Add", name, {}, [product, bias], [target]))

    def _once(
        self, key: tuple[int, ...], found: Blocks, make: Callable[[], list[gs.Tensor]]
    ) -> list[gs.Tensor]:
        whole = (*key, id(found))
        if whole not in self._made:
            self._made[whole] = found, make()
        return self._made[whole][1]


def _as_stored(values: Array, leading: tuple[int, ...], turned: bool) -> Array:
    """Return (groups, outputs, inputs) in the order in which a layer has its weights."""
    ordered = values if turned else values.swapaxes(1, 2)
    return np.ascontiguousarray(ordered).reshape(*leading, *ordered.shape[1:])
