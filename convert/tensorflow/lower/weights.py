"""A TensorFlow graph without its weights, which are held once and put back where they are used.

TensorFlow and tf2onnx copy a graph many times over; a copy of a graph whose large constants are
empty costs nothing. TensorFlow reads such a constant as zeros, and a session can be fed another
value for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from onnxgraft.graph.operators import is_op
from onnxgraft.graph.tensors import Array
from onnxgraft.stages.convert.tensorflow.names import node_of
from onnxgraft.stages.convert.tensorflow.running import tensorflow

__all__ = ["put_back", "put_into_onnx", "stand_ins", "take_weights"]

# Smaller constants may be shapes, axes and the like, which conversion looks at.
_LARGE = 1 << 14
# Where an operator takes weights that conversion need not see.
_WEIGHTS_OF = {
    "Conv2D": 1, "Conv3D": 1, "DepthwiseConv2dNative": 1, "Conv2DBackpropInput": 1,
    "MatMul": 1, "BatchMatMulV2": 1, "GatherV2": 0,
}  # fmt: skip
# Loops and conditionals are matched as a whole, constants and all; so is what calls functions.
_WHOLE = frozenset({"Enter", "Merge"})


def take_weights(graph_def: Any) -> tuple[Any, dict[str, Array]]:
    """Return a copy of ``graph_def`` with empty large constants, and their values by node.

    ``graph_def`` itself is emptied too.
    """
    tf = tensorflow()
    weights = {}
    for node in graph_def.node:
        tensor = node.attr["value"].tensor if node.op == "Const" else None
        if tensor is None or not (len(tensor.tensor_content) >= _LARGE
                                  or 4 * len(tensor.float_val) >= _LARGE):  # fmt: skip
            continue
        values = tf.make_ndarray(tensor)
        if values.dtype.kind in "fiu":
            weights[node.name] = _aligned(values)
            tensor.ClearField("tensor_content")
            tensor.ClearField("float_val")
    light = tf.compat.v1.GraphDef()
    light.ParseFromString(graph_def.SerializeToString())  # protobuf frees whole messages only
    return light, weights


def _aligned(values: Array) -> Array:
    """Return a copy at an address that TensorFlow takes as it is; it would copy others."""
    memory = np.empty(values.nbytes + 64, np.uint8)
    begin = -memory.ctypes.data % 64
    copy = memory[begin : begin + values.nbytes].view(values.dtype).reshape(values.shape)
    copy[...] = values
    return copy


def put_back(graph_def: Any, weights: Mapping[str, Array]) -> Any:
    """Return a copy of ``graph_def`` with ``weights`` in its constants."""
    full = tensorflow().compat.v1.GraphDef()
    full.CopyFrom(graph_def)
    for node in full.node:
        if node.op == "Const" and node.name in weights:
            node.attr["value"].tensor.tensor_content = weights[node.name].tobytes()
    return full


def stand_ins(graph_def: Any, weights: Mapping[str, Array]) -> tuple[Any, list[str]]:
    """Return a copy whose weights are placeholders, and the names of these.

    Constants that are used for anything else than as the weights of an operator are put back.
    """
    used = _uses(graph_def)
    whole = any(
        node.op in _WHOLE or any(value.HasField("func") for value in node.attr.values())
        for node in graph_def.node
    )
    names = [
        node.name
        for node in graph_def.node
        if node.op == "Const" and node.name in weights and not whole and used.get(node.name)
        if all(place == _WEIGHTS_OF.get(op) for op, place in used[node.name])
    ]
    rest = {name: values for name, values in weights.items() if name not in names}
    made = put_back(graph_def, rest)
    wanted = set(names)
    for node in made.node:
        if node.name in wanted:
            dtype, shape = node.attr["dtype"].type, weights[node.name].shape
            node.op = "Placeholder"
            node.ClearField("attr")
            node.attr["dtype"].type = dtype
            node.attr["shape"].shape.CopyFrom(tensorflow().TensorShape(shape).as_proto())
    return made, names


def _uses(graph_def: Any) -> dict[str, set[tuple[str, int]]]:
    """Return, for each node, what takes its output, and where; Identities are looked through."""
    identities = {node.name: node_of(node.input[0]) for node in graph_def.node if _passes(node)}
    uses: dict[str, set[tuple[str, int]]] = {}
    for node in graph_def.node:
        if _passes(node):
            continue
        for place, name in enumerate(node.input):
            source = node_of(name)
            while source in identities:
                source = identities[source]
            uses.setdefault(source, set()).add((node.op, place))
    return uses


def _passes(node: Any) -> bool:
    return bool(node.op == "Identity" and node.input)


def put_into_onnx(graph: Any, weights: Mapping[str, Array], names: Iterable[str]) -> None:
    """Make constants of the inputs that stand for weights, and of what only rearranges them.

    Args:
        graph: An onnx-graphsurgeon graph.
        weights: By the node of the TensorFlow graph.
        names: Those that stand in the graph as inputs.
    """
    wanted = {f"{name}:0": name for name in names}
    fixed = [tensor for tensor in graph.inputs if tensor.name in wanted]
    graph.inputs = [tensor for tensor in graph.inputs if tensor.name not in wanted]
    queue = [tensor.to_constant(weights[wanted[tensor.name]]) for tensor in fixed]
    while queue:
        tensor = queue.pop()
        for node in list(tensor.outputs):
            values = _rearranged(node)
            if values is not None:
                made = node.outputs[0]
                node.inputs.clear()
                node.outputs.clear()
                queue.append(made.to_constant(values))
    graph.cleanup()


def _rearranged(node: Any) -> Array | None:
    """Return what a node makes of its constant inputs, if it does no more than rearrange them."""
    values = [np.asarray(tensor.values) for tensor in node.inputs if hasattr(tensor, "values")]
    if not values or len(values) < len(node.inputs):
        return None
    first = values[0]
    if is_op(node, "Identity"):
        return first
    if is_op(node, "Transpose"):
        return np.ascontiguousarray(first.transpose(node.attrs.get("perm")))
    if is_op(node, "Reshape") and not node.attrs.get("allowzero"):
        shape = [first.shape[axis] if dim == 0 else dim for axis, dim in enumerate(values[1])]
        return first.reshape(shape)
    return None
