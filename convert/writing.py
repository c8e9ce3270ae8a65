"""Formulas that write ONNX: a `Value` is a tensor of a graph, and its arithmetic writes nodes.

So a formula reads as it stands in a framework's sources:

    position = (at + 0.5) * scale - 0.5
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import TensorProto
from onnx.helper import tensor_dtype_to_np_dtype

from onnxgraft.graph.tensors import Array

__all__ = ["Operand", "Value", "Writer"]


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


class Writer(ABC):
    """Adds nodes and constants to a graph."""

    @abstractmethod
    def op(self, kind: str, *inputs: Operand, dtype: int = 0, **attributes: Any) -> Value:
        """Write a node and return its first output.

        Numbers become constants of the first input's type.

        Args:
            kind: ONNX's operator.
            *inputs: Its inputs, of which one is a `Value`.
            dtype: Its output's type; the first input's if not given.
            **attributes: Its attributes.
        """

    @abstractmethod
    def const(self, value: float | Array, dtype: int) -> Value:
        """Return a constant of an ONNX type."""

    def given(self, inputs: tuple[Operand, ...]) -> list[Value]:
        """Return the inputs of a node, with numbers as constants of the first one's type."""
        first = next(value.dtype for value in inputs if isinstance(value, Value))
        return [v if isinstance(v, Value) else self.const(v, first) for v in inputs]

    def longs(self, *values: int) -> Value:
        """Return a list of INT64."""
        return self.const(np.array(values, np.int64), TensorProto.INT64)

    def range(self, end: Value) -> Value:
        """Return 0, 1, 2 ... before a scalar."""
        return self.op("Range", self.const(0, end.dtype), end, self.const(1, end.dtype))
