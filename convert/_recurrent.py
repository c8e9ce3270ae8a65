"""Recurrent cells: a Loop that computes exactly an ONNX RNN, GRU or LSTM becomes that operator.

Given:  Loop over t of X[t], with states h (and c), that scans or ends with h
Result: Y, Y_h (, Y_c) = LSTM(X, W, R, B, , h0, c0)

    RNN     h' = f(Wx + Rh + b)
    LSTM    c' = f(Wf x + Rf h + bf) c + f(Wi x + Ri h + bi) g(Wc x + Rc h + bc)
            h' = f(Wo x + Ro h + bo) k(c')
    GRU     h' = z h + (1 - z) g(Wh x + r (Rh h + Rbh) + Wbh)     linear_before_reset = 1
            h' = z h + (1 - z) g(Wh x + Rh (r h) + bh)            linear_before_reset = 0

The body is not held against a list of spellings. Its tensors are evaluated as affine forms: what is
linear - products with constants, splits, slices, concatenations, biases, a forget bias - is
computed on coefficient matrices, and what is not becomes an atom that later forms refer to. So
kernels of input and state in one matrix or in two, gates in any order and biases in any place come
to the same matrices. Loops of another kind, of another length than X, or that use more than an
operator gives stay as they are.

https://onnx.ai/onnx/operators/onnx__LSTM.html (gates i, o, f, c), ...__GRU.html (z, r, h).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnxgraft.runtime import Array

__all__ = ["fuse_recurrent"]

_ACTIVATIONS = frozenset({"Relu", "Sigmoid", "Softplus", "Softsign", "Tanh"})
# The shape of what they give is the shape of what they take.
_SHAPE_PRESERVING = frozenset({*_ACTIVATIONS, "Cast", "Elu", "Identity", "ReverseSequence"})

_ZERO: Array = np.zeros((), np.float32)
_ONE: Array = np.ones((), np.float32)


def fuse_recurrent(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with each loop that is a recurrent cell as RNN, GRU or LSTM."""
    if not any(node.op_type == "Loop" for graph in _graphs(proto.graph) for node in graph.node):
        return proto
    graph = gs.import_onnx(onnx.shape_inference.infer_shapes(proto))
    if not _fuse_in(graph):
        return proto
    graph.cleanup().toposort()
    fused: onnx.ModelProto = gs.export_onnx(graph)
    return fused


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _graphs(attribute.g)


def _fuse_in(graph: gs.Graph) -> int:
    """Fuse what can be fused in a graph and in the graphs within it; return what was changed."""
    fused = 0
    for node in list(graph.nodes):
        if node.op == "Loop":
            try:
                loop = _Loop(node)
                cell = _recognize(loop, graph.outputs)
            except _NotExactError:
                fused += _know_start(node)
            else:
                _write(graph, loop, cell)
                fused += 1
                continue
        fused += sum(_fuse_in(v) for v in node.attrs.values() if isinstance(v, gs.Graph))
    return fused


def _know_start(node: gs.Node) -> int:
    """Make a constant of a loop's first test where it compares constants; return whether it did."""
    if isinstance(node.inputs[1], gs.Constant):
        return 0
    try:
        terms = [[_scalar(_uncast(t)) for t in term] for term in _conjunction(node.inputs[1], None)]
    except _NotExactError:
        return 0
    runs = [low < high for low, high in terms if low is not None and high is not None]
    if len(runs) < len(terms):
        return 0
    node.inputs[1] = gs.Constant(f"{node.name}/runs", np.array(all(runs)))
    return 1


class _NotExactError(Exception):
    """The loop is no cell that ONNX has an operator for."""


def _require(condition: bool) -> None:
    if not condition:
        raise _NotExactError


# Affine forms ---------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Atom:
    """What is not linear in a loop's body, and what enters it.

    Attributes:
        kind: ``x``, ``state``, ``concat``, ``product``, ``clip``, or an activation's operator.
        parts: The forms that it is made of.
        values: The number of a state; the limits of a clip.
    """

    kind: str
    parts: tuple[_Form, ...] = ()
    values: tuple[float, ...] = ()


