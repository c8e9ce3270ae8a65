"""What a handler of an operator would see too late, put right in the GraphDef.

A transposed convolution whose output is larger than its kernels reach gets zeros behind the kernel;
a batch normalization in training mode, as Keras writes it, is made one that tf2onnx takes for such;
and ranks and shapes that are known become constants.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from onnxgraft.graph.names import free
from onnxgraft.graph.tensors import Array
from onnxgraft.stages.convert.tensorflow.running import tensorflow

__all__ = ["repair"]


def repair(graph_def: Any, graph: Any, weights: Mapping[str, Array]) -> None:
    """Repair in place what a handler would see too late.

    Args:
        graph_def: Is changed.
        graph: The same, imported, for static shapes.
        weights: The constants that are empty in it.
    """
    for node in list(graph_def.node):
        if node.op == "Rank":
            rank = graph.get_operation_by_name(node.name).inputs[0].shape.rank
            if rank is not None:
                node.op = "Const"
                node.ClearField("attr")
                del node.input[:]
                value = tensorflow().make_tensor_proto(rank, "int32")
                node.attr["dtype"].type = value.dtype
                node.attr["value"].tensor.CopyFrom(value)
        if node.op == "ShapeN":
            for number, tensor in enumerate(graph.get_operation_by_name(node.name).inputs):
                if tensor.shape.is_fully_defined():
                    _put_constant(graph_def, node, number, tensor.shape.as_list())
        # It weighs the statistics that training would keep; with it tf2onnx takes the node for one
        # of inference.
        if node.op.startswith("FusedBatchNorm") and "exponential_avg_factor" in node.attr:
            node.attr["exponential_avg_factor"].f = 1.0
    _reach_with_zeros(graph_def, graph, weights)


def _put_constant(graph_def: Any, node: Any, number: int, value: Sequence[int]) -> None:
    """Let what reads an output of a node read a constant of the node's ``out_type``."""
    tf = tensorflow()
    taken = {other.name for other in graph_def.node}
    kind = node.attr["out_type"].type or tf.int32.as_datatype_enum
    made = graph_def.node.add(name=free(taken, f"{node.name}/shape_{number}"), op="Const")
    made.attr["dtype"].type = kind
    made.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(value, kind))
    read = {f"{node.name}:{number}"} | ({node.name} if number == 0 else set())
    for other in graph_def.node:
        for at, source in enumerate(other.input):
            if source in read:
                other.input[at] = made.name


def _reach_with_zeros(graph_def: Any, graph: Any, weights: Mapping[str, Array]) -> None:
    """Add zeros behind the kernels of transposed convolutions that do not reach their output.

    TensorFlow lets the output be larger than stride (in - 1) + kernel, as it is where the kernel is
    smaller than the stride; ONNX would want a negative pad for that.
    """
    tf = tensorflow()
    nodes = {node.name: node for node in graph_def.node}
    for node in list(graph_def.node):
        if node.op != "Conv2DBackpropInput" or node.attr["data_format"].s == b"NCHW":
            continue
        filters = nodes.get(node.input[1].split(":")[0])
        while filters is not None and filters.op == "Identity":
            filters = nodes.get(filters.input[0].split(":")[0])
        if filters is None or filters.op != "Const":
            continue
        kernel = weights.get(filters.name)
        if kernel is None:
            kernel = tf.make_ndarray(filters.attr["value"].tensor)
        missing = _missing(node, graph, kernel.shape[:2])
        if not any(missing):
            continue
        widened = np.pad(kernel, [(0, missing[0]), (0, missing[1]), (0, 0), (0, 0)])
        name = free(set(nodes), f"{node.name}/kernel_with_zeros")
        place = nodes[name] = graph_def.node.add(name=name, op="Const")
        place.attr["dtype"].type = filters.attr["dtype"].type
        place.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(widened))
        node.input[1] = place.name


def _missing(node: Any, graph: Any, kernel: Sequence[int]) -> tuple[int, int]:
    """Return how many rows and columns the kernel is short of its output."""
    operation = graph.get_operation_by_name(node.name)
    source = operation.inputs[2].shape
    target = operation.outputs[0].shape
    strides = list(node.attr["strides"].list.i)[1:3]
    short = []
    for axis, (stride, size) in enumerate(zip(strides, kernel, strict=True), 1):
        before = source[axis] if source.rank is not None else None
        after = target[axis] if target.rank is not None else None
        if before is not None and after is not None:
            more = after - (stride * (before - 1) + size)
            short.append(more if 0 < more < stride else 0)  # TensorFlow runs no larger one
        else:  # SAME makes the output stride times the input
            short.append(max(0, stride - size) if node.attr["padding"].s == b"SAME" else 0)
    return short[0], short[1]
