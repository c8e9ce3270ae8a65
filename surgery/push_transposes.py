"""Push Transposes towards the outputs until they meet and cancel.

Given:  Relu(Transpose(x, p))                        Result: Transpose(Relu(x), p)
Given:  Add(Transpose(x, p), Transpose(y, p))        Result: Transpose(Add(x, y), p)
Given:  Mul(Transpose(x, p), c), c constant          Result: Transpose(Mul(x, c'), p),
                                                             c' = transpose(c, inverse of p)
Given:  Concat | Softmax | ReduceMean ... of axis a  Result: the same of axis p[a]
Given:  Transpose(Transpose(x, p), q)                Result: Transpose(x, p[q]), or x

What is kept leaves fewer Transposes than there were.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.surgery._rewrite import (
    Context,
    Finding,
    Result,
    bypass,
    constant,
    free_name,
    inside,
    is_output,
)
from onnxgraft.surgery.merge_reshapes import ELEMENTWISE

_UNARY = ELEMENTWISE | {"DequantizeLinear", "Identity", "Not", "QuantizeLinear"}
_BINARY = frozenset(
    {"Add", "And", "Div", "Equal", "Greater", "Less", "Max", "Min", "Mul", "Or", "PRelu", "Pow",
     "Sub", "Sum", "Where"}
)  # fmt: skip
_ONE_AXIS = frozenset({"ArgMax", "ArgMin", "Concat", "LogSoftmax", "Softmax"})
_REDUCTIONS = frozenset({"ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum"})


def apply(graph: gs.Graph, context: Context) -> Result:
    """Push and cancel Transposes on a copy, and keep it if that leaves fewer of them.

    First only those are pushed that all of their consumers can take. Then, where a tensor is used
    on both sides of a gate or a residual addition, they are pushed through one consumer at a time:
    the others follow when their own operands have arrived.
    """
    result = Result()
    before = _count(graph)
    if not before:
        return result
    _write_perms(graph, context)
    for one_by_one in (False, True):
        _try(graph, context, one_by_one)
    after = _count(graph)
    if after < before:
        result.done.append(Finding("graph", f"{before} Transposes became {after}"))
    return result


def _try(graph: gs.Graph, context: Context, one_by_one: bool) -> None:
    """Push as far as it goes on a copy; take the copy over if it has fewer Transposes."""
    trial, names = graph.copy(), dict(context.names)
    while _step(trial, context, one_by_one):
        trial.cleanup().toposort()
    if _count(trial) < _count(graph):
        graph.nodes, graph.inputs, graph.outputs = trial.nodes, trial.inputs, trial.outputs
    else:
        context.names.clear()
        context.names.update(names)


def _write_perms(graph: gs.Graph, context: Context) -> None:
    """Write the permutation of each Transpose that leaves it out: it reverses the axes."""
    for node in graph.nodes:
        shape = context.shapes.shape(node.inputs[0]) if node.op == "Transpose" else None
        if "perm" not in node.attrs and shape is not None:
            node.attrs["perm"] = list(reversed(range(len(shape))))


def _count(graph: gs.Graph) -> int:
    return sum(node.op == "Transpose" for node in graph.nodes)


def _step(graph: gs.Graph, context: Context, one_by_one: bool) -> bool:
    """Move one Transpose one step; return whether there was one to move."""
    for node in graph.nodes:
        fixed = is_output(graph, node.outputs[0])
        if node.op != "Transpose" or fixed or "perm" not in node.attrs:
            continue
        perm = list(node.attrs["perm"])
        consumers = list({id(user): user for user in node.outputs[0].outputs}.values())
        if not consumers or not inside(graph, consumers):
            continue
        taking = [consumer for consumer in consumers if _takes(graph, consumer, perm)]
        if not taking or (len(taking) < len(consumers) and not one_by_one):
            continue
        for consumer in taking:
            if consumer.op == "Transpose":
                _merge(graph, node, consumer)
            elif consumer.outputs:
                _push(graph, consumer, perm, context)
        return True
    return False


def _takes(graph: gs.Graph, node: gs.Node, perm: Sequence[int]) -> bool:
    """Tell whether a Transpose by ``perm`` can move from the node's inputs to its outputs."""
    if node.op == "Transpose":
        return "perm" in node.attrs
    if node.domain not in (None, "", "ai.onnx") or len(node.outputs) != 1:
        return False
    if node.op in _UNARY:
        return all((isinstance(t, gs.Constant) and t.values.size == 1) or not t.name
                   for t in node.inputs[1:])  # fmt: skip
    if node.op in _BINARY:
        return all(_transposed(t, perm) or _rank(t) in range(len(perm) + 1) for t in node.inputs)
    if node.op == "Concat":
        return all(_transposed(tensor, perm) for tensor in node.inputs)
    if node.op in _ONE_AXIS:
        # Before opset 13 a softmax flattened its operand at the axis.
        flattens = node.op in ("LogSoftmax", "Softmax") and graph.opset < 13
        return bool(node.attrs.get("keepdims", 1)) and not flattens
    if node.op in _REDUCTIONS:
        return bool(node.attrs.get("keepdims", 1)) and _axes(node) is not None
    if node.op == "Pad":
        return 1 < len(node.inputs) < 4 and constant(node.inputs[1]) is not None
    return False


