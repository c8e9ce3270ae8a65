"""A Loop of ONNX as a recurrent cell sees it: its states, its length, and its body's forms."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.graph.operators import is_op, op_of
from onnxgraft.graph.tensors import Array
from onnxgraft.stages.convert.tensorflow.loops.affine import (
    ACTIVATIONS,
    ONE,
    Form,
    NotExactError,
    atom,
    require,
)

__all__ = ["Loop", "conjunction", "is_zero", "scalar", "uncast"]

# The shape of what they give is the shape of what they take.
_SHAPE_PRESERVING = frozenset({*ACTIVATIONS, "Cast", "Elu", "Identity", "ReverseSequence"})


class Loop:
    """A Loop node, its states, and the forms that its body computes.

    Raises:
        NotExactError: It does not run once for each slice of one tensor.
    """

    def __init__(self, node: gs.Node) -> None:
        self.node = node
        self.body: gs.Graph = node.attrs["body"]
        self.count = len(node.inputs) - 2
        self.starts = list(node.inputs[2:])
        self.states = list(self.body.inputs[2:])
        self.updates = [_real(tensor) for tensor in self.body.outputs[1 : 1 + self.count]]
        self.scans = [_real(tensor) for tensor in self.body.outputs[1 + self.count :]]
        self.x: gs.Tensor | None = None
        self.lengths: gs.Tensor | None = None
        self._forms: dict[int, Form] = {}

    def outer(self, tensor: gs.Tensor) -> gs.Tensor:
        """Return what a tensor of the body is outside, if the loop hands it on unchanged."""
        tensor = _real(tensor)
        for state, start, update in zip(self.states, self.starts, self.updates, strict=True):
            if tensor is state and update is state:
                return _real(start)
        return tensor

    def is_counter(self, tensor: gs.Tensor) -> bool:
        """Tell whether a tensor is 0, 1, 2 ... as the loop runs."""
        tensor = _real(tensor)
        if tensor is self.body.inputs[0]:
            return True
        for state, start, update in zip(self.states, self.starts, self.updates, strict=True):
            if tensor is state:
                return scalar(start) == 0 and self._is_next(update, state)
        return False

    def _is_next(self, tensor: gs.Tensor, counter: gs.Tensor) -> bool:
        node = _producer(_real(tensor))
        if not is_op(node, "Add"):
            return False
        one, two = (_real(source) for source in node.inputs)
        return (one is counter and self._one(two)) or (two is counter and self._one(one))

    def _one(self, tensor: gs.Tensor) -> bool:
        return scalar(self.outer(tensor)) == 1

    def step(self, number: int) -> gs.Tensor:
        """Return a state's update before sequences that have ended keep their last state."""
        kept, new = self._ended(self.updates[number])
        require(kept is None or kept is self.states[number])
        return new

    def scanned(self, tensor: gs.Tensor) -> gs.Tensor:
        """Return what is scanned before it is 0 for sequences that have ended."""
        zero, new = self._ended(tensor)
        require((zero is None) == (self.lengths is None))
        require(zero is None or is_zero(self.outer(zero)))
        return new

    def _ended(self, tensor: gs.Tensor) -> tuple[gs.Tensor | None, gs.Tensor]:
        """Take ``where(t >= lengths, old, new)`` apart."""
        node = _producer(tensor)
        if not is_op(node, "Where"):
            return None, tensor
        condition, old, new = (_real(source) for source in node.inputs)
        column = _producer(condition)  # (N, 1), of the test's (N,)
        require(is_op(column, "Reshape", "Unsqueeze"))
        shape = column.inputs[1]
        wanted = ([-1, 1],) if is_op(column, "Reshape") else ([1], [-1])
        require(isinstance(shape, gs.Constant) and shape.values.tolist() in wanted)
        test = _producer(_real(column.inputs[0]))
        require(test is not None)
        negated = is_op(test, "Not")
        test = _producer(_real(test.inputs[0])) if negated else test
        require(is_op(test, "GreaterEqual", "GreaterOrEqual", "Less"))
        time, lengths = (uncast(source) for source in test.inputs)
        lengths = self.outer(lengths)
        require(self.is_counter(time) and lengths.shape is not None and len(lengths.shape) == 1)
        require(lengths.dtype == np.int32)
        require(self.lengths is None or self.lengths is lengths)
        self.lengths = lengths
        return (new, old) if is_op(test, "Less") != negated else (old, new)

    def check_length(self) -> None:
        """Require that the loop runs once for each slice of ``x``, and for no other reason."""
        assert self.x is not None
        length = _size(self.x, 0)
        bounded = False
        if self.node.inputs[0].name:
            require(self._extent(self.node.inputs[0]) == length)
            bounded = True
        for term in conjunction(self.body.outputs[0], self.body.inputs[1]):
            low, high = term
            require(self._extent(high) == length)
            if self.is_counter(uncast(low)):  # stops one step late, so it must not be alone
                continue
            node = _producer(uncast(low))
            require(node is not None and any(
                self.is_counter(t) and self._is_next(uncast(low), _real(t)) for t in node.inputs
            ))  # fmt: skip
            bounded = True
        require(bounded)
        for low, high in conjunction(self.node.inputs[1], None):
            require(scalar(uncast(low)) == 0 and self._extent(high) == length)

    def _extent(self, tensor: gs.Tensor) -> Any:
        """Return the size that a scalar stands for: a number, or a tensor and its axis."""
        tensor = self.outer(tensor)
        value = scalar(tensor)
        if value is not None:
            return int(value)
        axis = None
        while True:
            node = _producer(tensor)
            require(node is not None)
            if is_op(node, "Shape") and axis is not None:
                require(not node.attrs)
                return _size(node.inputs[0], axis)
            if is_op(node, "Gather", "Slice") and axis is None:
                axis = _index(node)
            else:
                require(is_op(node, "Cast", "Identity", "Squeeze", "Unsqueeze", "Reshape"))
            tensor = self.outer(node.inputs[0])

    def form(self, tensor: gs.Tensor) -> Form:
        """Return what a tensor of the body is of the slice of ``x`` and the states."""
        tensor = self.outer(tensor)
        if id(tensor) not in self._forms:
            self._forms[id(tensor)] = self._evaluate(tensor)
        return self._forms[id(tensor)]

    def _evaluate(self, tensor: gs.Tensor) -> Form:
        if isinstance(tensor, gs.Constant):
            return Form(bias=np.asarray(tensor.values))
        for number, state in enumerate(self.states):
            if tensor is state:
                return atom("state", values=(number,))
        node = _producer(tensor)
        require(node is not None)
        if is_op(node, "Gather"):
            return self._gather(node)
        operands = [self.form(source) for source in node.inputs if source.name]
        if not any(form.terms for form in operands):
            return Form(bias=_constant(node, tensor, [form.bias for form in operands]))
        return _linear(node, tensor, operands)

    def _gather(self, node: gs.Node) -> Form:
        source, index = node.inputs
        source = self.outer(source)
        require(node.attrs.get("axis", 0) == 0 and self.is_counter(index))
        require(self.x is None or self.x is source)
        self.x = source
        return atom("x")


