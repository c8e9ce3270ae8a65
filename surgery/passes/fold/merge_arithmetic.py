"""Join steps of arithmetic by constants.

Given:  (x + c) + d,  (x - c) + d, ...              Result: x + (c + d), ...
Given:  (x * c) * d,  (x / c) * d, ...              Result: x * (c * d), ...
Given:  (L(x) + c) * d, L a MatMul by constants     Result: (L(x) * d) + (c * d)

The constants are joined in float64 and rounded once. Refused: integers, which overflow and round
in steps; a result that is larger than both constants, or whose digits its type can't hold; two sums
that round, as x + 2^23 - 2^23 does; a first step that somebody else reads. The third form brings
the factor to the MatMul, into which `fold_batchnorm` folds it.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnxgraft.graph.operators import is_op, op_of, set_op
from onnxgraft.graph.walk import detach
from onnxgraft.stages.surgery.passes.fold._affine import layer_weights, rounds
from onnxgraft.stages.surgery.running.rewrite import Context, Result, constant

_SUMS = frozenset({"Add", "Sub"})
_PRODUCTS = frozenset({"Div", "Mul"})


def apply(graph: gs.Graph, context: Context) -> Result:
    """Join every pair of steps by constants."""
    result = Result()
    for node in graph.nodes:
        step = _step(node)
        if step is None:
            continue
        position, outer = step
        first = context.producer(node.inputs[position])
        inner = None if first is None else _step(first)
        if first is None or inner is None:
            continue
        second, before = op_of(node), op_of(first)
        same = {second, before} <= _SUMS or {second, before} <= _PRODUCTS
        swap = second in _PRODUCTS and before in _SUMS and _after_matmul(first, inner, context)
        if not same and not swap:
            continue
        if context.single_consumer(first.outputs[0]) is None:
            result.refuse(node, f"what {first.name!r} computes has another user")
            continue
        # What each step does to x: the sign or power of x, and the constant's.
        if position == 1 and second in ("Div", "Sub"):
            result.refuse(node, f"it takes what {first.name!r} computes from a constant")
            continue
        if inner[0] == 1 and before in ("Div", "Sub"):
            result.refuse(node, f"{first.name!r} takes x from a constant")
            continue
        if rounds(first, context):
            result.refuse(node, f"with {first.name!r}, it rounds")
            continue
        known = constant(first.inputs[1 - inner[0]])
        assert known is not None
        joined = _join(before, known, second, outer, swap)
        if joined is None:
            reason = "the constants would grow or lose digits"
            result.refuse(node, f"joined with {first.name!r}, {reason}")
            continue
        _rewrite(node, first, inner[0], outer, joined, swap, context)
        result.did(node, f"joined with {first.name!r} before it")
    return result


def _step(node: gs.Node) -> tuple[int, NDArray[np.floating]] | None:
    """Return which input is not constant, and the floating-point constant; None: it is no step."""
    if not is_op(node, *_SUMS, *_PRODUCTS) or not node.outputs:
        return None
    for position in (0, 1):
        value = constant(node.inputs[1 - position])
        if value is not None and not isinstance(node.inputs[position], gs.Constant):
            return (position, value) if value.dtype.kind == "f" else None
    return None


def _after_matmul(
    first: gs.Node, inner: tuple[int, NDArray[np.floating]], context: Context
) -> bool:
    layer = context.producer(first.inputs[inner[0]])
    return (
        layer is not None
        and is_op(layer, "MatMul")
        and layer_weights(layer) is not None
        and context.single_consumer(layer.outputs[0]) is first
    )


def _join(
    first: str, c: NDArray[np.floating], second: str, d: NDArray[np.floating], swap: bool
) -> NDArray[np.floating] | None:
    """Return the constant of the joined step, which is an Add or a Mul; None: there is none."""
    a, b = c.astype(np.float64), d.astype(np.float64)
    with np.errstate(all="ignore"):
        if swap:
            joined = (-a if first == "Sub" else a) * (1 / b if second == "Div" else b)
        elif second in _SUMS:
            joined = (-a if first == "Sub" else a) + (-b if second == "Sub" else b)
        else:
            joined = (1 / a if first == "Div" else a) * (1 / b if second == "Div" else b)
        rounded = joined.astype(c.dtype)
        usual = np.abs(rounded - joined) <= float(np.finfo(c.dtype).eps) * np.abs(joined)
    return rounded if usual.all() and rounded.size <= max(c.size, d.size) else None


def _rewrite(
    node: gs.Node,
    first: gs.Node,
    position: int,
    outer: NDArray[np.floating],
    joined: NDArray[np.floating],
    swap: bool,
    context: Context,
) -> None:
    source, output, name = first.inputs[position], node.outputs[0], node.name
    made = context.constant(f"{name}/joined", joined)
    if swap:
        factor = next(t for t in node.inputs if isinstance(t, gs.Constant))
        scaled = context.variable(f"{name}/scaled", output)
        node.inputs = [source, factor]
        node.outputs = [scaled]
        context.add("Add", f"{name}/shift", [scaled, made], [output])
    else:
        set_op(node, "Add" if is_op(node, *_SUMS) else "Mul")
        node.inputs = [source, made]
    detach(first)