def _rank(tensor: gs.Tensor) -> int:
    """Return the rank of a constant, -1 for what is none."""
    value = constant(tensor)
    return -1 if value is None else value.ndim


def _transposed(tensor: gs.Tensor, perm: Sequence[int]) -> bool:
    producer = tensor.inputs[0] if tensor.inputs else None
    return bool(
        producer is not None
        and producer.op == "Transpose"
        and list(producer.attrs.get("perm", ())) == list(perm)
    )


def _axes(node: gs.Node) -> list[int] | None:
    axes: Any = node.attrs.get("axes")
    if axes is None and len(node.inputs) > 1:
        axes = constant(node.inputs[1])
    return None if axes is None else [int(axis) for axis in axes]


def _merge(graph: gs.Graph, first: gs.Node, second: gs.Node) -> None:
    perm = [first.attrs["perm"][axis] for axis in second.attrs["perm"]]
    second.inputs[0] = first.inputs[0]
    second.attrs["perm"] = perm
    if perm == list(range(len(perm))):
        bypass(graph, second)


def _push(graph: gs.Graph, node: gs.Node, perm: Sequence[int], context: Context) -> None:
    """Let the node work before the Transpose, and put the Transpose after it."""
    inverse = [int(axis) for axis in np.argsort(perm)]
    for index, tensor in enumerate(node.inputs):
        value = constant(tensor)
        if _transposed(tensor, perm):
            node.inputs[index] = tensor.inputs[0].inputs[0]
        elif value is not None and node.op in _BINARY and value.size > 1:
            full = value.reshape((1,) * (len(perm) - value.ndim) + value.shape)
            name = free_name(graph, f"{tensor.name}/{node.name}")
            node.inputs[index] = gs.Constant(name, np.ascontiguousarray(full.transpose(inverse)))
    _permute_attributes(graph, node, perm)
    target = node.outputs[0]
    moved = gs.Variable(free_name(graph, f"{target.name}/{node.name}"), target.dtype)
    if target.shape is not None and len(target.shape) == len(perm):
        moved.shape = [target.shape[axis] for axis in inverse]
    context.moved(moved, target, inverse)
    node.outputs = [moved]
    graph.nodes.append(
        gs.Node("Transpose", f"{node.name}/transpose", {"perm": list(perm)}, [moved], [target])
    )


def _permute_attributes(graph: gs.Graph, node: gs.Node, perm: Sequence[int]) -> None:
    rank = len(perm)
    if node.op in _ONE_AXIS:
        default = 0 if node.op.startswith("Arg") else -1
        node.attrs["axis"] = perm[node.attrs.get("axis", default) % rank]
    elif node.op in _REDUCTIONS:
        axes = [perm[axis % rank] for axis in _axes(node) or ()]
        if "axes" in node.attrs:
            node.attrs["axes"] = axes
        else:
            node.inputs[1] = gs.Constant(
                free_name(graph, f"{node.name}/axes"), np.array(axes, np.int64)
            )
    elif node.op == "Pad":
        pads = constant(node.inputs[1])
        assert pads is not None
        halves = np.asarray(pads).reshape(2, rank)
        moved = np.zeros_like(halves)
        moved[:, list(perm)] = halves
        node.inputs[1] = gs.Constant(free_name(graph, f"{node.name}/pads"), moved.ravel())