def _linear(node: gs.Node, tensor: gs.Tensor, operands: list[Form]) -> Form:
    """Evaluate a node of the body that depends on the slice of x or on a state."""
    first, rest = operands[0], operands[1:]
    if is_op(node, *ACTIVATIONS):
        return atom(op_of(node), first)
    if is_op(node, "Clip"):
        require(len(rest) == 2 and all(form.bias.size == 1 for form in rest))
        return atom("clip", first, values=tuple(float(form.bias.item()) for form in rest))
    if is_op(node, "MatMul") and not rest[0].terms:
        return first.matmul(rest[0].bias)
    if is_op(node, "Gemm") and not rest[0].terms:
        standard = {"alpha": 1.0, "beta": 1.0, "transA": 0}
        require(all(node.attrs.get(key, value) == value for key, value in standard.items()))
        product = first.matmul(rest[0].bias.T if node.attrs.get("transB") else rest[0].bias)
        return product.plus(_flat(rest[1])) if rest[1:] else product
    if is_op(node, "Add"):
        return _flat(first).plus(_flat(rest[0]))
    if is_op(node, "Sub"):
        return _flat(first).plus(_flat(rest[0]).times(-ONE))
    if is_op(node, "Neg"):
        return first.times(-ONE)
    if is_op(node, "Mul"):
        for one, two in ((first, rest[0]), (rest[0], first)):
            if not two.terms:
                return one.times(_flat(two).bias)
        return atom("product", first, rest[0])
    if is_op(node, "Div") and not rest[0].terms:
        return first.times(1 / _flat(rest[0]).bias)
    if is_op(node, "Concat"):
        require(node.attrs["axis"] in (1, -1))
        return atom("concat", *operands)
    if is_op(node, "Split"):
        require(node.attrs.get("axis", 0) in (1, -1))
        number = next(i for i, output in enumerate(node.outputs) if output is tensor)
        sizes = _sizes(rest, first, len(node.outputs))
        return first.columns(sum(sizes[:number]), sum(sizes[: number + 1]))
    if is_op(node, "Slice"):
        start, stop = _columns(rest)
        return first.columns(start, stop)
    raise NotExactError


def _flat(form: Form) -> Form:
    """Return a form whose bias is a row or a scalar."""
    if form.bias.ndim <= 1:
        return form if form.bias.size > 1 else Form(form.terms, form.bias.reshape(()))
    require(form.bias.shape[0] == 1 and form.bias.ndim == 2)
    return Form(form.terms, form.bias[0])


