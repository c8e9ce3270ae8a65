"""Which nodes of a graph are in which layer of the engine that was built from it.

Libraries fuse nodes, split them, put their own between them, and call what they made by the name of
a node or of a tensor, with words of theirs around it. So a layer's nodes are found, in this order:

1. by the names that the library tells, as nodes and as tensors;
2. of a layer that is called after its last node, or after what it makes: what lies between that
   and other layers;
3. what no layer claims yet is in the layer that makes what it reads, else in one that reads it;
   what has weights the other way round, for libraries fuse what is behind it;
4. what computes nothing, such as a reorder or a conversion, is beside the layer that reads what it
   makes, or else makes what it reads.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnxgraft.graph.lift import halves
from onnxgraft.graph.model import Model
from onnxgraft.graph.operators import QUANTIZERS, WEIGHTED, is_op, op_of
from onnxgraft.graph.quantized import eight_bits
from onnxgraft.graph.shapes import Shapes
from onnxgraft.graph.walk import nodes_within
from onnxgraft.run.layers import Layer, LayerPrecision, Role, plain_precision

__all__ = [
    "Called", "Groups", "Placed", "Planned", "call", "called",
    "layer_precisions", "place",
]  # fmt: skip

# What libraries write around the name of a node or tensor.
_AROUND = (
    re.compile(r"^fused "),
    re.compile(r"/WithoutBiases$"),
    re.compile(r"_(nchwc|nhwc|token_\d+)$"),
    re.compile(r"/MatMulScaleFusion/$"),
    re.compile(r"_myl\d+_\d+$"),
)
# So many operators of a layer are named.
_OPERATORS = 3


@dataclass(frozen=True)
class Placed:
    """A layer with the graph's nodes that it computes.

    Attributes:
        layer: As its library tells it; its role is that of its nodes.
        nodes: Names of the graph's nodes that are in it, in the graph's order.
        beside: Of what computes nothing: the node that it serves; empty where that is unknown.
    """

    layer: Layer
    nodes: tuple[str, ...]
    beside: str = ""

    @property
    def found(self) -> bool:
        """Whether it is known to which node its time belongs."""
        return bool(self.nodes or self.beside)


def place(model: Model, layers: Sequence[Layer]) -> list[Placed]:
    """Return layers with the nodes of ``model`` that are in them, in the given order."""
    nodes = {str(node.name): node for node in nodes_within(model.graph)}
    makers = {tensor.name: str(node.name) for node in nodes.values() for tensor in node.outputs}
    claimed: dict[str, int] = {}  # node -> layer
    for number, layer in enumerate(layers):
        for name in _named(layer, nodes, makers):
            claimed.setdefault(name, number)
    for number, layer in enumerate(layers):
        for name in list(_between(layer, number, nodes, makers, claimed)):
            claimed[name] = number
    _spread(nodes, claimed)
    order = {name: place for place, name in enumerate(nodes)}
    members: list[list[str]] = [[] for _ in layers]
    for name, number in claimed.items():
        members[number].append(name)
    # A layer that shares all its nodes with an earlier one, such as the second half of a split.
    for number, layer in enumerate(layers):
        members[number] = members[number] or list(_named(layer, nodes, makers))
    placed = [
        Placed(
            _in_role(layer, [nodes[n] for n in mine]), tuple(sorted(mine, key=order.__getitem__))
        )
        for layer, mine in zip(layers, members, strict=True)
    ]
    return _beside(placed, nodes)


def _named(layer: Layer, nodes: dict[str, gs.Node], makers: dict[str, str]) -> Iterator[str]:
    """Yield the nodes that the library names for a layer."""
    for told in (*layer.nodes, layer.name):
        for name in _stripped(told):
            found = name if name in nodes else makers.get(name)
            if found is not None:
                yield found
                break


def _told(layer: Layer) -> set[str]:
    """Return all names that the library may mean by what it tells of a layer."""
    return {name for told in (*layer.nodes, layer.name) for name in _stripped(told)}


def _stripped(name: str) -> Iterator[str]:
    """Yield a name, and what is left of it without what libraries write around names."""
    yield name
    for _ in _AROUND:
        shorter = name
        for pattern in _AROUND:
            shorter = pattern.sub("", shorter)
        if shorter == name:
            return
        yield shorter
        name = shorter


def _between(
    layer: Layer,
    number: int,
    nodes: dict[str, gs.Node],
    makers: dict[str, str],
    claimed: dict[str, int],
) -> Iterator[str]:
    """Yield the nodes that no layer claims, between what a layer makes and what others make."""
    waiting = [makers[tensor] for tensor in layer.makes if tensor in makers]
    waiting += [
        name
        for name in _named(layer, nodes, makers)
        if claimed[name] == number and (layer.by_last or name not in _told(layer))
    ]
    reads, seen = set(layer.reads), set[str]()
    while waiting:
        name = waiting.pop()
        if name in seen or claimed.get(name, number) != number:
            continue
        seen.add(name)
        yield name
        waiting += [
            str(maker.name)
            for tensor in nodes[name].inputs if tensor.name not in reads
            for maker in tensor.inputs
        ]  # fmt: skip


def _spread(nodes: dict[str, gs.Node], claimed: dict[str, int]) -> None:
    """Let each node that no layer claims be in that of a neighbour: before it, or else behind."""
    for weighted, backward in ((True, True), (False, False), (False, True)):
        for name, node in reversed(nodes.items()) if backward else nodes.items():
            if name in claimed or (weighted and not is_op(node, *WEIGHTED)):
                continue
            near = (
                (reader for tensor in node.outputs for reader in tensor.outputs)
                if backward
                else (maker for tensor in node.inputs for maker in tensor.inputs)
            )
            number = next((claimed[n.name] for n in near if n.name in claimed), None)
            if number is not None:
                claimed[name] = number


def _in_role(layer: Layer, nodes: Sequence[gs.Node]) -> Layer:
    """Return a layer in the role that its nodes tell: one of Q or DQ alone is a conversion."""
    role: Role = layer.role
    if nodes and all(_converts(node) for node in nodes):
        role = "conversion"
    elif not nodes and layer.kind == "Transpose":
        role = "reorder"  # the library's own
    return layer if role == layer.role else replace(layer, role=role)


def _converts(node: gs.Node) -> bool:
    """Tell whether a node is there to change types."""
    return is_op(node, "QuantizeLinear", "DequantizeLinear", domain=QUANTIZERS) or is_op(
        node, "Cast"
    )


def _beside(placed: Sequence[Placed], nodes: dict[str, gs.Node]) -> list[Placed]:
    """Return layers with, for those without a node, the node that they serve."""
    readers: dict[str, list[int]] = {}
    makers: dict[str, int] = {}
    for number, one in enumerate(placed):
        for tensor in one.layer.reads:
            readers.setdefault(tensor, []).append(number)
        for tensor in one.layer.makes:
            makers[tensor] = number

    def serves(number: int, backward: bool) -> str:
        waiting, seen = [number], {number}
        while waiting:
            layer = placed[waiting.pop(0)].layer
            near = (
                [makers[tensor] for tensor in layer.reads if tensor in makers]
                if backward
                else [reader for tensor in layer.makes for reader in readers.get(tensor, ())]
            )
            for other in near:
                if placed[other].nodes and placed[other].layer.role == "layer":
                    return str(_main_node([nodes[name] for name in placed[other].nodes]).name)
                if other not in seen:
                    seen.add(other)
                    waiting.append(other)
        return ""

    return [
        one
        if one.nodes and one.layer.role == "layer"
        else replace(one, beside=serves(number, False) or serves(number, True))
        for number, one in enumerate(placed)
    ]


def _main_node(nodes: Sequence[gs.Node]) -> gs.Node:
    """Return the node that a layer of several is called after: with weights, or else the last."""
    weighted = [node for node in nodes if is_op(node, *WEIGHTED)]
    others = [node for node in nodes if not _converts(node)]
    return (weighted or others[-1:] or list(nodes))[0]


class Groups:
    """Nodes that are in one layer of some engine, together."""

    def __init__(self) -> None:
        self._parents: dict[str, str] = {}
        self._places: dict[str, int] = {}

    def join(self, nodes: Iterable[str]) -> None:
        """Put nodes, and what they are together with, together."""
        first = None
        for node in nodes:
            self._places.setdefault(node, len(self._places))
            root = self.of(node)
            if first is None:
                first = root
            elif root != first:
                self._parents[root] = first

    def of(self, node: str) -> str:
        """Return the node that stands for those that are together with one."""
        while (parent := self._parents.setdefault(node, node)) != node:
            node = parent
        return node

    def place(self, node: str) -> int:
        """Return where a node stands in the order in which they came."""
        return self._places.get(node, len(self._places))


@dataclass(frozen=True)
class Called:
    """What a layer of the network is called.

    Attributes:
        layer: The framework's name for what it makes, or that of the graph's node.
        node: The graph's node.
        operator: Its operators, joined.
    """

    layer: str
    node: str
    operator: str


def called(model: Model, groups: Groups) -> dict[str, Called]:
    """Return what layers are called, by the node that stands for each."""
    members: dict[str, list[gs.Node]] = defaultdict(list)
    for node in nodes_within(model.graph):
        if not _converts(node):
            members[groups.of(str(node.name))].append(node)
    return {root: call(model, nodes) for root, nodes in members.items()}


def call(model: Model, nodes: Sequence[gs.Node]) -> Called:
    """Return what some nodes, in the graph's order, are called together."""
    return Called(_origin(model, nodes), str(_main_node(nodes).name), _operators(nodes))