@dataclass(frozen=True, eq=False)
class _Form:
    """The sum of atoms, each a row (batch, n), times a matrix, and a bias.

    Attributes:
        terms: For each atom its matrix (n, m), or a scalar that stands for a multiple of 1.
        bias: (m,), or a scalar; of a form without terms the constant itself, of any shape.
    """

    terms: dict[_Atom, Array] = field(default_factory=dict)
    bias: Array = field(default_factory=lambda: _ZERO)

    def times(self, factor: Array) -> _Form:
        """Return the form times a scalar or a row, element by element."""
        _require(factor.ndim == 0 or all(matrix.ndim == 2 for matrix in self.terms.values()))
        return _Form({a: m * factor for a, m in self.terms.items()}, self.bias * factor)

    def plus(self, other: _Form) -> _Form:
        terms = dict(self.terms)
        for atom, matrix in other.terms.items():
            if atom in terms:
                _require(matrix.ndim == terms[atom].ndim)
                matrix = terms[atom] + matrix
            terms[atom] = matrix
        return _Form(terms, self.bias + other.bias)

    def matmul(self, kernel: Array) -> _Form:
        _require(kernel.ndim == 2)
        terms = {a: m * kernel if m.ndim == 0 else m @ kernel for a, m in self.terms.items()}
        return _Form(terms, _row(self.bias, kernel.shape[0]) @ kernel)

    def columns(self, start: int, stop: int | None) -> _Form:
        """Return the columns from ``start`` to ``stop``."""
        atom, scale = self.single()
        if atom is not None and scale.ndim == 0 and atom.kind in (*_ACTIVATIONS, "clip"):
            parts = tuple(part.columns(start, stop) for part in atom.parts)
            return _Form({_Atom(atom.kind, parts, atom.values): scale})
        _require(all(matrix.ndim == 2 for matrix in self.terms.values()))
        terms = {a: m[:, start:stop] for a, m in self.terms.items()}
        return _Form(terms, self.bias[start:stop] if self.bias.ndim else self.bias)

    def width(self) -> int:
        sizes = {m.shape[1] for m in self.terms.values() if m.ndim == 2}
        atom, scale = self.single()
        if atom is not None and scale.ndim == 0 and atom.kind in (*_ACTIVATIONS, "clip"):
            return atom.parts[0].width()
        _require(len(sizes) == 1)
        return int(sizes.pop())

    def single(self) -> tuple[_Atom | None, Array]:
        """Return the only atom and its factor, if there is no bias."""
        if len(self.terms) == 1 and not np.any(self.bias):
            return next(iter(self.terms.items()))
        return None, _ZERO

    def equals(self, other: _Form) -> bool:
        return self.terms.keys() == other.terms.keys() and all(
            np.array_equal(mine, theirs)
            for mine, theirs in [
                (self.bias, other.bias),
                *((matrix, other.terms[atom]) for atom, matrix in self.terms.items()),
            ]
        )


def _row(bias: Array, size: int) -> Array:
    _require(bias.ndim <= 1 or bias.shape[:-1] == (1,) * (bias.ndim - 1))
    return np.broadcast_to(bias.reshape(-1) if bias.ndim else bias, (size,))


def _atom(kind: str, *parts: _Form, values: tuple[float, ...] = ()) -> _Form:
    return _Form({_Atom(kind, parts, values): _ONE})


# The loop ---------------------------------------------------------------------------------------