def _sizes(rest: Sequence[Form], form: Form, parts: int) -> list[int]:
    if rest:
        return [int(size) for size in rest[0].bias]
    width = form.width()
    require(width % parts == 0)
    return [width // parts] * parts


def _columns(rest: Sequence[Form]) -> tuple[int, int | None]:
    """Return the range of columns of a Slice that takes all rows."""
    starts, ends, *more = [[int(v) for v in form.bias.reshape(-1)] for form in rest]
    axes = more[0] if more else list(range(len(starts)))
    steps = more[1] if more[1:] else [1] * len(starts)
    require(all(step == 1 for step in steps))
    chosen: tuple[int, int | None] = (0, None)
    for axis, start, end in zip(axes, starts, ends, strict=True):
        stop = None if end >= 2**31 - 1 else end
        if axis in (1, -1):
            require(start >= 0 and (stop is None or stop > start))
            chosen = (start, stop)
        else:
            require(start == 0 and stop is None)
    return chosen


def _constant(node: gs.Node, tensor: gs.Tensor, values: list[Array]) -> Array:
    """Evaluate a node of constants: how a body takes its weights apart."""
    first = values[0]
    if is_op(node, "Split"):
        number = next(i for i, output in enumerate(node.outputs) if output is tensor)
        axis = node.attrs.get("axis", 0)
        parts = np.cumsum(values[1])[:-1] if values[1:] else len(node.outputs)
        return np.split(first, parts, axis)[number]
    if is_op(node, "Squeeze", "Unsqueeze") and values[1:]:
        axes = tuple(int(axis) for axis in values[1])
        return np.squeeze(first, axes) if is_op(node, "Squeeze") else np.expand_dims(first, axes)
    if is_op(node, "Slice"):
        starts, ends, *more = [value.reshape(-1) for value in values[1:]]
        every = more[0] if more else np.arange(len(starts))
        steps = more[1] if more[1:] else np.ones(len(starts))
        place = [slice(None)] * first.ndim
        for along, *limits in zip(every, starts, ends, steps, strict=True):
            place[int(along)] = slice(*map(int, limits))
        return first[tuple(place)]
    if is_op(node, "Transpose"):
        return np.transpose(first, node.attrs.get("perm"))
    if is_op(node, "Add", "Sub", "Mul", "Div"):
        functions = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.divide}
        return np.asarray(functions[op_of(node)](*values))
    raise NotExactError


# Sizes ------------------------------------------------------------------------------------------


def _producer(tensor: gs.Tensor) -> Any:
    """Return the node that gives a tensor, or None."""
    return tensor.inputs[0] if tensor.inputs else None


def _real(tensor: gs.Tensor) -> gs.Tensor:
    """Return the tensor behind Identity nodes."""
    node = _producer(tensor)
    while is_op(node, "Identity"):
        tensor = node.inputs[0]
        node = _producer(tensor)
    return tensor


def uncast(tensor: gs.Tensor) -> gs.Tensor:
    """Return a count before it was cast; counts are far below where float32 loses whole ones."""
    tensor = _real(tensor)
    node = _producer(tensor)
    return uncast(node.inputs[0]) if is_op(node, "Cast") else tensor


def scalar(tensor: gs.Tensor) -> float | None:
    """Return the value of a constant that has one."""
    tensor = _real(tensor)
    if isinstance(tensor, gs.Constant) and np.size(tensor.values) == 1:
        return float(np.asarray(tensor.values).item())
    return None


def _index(node: gs.Node) -> int:
    """Return which element a Gather or Slice takes of a shape."""
    if is_op(node, "Gather"):
        value = scalar(node.inputs[1])
        require(value is not None)
        return int(value or 0)
    limits = [scalar(tensor) for tensor in node.inputs[1:]]
    require(all(limit is not None for limit in limits))
    start, stop = (int(limit or 0) for limit in limits[:2])
    require(start >= 0 and stop == start + 1 and limits[2:3] in ([], [0]))
    return start


def _size(tensor: gs.Tensor, axis: int) -> Any:
    """Return the size of an axis: a number, or the tensor that first has it and its axis there."""
    while True:
        if tensor.shape is not None and isinstance(tensor.shape[axis], int):
            return tensor.shape[axis]
        node = _producer(tensor)
        if is_op(node, "Transpose") and "perm" in node.attrs:
            axis = node.attrs["perm"][axis]
        elif not is_op(node, *_SHAPE_PRESERVING):
            return id(tensor), axis
        tensor = node.inputs[0]


def conjunction(
    tensor: gs.Tensor, given: gs.Tensor | None
) -> Iterator[tuple[gs.Tensor, gs.Tensor]]:
    """Yield the terms of ``a < b and c < d ...``."""
    tensor = _real(tensor)
    node = _producer(tensor)
    if node is None:
        constant = isinstance(tensor, gs.Constant) and bool(np.all(tensor.values))
        require(constant or tensor is given)
    elif is_op(node, "And"):
        for source in node.inputs:
            yield from conjunction(source, given)
    elif is_op(node, "Less"):
        yield node.inputs[0], node.inputs[1]
    elif is_op(node, "Greater"):
        yield node.inputs[1], node.inputs[0]
    else:
        raise NotExactError


def is_zero(tensor: gs.Tensor) -> bool:
    """Tell whether a tensor is zero everywhere."""
    tensor = _real(tensor)
    if isinstance(tensor, gs.Constant):
        return not np.any(tensor.values)
    node = _producer(tensor)
    if not is_op(node, "Expand", "ConstantOfShape"):
        return False
    if is_op(node, "Expand"):
        return is_zero(node.inputs[0])
    value = node.attrs.get("value")
    return value is None or not np.any(value.values)
