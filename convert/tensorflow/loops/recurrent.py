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

from onnxgraft.graph.inference import write_types
from onnxgraft.graph.names import FreeNames
from onnxgraft.graph.node import Node
from onnxgraft.graph.operators import is_op
from onnxgraft.graph.surgeon import graph_of, proto_of
from onnxgraft.graph.tensors import Array
from onnxgraft.stages.convert.tensorflow.loops.affine import (
    ACTIVATIONS,
    ONE,
    Form,
    NotExactError,
    require,
    row,
)
from onnxgraft.stages.convert.tensorflow.loops.loop_body import (
    Loop,
    conjunction,
    is_zero,
    scalar,
    uncast,
)

__all__ = ["fuse_recurrent"]


def fuse_recurrent(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with each loop that is a recurrent cell as RNN, GRU or LSTM."""
    if not any(is_op(node, "Loop") for graph in _graphs(proto.graph) for node in graph.node):
        return proto
    graph = graph_of(proto)
    write_types(graph)
    if not _fuse_in(graph, FreeNames(graph)):
        return proto
    graph.cleanup().toposort()
    fused: onnx.ModelProto = proto_of(graph)
    return fused


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _graphs(attribute.g)


def _fuse_in(graph: gs.Graph, names: FreeNames) -> int:
    """Fuse what can be fused in a graph and in the graphs within it; return what was changed."""
    fused = 0
    for node in list(graph.nodes):
        if is_op(node, "Loop"):
            try:
                loop = Loop(node)
                cell = _recognize(loop, graph.outputs)
            # Of arrays that don't fit each other numpy has errors of its own.
            except (NotExactError, ValueError, IndexError):
                fused += _know_start(node, names)
            else:
                _write(graph, loop, cell, names)
                fused += 1
                continue
        inner = [value for value in node.attrs.values() if isinstance(value, gs.Graph)]
        fused += sum(_fuse_in(body, names) for body in inner)
    return fused


def _know_start(node: gs.Node, names: FreeNames) -> int:
    """Make a constant of a loop's first test where it compares constants; return whether it did."""
    if isinstance(node.inputs[1], gs.Constant):
        return 0
    try:
        terms = [[scalar(uncast(t)) for t in term] for term in conjunction(node.inputs[1], None)]
    except NotExactError:
        return 0
    runs = [low < high for low, high in terms if low is not None and high is not None]
    if len(runs) < len(terms):
        return 0
    node.inputs[1] = gs.Constant(names.tensor(f"{node.name}/runs"), np.array(all(runs)))
    return 1


# The cells --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Gate:
    """An activation of an affine form."""

    activation: str
    alpha: float
    form: Form

    @property
    def kind(self) -> tuple[str, float]:
        return self.activation, self.alpha


@dataclass(frozen=True)
class _Cell:
    """What an operator takes: matrices (gates x size, width), states, and its options."""

    operator: str
    hidden: int
    kernels: list[tuple[Array, Array, Array, Array]]
    activations: list[tuple[str, float]]
    states: list[int]
    attrs: dict[str, Any] = field(default_factory=dict)


def _recognize(loop: Loop, ends: Sequence[gs.Tensor]) -> _Cell:
    """Return the cell that a loop's body is; ``ends`` are the outputs of the graph it is in.

    Raises:
        NotExactError: It is none.
    """
    moving = [
        number
        for number, state in enumerate(loop.states)
        if loop.updates[number] is not state and not loop.is_counter(state)
    ]
    require(len(moving) in (1, 2))
    steps = {number: loop.step(number) for number in moving}
    forms = {number: loop.form(step) for number, step in steps.items()}
    x: Any = loop.x
    require(x is not None and x.shape is not None and len(x.shape) == 3)
    require(x.dtype == np.float32)
    loop.check_length()
    cell = _lstm(forms) if len(moving) == 2 else _gru_or_rnn(moving[0], forms[moving[0]])
    h = steps[cell.states[0]]
    for number, output in enumerate(loop.node.outputs):
        if number < loop.count:
            known = number in moving or loop.updates[number] is loop.states[number]
        else:
            known = loop.scanned(loop.scans[number - loop.count]) is h
        require(known or not (output.outputs or any(output is end for end in ends)))
    for number in moving:
        # A start of one row for a whole batch is not what the operator takes, and onnxruntime
        # ends sequences of length 0 with 0.
        start = loop.starts[number]
        rows = start.shape is not None and len(start.shape) == 2 and start.shape[0] != 1
        require(is_zero(start) or (loop.lengths is None and rows))
    widths = {kernel[0].shape[0] for kernel in cell.kernels} - {0}  # 0: a gate without x
    require(len(widths) == 1)
    return cell


def _lstm(forms: dict[int, Form]) -> _Cell:
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
            require(output.kind == forget.kind == entry.kind)
            hidden = output.form.width()
            gates = (entry, output, forget, new)
            return _Cell(
                "LSTM",
                hidden,
                [_kernels(gate.form, h, hidden) for gate in gates],
                [forget.kind, new.kind, last.kind],
                [h, c],
            )
    raise NotExactError


def _lstm_terms(form: Form, c: int) -> tuple[_Gate, _Gate, _Gate]:
    """Take ``forget c + entry new`` apart."""
    products = _sum_of_products(form)
    for (a, b), (entry, new) in (products, products[::-1]):
        for gate, state in ((a, b), (b, a)):
            if _is_state(state, c):
                return _gate(gate), _gate(entry), _gate(new)
    raise NotExactError


def _gru_or_rnn(h: int, form: Form) -> _Cell:
    simple = _maybe_gate(form)
    if simple is not None:
        hidden = simple.form.width()
        return _Cell("RNN", hidden, [_kernels(simple.form, h, hidden)], [simple.kind], [h])
    products = _sum_of_products(form)
    for kept, added in (products, products[::-1]):
        for update_form, state in (kept, kept[::-1]):
            if not _is_state(state, h):
                continue
            rest = Form(bias=ONE).plus(update_form.times(-ONE))
            for other, new in (added, added[::-1]):
                if other.equals(rest):
                    return _gru(h, _gate(update_form), _gate(new))
    raise NotExactError


def _gru(h: int, update: _Gate, new: _Gate) -> _Cell:
    hidden = update.form.width()
    plain, resets = {}, []
    for atom, matrix in _spread(new.form, hidden).terms.items():
        if atom.kind == "product":
            resets.append((atom, matrix))
        else:
            plain[atom] = matrix
    require(len(resets) == 1)
    atom, matrix = resets[0]
    for reset_form, rest in (atom.parts, atom.parts[::-1]):
        reset = _maybe_gate(reset_form)
        if reset is None or reset.kind != update.kind:
            continue
        if matrix.ndim == 0 and matrix == 1:  # r (Rh h + Rbh)
            w, r, bias, none = _kernels(Form(plain, new.form.bias), h, hidden)
            outer, inner, inner_bias, none = _kernels(rest, h, hidden)
            if np.any(outer) or np.any(r):
                continue
            candidate, after = (w, inner, bias, inner_bias), 1
        elif _is_state(rest, h):  # Rh (r h)
            w, r, bias, none = _kernels(Form(plain, new.form.bias), h, hidden)
            if np.any(r):
                continue
            candidate, after = (w, matrix, bias, none), 0
        else:
            continue
        kernels = [*(_kernels(gate.form, h, hidden) for gate in (update, reset)), candidate]
        kinds = [update.kind, new.kind]
        return _Cell("GRU", hidden, kernels, kinds, [h], {"linear_before_reset": after})
    raise NotExactError


def _product(form: Form) -> tuple[Form, ...]:
    atom, scale = form.single()
    require(atom is not None and atom.kind == "product" and scale.ndim == 0 and scale == 1)
    assert atom is not None
    return atom.parts


def _sum_of_products(form: Form) -> tuple[tuple[Form, ...], ...]:
    require(len(form.terms) == 2 and not np.any(form.bias))
    return tuple(_product(Form({atom: scale})) for atom, scale in form.terms.items())


def _is_state(form: Form, number: int) -> bool:
    atom, scale = form.single()
    return (
        atom is not None
        and atom.kind == "state"
        and atom.values == (number,)
        and scale.ndim == 0
        and bool(scale == 1)
    )


def _gate(form: Form) -> _Gate:
    gate = _maybe_gate(form)
    if gate is None:
        raise NotExactError
    return gate


def _maybe_gate(form: Form) -> _Gate | None:
    """Return the activation that a form is; ``s clip(z, 0, 1/s)`` is HardSigmoid of slope s."""
    atom, scale = form.single()
    if atom is None or scale.ndim:
        return None
    if atom.kind in ACTIVATIONS and scale == 1:
        return _Gate(atom.kind, 0.0, atom.parts[0])
    if atom.kind == "clip" and atom.values[0] == 0 and np.isclose(atom.values[1] * scale, 1):
        return _Gate("HardSigmoid", float(scale), atom.parts[0])
    return None


def _spread(form: Form, hidden: int) -> Form:
    """Return a form with the concatenations of x with something of the state's width taken apart.

    The matrix of ``[x, h]`` is the matrix of x above that of h.
    """
    flat = Form(bias=form.bias)
    for atom, matrix in form.terms.items():
        if atom.kind != "concat":
            flat = flat.plus(Form({atom: matrix}))
            continue
        require(matrix.ndim == 2 and len(atom.parts) == 2)
        first = 0
        for part in atom.parts:
            size = matrix.shape[0] - hidden if _is_x(part) else hidden
            flat = flat.plus(part.matmul(matrix[first : first + size]))
            first += size
        require(first == matrix.shape[0])
    return flat


def _is_x(form: Form) -> bool:
    atom, scale = form.single()
    return atom is not None and atom.kind == "x" and scale.ndim == 0


def _kernels(form: Form, h: int, hidden: int) -> tuple[Array, Array, Array, Array]:
    """Return W (inputs, hidden), R (hidden, hidden), the bias and a bias of zeros."""
    w = r = None
    for atom, matrix in _spread(form, hidden).terms.items():
        full = matrix if matrix.ndim == 2 else matrix * np.eye(hidden, dtype=np.float32)
        if atom.kind == "x":
            w = full
        elif atom.kind == "state" and atom.values == (h,):
            r = full
        else:
            raise NotExactError
    r = np.zeros((hidden, hidden), np.float32) if r is None else r
    w = np.zeros((0, hidden), np.float32) if w is None else w
    require(r.shape == (hidden, hidden) and w.shape[1] == hidden)
    return w, r, row(form.bias, hidden), np.zeros(hidden, np.float32)


# Writing ----------------------------------------------------------------------------------------


def _write(graph: gs.Graph, loop: Loop, cell: _Cell, names: FreeNames) -> None:
    """Put the operator in the loop's place; the loop's outputs keep their names."""
    node, outputs = loop.node, list(loop.node.outputs)
    assert loop.x is not None
    name = names.node(node.name.removesuffix("_loop"))
    width = max(kernel[0].shape[0] for kernel in cell.kernels)
    stacked = [np.concatenate(parts) for parts in zip(*_transposed(cell, width), strict=True)]
    inputs = [
        loop.x,
        gs.Constant(names.tensor(f"{name}/W"), stacked[0][None]),
        gs.Constant(names.tensor(f"{name}/R"), stacked[1][None]),
        gs.Constant(names.tensor(f"{name}/B"), np.concatenate(stacked[2:])[None]),
        gs.Variable.empty() if loop.lengths is None else loop.lengths,
    ]
    starts = [loop.starts[number] for number in cell.states]
    if not all(is_zero(start) for start in starts):
        inputs += [
            _unsqueezed(graph, names, f"{name}/{i}", start) for i, start in enumerate(starts)
        ]
    alphas = [alpha for kind, alpha in cell.activations if kind == "HardSigmoid"]
    attrs = {"hidden_size": cell.hidden, **cell.attrs}
    attrs["activations"] = [kind for kind, _ in cell.activations]
    if alphas:
        attrs |= {"activation_alpha": alphas, "activation_beta": [0.0] * len(alphas)}
    made = [
        gs.Variable(names.tensor(f"{name}/Y{n}"), loop.x.dtype) for n in range(1 + len(cell.states))
    ]
    node.outputs.clear()
    written = Node(cell.operator, name, attrs=attrs, inputs=inputs, outputs=made)
    graph.nodes.insert(graph.nodes.index(node), written)
    for number, output in enumerate(outputs):
        if number in cell.states:
            _squeezed(graph, names, made[1 + cell.states.index(number)], 0, output)
        elif number >= loop.count:
            _squeezed(graph, names, made[0], 1, output)
            output.shape = [*loop.x.shape[:2], cell.hidden]
        elif loop.updates[number] is loop.states[number]:
            graph.nodes.append(
                Node(
                    "Identity", names.node(f"{name}/{number}"), {}, [loop.starts[number]], [output]
                )
            )
    graph.nodes.remove(node)
    node.inputs.clear()


def _transposed(cell: _Cell, width: int) -> Iterator[tuple[Array, ...]]:
    for w, r, *biases in cell.kernels:
        full = w if w.shape[0] else np.zeros((width, cell.hidden), np.float32)
        yield tuple(np.ascontiguousarray(m, np.float32) for m in (full.T, r.T, *biases))


def _unsqueezed(graph: gs.Graph, names: FreeNames, name: str, tensor: gs.Tensor) -> gs.Tensor:
    axes = gs.Constant(names.tensor(f"{name}/axes"), np.array([0], np.int64))
    result = gs.Variable(names.tensor(f"{name}/start"), tensor.dtype)
    label = names.node(f"{name}/unsqueeze")
    graph.nodes.append(Node("Unsqueeze", label, {}, [tensor, axes], [result]))
    return result


def _squeezed(
    graph: gs.Graph, names: FreeNames, tensor: gs.Tensor, axis: int, result: gs.Tensor
) -> None:
    axes = gs.Constant(names.tensor(f"{result.name}/axes"), np.array([axis], np.int64))
    label = names.node(f"{result.name}/squeeze")
    graph.nodes.append(Node("Squeeze", label, {}, [tensor, axes], [result]))