class _Loop:
    """A Loop node, its states, and the forms that its body computes.

    Raises:
        _NotExactError: It does not run once for each slice of one tensor.
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
        self._forms: dict[int, _Form] = {}

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
                return _scalar(start) == 0 and self._is_next(update, state)
        return False

    def _is_next(self, tensor: gs.Tensor, counter: gs.Tensor) -> bool:
        node = _producer(_real(tensor))
        if node is None or node.op != "Add":
            return False
        one, two = (_real(source) for source in node.inputs)
        return (one is counter and self._one(two)) or (two is counter and self._one(one))

    def _one(self, tensor: gs.Tensor) -> bool:
        return _scalar(self.outer(tensor)) == 1

    def step(self, number: int) -> gs.Tensor:
        """Return a state's update before sequences that have ended keep their last state."""
        kept, new = self._ended(self.updates[number])
        _require(kept is None or kept is self.states[number])
        return new

    def scanned(self, tensor: gs.Tensor) -> gs.Tensor:
        """Return what is scanned before it is 0 for sequences that have ended."""
        zero, new = self._ended(tensor)
        _require((zero is None) == (self.lengths is None))
        _require(zero is None or _is_zero(self.outer(zero)))
        return new

    def _ended(self, tensor: gs.Tensor) -> tuple[gs.Tensor | None, gs.Tensor]:
        """Take ``where(t >= lengths, old, new)`` apart."""
        node = _producer(tensor)
        if node is None or node.op != "Where":
            return None, tensor
        condition, old, new = (_real(source) for source in node.inputs)
        column = _producer(condition)  # (N, 1), of the test's (N,)
        _require(column is not None and column.op in ("Reshape", "Unsqueeze"))
        shape = column.inputs[1]
        wanted = ([-1, 1],) if column.op == "Reshape" else ([1], [-1])
        _require(isinstance(shape, gs.Constant) and shape.values.tolist() in wanted)
        test = _producer(_real(column.inputs[0]))
        _require(test is not None)
        negated = test.op == "Not"
        test = _producer(_real(test.inputs[0])) if negated else test
        _require(test is not None and test.op in ("GreaterEqual", "GreaterOrEqual", "Less"))
        time, lengths = (_uncast(source) for source in test.inputs)
        lengths = self.outer(lengths)
        _require(self.is_counter(time) and lengths.shape is not None and len(lengths.shape) == 1)
        _require(lengths.dtype == np.int32)
        _require(self.lengths is None or self.lengths is lengths)
        self.lengths = lengths
        return (new, old) if (test.op == "Less") != negated else (old, new)

    def check_length(self) -> None:
        """Require that the loop runs once for each slice of ``x``, and for no other reason."""
        assert self.x is not None
        length = _size(self.x, 0)
        bounded = False
        if self.node.inputs[0].name:
            _require(self._extent(self.node.inputs[0]) == length)
            bounded = True
        for term in _conjunction(self.body.outputs[0], self.body.inputs[1]):
            low, high = term
            _require(self._extent(high) == length)
            if self.is_counter(_uncast(low)):  # stops one step late, so it must not be alone
                continue
            node = _producer(_uncast(low))
            _require(node is not None and any(
                self.is_counter(t) and self._is_next(_uncast(low), _real(t)) for t in node.inputs
            ))  # fmt: skip
            bounded = True
        _require(bounded)
        for low, high in _conjunction(self.node.inputs[1], None):
            _require(_scalar(_uncast(low)) == 0 and self._extent(high) == length)

    def _extent(self, tensor: gs.Tensor) -> Any:
        """Return the size that a scalar stands for: a number, or a tensor and its axis."""
        tensor = self.outer(tensor)
        value = _scalar(tensor)
        if value is not None:
            return int(value)
        axis = None
        while True:
            node = _producer(tensor)
            _require(node is not None)
            if node.op == "Shape" and axis is not None:
                _require(not node.attrs)
                return _size(node.inputs[0], axis)
            if node.op in ("Gather", "Slice") and axis is None:
                axis = _index(node)
            else:
                _require(node.op in ("Cast", "Identity", "Squeeze", "Unsqueeze", "Reshape"))
            tensor = self.outer(node.inputs[0])

    def form(self, tensor: gs.Tensor) -> _Form:
        """Return what a tensor of the body is of the slice of ``x`` and the states."""
        tensor = self.outer(tensor)
        if id(tensor) not in self._forms:
            self._forms[id(tensor)] = self._evaluate(tensor)
        return self._forms[id(tensor)]

    def _evaluate(self, tensor: gs.Tensor) -> _Form:
        if isinstance(tensor, gs.Constant):
            return _Form(bias=np.asarray(tensor.values))
        for number, state in enumerate(self.states):
            if tensor is state:
                return _atom("state", values=(number,))
        node = _producer(tensor)
        _require(node is not None)
        if node.op == "Gather":
            return self._gather(node)
        operands = [self.form(source) for source in node.inputs if source.name]
        if not any(form.terms for form in operands):
            return _Form(bias=_constant(node, tensor, [form.bias for form in operands]))
        return _linear(node, tensor, operands)

    def _gather(self, node: gs.Node) -> _Form:
        source, index = node.inputs
        source = self.outer(source)
        _require(node.attrs.get("axis", 0) == 0 and self.is_counter(index))
        _require(self.x is None or self.x is source)
        self.x = source
        return _atom("x")


