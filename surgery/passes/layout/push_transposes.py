"""Push Transposes towards the outputs until they meet and cancel.

Given:  Relu(Transpose(x, p))                        Result: Transpose(Relu(x), p)
Given:  Add(Transpose(x, p), Transpose(y, p))        Result: Transpose(Add(x, y), p)
Given:  Mul(Transpose(x, p), c), c constant          Result: Transpose(Mul(x, c'), p),
                                                             c' = transpose(c, inverse of p)
Given:  Mul(Transpose(x, p), g), g (N, 1, 1, C)      Result: Transpose(Mul(x, Reshape(g)), p)
Given:  Concat | Split | Softmax | ReduceMean        Result: the same of axis p[a]
        | Slice | Gather | Pad | Resize ... of axis a
Given:  Reshape(Transpose(x, p)) that joins or       Result: Transpose(Reshape(x), p')
        splits axes which are neighbours in x too
Given:  Transpose(Transpose(x, p), q)                Result: Transpose(x, p[q]), or x

What is kept leaves fewer Transposes than there were.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterable

import onnx_graphsurgeon as gs

from onnxgraft.graph.operators import is_op, op_of
from onnxgraft.graph.walk import tidy
from onnxgraft.stages.surgery.passes.layout._commute import move, takes, transposed
from onnxgraft.stages.surgery.running.rewrite import Context, Finding, Result
from onnxgraft.stages.surgery.running.snapshot import Snapshot


def apply(graph: gs.Graph, context: Context) -> Result:
    """Push and cancel Transposes, and go back where that does not leave fewer of them.

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
    for node in graph.nodes if after else ():
        if is_op(node, "Transpose") and not context.is_output(node.outputs[0]):
            stop = _obstacle(node, context)
            if stop is not None:
                result.refuse(node, f"it can't move past the {op_of(stop)} {stop.name!r}")
            else:
                result.refuse(node, "it could move on, but would meet nothing to cancel it")
    return result


def _try(graph: gs.Graph, context: Context, one_by_one: bool) -> None:
    """Push as far as it goes; go back unless there are fewer Transposes then."""
    before, snapshot, names = _count(graph), Snapshot(graph), dict(context.names)
    _push_all(graph, context, one_by_one)
    tidy(graph)
    if _count(graph) >= before:
        snapshot.restore()
        context.names.clear()
        context.names.update(names)
        context.enter(graph)


def _write_perms(graph: gs.Graph, context: Context) -> None:
    """Write the permutation of each Transpose that leaves it out: it reverses the axes."""
    for node in graph.nodes:
        shape = context.shapes.shape(node.inputs[0]) if is_op(node, "Transpose") else None
        if shape is not None and "perm" not in node.attrs:
            node.attrs["perm"] = list(reversed(range(len(shape))))


def _count(graph: gs.Graph) -> int:
    return sum(is_op(node, "Transpose") for node in graph.nodes)


def _push_all(graph: gs.Graph, context: Context, one_by_one: bool) -> None:
    """Push each Transpose as far as it goes, the one with the least way to go first.

    So all that meet where tensors are joined have arrived when that node is looked at, and none is
    pushed through what is behind another that it would have met.
    """
    place = {id(node): index for index, node in enumerate(graph.nodes)}
    waiting: list[tuple[int, int, gs.Node, gs.Node | None]] = []
    numbers = itertools.count()

    def wait(nodes: Iterable[gs.Node]) -> None:
        """Look at these Transposes when it is their consumers' turn: at each, or all at once."""
        for node in nodes:
            ahead = [(place.get(id(user), 0), user) for user in _consumers(node)]
            if ahead and not one_by_one:
                ahead = [(max(index for index, _ in ahead), None)]
            for index, user in ahead:
                heapq.heappush(waiting, (index, next(numbers), node, user))

    wait(node for node in graph.nodes if is_op(node, "Transpose"))
    while waiting:
        *_, node, one = heapq.heappop(waiting)
        if not node.outputs or "perm" not in node.attrs or context.is_output(node.outputs[0]):
            continue
        consumers = _consumers(node) if one is None else [one] if _reads(one, node) else []
        if not consumers or not context.inside(consumers):
            continue
        perm = list(node.attrs["perm"])
        if not all(_takes(consumer, perm, context) for consumer in consumers):
            continue
        for consumer in consumers:
            if is_op(consumer, "Transpose"):
                _merge(node, consumer, context)
                wait([consumer])
            elif _reads(consumer, node) and _takes(consumer, perm, context):  # after the others
                others = [t.inputs[0] for t in consumer.inputs if transposed(t, perm)]
                wait(move(consumer, perm, context))
                wait(others if not one_by_one else ())


def _consumers(node: gs.Node) -> list[gs.Node]:
    """Return the nodes that read what a node makes, each once."""
    return list({id(user): user for tensor in node.outputs for user in tensor.outputs}.values())


def _reads(node: gs.Node, other: gs.Node) -> bool:
    return any(tensor is other.outputs[0] for tensor in node.inputs)


def _takes(node: gs.Node, perm: list[int], context: Context) -> bool:
    return "perm" in node.attrs if is_op(node, "Transpose") else takes(node, perm, context)


def _obstacle(node: gs.Node, context: Context) -> gs.Node | None:
    """Return the first consumer that a Transpose can't move past."""
    for consumer in node.outputs[0].outputs:
        perm = node.attrs.get("perm")
        if perm is None or not context.inside([consumer]) or not _takes(consumer, perm, context):
            return consumer
    return None


def _merge(first: gs.Node, second: gs.Node, context: Context) -> None:
    perm = [first.attrs["perm"][axis] for axis in second.attrs["perm"]]
    second.inputs[0] = first.inputs[0]
    second.attrs["perm"] = perm
    if perm == list(range(len(perm))):
        context.bypass(second)
