"""TensorFlow's operators that tf2onnx leaves or gets wrong, written as ONNX has them.

One function an operator; `OPERATORS` at the end is the table. tf2onnx calls these handlers in place
of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import TensorProto

__all__ = ["OPERATORS", "Operator", "handlers"]

Handler = Callable[[Any, Any, str, Any], None]


@dataclass(frozen=True)
class Operator:
    """A line of the table.

    Attributes:
        handler: Writes the operator in a graph of tf2onnx.
        written: What it becomes, for the docs.
    """

    handler: Handler
    written: str


def handlers() -> dict[str, tuple[Handler, list[Any]]]:
    """Return the handlers in the form that tf2onnx takes."""
    return {name: (operator.handler, []) for name, operator in OPERATORS.items()}


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


def _by(formula: Callable[[_Writer, Sequence[str]], str]) -> Handler:
    """Return the handler of an operator that is a formula of its inputs."""
    return lambda ctx, node, name, args: _replace(ctx, node, formula)


OPERATORS = {
    "Erfc": Operator(_erfc, "1 - erf(x)"),
    "Expm1": Operator(_expm1, "tanh(x / 2) (e^x + 1), which does not cancel near 0"),
    "FloorDiv": Operator(
        _floor_div, "floor(a / b); of whole numbers (a - Mod(a, b)) / b, for ONNX rounds to 0"
    ),
    "FloorMod": Operator(_floor_mod, "a - b floor(a / b); of whole numbers Mod"),
    "Log1p": Operator(_by(_log1p), "2 atanh(x / (2 + x)) for abs(x) < 1/2, else log(1 + x)"),
    "Rank": Operator(_rank, "the size of the shape"),
    "Select": Operator(_select, "Where; tf2onnx's c x + (1 - c) y lets a NaN of y through"),
    "SelectV2": Operator(_select, "Where, likewise"),
    "TFL_GELU": Operator(_tfl_gelu, "x / 2 (1 + erf(x / sqrt 2)), or its tanh approximation"),
    "Xdivy": Operator(_by(_guarded("", "Div")), "x / y, and 0 where x is 0"),
    "Xlog1py": Operator(_by(_xlog1py), "x log(1 + y), and 0 where x is 0"),
    "Xlogy": Operator(_by(_guarded("Log", "Mul")), "x log(y), and 0 where x is 0"),
}