def _linear(node: gs.Node, tensor: gs.Tensor, operands: list[_Form]) -> _Form:
    """Evaluate a node of the body that depends on the slice of x or on a state."""
    first, rest = operands[0], operands[1:]
    if node.op in _ACTIVATIONS:
        return _atom(node.op, first)
    if node.op == "Clip":
        _require(len(rest) == 2 and all(form.bias.size == 1 for form in rest))
        return _atom("clip", first, values=tuple(float(form.bias.item()) for form in rest))
    if node.op == "MatMul" and not rest[0].terms:
        return first.matmul(rest[0].bias)
    if node.op == "Gemm" and not rest[0].terms:
        standard = {"alpha": 1.0, "beta": 1.0, "transA": 0}
        _require(all(node.attrs.get(key, value) == value for key, value in standard.items()))
        product = first.matmul(rest[0].bias.T if node.attrs.get("transB") else rest[0].bias)
        return product.plus(_flat(rest[1])) if rest[1:] else product
    if node.op == "Add":
        return _flat(first).plus(_flat(rest[0]))
    if node.op == "Sub":
        return _flat(first).plus(_flat(rest[0]).times(-_ONE))
    if node.op == "Neg":
        return first.times(-_ONE)
    if node.op == "Mul":
        for one, two in ((first, rest[0]), (rest[0], first)):
            if not two.terms:
                return one.times(_flat(two).bias)
        return _atom("product", first, rest[0])
    if node.op == "Div" and not rest[0].terms:
        return first.times(1 / _flat(rest[0]).bias)
    if node.op == "Concat":
        _require(node.attrs["axis"] in (1, -1))
        return _atom("concat", *operands)
    if node.op == "Split":
        _require(node.attrs.get("axis", 0) in (1, -1))
        number = next(i for i, output in enumerate(node.outputs) if output is tensor)
        sizes = _sizes(rest, first, len(node.outputs))
        return first.columns(sum(sizes[:number]), sum(sizes[: number + 1]))
    if node.op == "Slice":
        start, stop = _columns(rest)
        return first.columns(start, stop)
    raise _NotExactError


def _flat(form: _Form) -> _Form:
    """Return a form whose bias is a row or a scalar."""
    if form.bias.ndim <= 1:
        return form if form.bias.size > 1 else _Form(form.terms, form.bias.reshape(()))
    _require(form.bias.shape[0] == 1 and form.bias.ndim == 2)
    return _Form(form.terms, form.bias[0])


def _sizes(rest: Sequence[_Form], form: _Form, parts: int) -> list[int]:
    if rest:
        return [int(size) for size in rest[0].bias]
    width = form.width()
    _require(width % parts == 0)
    return [width // parts] * parts


def _columns(rest: Sequence[_Form]) -> tuple[int, int | None]:
    """Return the range of columns of a Slice that takes all rows."""
    starts, ends, *more = [[int(v) for v in form.bias.reshape(-1)] for form in rest]
    axes = more[0] if more else list(range(len(starts)))
    steps = more[1] if more[1:] else [1] * len(starts)
    _require(all(step == 1 for step in steps))
    chosen: tuple[int, int | None] = (0, None)
    for axis, start, end in zip(axes, starts, ends, strict=True):
        stop = None if end >= 2**31 - 1 else end
        if axis in (1, -1):
            _require(start >= 0 and (stop is None or stop > start))
            chosen = (start, stop)
        else:
            _require(start == 0 and stop is None)
    return chosen


def _constant(node: gs.Node, tensor: gs.Tensor, values: list[Array]) -> Array:
    """Evaluate a node of constants: how a body takes its weights apart."""
    first = values[0]
    if node.op == "Split":
        number = next(i for i, output in enumerate(node.outputs) if output is tensor)
        axis = node.attrs.get("axis", 0)
        parts = np.cumsum(values[1])[:-1] if values[1:] else len(node.outputs)
        return np.split(first, parts, axis)[number]
    if node.op in ("Squeeze", "Unsqueeze") and values[1:]:
        axes = tuple(int(axis) for axis in values[1])
        return np.squeeze(first, axes) if node.op == "Squeeze" else np.expand_dims(first, axes)
    if node.op == "Slice":
        starts, ends, *more = [value.reshape(-1) for value in values[1:]]
        every = more[0] if more else np.arange(len(starts))
        steps = more[1] if more[1:] else np.ones(len(starts))
        place = [slice(None)] * first.ndim
        for along, *limits in zip(every, starts, ends, steps, strict=True):
            place[int(along)] = slice(*map(int, limits))
        return first[tuple(place)]
    if node.op == "Transpose":
        return np.transpose(first, node.attrs.get("perm"))
    if node.op in ("Add", "Sub", "Mul", "Div"):
        functions = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.divide}
        return np.asarray(functions[node.op](*values))
    raise _NotExactError


