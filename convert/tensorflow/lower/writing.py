"""How a handler writes ONNX into a graph of tf2onnx: nodes, constants, and plain formulas."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import numpy as np
from onnx import TensorProto
from onnx.helper import tensor_dtype_to_np_dtype

from onnxgraft.errors import NotSupportedError
from onnxgraft.graph.tensors import Array
from onnxgraft.stages.convert import writing
from onnxgraft.stages.convert.writing import Operand, Value

__all__ = ["Handler", "NewerOpset", "Value", "Writer", "by", "own_tables", "replace", "theirs"]

Handler = Callable[[Any, Any, str, Any], None]


class NewerOpset(NotSupportedError):
    """An operator of TensorFlow's needs what ONNX has from a later opset on."""

    def __init__(self, operator: str, opset: int) -> None:
        super().__init__(f"{operator} needs --opset {opset}")
        self.operator = operator
        self.opset = opset


class Writer(writing.Writer):
    """Adds nodes and constants to a graph of tf2onnx, in the scope of a node."""

    def __init__(self, ctx: Any, node: Any) -> None:
        self.ctx = ctx
        self.scope = node.name

    def value(self, name: str) -> Value:
        """Return a tensor of the graph."""
        return Value(self, name, self.ctx.get_dtype(name))

    def op(self, kind: str, *inputs: Operand, dtype: int = 0, **attributes: Any) -> Value:
        """Write a node and return its first output; see the base class."""
        given = self.given(inputs)
        names = [value.name for value in given]
        made = self.ctx.make_node(kind, names, attr=attributes, op_name_scope=self.scope)
        return Value(self, str(made.output[0]), dtype or given[0].dtype)

    def const(self, value: float | Array, dtype: int) -> Value:
        """Return a constant of an ONNX type."""
        from tf2onnx import utils

        array = np.asarray(value, tensor_dtype_to_np_dtype(dtype))
        name = self.ctx.make_const(utils.make_name(self.scope), array).output[0]
        return Value(self, str(name), dtype)

    def reduce(self, kind: str, value: Value, axis: int) -> Value:
        """Return a reduction over one axis, which stays as a dimension of 1."""
        if self.ctx.opset < 18:  # ReduceSum alone has its axes as an input before
            return self.op(kind, value, axes=[axis], keepdims=1)
        return self.op(kind, value, self.longs(axis), keepdims=1)

    def size(self, value: Value, axis: int) -> Value:
        """Return the length of an axis, a scalar of INT64; a constant where it is known."""
        shape = self.ctx.get_shape(value.name)
        if shape is not None and shape[axis] >= 0:
            return self.const(shape[axis], TensorProto.INT64)
        sizes = value.shape()
        return self.op("Gather", sizes, self.const(axis, TensorProto.INT64), axis=0)

    def known(self, value: Value) -> Array | None:
        """Return what a constant holds, or None."""
        node = self.ctx.get_node_by_output(value.name)
        if node is None or not node.is_const():
            return None
        return np.asarray(node.get_tensor_value(as_list=False))


Formula = Callable[[Writer, Sequence[Value]], Value]


def replace(ctx: Any, node: Any, formula: Formula) -> None:
    """Let ``formula`` write what the node computes, and give its result the node's name."""
    shape, dtype = ctx.get_shape(node.output[0]), ctx.get_dtype(node.output[0])
    writer = Writer(ctx, node)
    result = formula(writer, [writer.value(name) for name in node.input])
    name, outputs = node.name, node.output
    ctx.remove_node(name)
    ctx.make_node(
        "Identity", [result.name], name=name, outputs=outputs, shapes=[shape], dtypes=[dtype]
    )


def by(formula: Formula) -> Handler:
    """Return the handler of an operator that is a formula of its inputs."""
    return lambda ctx, node, name, args: replace(ctx, node, formula)


def own_tables() -> list[dict[str, tuple[Any, dict[str, Any]]]]:
    """Return tf2onnx's own handlers with their options: a table for each opset, from 0 on."""
    import_module("tf2onnx.tfonnx")  # they register themselves
    from tf2onnx.handler import tf_op

    return [table or {} for table in tf_op.get_opsets()[""]]


def theirs(ctx: Any, node: Any) -> None:
    """Let tf2onnx's own handler write a node."""
    tables = own_tables()[ctx.opset :: -1]
    handler, options = next(table[node.type] for table in tables if node.type in table)
    options = {**options, "tf_op": node.type} if options.get("onnx_op") else options
    node.type = options.get("onnx_op") or node.type
    handler(ctx, node, **options, initialized_tables={}, dequantize=False)
