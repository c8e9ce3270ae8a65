"""Writing several nodes in the place of one, as the lowerings do."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.graph.tensors import Array
from onnxgraft.graph.walk import detach
from onnxgraft.stages.surgery.running.rewrite import Context

__all__ = ["Builder"]


class Builder:
    """Takes a node out of the graph and writes others that make its outputs.

    Attributes:
        inputs: What the node read.
        outputs: What it made, and others are to make.
        attrs: Its attributes.
    """

    def __init__(self, context: Context, node: gs.Node) -> None:
        """Take ``node`` off its tensors."""
        self.inputs, self.outputs = list(node.inputs), list(node.outputs)
        self.attrs: dict[str, Any] = dict(node.attrs)
        self._context, self._name = context, node.name
        detach(node)

    def constant(self, what: str, value: Array) -> gs.Constant:
        """Return a constant that is called after the node and ``what``."""
        return self._context.constant(f"{self._name}/{what}", value)

    def integers(self, what: str, *values: int) -> gs.Constant:
        """Return a constant of int64."""
        return self.constant(what, np.array(values, np.int64))

    def add(
        self, op: str, *inputs: gs.Tensor, dtype: Any = None, output: gs.Tensor | None = None,
        **attrs: Any,
    ) -> gs.Tensor:  # fmt: skip
        """Append a node and return its output.

        Args:
            op: The operator.
            inputs: What it reads.
            dtype: Of its output; that of the first input if None.
            output: What it makes, if it is not a new tensor.
            attrs: Its attributes.
        """
        name = f"{self._name}/{op}"
        if output is None:
            output = self._context.variable(name, inputs[0])
            output.dtype = output.dtype if dtype is None else np.dtype(dtype)
        self._context.add(op, name, list(inputs), [output], **attrs)
        return output