# Sizes ------------------------------------------------------------------------------------------


def _producer(tensor: gs.Tensor) -> Any:
    """Return the node that gives a tensor, or None."""
    return tensor.inputs[0] if tensor.inputs else None


def _real(tensor: gs.Tensor) -> gs.Tensor:
    """Return the tensor behind Identity nodes."""
    node = _producer(tensor)
    while node is not None and node.op == "Identity":
        tensor = node.inputs[0]
        node = _producer(tensor)
    return tensor


def _uncast(tensor: gs.Tensor) -> gs.Tensor:
    """Return a count before it was cast; counts are far below where float32 loses whole ones."""
    tensor = _real(tensor)
    node = _producer(tensor)
    return _uncast(node.inputs[0]) if node is not None and node.op == "Cast" else tensor


def _scalar(tensor: gs.Tensor) -> float | None:
    tensor = _real(tensor)
    if isinstance(tensor, gs.Constant) and np.size(tensor.values) == 1:
        return float(np.asarray(tensor.values).item())
    return None


def _index(node: gs.Node) -> int:
    """Return which element a Gather or Slice takes of a shape."""
    if node.op == "Gather":
        value = _scalar(node.inputs[1])
        _require(value is not None)
        return int(value or 0)
    limits = [_scalar(tensor) for tensor in node.inputs[1:]]
    _require(all(limit is not None for limit in limits))
    start, stop = (int(limit or 0) for limit in limits[:2])
    _require(start >= 0 and stop == start + 1 and limits[2:3] in ([], [0]))
    return start


def _size(tensor: gs.Tensor, axis: int) -> Any:
    """Return the size of an axis: a number, or the tensor that first has it and its axis there."""
    while True:
        if tensor.shape is not None and isinstance(tensor.shape[axis], int):
            return tensor.shape[axis]
        node = _producer(tensor)
        if node is not None and node.op == "Transpose" and "perm" in node.attrs:
            axis = node.attrs["perm"][axis]
        elif node is None or node.op not in _SHAPE_PRESERVING:
            return id(tensor), axis
        tensor = node.inputs[0]


def _conjunction(
    tensor: gs.Tensor, given: gs.Tensor | None
) -> Iterator[tuple[gs.Tensor, gs.Tensor]]:
    """Yield the terms of ``a < b and c < d ...``."""
    tensor = _real(tensor)
    node = _producer(tensor)
    if node is None:
        constant = isinstance(tensor, gs.Constant) and bool(np.all(tensor.values))
        _require(constant or tensor is given)
    elif node.op == "And":
        for source in node.inputs:
            yield from _conjunction(source, given)
    elif node.op == "Less":
        yield node.inputs[0], node.inputs[1]
    elif node.op == "Greater":
        yield node.inputs[1], node.inputs[0]
    else:
        raise _NotExactError


# The cells --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Gate:
    """An activation of an affine form."""

    activation: str
    alpha: float
    form: _Form

    @property
    def kind(self) -> tuple[str, float]:
        return self.activation, self.alpha


