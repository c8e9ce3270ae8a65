"""What a graph says of its inputs: which of them index tables, which are masks, how long they are.

An input is followed through what hands its values on (Cast, Reshape, Concat, ...), into the bodies
of If, Loop and Scan and into functions, to the operators that limit it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnxgraft.graph.least import least_sizes
from onnxgraft.graph.operators import constant_value, is_op, op_key, op_of
from onnxgraft.graph.shapes import Shapes
from onnxgraft.graph.tensors import Array
from onnxgraft.graph.walk import own_bodies, parts
from onnxgraft.graph.wanted import Indices, Use, Wants, followed

__all__ = ["Indices", "Wants", "wants_of"]


# Where an operator takes the values that it hands on; all inputs of a Concat.
_HANDS_ON: dict[str, tuple[int, ...] | None] = {
    "Cast": (0,), "Concat": None, "Dropout": (0,), "Expand": (0,), "Flatten": (0,), "Gather": (0,),
    "GatherElements": (0,), "GatherND": (0,), "Identity": (0,), "Pad": (0,), "Reshape": (0,),
    "Slice": (0,), "Split": (0,), "Squeeze": (0,), "Tile": (0,), "Transpose": (0,),
    "Unsqueeze": (0,), "Where": (1, 2),
}  # fmt: skip
# What only gives the values of a table on.
_KEEPS_ROWS = ("Cast", "DequantizeLinear", "Dropout", "Identity", "QuantizeLinear")


def wants_of(graph: gs.Graph) -> Wants:
    """Return what a graph says of its inputs."""
    starts = {tensor.name: tensor for tensor in graph.inputs if _may_count(tensor)}
    found = followed(starts, _Walk(graph).uses) if starts else Wants()
    return replace(found, least=least_sizes(graph))


class _Walk:
    """Follows inputs through one graph."""

    def __init__(self, graph: gs.Graph) -> None:
        self._shapes = Shapes(graph, declared=True)
        self._free = {d for t in graph.inputs for d in t.shape or () if isinstance(d, str) and d}
        # Where a body or function goes on with what a node reads, and the node with what it makes.
        self._further: dict[int, list[gs.Tensor]] = {}
        # What the inputs of functions are called with.
        self._given: dict[int, list[gs.Tensor]] = {}
        functions = {(f.domain or "", f.name): f for f in graph.functions}
        for part in parts(graph):
            for node in part.nodes:
                self._link(node, functions)

    def _link(self, node: gs.Node, functions: Mapping[tuple[str, str], gs.Function]) -> None:
        called = functions.get(op_key(node))
        into = [] if called is None else [(called, 0)]
        into += [(body, 1 if is_op(node, "Loop") else 0) for body in own_bodies(node)]
        for body, condition in into:
            for given, inner in zip(node.inputs, body.inputs, strict=False):
                self._further.setdefault(id(given), []).append(inner)
                self._given.setdefault(id(inner), []).append(given)
            for inner, made in zip(body.outputs[condition:], node.outputs, strict=False):
                self._further.setdefault(id(inner), []).append(made)

    def uses(self, tensor: gs.Tensor) -> Iterator[Use]:
        """Yield what is done with a tensor's values."""
        yield Use(onward=tuple(self._further.get(id(tensor), ())))
        for node in {id(node): node for node in tensor.outputs}.values():
            for place, given in enumerate(node.inputs):
                if given is tensor:
                    yield self._use(node, place)

    def _use(self, node: gs.Node, place: int) -> Use:
        """Return what a node says of the values of an input, and where they go on."""
        limits = tuple(self._limits(node, place))
        if is_op(node, "Cast") and node.attrs.get("to") in (onnx.TensorProto.BOOL, np.bool_):
            return Use(limits, mask=True)
        mask = is_op(node, "Sub") and place == 1 and _single(node.inputs[0]) == 1
        value = _single(node.inputs[1 - place]) if is_op(node, "Equal") else None
        special = {int(value)} if value is not None and value.is_integer() else ()
        places = _HANDS_ON.get(op_of(node), ())
        onward = node.outputs if places is None or place in places else ()
        return Use(limits, frozenset(special), mask, tuple(onward))

    def _limits(self, node: gs.Node, place: int) -> Iterator[Indices]:
        """Yield what is legal as input ``place`` of a node."""
        if place == 1 and is_op(node, "Gather"):
            yield from self._rows(node.inputs[0], node.attrs.get("axis", 0))
        elif place == 1 and is_op(node, "GatherElements", "ScatterElements", "Scatter"):
            yield from self._rows(node.inputs[0], node.attrs.get("axis", 0))
        elif place == 1 and is_op(node, "GatherND", "ScatterND"):
            width = self._shapes.shape(node.inputs[1])
            begin = node.attrs.get("batch_dims", 0)
            count = width[-1].number if width and width[-1].fixed else 1
            for axis in range(begin, begin + count):
                yield from self._rows(node.inputs[0], axis)
        elif place == 0 and is_op(node, "OneHot"):
            depth = _single(node.inputs[1])
            if depth is not None:
                yield Indices(-1, int(depth))  # beyond the last: all off
        elif place == 1 and is_op(node, "ReverseSequence"):
            yield from self._lengths(node.inputs[0], node.attrs.get("time_axis", 0))
        elif place == 4 and is_op(node, "LSTM", "GRU", "RNN"):
            yield from self._lengths(node.inputs[0], node.attrs.get("layout", 0))
        elif place < 2 and is_op(node, "EmbedLayerNormalization", domain="com.microsoft"):
            for rows in self._rows(node.inputs[4 if place else 2], 0):
                yield Indices(0, rows.last, rows.of)

    def _rows(self, table: gs.Tensor, axis: int) -> Iterator[Indices]:
        size = self._size(table, axis)
        if isinstance(size, int):
            yield Indices(-1 if size else 0, size - 1)
        elif size is not None:
            yield Indices(-1, -1, size)

    def _lengths(self, sequence: gs.Tensor, axis: int) -> Iterator[Indices]:
        size = self._size(sequence, axis)
        if isinstance(size, int):
            yield Indices(1, size)
        elif size is not None:
            yield Indices(1, 0, size)

    def _size(self, tensor: gs.Tensor, axis: int) -> int | str | None:
        """Return a dimension, or the free dimension of an input that it is; None if not known."""
        for _ in range(64):
            node = tensor.inputs[0] if tensor.inputs else None
            if isinstance(tensor, gs.Constant):
                break
            value = None if node is None else constant_value(node)
            if value is not None:
                return int(value.shape[axis]) if -value.ndim <= axis < value.ndim else None
            if node is not None and is_op(node, *_KEEPS_ROWS):
                tensor = node.inputs[0]
            elif node is None and len(self._given.get(id(tensor), ())) == 1:
                (tensor,) = self._given[id(tensor)]
            else:
                break
        shape = self._shapes.shape(tensor)
        if not shape or not -len(shape) <= axis < len(shape):
            return None
        dim = shape[axis]
        if dim.fixed:
            return dim.number
        return str(dim) if str(dim) in self._free else None


def _may_count(tensor: gs.Tensor) -> bool:
    """Tell whether an input may be an index or mask: whole numbers, or floats of few axes."""
    try:
        kind = np.dtype(tensor.dtype).kind
    except TypeError:
        return False
    return kind in "iu" or (kind == "f" and len(tensor.shape or ()) < 3)


def _single(tensor: gs.Tensor) -> float | None:
    """Return the value of a constant whose elements are all the same."""
    value: Array | None = None
    if isinstance(tensor, gs.Constant):
        value = np.asarray(tensor.values)
    elif tensor.inputs:
        value = constant_value(tensor.inputs[0])
    if value is None or not 0 < value.size <= 1024 or value.dtype.kind not in "iuf":
        return None
    first = value.flat[0]
    return float(first) if (value == first).all() else None
