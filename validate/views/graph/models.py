"""An ONNX graph as a stage: its nodes with all that is known of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnxgraft.graph.model import Model
from onnxgraft.graph.operators import constant_value, is_op, op_of
from onnxgraft.graph.shapes import Shapes
from onnxgraft.graph.tensors import Array
from onnxgraft.run.layer_nodes import Planned
from onnxgraft.stages.validate.report import LayerRow
from onnxgraft.stages.validate.views.graph.data import (
    Kind,
    Shown,
    ShownTensor,
    Stage,
    Weight,
)
from onnxgraft.stages.validate.views.graph.scopes import fold

__all__ = ["Known", "stage_of_model"]

# Constants of so many values are written out; of more a histogram is shown, in so many bars.
_FEW, _BARS = 8, 32
# Of a larger constant so many values, evenly spread, make the histogram.
_MOST = 1 << 20
# A longer text of an attribute is cut.
_LONG = 120


@dataclass
class Known:
    """What is known of the nodes of a graph beside the graph.

    Attributes:
        macs: Multiplications, by node.
        milliseconds: By node.
        layers: Errors, by the tensor that a node makes.
        notes: Sentences, by node.
    """

    macs: Mapping[str, int] = field(default_factory=dict)
    milliseconds: Mapping[str, float] = field(default_factory=dict)
    layers: Sequence[LayerRow] = ()
    notes: Mapping[str, Sequence[str]] = field(default_factory=dict)


def stage_of_model(model: Model, title: str, kind: Kind, known: Known | None = None) -> Stage:
    """Return a graph as a stage, its nodes folded by the framework's scopes."""
    return _Drawing(model, title, kind, known or Known()).stage


class _Drawing:
    """A stage in the making."""

    def __init__(self, model: Model, title: str, kind: Kind, known: Known) -> None:
        self.stage = Stage(title, kind)
        self._model, self._known = model, known
        self._shapes = Shapes(model.graph, declared=True)
        self._planned = Planned(model)
        self._errors = {row.tensor: row for row in known.layers}
        self._tensors: dict[int, int] = {}
        self._constants: dict[int, gs.Constant | Array] = {}
        scopes: list[tuple[str, ...]] = []
        for tensor in model.graph.inputs:
            self._add(self._end(tensor, "input"), (), scopes)
        for node, inside in _every(model.graph, ()):
            value = self._constant(node)
            if value is not None:
                self._constants[id(node.outputs[0])] = value
                self.stage.folded += 1
                continue
            shown = self._node(node)
            self._add(shown, (*inside, *self._scope(node)), scopes)
        for tensor in model.graph.outputs:
            self._add(self._end(tensor, "output"), (), scopes)
        self.stage.blocks = fold(self.stage.nodes, scopes)

    def _constant(self, node: gs.Node) -> gs.Constant | Array | None:
        """Return the constant that a node stands for, if it does: exporters write many so."""
        if is_op(node, "Identity"):
            read = node.inputs[0]
            return read if isinstance(read, gs.Constant) else self._constants.get(id(read))
        return constant_value(node)

    def _add(self, shown: Shown, scope: tuple[str, ...], scopes: list[tuple[str, ...]]) -> None:
        self.stage.nodes.append(shown)
        scopes.append(scope)

    def _end(self, tensor: gs.Tensor, role: str) -> Shown:
        shown = Shown(tensor.name, role, role=role)
        (shown.outputs if role == "input" else shown.inputs).append(self._place(tensor))
        return shown

    def _scope(self, node: gs.Node) -> tuple[str, ...]:
        """Return the parts of the scope that a node is in, as its name or the framework's says."""
        if is_op(node, "QuantizeLinear", "DequantizeLinear"):
            near = _served(node)
            if near is not None:
                return self._scope(near)
        own = str(node.name)
        if "/" not in own.strip("/"):
            own = next(filter(None, (self._origin(t) for t in node.outputs)), own)
        *scope, _ = own.strip("/").split("/")
        if self._model.source.framework == "pytorch":
            scope = [*_modules(scope)]
        return tuple(part for part in scope if part)

    def _node(self, node: gs.Node) -> Shown:
        name, known = str(node.name), self._known
        shown = Shown(
            name, op_of(node), macs=known.macs.get(name, 0),
            milliseconds=known.milliseconds.get(name), notes=list(known.notes.get(name, ())),
            precision=self._planned.of([name]),
            origin=next(filter(None, (self._origin(t) for t in node.outputs)), ""),
            attributes={key: _words(value) for key, value in sorted(node.attrs.items())},
        )  # fmt: skip
        for tensor in (*node.inputs, *(t for body in node.subgraphs() for t in body.outputs)):
            constant = tensor if isinstance(tensor, gs.Constant) else None
            found = constant or self._constants.get(id(tensor))
            if found is not None:
                shown.weights.append(_weight(tensor.name, found))
            elif tensor.name:
                shown.inputs.append(self._place(tensor))
        shown.outputs = [self._place(tensor) for tensor in node.outputs if tensor.name]
        row = next(filter(None, (self._errors.get(t.name) for t in node.outputs)), None)
        if row is not None:
            shown.error, shown.sqnr, shown.arrived = row.relative, row.sqnr, row.arrived
            if row.guilty:
                shown.notes.append(row.guilty)
        return shown

    def _place(self, tensor: gs.Tensor) -> int:
        """Return where a tensor stands in the list."""
        if id(tensor) not in self._tensors:
            self._tensors[id(tensor)] = len(self.stage.tensors)
            shape, kind = self._shapes.shape(tensor), self._shapes.dtype(tensor)
            self.stage.tensors.append(ShownTensor(
                tensor.name, "" if shape is None else "x".join(map(_dim, shape)) or "scalar",
                "" if kind is None else _type(kind), self._origin(tensor),
            ))  # fmt: skip
        return self._tensors[id(tensor)]

    def _origin(self, tensor: gs.Tensor) -> str:
        found = self._model.names.get(tensor.name)
        return "" if found is None else found.name


