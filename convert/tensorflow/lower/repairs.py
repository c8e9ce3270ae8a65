"""What tf2onnx leaves or gets wrong, put right: handlers that it calls instead of its own.

Select, SelectV2   Where: tf2onnx writes c x + (1 - c) y, in which a NaN of y reaches the output
Erfc               1 - erf(x)
Expm1              tanh(x / 2) (e^x + 1), which does not cancel near 0
Log1p              2 atanh(x / (2 + x)) for |x| < 1/2, log(1 + x) elsewhere; likewise
Xlogy, Xdivy       0 where x is 0, whatever y is
Xlog1py
FloorDiv, FloorMod Mod, and (a - Mod(a, b)) / b, of whole numbers: tf2onnx rounds towards 0
Rank               the size of the shape

and, in the GraphDef, a transposed convolution whose output is larger than its kernels reach: zeros
are added behind the kernel; and batch normalizations in training mode as Keras writes them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from onnx import TensorProto

from onnxgraft.graph.tensors import (
    Array,
)
from onnxgraft.stages.convert.tensorflow.running import tensorflow

__all__ = ["handlers", "repair"]

Handler = Callable[[Any, Any, str, Any], None]


def handlers() -> dict[str, tuple[Handler, list[Any]]]:
    """Return the handlers in the form that tf2onnx takes."""
    table: Mapping[str, Handler] = {
        "Select": _select,
        "SelectV2": _select,
        "Erfc": _erfc,
        "Expm1": _expm1,
        "Log1p": lambda ctx, node, name, args: _replace(ctx, node, _log1p),
        "Xlogy": lambda ctx, node, name, args: _replace(ctx, node, _guarded("Log", "Mul")),
        "Xlog1py": lambda ctx, node, name, args: _replace(ctx, node, _xlog1py),
        "TFL_GELU": _tfl_gelu,
        "FloorDiv": _floor_div,
        "FloorMod": _floor_mod,
        "Rank": _rank,
        "Xdivy": lambda ctx, node, name, args: _replace(ctx, node, _guarded("", "Div")),
    }
    return {op: (handler, []) for op, handler in table.items()}


def _select(ctx: Any, node: Any, name: str, args: Any) -> None:
    from tf2onnx.onnx_opset.controlflow import Select

    node.set_attr("handles_nan", True)  # tf2onnx then writes a Where
    Select.version_9(ctx, node)


class _Writer:
    """Adds nodes of one type and constants to a graph of tf2onnx."""

    def __init__(self, ctx: Any, node: Any) -> None:
        self.ctx = ctx
        self.scope = node.name
        self.dtype = ctx.get_dtype(node.input[0])

    @property
    def whole(self) -> bool:
        """Whether the numbers are whole."""
        from onnx.helper import tensor_dtype_to_np_dtype

        return bool(tensor_dtype_to_np_dtype(self.dtype).kind in "iu")

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        made = self.ctx.make_node(kind, list(inputs), attr=attributes, op_name_scope=self.scope)
        return str(made.output[0])

    def const(self, value: float) -> str:
        from onnx.helper import tensor_dtype_to_np_dtype
        from tf2onnx import utils

        array = np.array(value, tensor_dtype_to_np_dtype(self.dtype))
        return str(self.ctx.make_const(utils.make_name(self.scope), array).output[0])


def _replace(ctx: Any, node: Any, formula: Callable[[_Writer, Sequence[str]], str]) -> None:
    """Let ``formula`` write what the node computes, and give its result the node's name."""
    shape, dtype = ctx.get_shape(node.output[0]), ctx.get_dtype(node.output[0])
    result = formula(_Writer(ctx, node), node.input)
    name, outputs = node.name, node.output
    ctx.remove_node(name)
    ctx.make_node("Identity", [result], name=name, outputs=outputs, shapes=[shape], dtypes=[dtype])


def _erfc(ctx: Any, node: Any, name: str, args: Any) -> None:
    _replace(ctx, node, lambda w, x: w.op("Sub", w.const(1), w.op("Erf", x[0])))


def _expm1(ctx: Any, node: Any, name: str, args: Any) -> None:
    def formula(w: _Writer, x: Sequence[str]) -> str:
        half = w.op("Tanh", w.op("Mul", x[0], w.const(0.5)))
        return w.op("Mul", half, w.op("Add", w.op("Exp", x[0]), w.const(1)))

    _replace(ctx, node, formula)