@dataclass(frozen=True)
class _Cell:
    """What an operator takes: matrices (gates x size, width), states, and its options."""

    op: str
    hidden: int
    kernels: list[tuple[Array, Array, Array, Array]]
    activations: list[tuple[str, float]]
    states: list[int]
    attrs: dict[str, Any] = field(default_factory=dict)


def _recognize(loop: _Loop, ends: Sequence[gs.Tensor]) -> _Cell:
    """Return the cell that a loop's body is; ``ends`` are the outputs of the graph it is in.

    Raises:
        _NotExactError: It is none.
    """
    moving = [
        number
        for number, state in enumerate(loop.states)
        if loop.updates[number] is not state and not loop.is_counter(state)
    ]
    _require(len(moving) in (1, 2))
    steps = {number: loop.step(number) for number in moving}
    forms = {number: loop.form(step) for number, step in steps.items()}
    x: Any = loop.x
    _require(x is not None and x.shape is not None and len(x.shape) == 3)
    _require(x.dtype == np.float32)
    loop.check_length()
    cell = _lstm(forms) if len(moving) == 2 else _gru_or_rnn(moving[0], forms[moving[0]])
    h = steps[cell.states[0]]
    for number, output in enumerate(loop.node.outputs):
        if number < loop.count:
            known = number in moving or loop.updates[number] is loop.states[number]
        else:
            known = loop.scanned(loop.scans[number - loop.count]) is h
        _require(known or not (output.outputs or any(output is end for end in ends)))
    for number in moving:
        # A start of one row for a whole batch is not what the operator takes, and onnxruntime
        # ends sequences of length 0 with 0.
        start = loop.starts[number]
        rows = start.shape is not None and len(start.shape) == 2 and start.shape[0] != 1
        _require(_is_zero(start) or (loop.lengths is None and rows))
    widths = {kernel[0].shape[0] for kernel in cell.kernels} - {0}  # 0: a gate without x
    _require(len(widths) == 1)
    return cell


def _lstm(forms: dict[int, _Form]) -> _Cell:
    for h, c in (tuple(forms), tuple(forms)[::-1]):
        if len(forms[h].terms) != 1:  # c, a sum of two products
            continue
        out = _product(forms[h])
        for output_form, last_form in (out, out[::-1]):
            last = _maybe_gate(last_form)
            if last is None or not last.form.equals(forms[c]):
                continue
            output, forget, entry, new = _gate(output_form), *_lstm_terms(forms[c], c)
            if entry.kind != forget.kind:
                entry, new = new, entry
            _require(output.kind == forget.kind == entry.kind)
            hidden = output.form.width()
            gates = (entry, output, forget, new)
            return _Cell(
                "LSTM",
                hidden,
                [_kernels(gate.form, h, hidden) for gate in gates],
                [forget.kind, new.kind, last.kind],
                [h, c],
            )
    raise _NotExactError


def _lstm_terms(form: _Form, c: int) -> tuple[_Gate, _Gate, _Gate]:
    """Take ``forget c + entry new`` apart."""
    products = _sum_of_products(form)
    for (a, b), (entry, new) in (products, products[::-1]):
        for gate, state in ((a, b), (b, a)):
            if _is_state(state, c):
                return _gate(gate), _gate(entry), _gate(new)
    raise _NotExactError


def _gru_or_rnn(h: int, form: _Form) -> _Cell:
    simple = _maybe_gate(form)
    if simple is not None:
        hidden = simple.form.width()
        return _Cell("RNN", hidden, [_kernels(simple.form, h, hidden)], [simple.kind], [h])
    products = _sum_of_products(form)
    for kept, added in (products, products[::-1]):
        for update_form, state in (kept, kept[::-1]):
            if not _is_state(state, h):
                continue
            rest = _Form(bias=_ONE).plus(update_form.times(-_ONE))
            for other, new in (added, added[::-1]):
                if other.equals(rest):
                    return _gru(h, _gate(update_form), _gate(new))
    raise _NotExactError