def _every(graph: gs.Graph, inside: tuple[str, ...]) -> Iterator[tuple[gs.Node, tuple[str, ...]]]:
    """Yield the nodes of a graph and of the bodies in it, with the nodes that they are in."""
    for node in graph.nodes:
        yield node, inside
        for body in node.subgraphs():
            yield from _every(body, (*inside, str(node.name)))


def _modules(scope: Sequence[str]) -> Iterator[str]:
    """Yield PyTorch modules with those around them: of ``a.0.b`` also ``a`` and ``a.0``."""
    for part in scope:
        words = part.split(".")
        yield from (".".join(words[: end + 1]) for end in range(len(words)))


def _served(node: gs.Node) -> gs.Node | None:
    """Return the node that a quantizer is there for: beyond it, what is none."""
    forward = is_op(node, "DequantizeLinear")
    near: Any = node
    while is_op(near, "QuantizeLinear", "DequantizeLinear"):
        tensors = near.outputs if forward else near.inputs[:1]
        near = next(
            (other for t in tensors for other in (t.outputs if forward else t.inputs)), None
        )
    return near


def _dim(dim: Any) -> str:
    return str(dim.number) if dim.fixed else str(dim.written or "?")


def _type(kind: Any) -> str:
    """Return the name of a type: numpy's, or onnx's where numpy has none."""
    if isinstance(kind, int):
        return str(onnx.TensorProto.DataType.Name(kind)).lower()
    return str(np.dtype(kind).name)


def _words(value: Any) -> str:
    """Return an attribute in words."""
    if isinstance(value, gs.Graph):
        return f"{len(value.nodes)} nodes"
    if isinstance(value, gs.Tensor):
        value = getattr(value, "values", value)
    if isinstance(value, np.ndarray) and value.size > _FEW:
        return f"{value.dtype} {'x'.join(map(str, value.shape))}"
    told = str(value.tolist() if isinstance(value, np.ndarray) else value)
    return told if len(told) <= _LONG else f"{told[: _LONG - 3]}..."


def _weight(name: str, constant: gs.Constant | Array) -> Weight:
    """Return what is shown of a constant."""
    values = np.asarray(constant.values if isinstance(constant, gs.Constant) else constant)
    shape, kind = "x".join(map(str, values.shape)) or "scalar", _type(values.dtype)
    if values.size <= _FEW or values.dtype.kind not in "fiu":
        return Weight(name, shape, kind, _words(values))
    flat = values.reshape(-1)
    low, high = float(flat.min()), float(flat.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        flat = flat[np.isfinite(flat)]
        low, high = (float(flat.min()), float(flat.max())) if flat.size else (0.0, 0.0)
    few = flat[:: -(-flat.size // _MOST) or 1].astype(np.float64)
    counts, _ = np.histogram(few, bins=_BARS, range=(low, high) if low < high else None)
    return Weight(name, shape, kind, "", low, high, tuple(map(int, counts)))
