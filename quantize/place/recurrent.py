"""Recurrent layers with int8 weights, in the form in which a target has them.

    dynamic     X, W, R -> LSTM     X, int8 W, int8 R -> com.microsoft.DynamicQuantizeLSTM
    weights     X, W, R -> LSTM     X, DequantizeLinear(int8 W), DequantizeLinear(int8 R) -> LSTM

onnxruntime's kernel quantizes the input, and in each step the state, to uint8 by what they hold
just then, so that neither needs a range. W is (directions, gates * hidden, inputs) in ONNX, and
each row has a scale, as an output channel of a MatMul has; R likewise. The kernel wants both
transposed, with a scale for each row of each direction. A DequantizeLinear has one axis, so that
there two directions would share scales: they stay float, as TensorRT runs no such engine anyway.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.graph.names import FreeNames
from onnxgraft.graph.operators import DYNAMIC_LSTM, MICROSOFT, RECURRENT, is_op, op_of, set_op
from onnxgraft.graph.tensors import Array
from onnxgraft.stages.quantize.improve.rounding import nearest_numbers, weight_scale
from onnxgraft.targets import Placement

__all__ = ["ROWS", "as_dynamic", "recurrent_layers", "unable"]

# The axis of the rows of W and R.
ROWS = 1
# How many inputs an LSTM has.
_INPUTS = 8


def recurrent_layers(graph: gs.Graph, table: Placement) -> list[gs.Node]:
    """Return the recurrent layers whose weights the target takes as int8."""
    return [node for node in graph.nodes if is_op(node, *RECURRENT) and unable(node, table) is None]


def unable(node: gs.Node, table: Placement) -> str | None:
    """Return why the weights of a recurrent layer stay float; None where they do not."""
    form = table.recurrent.get(op_of(node))
    if form is None:
        return f"{table.target} has no INT8 {op_of(node)} that computes what the graph says"
    if not all(isinstance(tensor, gs.Constant) for tensor in node.inputs[1:3]):
        return "its weights are not constant"
    if form == "weights" and node.attrs.get("direction") == "bidirectional":
        return f"{table.target} has no INT8 {op_of(node)} of two directions that it can run"
    if form == "dynamic" and node.attrs.get("layout", 0):
        return f"{table.target} has no INT8 {op_of(node)} of this layout, which is batch first"
    return None


def as_dynamic(names: FreeNames, node: gs.Node, *, unsigned: bool) -> None:
    """Make onnxruntime's kernel with int8 weights of an LSTM, in place.

    Args:
        names: Of the whole graph.
        node: One of `recurrent_layers`.
        unsigned: Whether the integers are uint8 around 128: they stand for the same numbers, and
            products with them do not saturate on any CPU.
    """
    inputs = [*node.inputs, *(gs.Variable.empty() for _ in range(_INPUTS - len(node.inputs)))]
    for place in (1, 2):
        stored = _by_direction(np.asarray(node.inputs[place].values), unsigned=unsigned)
        label = f"{node.inputs[place].name}/{node.name}"
        inputs[place], *grid = (
            gs.Constant(names.tensor(f"{label}/{part}"), value)
            for part, value in zip(("integers", "scale", "zero_point"), stored, strict=True)
        )
        inputs += grid
    node.inputs = inputs
    node.attrs.pop("layout", None)
    set_op(node, DYNAMIC_LSTM, MICROSOFT)


def _by_direction(values: Array, *, unsigned: bool) -> tuple[Array, Array, Array]:
    """Return (directions, inputs, rows) integers, and (directions, rows) scales and zero points."""
    scale = np.stack([weight_scale(rows, 0) for rows in values])
    integers = np.stack([
        nearest_numbers(rows, one, 0) for rows, one in zip(values, scale, strict=True)
    ]).transpose(0, 2, 1)
    kind, zero = (np.uint8, 128) if unsigned else (np.int8, 0)
    moved = np.asarray(integers + np.int16(zero), kind)
    return np.ascontiguousarray(moved), scale, np.full(scale.shape, zero, kind)
