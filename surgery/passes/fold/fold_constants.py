"""Compute what depends on constants alone.

Given:  y = f(c1, c2, ...), every c a constant and f without randomness
Result: the constant y

onnxruntime computes all of them in one run. A result that is larger than `MOST_GROWTH` bytes and
larger than what it was made from stays a computation: an Expand of a scalar is smaller as a node.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnxgraft.errors import ModelError
from onnxgraft.graph.inference import TensorType
from onnxgraft.graph.operators import constant_value, is_op, op_key, op_of
from onnxgraft.graph.surgeon import proto_of
from onnxgraft.run.session import OnnxRuntime
from onnxgraft.stages.surgery.running.rewrite import Context, Result, replace

MOST_GROWTH = 1 << 20

# Dropout is here for its training mode; at inference remove_identity takes it.
RANDOM = frozenset(
    {"Bernoulli", "Dropout", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform",
     "RandomUniformLike"}
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
    except ModelError:
        # One of them is beyond onnxruntime: the others are folded one by one.
        folded = []
        for node in foldable:
            if not all(isinstance(t, gs.Constant) or not t.name for t in node.inputs):
                continue  # it depends on one that was not folded
            try:
                _fold([node], graph, context)
                folded.append(node)
            except ModelError as error:
                result.refuse(node, str(error))
    for node in folded:
        result.did(node, f"{op_of(node)} of constants folded")
        node.outputs.clear()
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
    for output, tensor in zip(proto.graph.output, wanted, strict=True):
        element = context.shapes.element(tensor)
        assert element is not None  # its size is known
        output.CopyFrom(onnx.helper.make_tensor_value_info(tensor.name, element, None))
    with OnnxRuntime(proto, name="fold_constants", optimize=False) as session:
        values = session.infer({})
    for tensor in wanted:
        value = np.ascontiguousarray(values[tensor.name]).reshape(values[tensor.name].shape)
        replace(tensor, gs.Constant(tensor.name, value))


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


def _bytes(node: gs.Node, context: Context) -> int | None:
    total = 0
    for tensor in node.outputs:
        size = TensorType(context.shapes.element(tensor), context.shapes.shape(tensor)).nbytes
        if size is None:
            return None
        total += size
    return total
