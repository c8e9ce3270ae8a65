"""Compute what depends on constants alone.

Given:  y = f(c1, c2, ...), every c a constant and f without randomness
Result: the constant y

onnxruntime computes all of them in one run, or, where it lacks a kernel for one, each by itself. A
result that is larger than `MOST_GROWTH` bytes and larger than what it was made from stays a
computation: an Expand of a scalar is smaller as a node. In bfloat16 only what moves values is
folded: onnxruntime computes it in float32, which rounds otherwise.

Given:  y = Range(a, b, c), which are computed vectors of one element
Result: the same of scalars, which Range wants its constants to be
"""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnxgraft.errors import InputError, NotSupportedError
from onnxgraft.graph.inference import TensorType
from onnxgraft.graph.operators import constant_value, is_op, nodes_of, op_key, op_of
from onnxgraft.graph.surgeon import proto_of
from onnxgraft.run.session import OnnxRuntime
from onnxgraft.stages.surgery.running.rewrite import Context, Result, constant, replace

MOST_GROWTH = 1 << 20

# Dropout is here for its training mode; at inference remove_identity takes it.
RANDOM = frozenset(
    {"Bernoulli", "Dropout", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform",
     "RandomUniformLike"}
)  # fmt: skip
# What computes nothing, but moves values or casts them.
_MOVING = frozenset(
    {"Cast", "Concat", "Expand", "Flatten", "Gather", "Identity", "Reshape", "Shape", "Size",
     "Slice", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze"}
)  # fmt: skip
# The last three are constants' own form, not computations to fold away.
_NOT_FOLDED = RANDOM | {"Constant", "DequantizeLinear", "QuantizeLinear"}


def apply(graph: gs.Graph, context: Context) -> Result:
    """Fold every node that depends on constants alone."""
    result = Result()
    for node in graph.nodes:
        value = constant_value(node)
        if value is not None and not context.is_output(node.outputs[0]):
            replace(node.outputs[0], gs.Constant(node.outputs[0].name, value))
            node.outputs.clear()
            result.did(node, "Constant node made an initializer")
    foldable = _foldable(graph, context, result)
    try:
        _fold(foldable, graph, context)
        folded = foldable
    except InputError:
        # One of them is beyond onnxruntime: the others are folded one by one.
        folded = []
        for node in foldable:
            if not all(isinstance(t, gs.Constant) or not t.name for t in node.inputs):
                continue  # it depends on one that was not folded
            try:
                _fold([node], graph, context)
                folded.append(node)
            except InputError as error:
                result.refuse(node, str(error))
    for node in folded:
        result.did(node, f"{op_of(node)} of constants folded")
        node.outputs.clear()
    for node in nodes_of(graph, "Range"):
        for index, tensor in enumerate(list(node.inputs)):
            value = constant(tensor)
            if value is not None and value.size == 1 and value.ndim:
                node.inputs[index] = context.constant(tensor.name, value.reshape(()))
                result.did(node, f"{tensor.name!r} made a scalar")
    return result


def _fold(nodes: list[gs.Node], graph: gs.Graph, context: Context) -> None:
    """Let onnxruntime compute nodes that depend on each other and constants alone."""
    own = {id(node) for node in nodes}
    wanted = [
        tensor
        for node in nodes
        for tensor in node.outputs
        if any(id(consumer) not in own for consumer in tensor.outputs)
    ]
    if not wanted:
        return
    subgraph = gs.Graph(
        nodes=nodes, inputs=[], outputs=wanted, opset=graph.opset,
        import_domains=graph.import_domains, ir_version=graph.ir_version,
    )  # fmt: skip
    proto = proto_of(subgraph, do_type_check=False)
    elements = {}
    for output, tensor in zip(proto.graph.output, wanted, strict=True):
        element = context.shapes.element(tensor)
        assert element is not None  # its size is known
        elements[tensor.name] = element
        output.CopyFrom(onnx.helper.make_tensor_value_info(tensor.name, element, None))
    with OnnxRuntime(proto, name="fold_constants", optimize=False) as session:
        values = session.infer({})
    made = {}
    for tensor in wanted:
        value = np.asarray(values[tensor.name])
        dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(elements[tensor.name]))
        if dtype.name == "bfloat16":
            value = value.astype(dtype)
        if value.dtype != dtype:
            raise NotSupportedError(f"onnxruntime gives {value.dtype} for a tensor of {dtype}")
        made[tensor.name] = np.ascontiguousarray(value).reshape(value.shape)
    for tensor in wanted:
        replace(tensor, gs.Constant(tensor.name, made[tensor.name]))


def _foldable(graph: gs.Graph, context: Context, result: Result) -> list[gs.Node]:
    """Return the nodes to fold, in topological order."""
    chosen: list[gs.Node] = []
    folded: set[int] = set()
    for node in graph.nodes:
        domain, _ = op_key(node)
        if domain or not node.outputs or is_op(node, *_NOT_FOLDED) or list(node.subgraphs()):
            continue
        ready = all(
            isinstance(t, gs.Constant) or id(t) in folded or not t.name for t in node.inputs
        )
        if not ready or any(context.is_output(tensor) for tensor in node.outputs):
            continue
        if not is_op(node, *_MOVING) and _in_bfloat16(node, context):
            result.refuse(node, f"onnxruntime does not compute {op_of(node)} in bfloat16")
            continue
        size = _bytes(node, context)
        if size is None:
            result.refuse(node, f"the size of what {op_of(node)} makes of constants is not known")
            continue
        source = sum(t.values.nbytes for t in node.inputs if isinstance(t, gs.Constant))
        if size > MOST_GROWTH and size > source:
            result.refuse(node, f"folding {op_of(node)} would make {source} bytes {size}")
            continue
        chosen.append(node)
        folded.update(id(tensor) for tensor in node.outputs)
    return chosen


def _in_bfloat16(node: gs.Node, context: Context) -> bool:
    tensors = (tensor for tensor in (*node.inputs, *node.outputs) if tensor.name)
    return any(context.shapes.element(t) == onnx.TensorProto.BFLOAT16 for t in tensors)


def _bytes(node: gs.Node, context: Context) -> int | None:
    total = 0
    for tensor in node.outputs:
        size = TensorType(context.shapes.element(tensor), context.shapes.shape(tensor)).nbytes
        if size is None:
            return None
        total += size
    return total