def _floor_div(ctx: Any, node: Any, name: str, args: Any) -> None:
    """Write floor(a / b); whole numbers, which ONNX divides towards 0, as (a - a mod b) / b."""

    def formula(w: _Writer, x: Sequence[str]) -> str:
        if w.whole:
            return w.op("Div", w.op("Sub", x[0], w.op("Mod", x[0], x[1])), x[1])
        return w.op("Floor", w.op("Div", x[0], x[1]))

    _replace(ctx, node, formula)


def _floor_mod(ctx: Any, node: Any, name: str, args: Any) -> None:
    """Write a - b floor(a / b); of whole numbers that is ONNX's Mod, with the sign of b."""

    def formula(w: _Writer, x: Sequence[str]) -> str:
        if w.whole:
            return w.op("Mod", x[0], x[1])
        return w.op("Sub", x[0], w.op("Mul", x[1], w.op("Floor", w.op("Div", x[0], x[1]))))

    _replace(ctx, node, formula)


def _rank(ctx: Any, node: Any, name: str, args: Any) -> None:
    """Write the number of dimensions: the size of the shape."""

    def formula(w: _Writer, x: Sequence[str]) -> str:
        return w.op("Cast", w.op("Size", w.op("Shape", x[0])), to=TensorProto.INT32)

    _replace(ctx, node, formula)


def _tfl_gelu(ctx: Any, node: Any, name: str, args: Any) -> None:
    """Write TFLite's Gelu: x / 2 (1 + erf(x / sqrt 2)), or its tanh approximation."""
    approximate = bool(node.get_attr_value("approximate", 0))

    def formula(w: _Writer, x: Sequence[str]) -> str:
        if approximate:
            cube = w.op("Mul", w.op("Mul", x[0], x[0]), x[0])
            inner = w.op("Add", x[0], w.op("Mul", cube, w.const(0.044715)))
            gate = w.op("Tanh", w.op("Mul", inner, w.const(np.sqrt(2 / np.pi))))
        else:
            gate = w.op("Erf", w.op("Mul", x[0], w.const(np.sqrt(0.5))))
        half = w.op("Mul", x[0], w.const(0.5))
        return w.op("Mul", half, w.op("Add", gate, w.const(1)))

    _replace(ctx, node, formula)


def _log1p(w: _Writer, x: Sequence[str]) -> str:
    near = w.op("Less", w.op("Abs", x[0]), w.const(0.5))
    ratio = w.op("Div", x[0], w.op("Add", x[0], w.const(2)))
    small = w.op("Mul", w.op("Atanh", ratio), w.const(2))
    return w.op("Where", near, small, w.op("Log", w.op("Add", x[0], w.const(1))))


def _guarded(inner: str, outer: str) -> Callable[[_Writer, Sequence[str]], str]:
    def formula(w: _Writer, x: Sequence[str]) -> str:
        second = w.op(inner, x[1]) if inner else x[1]
        value = w.op(outer, x[0], second)
        return w.op("Where", w.op("Equal", x[0], w.const(0)), w.const(0), value)

    return formula


def _xlog1py(w: _Writer, x: Sequence[str]) -> str:
    value = w.op("Mul", x[0], _log1p(w, x[1:]))
    return w.op("Where", w.op("Equal", x[0], w.const(0)), w.const(0), value)


# In the GraphDef ------------------------------------------------------------------------------


def repair(graph_def: Any, graph: Any, weights: Mapping[str, Array]) -> None:
    """Repair in place what a handler would see too late.

    Args:
        graph_def: Is changed.
        graph: The same, imported, for static shapes.
        weights: The constants that are empty in it.
    """
    for node in graph_def.node:
        if node.op == "Rank":
            rank = graph.get_operation_by_name(node.name).inputs[0].shape.rank
            if rank is not None:
                node.op = "Const"
                node.ClearField("attr")
                del node.input[:]
                value = tensorflow().make_tensor_proto(rank, "int32")
                node.attr["dtype"].type = value.dtype
                node.attr["value"].tensor.CopyFrom(value)
        # It weighs the statistics that training would keep; with it tf2onnx takes the node for one
        # of inference.
        if node.op.startswith("FusedBatchNorm") and "exponential_avg_factor" in node.attr:
            node.attr["exponential_avg_factor"].f = 1.0
    _reach_with_zeros(graph_def, graph, weights)


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
        place = graph_def.node.add(name=f"{node.name}/kernel_with_zeros", op="Const")
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
            short.append(max(0, after - (stride * (before - 1) + size)))
        else:  # SAME makes the output stride times the input
            short.append(max(0, stride - size) if node.attr["padding"].s == b"SAME" else 0)
    return short[0], short[1]
