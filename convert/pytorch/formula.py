"""How a handler of an operator writes ONNX where PyTorch's exporter calls it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from onnx import TensorProto
from onnx.helper import tensor_dtype_to_np_dtype

from onnxgraft.graph.tensors import Array
from onnxgraft.stages.convert import writing
from onnxgraft.stages.convert.writing import Operand, Value

__all__ = ["HALVES", "Formula", "Writer", "by"]

HALVES = (TensorProto.FLOAT16, TensorProto.BFLOAT16)

Formula = Callable[[writing.Writer, Sequence[Value]], Value]


class Writer(writing.Writer):
    """Adds nodes to what the exporter is writing just now."""

    def __init__(self) -> None:
        from onnxscript import opset18

        self._onnx = opset18
        self._tensors: dict[str, Any] = {}

    def value(self, tensor: Any) -> Value:
        """Return a tensor of the exporter's."""
        return self._named(tensor, int(tensor.dtype))

    def tensor(self, value: Value) -> Any:
        """Return the exporter's tensor."""
        return self._tensors[value.name]

    def op(self, kind: str, *inputs: Operand, dtype: int = 0, **attributes: Any) -> Value:
        """Write a node and return its first output; see the base class."""
        given = self.given(inputs)
        made = getattr(self._onnx, kind)(*map(self.tensor, given), **attributes)
        first = made[0] if isinstance(made, Sequence) else made
        return self._named(first, dtype or given[0].dtype)

    def both(self, kind: str, *inputs: Operand, **attributes: Any) -> tuple[Value, Value]:
        """Write a node and return its two outputs, of which the second is INT64."""
        given = self.given(inputs)
        one, other = getattr(self._onnx, kind)(*map(self.tensor, given), **attributes)
        return self._named(one, given[0].dtype), self._named(other, TensorProto.INT64)

    def parts(self, value: Value, count: int, axis: int) -> list[Value]:
        """Return as many parts along an axis as are asked for, which are more than one."""
        made = self._onnx.Split(self.tensor(value), num_outputs=count, axis=axis)
        return [self._named(part, value.dtype) for part in made]

    def const(self, value: float | Array, dtype: int) -> Value:
        """Return a constant of an ONNX type."""
        import onnx_ir as ir

        array = np.asarray(value, tensor_dtype_to_np_dtype(dtype))
        tensor: Any = ir.tensor(array)
        return self._named(self._onnx.Constant(value=tensor), dtype)

    def _named(self, tensor: Any, dtype: int) -> Value:
        name = str(len(self._tensors))
        self._tensors[name] = tensor
        return Value(self, name, dtype)


def by(formula: Formula, *inputs: Any) -> Any:
    """Return what a formula makes of tensors and numbers, of which one is a tensor."""
    w = Writer()
    kind = next(int(given.dtype) for given in inputs if hasattr(given, "dtype"))
    tensors = {at: w.value(v) for at, v in enumerate(inputs) if hasattr(v, "dtype")}
    if any(isinstance(v, float) for v in inputs) and tensors[min(tensors)].whole:
        kind = TensorProto.FLOAT  # what PyTorch makes of whole numbers beside a fraction
        tensors = {at: value.to(kind) for at, value in tensors.items()}
    values = [tensors[at] if at in tensors else w.const(v, kind) for at, v in enumerate(inputs)]
    if kind not in HALVES:
        return w.tensor(formula(w, values))
    # As PyTorch does it, in float32, of which the result alone is rounded.
    return w.tensor(formula(w, [value.to(TensorProto.FLOAT) for value in values]).to(kind))