def _gru(h: int, update: _Gate, new: _Gate) -> _Cell:
    hidden = update.form.width()
    plain, resets = {}, []
    for atom, matrix in _spread(new.form, hidden).terms.items():
        if atom.kind == "product":
            resets.append((atom, matrix))
        else:
            plain[atom] = matrix
    _require(len(resets) == 1)
    atom, matrix = resets[0]
    for reset_form, rest in (atom.parts, atom.parts[::-1]):
        reset = _maybe_gate(reset_form)
        if reset is None or reset.kind != update.kind:
            continue
        if matrix.ndim == 0 and matrix == 1:  # r (Rh h + Rbh)
            w, r, bias, none = _kernels(_Form(plain, new.form.bias), h, hidden)
            outer, inner, inner_bias, none = _kernels(rest, h, hidden)
            if np.any(outer) or np.any(r):
                continue
            candidate, after = (w, inner, bias, inner_bias), 1
        elif _is_state(rest, h):  # Rh (r h)
            w, r, bias, none = _kernels(_Form(plain, new.form.bias), h, hidden)
            if np.any(r):
                continue
            candidate, after = (w, matrix, bias, none), 0
        else:
            continue
        kernels = [*(_kernels(gate.form, h, hidden) for gate in (update, reset)), candidate]
        kinds = [update.kind, new.kind]
        return _Cell("GRU", hidden, kernels, kinds, [h], {"linear_before_reset": after})
    raise _NotExactError


def _product(form: _Form) -> tuple[_Form, ...]:
    atom, scale = form.single()
    _require(atom is not None and atom.kind == "product" and scale.ndim == 0 and scale == 1)
    assert atom is not None
    return atom.parts


def _sum_of_products(form: _Form) -> tuple[tuple[_Form, ...], ...]:
    _require(len(form.terms) == 2 and not np.any(form.bias))
    return tuple(_product(_Form({atom: scale})) for atom, scale in form.terms.items())


def _is_state(form: _Form, number: int) -> bool:
    atom, scale = form.single()
    return (
        atom is not None
        and atom.kind == "state"
        and atom.values == (number,)
        and scale.ndim == 0
        and bool(scale == 1)
    )


def _gate(form: _Form) -> _Gate:
    gate = _maybe_gate(form)
    if gate is None:
        raise _NotExactError
    return gate


def _maybe_gate(form: _Form) -> _Gate | None:
    """Return the activation that a form is; ``s clip(z, 0, 1/s)`` is HardSigmoid of slope s."""
    atom, scale = form.single()
    if atom is None or scale.ndim:
        return None
    if atom.kind in _ACTIVATIONS and scale == 1:
        return _Gate(atom.kind, 0.0, atom.parts[0])
    if atom.kind == "clip" and atom.values[0] == 0 and np.isclose(atom.values[1] * scale, 1):
        return _Gate("HardSigmoid", float(scale), atom.parts[0])
    return None


def _spread(form: _Form, hidden: int) -> _Form:
    """Return a form with the concatenations of x with something of the state's width taken apart.

    The matrix of ``[x, h]`` is the matrix of x above that of h.
    """
    flat = _Form(bias=form.bias)
    for atom, matrix in form.terms.items():
        if atom.kind != "concat":
            flat = flat.plus(_Form({atom: matrix}))
            continue
        _require(matrix.ndim == 2 and len(atom.parts) == 2)
        first = 0
        for part in atom.parts:
            size = matrix.shape[0] - hidden if _is_x(part) else hidden
            flat = flat.plus(part.matmul(matrix[first : first + size]))
            first += size
        _require(first == matrix.shape[0])
    return flat


def _is_x(form: _Form) -> bool:
    atom, scale = form.single()
    return atom is not None and atom.kind == "x" and scale.ndim == 0


def _kernels(form: _Form, h: int, hidden: int) -> tuple[Array, Array, Array, Array]:
    """Return W (inputs, hidden), R (hidden, hidden), the bias and a bias of zeros."""
    w = r = None
    for atom, matrix in _spread(form, hidden).terms.items():
        full = matrix if matrix.ndim == 2 else matrix * np.eye(hidden, dtype=np.float32)
        if atom.kind == "x":
            w = full
        elif atom.kind == "state" and atom.values == (h,):
            r = full
        else:
            raise _NotExactError
    r = np.zeros((hidden, hidden), np.float32) if r is None else r
    w = np.zeros((0, hidden), np.float32) if w is None else w
    _require(r.shape == (hidden, hidden) and w.shape[1] == hidden)
    return w, r, _row(form.bias, hidden), np.zeros(hidden, np.float32)


