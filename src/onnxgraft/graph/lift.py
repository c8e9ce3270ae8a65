"""Graphs in float16 or bfloat16 as graphs in float32, whose inputs and outputs keep their types.

    x (float16) -> Conv (float16) -> y (float16)

    x (float16) -> Cast -> Conv (float32) -> Cast -> y (float16)

Ranges are measured, layers quantized and INT8 graphs judged in float32: QuantizeLinear takes no
other type before opset 19, kernels for CPUs compute in no other, and what a half rounds away would
be counted as a loss of INT8. Each half is a float32 too, so that no weight changes.

Casts between halves and float32 are gone then: they would stand between layers that are computed
together. An operator of a domain that nobody here knows is left its halves, between Casts.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnxgraft.errors import NotSupportedError
from onnxgraft.graph.messages import bodies as bodies_of
from onnxgraft.graph.model import Model
from onnxgraft.graph.names import FreeNames
from onnxgraft.graph.node import Node
from onnxgraft.graph.operators import is_op, op_key, op_of
from onnxgraft.graph.shapes import Shapes
from onnxgraft.graph.walk import bodies, detach, parts, pinned, tidy

__all__ = ["halves", "lift", "lifting", "uses_bfloat16"]

_FLOAT = onnx.TensorProto.FLOAT
_HALVES: dict[int, str] = {
    onnx.TensorProto.FLOAT16: "float16", onnx.TensorProto.BFLOAT16: "bfloat16",
}  # fmt: skip
# Attributes that name the type in which an operator computes, or which it makes.
_TYPES = ("to", "dtype", "output_datatype", "output_dtype", "softmax_precision", "stash_type")
# Domains whose operators take float32 wherever they take a half; so do a model's own functions.
_KNOWN = ("", "ai.onnx.ml", "ai.onnx.preview.training", "com.microsoft", "com.microsoft.nchwc")


def halves(model: Model) -> tuple[str, ...]:
    """Return which of ``float16`` and ``bfloat16`` a graph computes in.

    What a Cast takes from an input, or from an operator of an unknown domain, or gives to such a
    one or as an output, is not computed in.
    """
    graph = model.graph
    known = _known(model)
    inputs = {id(tensor) for tensor in graph.inputs}
    outputs = {id(tensor) for tensor in graph.outputs}
    found: set[int] = set()
    for part in parts(graph):
        for node in part.nodes:
            if op_key(node)[0] not in known:
                continue
            tensors = [*node.inputs, *node.outputs]
            kinds = [node.attrs[key] for key in _TYPES if key in node.attrs]
            if is_op(node, "Cast"):
                source, target = node.inputs[0], node.outputs[0]
                tensors = []
                if id(source) not in inputs and all(op_key(n)[0] in known for n in source.inputs):
                    tensors.append(source)
                read = any(op_key(reader)[0] in known for reader in target.outputs)
                if read or not (target.outputs or id(target) in outputs):
                    tensors.append(target)
                else:
                    kinds.clear()
            stored = [value for value in node.attrs.values() if isinstance(value, gs.Constant)]
            kinds += [value.dtype for value in stored]
            found.update(map(_element, [*kinds, *(tensor.dtype for tensor in tensors)]))
    return tuple(name for element, name in _HALVES.items() if element in found)


def lift(model: Model) -> Model:
    """Return a copy that computes in float32, or the model itself where it has no halves.

    Raises:
        NotSupportedError: An operator of an unknown domain makes nobody knows what of halves.
    """
    if not halves(model):
        return model
    lifted = model.copy()
    _Lift(lifted).run()
    return lifted


def uses_bfloat16(model: onnx.ModelProto) -> bool:
    """Tell whether bfloat16 occurs in an ONNX model, other than as a type that is not declared."""
    kind = onnx.TensorProto.BFLOAT16
    left = [model.graph]
    while left:
        graph = left.pop()
        declared = (*graph.input, *graph.output, *graph.value_info)
        if any(entry.type.tensor_type.elem_type == kind for entry in declared):
            return True
        if any(entry.data_type == kind for entry in graph.initializer):
            return True
        attributes = [attribute for node in graph.node for attribute in node.attribute]
        if any(a.t.data_type == kind or (a.name in _TYPES and a.i == kind) for a in attributes):
            return True
        left += [body for attribute in attributes for body in bodies_of(attribute)]
    return False


def lifting(model: Model) -> str:
    """Return the sentence that tells what `lift` does to a model; empty where that is nothing."""
    kinds = halves(model)
    if not kinds:
        return ""
    return (
        f"the graph computes in {' and '.join(kinds)}: it was made float32, in which ranges are "
        "measured and layers that are not INT8 computed; its inputs and outputs keep their types"
    )


class _Lift:
    """The state of one rewrite.

    Attributes:
        kinds: onnx's number of the type of each tensor as it was, by its id.
    """

    def __init__(self, model: Model) -> None:
        self.file, self.graph = model.file, model.graph
        self.names = FreeNames(model.graph, model.names)
        self.parts = list(parts(model.graph))
        self.known = _known(model)
        shapes = Shapes(model.graph, declared=True)
        self.kinds: dict[int, int | None] = {}
        self.kept: list[gs.Tensor] = []  # so that no id is used again
        for body in bodies(model.graph):
            for tensor in _tensors(body):
                self.kinds[id(tensor)] = shapes.element(tensor)
                self.kept.append(tensor)
        for tensor in model.graph.outputs:  # those that a caller looks at have no type yet
            if tensor.dtype is None:
                tensor.dtype = shapes.dtype(tensor)

    def run(self) -> None:
        graph = self.graph
        ends = {id(tensor): tensor for tensor in (*graph.inputs, *graph.outputs)}
        foreign = [
            node
            for body in self.parts
            for node in body.nodes
            if op_key(node)[0] not in self.known and self._touches_half(node)
        ]
        casts = [
            node for part in self.parts for node in part.nodes
            if is_op(node, "Cast") and self._becomes_nothing(node)
        ]  # fmt: skip
        for part in self.parts:
            for node in part.nodes:
                if op_key(node)[0] in self.known:
                    _lift_attributes(node)
            for tensor in _tensors(part):
                if id(tensor) not in ends:
                    _lift_tensor(tensor)
        for tensor in graph.inputs:
            if self._is_half(tensor):
                self._widen_readers(tensor)
        for tensor in dict.fromkeys(map(id, graph.outputs)):
            end = ends[tensor]
            if self._is_half(end) and end.inputs:
                self._narrow(end)
            elif self._is_half(end) and isinstance(end, gs.Constant):
                self._widen_readers(end)
        for node in foreign:
            self._leave(node)
        fixed = pinned(graph)
        for node in casts:
            source, target = node.inputs[0], node.outputs[0]
            if id(target) not in fixed:
                _swap(self.parts, target, source)
                detach(node)
        for part in self.parts:
            part.nodes = [node for node in part.nodes if node.outputs or node.inputs]
        tidy(graph)

    def _is_half(self, tensor: gs.Tensor) -> bool:
        return self.kinds.get(id(tensor)) in _HALVES or _element(tensor.dtype) in _HALVES

    def _touches_half(self, node: gs.Node) -> bool:
        return any(self._is_half(tensor) for tensor in (*node.inputs, *node.outputs))

    def _becomes_nothing(self, cast: gs.Node) -> bool:
        """Tell whether a Cast is between a half and float32, or two halves."""
        floats = {_FLOAT, *_HALVES}
        kinds = {self.kinds.get(id(cast.inputs[0])), _element(cast.attrs.get("to"))}
        return kinds <= floats and kinds != {_FLOAT}

    def _widen_readers(self, tensor: gs.Tensor) -> None:
        """Let all that read a half of the graph's border read it as float32."""
        wide = self._wide(tensor)
        outer = [output is tensor for output in self.graph.outputs]
        _swap(self.parts, tensor, wide)
        for index, kept in enumerate(outer):
            if kept:
                self.graph.outputs[index] = tensor
        self._cast(tensor, wide, _FLOAT)

    def _narrow(self, tensor: gs.Tensor) -> None:
        """Let an output of the graph be cast to its half from the float32 that is computed."""
        wide = self._wide(tensor)
        (maker,) = tensor.inputs
        index = next(i for i, made in enumerate(maker.outputs) if made is tensor)
        maker.outputs[index] = wide
        for part in self.parts:
            for node in part.nodes:
                for at, source in enumerate(node.inputs):
                    if source is tensor:
                        node.inputs[at] = wide
        self._cast(wide, tensor, self.kinds[id(tensor)] or _element(tensor.dtype))

    def _wide(self, tensor: gs.Tensor) -> gs.Variable:
        """Return a new float32 tensor that stands for a half of the graph's border."""
        name = self.names.tensor(f"{tensor.name}/float32")
        wide = gs.Variable(name, np.dtype(np.float32), tensor.shape)
        self.kinds[id(wide)] = self.kinds[id(tensor)]
        self.kept.append(wide)
        return wide

    def _leave(self, node: gs.Node) -> None:
        """Give an operator of an unknown domain its halves, and make float32 of what it makes."""
        part = next(part for part in self.parts if any(other is node for other in part.nodes))
        for index, tensor in enumerate(node.inputs):
            kind = self.kinds.get(id(tensor))
            if kind in _HALVES:
                half = gs.Variable(self.names.tensor(f"{tensor.name}/{_HALVES[kind]}"), kind)
                node.inputs[index] = half
                self._cast(tensor, half, kind, part)
        for index, tensor in enumerate(node.outputs):
            kind = self.kinds.get(id(tensor))
            if kind is None and tensor.outputs:
                raise NotSupportedError(
                    f"{self.file}: the type of {tensor.name!r}, which {op_of(node)} {node.name!r} "
                    "makes of 16-bit floats, is not known; export the model with its value_info, "
                    "or in float32"
                )
            if kind in _HALVES:
                half = gs.Variable(self.names.tensor(f"{tensor.name}/{_HALVES[kind]}"), kind)
                node.outputs[index] = half
                self._cast(half, tensor, _FLOAT, part)

    def _cast(
        self, source: gs.Tensor, target: gs.Tensor, to: int, part: gs.Graph | None = None
    ) -> None:
        name = self.names.node(f"{target.name}/Cast")
        (part or self.graph).nodes.append(Node("Cast", name, {"to": to}, [source], [target]))


