"""Nodes that are put in at the beginning or at the end of a graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.graph.model import Model
from onnxgraft.graph.names import FreeNames
from onnxgraft.graph.node import Node
from onnxgraft.graph.tensors import Array

__all__ = ["Nodes"]

Number = float | int


class Nodes:
    """Makes nodes with free names, each with one output.

    Args:
        model: To whose graph they are added.
        prefix: Of the names.
    """

    def __init__(self, model: Model, prefix: str) -> None:
        self._graph, self._prefix = model.graph, prefix
        self._names = FreeNames(model.graph, model.names)

    def variable(self, name: str, dtype: Any, shape: Sequence[int | str] | None) -> gs.Variable:
        """Return a new tensor called ``name``, or nearly so."""
        return gs.Variable(self._names.tensor(name), dtype, None if shape is None else list(shape))

    def constant(self, value: Array) -> gs.Constant:
        """Return a constant."""
        return gs.Constant(self._names.tensor(f"{self._prefix}/constant"), value)

    def integers(self, *values: int) -> gs.Constant:
        """Return a constant (n,) int64."""
        return self.constant(np.array(values, np.int64))

    def add(self, op: str, *inputs: gs.Tensor | None, **attributes: Any) -> gs.Variable:
        """Return what a new node makes; None stands for an input that is left out."""
        made = gs.Variable(self._names.tensor(f"{self._prefix}/{op}"))
        given = [gs.Variable.empty() if tensor is None else tensor for tensor in inputs]
        node = Node(
            op, self._names.node(f"{self._prefix}/{op}"), attributes, inputs=given, outputs=[made]
        )
        self._graph.nodes.append(node)
        return made

    def cast(self, tensor: gs.Tensor, dtype: Any) -> gs.Variable:
        """Return a tensor in another type."""
        from onnx.helper import np_dtype_to_tensor_dtype

        return self.add("Cast", tensor, to=np_dtype_to_tensor_dtype(np.dtype(dtype)))

    def slice(self, tensor: gs.Tensor, axis: int, begin: int, end: int) -> gs.Variable:
        """Return a part of a tensor along one axis."""
        ends = (self.integers(place) for place in (begin, end, axis))
        return self.add("Slice", tensor, *ends)