def _origin(model: Model, nodes: Sequence[gs.Node]) -> str:
    """Return the framework's name for what some nodes compute: of the last of one layer."""
    main = _main_node(nodes)
    layers = sum(is_op(node, *WEIGHTED) for node in nodes)
    for node in (*([main] if layers > 1 else ()), *reversed(nodes)):
        for tensor in node.outputs:
            if tensor.name in model.names:
                return model.names[tensor.name].name
    return str(main.name)


def _operators(nodes: Sequence[gs.Node]) -> str:
    """Return the operators of a layer: those with weights first, then the others, each once."""
    own = [node for node in nodes if not _converts(node)] or nodes
    ordered = sorted(own, key=lambda node: not is_op(node, *WEIGHTED))
    kinds = list(dict.fromkeys(op_of(node) for node in ordered))
    return " + ".join(kinds[:_OPERATORS]) + (
        f" + {len(kinds) - _OPERATORS}" if len(kinds) > _OPERATORS else ""
    )


def _planned(model: Model) -> dict[str, str]:
    """Return the precision in which each node of a graph stands in it."""
    quantized = eight_bits(model)
    shapes = Shapes(model.graph) if halves(model) else None
    return {
        str(node.name): quantized.get(str(node.name)) or _float_of(node, shapes)
        for node in nodes_within(model.graph)
        if not _converts(node)
    }