def _known(model: Model) -> set[str]:
    """Return the domains whose operators take float32 wherever they take a half."""
    return {*_KNOWN, *(function.domain or "" for function in model.graph.functions)}


def _tensors(part: Any) -> Iterator[gs.Tensor]:
    """Yield the tensors of a graph or function itself, each at least once."""
    yield from part.inputs
    yield from part.outputs
    for node in part.nodes:
        yield from node.inputs
        yield from node.outputs


def _element(dtype: Any) -> int:
    """Return onnx's number of a type, which may be numpy's or onnx's own; 0 of none."""
    if dtype is None:
        return 0
    if isinstance(dtype, int):
        return dtype
    try:
        return int(onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))
    except (KeyError, TypeError, ValueError):
        return 0


def _lift_tensor(tensor: gs.Tensor) -> None:
    if _element(tensor.dtype) not in _HALVES:
        return
    if isinstance(tensor, gs.Constant):
        tensor.values = np.asarray(tensor.values).astype(np.float32)
        tensor.export_dtype = None  # that of the values
    else:
        tensor.dtype = np.dtype(np.float32)


def _lift_attributes(node: gs.Node) -> None:
    for key, value in node.attrs.items():
        if isinstance(value, gs.Constant):
            node.attrs[key] = own = value.copy()  # a copied graph shares its attributes
            _lift_tensor(own)
        elif key in _TYPES and _element(value) in _HALVES:
            node.attrs[key] = int(_FLOAT)


def _swap(parts: list[Any], old: gs.Tensor, new: gs.Tensor) -> None:
    """Let all that read ``old``, as inputs of nodes or as the outputs of bodies, read ``new``."""
    for part in parts:
        for node in part.nodes:
            for index, tensor in enumerate(node.inputs):
                if tensor is old:
                    node.inputs[index] = new
        for index, tensor in enumerate(part.outputs):
            if tensor is old:
                part.outputs[index] = new