# Writing ----------------------------------------------------------------------------------------


def _is_zero(tensor: gs.Tensor) -> bool:
    tensor = _real(tensor)
    if isinstance(tensor, gs.Constant):
        return not np.any(tensor.values)
    node = _producer(tensor)
    if node is None or node.op not in ("Expand", "ConstantOfShape"):
        return False
    if node.op == "Expand":
        return _is_zero(node.inputs[0])
    value = node.attrs.get("value")
    return value is None or not np.any(value.values)


def _write(graph: gs.Graph, loop: _Loop, cell: _Cell) -> None:
    """Put the operator in the loop's place; the loop's outputs keep their names."""
    node, outputs = loop.node, list(loop.node.outputs)
    assert loop.x is not None
    name = node.name.removesuffix("_loop")
    width = max(kernel[0].shape[0] for kernel in cell.kernels)
    stacked = [np.concatenate(parts) for parts in zip(*_transposed(cell, width), strict=True)]
    inputs = [
        loop.x,
        gs.Constant(f"{name}/W", stacked[0][None]),
        gs.Constant(f"{name}/R", stacked[1][None]),
        gs.Constant(f"{name}/B", np.concatenate(stacked[2:])[None]),
        gs.Variable.empty() if loop.lengths is None else loop.lengths,
    ]
    starts = [loop.starts[number] for number in cell.states]
    if not all(_is_zero(start) for start in starts):
        inputs += [_unsqueezed(graph, f"{name}/{i}", start) for i, start in enumerate(starts)]
    alphas = [alpha for kind, alpha in cell.activations if kind == "HardSigmoid"]
    attrs = {"hidden_size": cell.hidden, **cell.attrs}
    attrs["activations"] = [kind for kind, _ in cell.activations]
    if alphas:
        attrs |= {"activation_alpha": alphas, "activation_beta": [0.0] * len(alphas)}
    made = [gs.Variable(f"{name}/Y{n}", loop.x.dtype) for n in range(1 + len(cell.states))]
    node.outputs.clear()
    graph.nodes.insert(
        graph.nodes.index(node), gs.Node(cell.op, name, attrs=attrs, inputs=inputs, outputs=made)
    )
    for number, output in enumerate(outputs):
        if number in cell.states:
            _squeezed(graph, made[1 + cell.states.index(number)], 0, output)
        elif number >= loop.count:
            _squeezed(graph, made[0], 1, output)
            output.shape = [*loop.x.shape[:2], cell.hidden]
        elif loop.updates[number] is loop.states[number]:
            graph.nodes.append(
                gs.Node("Identity", f"{name}/{number}", {}, [loop.starts[number]], [output])
            )
    graph.nodes.remove(node)
    node.inputs.clear()


def _transposed(cell: _Cell, width: int) -> Iterator[tuple[Array, ...]]:
    for w, r, *biases in cell.kernels:
        full = w if w.shape[0] else np.zeros((width, cell.hidden), np.float32)
        yield tuple(np.ascontiguousarray(m, np.float32) for m in (full.T, r.T, *biases))


def _unsqueezed(graph: gs.Graph, name: str, tensor: gs.Tensor) -> gs.Tensor:
    axes = gs.Constant(f"{name}/axes", np.array([0], np.int64))
    result = gs.Variable(f"{name}/start", tensor.dtype)
    graph.nodes.append(gs.Node("Unsqueeze", f"{name}/unsqueeze", {}, [tensor, axes], [result]))
    return result


def _squeezed(graph: gs.Graph, tensor: gs.Tensor, axis: int, result: gs.Tensor) -> None:
    axes = gs.Constant(f"{result.name}/axes", np.array([axis], np.int64))
    graph.nodes.append(gs.Node("Squeeze", f"{result.name}/squeeze", {}, [tensor, axes], [result]))
