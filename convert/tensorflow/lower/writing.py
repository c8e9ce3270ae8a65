"""How a handler writes ONNX into a graph of tf2onnx: nodes, constants, and plain formulas.

A `Value` is a tensor of the graph. Arithmetic of values writes nodes, so that a formula reads as it
stands in TensorFlow's sources:

    position = (at + 0.5) * scale - 0.5
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import TensorProto
from onnx.helper import tensor_dtype_to_np_dtype

from onnxgraft.errors import NotSupportedError
from onnxgraft.graph.tensors import Array

__all__ = ["Handler", "NewerOpset", "Value", "Writer", "by", "replace", "theirs"]

Handler = Callable[[Any, Any, str, Any], None]


class NewerOpset(NotSupportedError):
    """An operator of TensorFlow's needs what ONNX has from a later opset on."""

    def __init__(self, operator: str, opset: int) -> None:
        super().__init__(f"{operator} needs --opset {opset}")
        self.operator = operator
        self.opset = opset


@dataclass(frozen=True)
class Value:
    """A tensor of a graph that is being written.

    Attributes:
        writer: Writes what is computed of it.
        name: The tensor's.
        dtype: An ONNX type.
    """

    writer: Writer
    name: str
    dtype: int

    @property
    def whole(self) -> bool:
        """Whether the numbers are whole."""
        return bool(tensor_dtype_to_np_dtype(self.dtype).kind in "iu")

    def __add__(self, other: Operand) -> Value:
        return self.writer.op("Add", self, other)

    def __sub__(self, other: Operand) -> Value:
        return self.writer.op("Sub", self, other)

    def __mul__(self, other: Operand) -> Value:
        return self.writer.op("Mul", self, other)

    def __truediv__(self, other: Operand) -> Value:
        return self.writer.op("Div", self, other)

    def __lt__(self, other: Operand) -> Value:
        return self.writer.op("Less", self, other, dtype=TensorProto.BOOL)

    def __gt__(self, other: Operand) -> Value:
        return self.writer.op("Greater", self, other, dtype=TensorProto.BOOL)

    def equals(self, other: Operand) -> Value:
        """Return where both are equal."""
        return self.writer.op("Equal", self, other, dtype=TensorProto.BOOL)

    def where(self, true: Operand, false: Operand) -> Value:
        """Return ``true`` where this holds, else ``false``; one of them is a `Value`."""
        kind = true.dtype if isinstance(true, Value) else getattr(false, "dtype", TensorProto.FLOAT)
        made = [v if isinstance(v, Value) else self.writer.const(v, kind) for v in (true, false)]
        return self.writer.op("Where", self, *made, dtype=kind)

    def to(self, dtype: int) -> Value:
        """Return it in another type."""
        if dtype == self.dtype:
            return self
        return self.writer.op("Cast", self, dtype=dtype, to=dtype)

    def unsqueeze(self, *axes: int) -> Value:
        """Return it with dimensions of 1 at ``axes``."""
        return self.writer.op("Unsqueeze", self, self.writer.longs(*axes))

    def squeeze(self, *axes: int) -> Value:
        """Return it without the dimensions of 1 at ``axes``."""
        return self.writer.op("Squeeze", self, self.writer.longs(*axes))

    def reshape(self, *shape: int) -> Value:
        """Return it in another shape, 0 where a dimension stays, -1 for what is left."""
        return self.writer.op("Reshape", self, self.writer.longs(*shape))

    def transpose(self, *perm: int) -> Value:
        """Return it with its axes in another order."""
        return self.writer.op("Transpose", self, perm=list(perm))

    def sum(self, axis: int, *, keepdims: bool) -> Value:
        """Return the sum over an axis."""
        return self.writer.op("ReduceSum", self, self.writer.longs(axis), keepdims=int(keepdims))

    def shape(self) -> Value:
        """Return the shape, as INT64."""
        return self.writer.op("Shape", self, dtype=TensorProto.INT64)

    def rows(self, begin: int, end: int) -> Value:
        """Return what is at ``begin`` to ``end`` of the first axis."""
        w = self.writer
        return w.op("Slice", self, w.longs(begin), w.longs(end), w.longs(0))


Operand = Value | float


class Writer:
    """Adds nodes and constants to a graph of tf2onnx, in the scope of a node."""

    def __init__(self, ctx: Any, node: Any) -> None:
        self.ctx = ctx
        self.scope = node.name

    def value(self, name: str) -> Value:
        """Return a tensor of the graph."""
        return Value(self, name, self.ctx.get_dtype(name))

    def op(self, kind: str, *inputs: Operand, dtype: int = 0, **attributes: Any) -> Value:
        """Write a node and return its first output.

        Numbers become constants of the first input's type.

        Args:
            kind: ONNX's operator.
            *inputs: Its inputs, of which one is a `Value`.
            dtype: Its output's type; the first input's if not given.
            **attributes: Its attributes.
        """
        first = next(value.dtype for value in inputs if isinstance(value, Value))
        given = [v if isinstance(v, Value) else self.const(v, first) for v in inputs]
        names = [value.name for value in given]
        made = self.ctx.make_node(kind, names, attr=attributes, op_name_scope=self.scope)
        return Value(self, str(made.output[0]), dtype or first)

    def const(self, value: float | Array, dtype: int) -> Value:
        """Return a constant of an ONNX type."""
        from tf2onnx import utils

        array = np.asarray(value, tensor_dtype_to_np_dtype(dtype))
        name = self.ctx.make_const(utils.make_name(self.scope), array).output[0]
        return Value(self, str(name), dtype)

    def longs(self, *values: int) -> Value:
        """Return a list of INT64."""
        return self.const(np.array(values, np.int64), TensorProto.INT64)

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

    def range(self, end: Value) -> Value:
        """Return 0, 1, 2 ... before a scalar."""
        return self.op("Range", self.const(0, end.dtype), end, self.const(1, end.dtype))

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


def theirs(ctx: Any, node: Any) -> None:
    """Let tf2onnx's own handler write a node."""
    from tf2onnx.handler import tf_op

    tables = [table or {} for table in tf_op.get_opsets()[""][: ctx.opset + 1]]
    handler, options = next(table[node.type] for table in tables[::-1] if node.type in table)
    options = {**options, "tf_op": node.type} if options.get("onnx_op") else options
    node.type = options.get("onnx_op") or node.type
    handler(ctx, node, **options, initialized_tables={}, dequantize=False)