def _float_of(node: gs.Node, shapes: Shapes | None) -> str:
    """Return the precision of a node's first float output."""
    for tensor in () if shapes is None else node.outputs:
        kind = shapes.dtype(tensor)  # type: ignore[union-attr]
        if kind is not None:
            known = isinstance(kind, int)  # onnx's number, where numpy has no such type
            name = onnx.TensorProto.DataType.Name(kind) if known else np.dtype(kind).name
            if plain_precision(name):
                return plain_precision(name)
    return "fp32"


class Planned:
    """In which precision layers stand in a graph.

    Args:
        model: The graph; None where it is not at hand.
    """

    def __init__(self, model: Model | None) -> None:
        self._nodes = {} if model is None else {n.name: n for n in nodes_within(model.graph)}
        self._precisions = {} if model is None else _planned(model)

    def nodes(self, names: Sequence[str]) -> list[gs.Node]:
        """Return the nodes of these names."""
        return [self._nodes[name] for name in names if name in self._nodes]

    def of(self, names: Sequence[str]) -> str:
        """Return the precision of a layer of these nodes: that of those with weights, if any.

        It is INT8, or FP8, where all of them are.
        """
        mine = self.nodes(names)
        weighted = [node for node in mine if is_op(node, *WEIGHTED)]
        known = {self._precisions.get(str(node.name), "") for node in weighted or mine}
        return next((one for one in ("bf16", "fp16", "fp32", "fp8", "int8") if one in known), "")


def layer_precisions(model: Model, layers: Sequence[Layer]) -> list[LayerPrecision]:
    """Return what the layers of an engine run in, in the order in which they run."""
    before = Planned(model)
    found: dict[str, LayerPrecision] = {}
    for one in place(model, layers):
        if one.layer.role == "layer" and one.nodes:
            name = call(model, before.nodes(one.nodes)).layer
            precision = plain_precision(one.layer.precision)
            found.setdefault(name, LayerPrecision(name, precision, before.of(one.nodes)))
    return list(found.values())
