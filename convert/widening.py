"""Whole numbers of 8 and 16 bits, in operators that ONNX or onnxruntime has for wider ones alone.

They are cast to 32 bits and back. Sums wrap around in either in the same way.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnxgraft.graph.model import Model
from onnxgraft.graph.names import FreeNames
from onnxgraft.graph.node import Node
from onnxgraft.graph.operators import is_op, op_of
from onnxgraft.graph.shapes import Shapes
from onnxgraft.graph.walk import parts

__all__ = ["widen"]

_BYTES = (onnx.TensorProto.INT8, onnx.TensorProto.UINT8)
_WORDS = (onnx.TensorProto.INT16, onnx.TensorProto.UINT16)
_INT32 = onnx.TensorProto.INT32
# Types that an operator is written for, and lacks: those up to ReduceMin in ONNX itself, the others
# in onnxruntime 1.32. Products and powers are left alone: onnxruntime does not wrap them around.
_LACKS = {
    "CumSum": (*_BYTES, *_WORDS), "ReduceMean": (*_BYTES, *_WORDS),
    "ReduceSum": (*_BYTES, *_WORDS), "ReduceMax": _WORDS, "ReduceMin": _WORDS, "ArgMax": _WORDS,
    "ArgMin": _WORDS, "Max": _WORDS, "Min": _WORDS, "Where": _WORDS,
}  # fmt: skip


def widen(model: Model) -> None:
    """Let operators compute in 32 bits what they have no narrower kernels for, in place."""
    within = list(parts(model.graph))
    if not any(_is_narrow(tensor) for part in within for tensor in part.tensors().values()):
        return
    shapes = Shapes(model.graph)
    names = FreeNames(model.graph, model.names)
    for part in within:
        for node in [node for node in part.nodes if is_op(node, "Relu", *_LACKS)]:
            kinds = [shapes.element(tensor) for tensor in node.inputs]
            lacks = (*_BYTES[1:], *_WORDS) if is_op(node, "Relu") else _LACKS[op_of(node)]
            kind = next((kind for kind in kinds if kind in lacks), None)
            if kind is None:
                continue
            if is_op(node, "Relu"):
                node = _as_max(part, node, names, kind)
            if kind in _LACKS[op_of(node)]:
                places = [
                    at for at, tensor in enumerate(node.inputs) if shapes.element(tensor) == kind
                ]
                _cast(part, node, names, places, kind)


def _as_max(part: gs.Graph, node: gs.Node, names: FreeNames, kind: int) -> gs.Node:
    """Write a Relu of whole numbers, which onnxruntime has of INT8 alone, as the larger of 0."""
    zero = np.array(0, onnx.helper.tensor_dtype_to_np_dtype(kind))
    limit = gs.Constant(names.tensor(f"{node.name}/zero"), zero)
    made = Node("Max", node.name, {}, [node.inputs[0], limit], list(node.outputs))
    part.nodes[part.nodes.index(node)] = made
    node.inputs.clear()
    return made


def _is_narrow(tensor: gs.Tensor) -> bool:
    """Tell whether a tensor is declared as of 8 or 16 bits, or cast to them."""
    node = tensor.inputs[0] if tensor.inputs else None
    if is_op(node, "Cast"):
        return int(node.attrs["to"]) in (*_BYTES, *_WORDS)
    try:
        kind = np.dtype(tensor.dtype)
    except TypeError:
        return False
    return kind.kind in "iu" and kind.itemsize < 4


def _cast(
    part: gs.Graph, node: gs.Node, names: FreeNames, places: Sequence[int], kind: int
) -> None:
    """Cast the inputs at some places before a node, and what it makes of them behind it."""
    at = part.nodes.index(node)
    for place in places:
        name = names.node(f"{node.name}/wide_{place}")
        made = gs.Variable(names.tensor(f"{name}:0"))
        part.nodes.insert(at, Node("Cast", name, {"to": _INT32}, [node.inputs[place]], [made]))
        node.inputs[place] = made
    if not is_op(node, "ArgMax", "ArgMin"):  # which make places
        name = names.node(f"{node.name}/narrow")
        own, made = node.outputs[0], gs.Variable(names.tensor(f"{name}:0"))
        node.outputs[0] = made
        behind = Node("Cast", name, {"to": kind}, [made], [own])
        part.nodes.insert(part.nodes.index(node) + 1, behind)
