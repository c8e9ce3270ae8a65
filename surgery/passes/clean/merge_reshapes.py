"""Remove Reshapes that only wrap what could be done without them.

A view is a Reshape, Flatten, Squeeze or Unsqueeze: it moves no element. Before or after one, a
Transpose that moves axes of size 1 alone is a view too.

Given:  view(view(x))
Result: Reshape(x, target), or x where the shape is x's again

Given:  Reshape(f(Reshape(x: (N, H, W, C), [-1, C])), (N, H, W, ...))
Given:  Unsqueeze(f(Squeeze(x, a)), a)
Result: f(x)       f a chain of elementwise operators, of arithmetic with one constant for all or
                   one along the last axis, of Softmax of the last axis, and of MatMul and Gemm by
                   constant weights (a Gemm becomes MatMul and Add)

TensorFlow wraps the softmax and the dense layer of a tensor with more than two axes so, and what
follows a convolution of one axis.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.graph.dims import Dim, target_of
from onnxgraft.graph.operators import is_op, nodes_of, op_of, set_op
from onnxgraft.graph.walk import detach
from onnxgraft.stages.surgery.passes.layout._commute import ELEMENTWISE
from onnxgraft.stages.surgery.running.rewrite import Context, Result, constant, replace

_VIEWS = frozenset({"Flatten", "Reshape", "Squeeze", "Unsqueeze"})
_LAST_AXIS = frozenset({"LogSoftmax", "Softmax"})
_ARITHMETIC = frozenset({"Add", "Div", "Max", "Min", "Mul", "Pow", "Sub"})


def apply(graph: gs.Graph, context: Context) -> Result:
    """Merge views that follow each other, and unwrap what stands between two."""
    result = Result()
    for node in nodes_of(graph, *_VIEWS, "Transpose"):
        _merge(node, context, result)
    for node in nodes_of(graph, *_VIEWS):
        _unwrap(node, context, result)
    return result


def _merge(node: gs.Node, context: Context, result: Result) -> None:
    """Let a view look at what the view before it looks at."""
    inner = context.producer(node.inputs[0])
    if inner is None or not (is_op(node, *_VIEWS) or is_op(inner, *_VIEWS)):
        return
    if not _is_view(node, context) or not _is_view(inner, context) or not inner.inputs:
        return
    source, shape = inner.inputs[0], context.shapes.shape(node.outputs[0])
    begin = context.shapes.shape(source)
    alone = context.single_consumer(inner.outputs[0]) is not None
    if begin is not None and begin == shape:
        before, node.inputs[0] = node.inputs[0], source
        if context.bypass(node):
            result.did(node, f"it undid {inner.name!r}")
        else:
            node.inputs[0] = before
            result.refuse(node, f"it undoes {inner.name!r}, but both its ends have fixed names")
        return
    if not alone:
        return
    target = target_of(begin, shape)
    if target is None and is_op(node, "Reshape"):
        # The target says it all where it copies no dimension of what it was given.
        given = constant(node.inputs[1])
        if given is not None and not (given == 0).any() and not node.attrs.get("allowzero", 0):
            target = [int(size) for size in given]
    if target is None:
        result.refuse(node, f"the shape before {inner.name!r} and after it is not known")
        return
    output = node.outputs[0]
    detach(node)
    made = context.constant(f"{node.name}/target", np.array(target, np.int64))
    set_op(node, "Reshape")
    node.attrs.clear()
    node.inputs = [source, made]
    node.outputs = [output]
    result.did(node, f"joined with {inner.name!r} before it")


def _is_view(node: gs.Node, context: Context) -> bool:
    """Tell whether a node leaves all elements in their order."""
    if not is_op(node, "Transpose"):
        return is_op(node, *_VIEWS)
    shape, perm = context.shapes.shape(node.inputs[0]), node.attrs.get("perm")
    if shape is None or perm is None:
        return False
    moved = [axis for axis in perm if shape[axis] != Dim(1)]
    return moved == sorted(moved)


def _unwrap(first: gs.Node, context: Context, result: Result) -> None:
    """Let what stands between two views work on the shape around them."""
    around = context.shapes.shape(first.inputs[0])
    between = context.shapes.shape(first.outputs[0])
    if around is None or between is None or not around or not between:
        return
    rows = len(between) - 1
    chain: list[gs.Node] = []
    plain = True
    tensor = first.outputs[0]
    while True:
        node = context.single_consumer(tensor)
        if node is None or len(node.outputs) != 1:
            return
        if is_op(node, *_VIEWS) and node.inputs[0] is tensor:
            break
        kind = _kind(node, tensor, rows, context)
        if kind is None:
            return
        plain = plain and kind == "element"
        chain.append(node)
        tensor = node.outputs[0]
    last, after = node, context.shapes.shape(node.outputs[0])
    end = context.shapes.shape(tensor)
    if not chain or after is None or end is None:
        return
    if not (plain and after == around):
        # The last axis must be the same inside and outside, before and after.
        kept = between[-1] == around[-1] and after[:-1] == around[:-1] and end[-1] == after[-1]
        if not kept or len(around) < 2:
            return
    ends = [node.outputs[0] for node in chain]
    for node in chain:
        _outside(node, len(around), context)
    for index, tensor in enumerate(chain[0].inputs):
        if tensor is first.outputs[0]:
            chain[0].inputs[index] = first.inputs[0]
    output = last.outputs[0]
    detach(last)
    # What is made on the way holds its values in another shape now: it is another tensor.
    for old in ends[:-1]:
        new = context.variable(f"{old.name}/{last.name}", old)
        replace(old, new)
        old.inputs[0].outputs = [new]
    ends[-1].inputs[0].outputs = [output]
    result.did(first, f"{', '.join(map(op_of, chain))} works on the shape before {first.name!r}")


def _kind(node: gs.Node, tensor: gs.Tensor, rows: int, context: Context) -> str | None:
    """Return how a node works: on each ``element``, along each ``row``, or None: otherwise."""
    others = [t for t in node.inputs if t is not tensor]
    if is_op(node, *ELEMENTWISE) and node.inputs[0] is tensor:
        scalars = all(not t.name or (constant(t) is not None and t.values.size == 1)
                      for t in others)  # fmt: skip
        return "element" if scalars else None
    if is_op(node, *_LAST_AXIS):
        # Before opset 13 a softmax flattened its operand at the axis, 1 by default.
        axis = node.attrs.get("axis", -1 if context.opset >= 13 else 1)
        return "row" if axis in (-1, rows) else None
    if is_op(node, *_ARITHMETIC) and len(node.inputs) == 2 and len(others) == 1:
        value = constant(others[0])
        if value is None or value.ndim > rows + 1:
            return None
        if value.size == 1:
            return "element"
        return "row" if value.size == value.shape[-1] else None
    if is_op(node, "MatMul", "Gemm") and node.inputs[0] is tensor and others:
        weights = [constant(t) for t in others]
        plain = all(node.attrs.get(key, default) == default for key, default in
                    (("transA", 0), ("alpha", 1.0), ("beta", 1.0)))  # fmt: skip
        if any(w is None for w in weights) or not plain or rows != 1:
            return None
        bias = others[1].values if len(others) > 1 else np.zeros(1)
        fits = others[0].values.ndim == 2 and bias.size == (bias.shape or (1,))[-1]
        return "row" if fits else None
    return None


def _outside(node: gs.Node, rank: int, context: Context) -> None:
    """Change a node that worked on rows so that it works on ``rank`` axes."""
    if is_op(node, *_LAST_AXIS):
        node.attrs["axis"] = rank - 1
    elif is_op(node, *_ARITHMETIC):
        for index, tensor in enumerate(list(node.inputs)):
            value = constant(tensor)
            if value is not None and value.ndim > 1:
                node.inputs[index] = context.constant(tensor.name, value.reshape(-1))
    elif is_op(node, "Gemm"):
        weight, bias = node.inputs[1], node.inputs[2] if len(node.inputs) > 2 else None
        if node.attrs.get("transB", 0):
            weight = context.constant(weight.name, weight.values.T)
        output = node.outputs[0]
        set_op(node, "MatMul")
        node.attrs.clear()
        node.inputs = [node.inputs[0], weight]
        if bias is not None:
            product = context.variable(f"{node.name}/product", output)
            node.outputs = [product]
            flat = context.constant(bias.name, bias.values.reshape(-1))
            context.add("Add", f"{node.name}/bias", [product, flat], [output])
