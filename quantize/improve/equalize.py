"""Scales moved between channels, so that one scale a tensor serves all of them.

    conv -> Relu -> conv        W1 / s over its outputs, b1 / s        W2 s over its inputs

computes the same for any s > 0 a channel (Nagel et al., "Data-free quantization through weight
equalization and bias correction", 2019). With a the largest value of a channel and w the largest
weight that reads it, s = sqrt(a / w) evens both out (normalized to mean 1 in the logarithm).

The channels of tensors that are added belong together, so residual chains are scaled as one.
Operators that commute with a factor per channel are passed; Clip(0, c), which is Relu6, becomes
Relu and Min(c / s) where it must. Of a product of two tensors one is scaled: the factor of a gate,
as the 1/6 of a hard swish and of squeeze-and-excitation, becomes one a channel,

    x Clip(x + 3, 0, 6) (1/6) -> conv        the 1/6 becomes 1/(6 s)

and where squeeze-and-excitation has no such factor, it gets one: its gate has one value a channel.
What anything else reads or writes stays as it is.

A depthwise convolution has a scale of its own for each channel's weights, so it takes the whole
factor: s = a. What a curve makes, as HardSwish or x Sigmoid(x), can't be scaled within, but where
depthwise convolutions alone read it, it is multiplied by 1 / s: each of its channels is rounded in
steps of its own, for the price of a product.
"""

from __future__ import annotations

import collections
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.data.samples import Samples
from onnxgraft.graph.model import Model
from onnxgraft.graph.names import FreeNames
from onnxgraft.graph.node import Node
from onnxgraft.graph.operators import is_op, set_op
from onnxgraft.graph.tensors import Array
from onnxgraft.stages.quantize.improve.channels import even_factors, largest_values
from onnxgraft.stages.quantize.place.shapes import shapes_of

__all__ = ["Group", "equalize", "scale_groups"]

# f(s x) = s f(x) for every channel.
_COMMUTING = frozenset({
    "AveragePool", "Dropout", "GlobalAveragePool", "GlobalMaxPool", "Identity", "LeakyRelu",
    "MaxPool", "Relu",
})  # fmt: skip
# Of one value each: they can't be scaled within.
_CURVES = frozenset({
    "Celu", "Elu", "Gelu", "HardSigmoid", "HardSwish", "Mish", "Selu", "Sigmoid", "Softplus",
    "Swish", "Tanh",
})  # fmt: skip
_WEIGHTED = ("Conv", "ConvTranspose")
# Dimensions as numbers or as symbols: they are only compared.
Shapes = Mapping[str, Sequence[object]]


@dataclass
class Group:
    """Tensors whose channels share their factors, and the nodes that have to know of them.

    Attributes:
        tensors: Whose values change.
        producers: Layers that make some of them.
        gains: Nodes that make some of them of a tensor and a number.
        gates: Nodes that make some of them with one value a channel.
        curves: Nodes that make some of them, and can't be scaled within.
        consumers: Layers that read some of them.
        clips: Clip nodes among them, whose limit changes.
    """

    tensors: list[gs.Tensor] = field(default_factory=list)
    producers: list[gs.Node] = field(default_factory=list)
    gains: list[gs.Node] = field(default_factory=list)
    gates: list[gs.Node] = field(default_factory=list)
    curves: list[gs.Node] = field(default_factory=list)
    consumers: list[gs.Node] = field(default_factory=list)
    clips: list[gs.Node] = field(default_factory=list)

    @property
    def channels(self) -> int:
        """How many channels the tensors have."""
        node = self.consumers[0]
        shape = node.inputs[1].values.shape
        if is_op(node, "ConvTranspose"):
            return int(shape[0])
        return int(shape[1] * node.attrs.get("group", 1))

    def products(self, operators: Collection[str]) -> bool:
        """Tell whether one of some operators makes a product that would get a factor a channel."""
        made = [
            node for node in (*self.gains, *self.gates, *self.curves) if is_op(node, *operators)
        ]
        return bool(made) or ("Mul" in operators and bool(self.gates))

    def divide(self, graph: gs.Graph, factors: Array, shapes: Shapes) -> None:
        """Divide the channels of all tensors by ``factors``; what follows stays the same."""
        for node in self.producers:
            _scale_outputs(node, 1 / factors)
        for node in self.gains:
            _scale_gain(graph, node, factors, len(shapes[node.outputs[0].name]))
        for node in (*self.gates, *self.curves):
            _add_gain(graph, node, factors, len(shapes[node.outputs[0].name]))
        for node in self.consumers:
            _scale_inputs(node, factors)
        for node in self.clips:
            _clip_by_channel(graph, node, factors, len(shapes[node.inputs[0].name]))


def equalize(
    model: Model, samples: Samples, keep: Collection[str] = (), *, integers: Collection[str] = ()
) -> tuple[Model, list[str]]:
    """Return a model that computes the same with evened channels, and the tensors concerned.

    Args:
        model: A float graph.
        samples: Tell how large each channel gets.
        keep: Tensors whose values stay as they are, such as those that have a range by hand.
        integers: Operators that the target computes in integers: a product of them gets no factor
            for each channel, with which it would stay in float.
    """
    equalized = model.copy()
    shapes = shapes_of(model)
    groups = [
        group
        for group in scale_groups(equalized.graph, shapes)
        if not any(tensor.name in keep for tensor in group.tensors) and not group.products(integers)
    ]
    if not groups:
        return equalized, []
    names = [tensor.name for group in groups for tensor in group.tensors]
    largest = largest_values(model, names, samples, axis=1)
    done: list[str] = []
    for group in groups:
        group.divide(equalized.graph, _factors(group, largest), shapes)
        done += [tensor.name for tensor in group.tensors]
    equalized.graph.cleanup().toposort()
    return equalized, done


def scale_groups(graph: gs.Graph, shapes: Shapes) -> list[Group]:
    """Return the tensors that can be scaled, those with common channels together."""
    parent: dict[int, int] = {}
    tensors: dict[int, gs.Tensor] = {}

    def find(key: int) -> int:
        while parent.setdefault(key, key) != key:
            key = parent[key]
        return key

    def join(*some: gs.Tensor) -> None:
        for tensor in some:
            tensors[id(tensor)] = tensor
            parent[find(id(tensor))] = find(id(some[0]))

    fixed = {id(tensor) for tensor in [*graph.inputs, *graph.outputs]}
    read = [*graph.outputs, *(tensor for node in graph.nodes for tensor in node.inputs)]
    uses = collections.Counter(map(id, read))
    gated = {
        id(node): gate for node in graph.nodes if (gate := _gate(node, uses, shapes)) is not None
    }
    makers = {id(gate.inputs[0]) for gate in gated.values()}
    for node in graph.nodes:
        if _own(node, uses):
            join(node.inputs[0])
            join(node.outputs[0])
        elif id(node) in gated:
            gate = gated[id(node)]
            join(node.outputs[0], gate)
            fixed |= {id(tensor) for tensor in node.inputs if tensor is not gate}
        elif id(node) in makers:
            fixed |= {id(tensor) for tensor in node.inputs}
        elif _passes(node, shapes):
            join(node.outputs[0], *[t for t in node.inputs if isinstance(t, gs.Variable)][:2])
        elif _is_curve(node, shapes):
            join(node.outputs[0])
            fixed |= {id(tensor) for tensor in node.inputs}
        else:
            fixed |= {id(tensor) for tensor in [*node.inputs, *node.outputs]}
    frozen = {find(key) for key in tensors if key in fixed}
    groups: dict[int, Group] = {}
    for key, tensor in tensors.items():
        if find(key) not in frozen:
            groups.setdefault(find(key), Group()).tensors.append(tensor)
    for node in graph.nodes:
        weighted = _own(node, uses)
        into, out = find(id(node.outputs[0])), find(id(node.inputs[0])) if node.inputs else -1
        if weighted and into in groups:
            groups[into].producers.append(node)
        if id(node) in makers and into in groups:
            group = groups[into]
            (group.gates if _gain(node) is None else group.gains).append(node)
        elif id(node) not in gated and into in groups and _is_curve(node, shapes):
            groups[into].curves.append(node)
        if weighted and out in groups:
            groups[out].consumers.append(node)
        if is_op(node, "Clip") and into in groups:
            groups[into].clips.append(node)
    return [
        group
        for group in groups.values()
        if group.consumers
        and (
            all(map(_depthwise, group.consumers))
            if group.curves
            else group.producers or group.gains or group.gates
        )
    ]


def _own(node: gs.Node, uses: Mapping[int, int]) -> bool:
    """Tell whether a layer has constant weights that it shares with none."""
    parameters = node.inputs[1:]
    return (
        is_op(node, *_WEIGHTED)
        and len(parameters) > 0
        and all(isinstance(p, gs.Constant) and uses[id(p)] == 1 for p in parameters)
        # A ConvTranspose of several groups has its output channels on two axes.
        and (is_op(node, "Conv") or node.attrs.get("group", 1) == 1)
    )


def _gate(node: gs.Node, uses: Mapping[int, int], shapes: Shapes) -> gs.Tensor | None:
    """Return the factor of a product that can be scaled in place of it; None if there is none.

    It is made of a tensor and a number, or has one value a channel, and nothing else reads it.
    """
    if not is_op(node, "Mul"):
        return None
    whole = shapes.get(node.outputs[0].name)
    for tensor in node.inputs:
        shape = shapes.get(tensor.name)
        if whole is None or shape is None or len(shape) != len(whole) or len(shape) < 3:
            continue
        if not tensor.inputs or uses[id(tensor)] != 1 or shape[1] != whole[1]:
            continue
        if _gain(tensor.inputs[0]) is not None:
            return tensor
        if is_op(tensor.inputs[0], "HardSigmoid", "Sigmoid") and set(shape[2:]) == {1}:
            return tensor
    return None


def _gain(node: gs.Node) -> int | None:
    """Return which input of a product is a number; None where none is, or both are."""
    if not is_op(node, "Mul"):
        return None
    found = [i for i, t in enumerate(node.inputs) if isinstance(t, gs.Constant)]
    single = len(found) == 1 and node.inputs[found[0]].values.size == 1
    return found[0] if single else None


def _is_curve(node: gs.Node, shapes: Shapes) -> bool:
    """Tell whether a node computes each value of one, or of a product of two tensors."""
    product = is_op(node, "Mul") and all(isinstance(t, gs.Variable) for t in node.inputs)
    shape = shapes.get(node.outputs[0].name) if product or is_op(node, *_CURVES) else None
    return shape is not None and len(shape) > 2


def _scale_gain(graph: gs.Graph, node: gs.Node, factors: Array, rank: int) -> None:
    """Give each channel a number of its own."""
    place = _gain(node)
    assert place is not None
    values = float(node.inputs[place].values.item()) / factors
    name = FreeNames(graph).tensor(f"{node.outputs[0].name}/by_channel")
    node.inputs[place] = gs.Constant(name, _by_channel(values, rank))


def _add_gain(graph: gs.Graph, node: gs.Node, factors: Array, rank: int) -> None:
    """Multiply what a node makes by a number for each channel."""
    names, (target,) = FreeNames(graph), node.outputs
    inner = gs.Variable(names.tensor(f"{target.name}/whole"), np.float32, target.shape)
    constant = gs.Constant(
        names.tensor(f"{target.name}/by_channel"), _by_channel(1 / factors, rank)
    )
    node.outputs = [inner]
    name = names.node(f"{node.name}/by_channel")
    graph.nodes.append(Node("Mul", name, {}, [inner, constant], [target]))


def _by_channel(values: Array, rank: int) -> Array:
    return np.asarray(values.reshape([1, -1] + [1] * (rank - 2)), np.float32)


def _passes(node: gs.Node, shapes: Shapes) -> bool:
    """Tell whether a factor per channel passes through an operator."""
    if is_op(node, "Add"):
        # With equal shapes, or they would broadcast: a squeezed branch has one value a channel.
        left, right = (shapes.get(tensor.name) for tensor in node.inputs)
        both = all(isinstance(tensor, gs.Variable) for tensor in node.inputs)
        return both and left is not None and left == right
    if is_op(node, "Clip"):
        bounds = node.inputs[1:]
        return (
            len(bounds) == 2
            and all(isinstance(bound, gs.Constant) for bound in bounds)
            and float(bounds[0].values) == 0.0
            and node.inputs[0].name in shapes
        )
    if is_op(node, "Pad"):
        value = node.inputs[2] if len(node.inputs) > 2 and node.inputs[2].name else None
        return node.attrs.get("mode", "constant") != "constant" or (
            value is None or (isinstance(value, gs.Constant) and not np.any(value.values))
        )
    # Of MaxPool's second output, the positions, nothing is known.
    return is_op(node, *_COMMUTING) and len(node.outputs) == 1


def _factors(group: Group, largest: dict[str, Array]) -> Array:
    """Return (channels,) float64 powers of two near sqrt(a / w), so that no weight is rounded.

    For depthwise convolutions alone near a.
    """
    values = np.max([largest[tensor.name] for tensor in group.tensors], axis=0).astype(np.float64)
    weights = np.max([_reading(node, len(values)) for node in group.consumers], axis=0)
    depthwise = all(_depthwise(node) for node in group.consumers)
    return even_factors(values, weights, whole=depthwise)


def _depthwise(node: gs.Node) -> bool:
    """Tell whether each input channel has weights of its own, and they a scale."""
    shape = node.inputs[1].values.shape
    return bool(
        is_op(node, "Conv") and shape[1] == 1 and int(node.attrs.get("group", 1)) == shape[0]
    )


def _reading(node: gs.Node, channels: int) -> Array:
    """Return (channels,) the largest weight that reads each input channel."""
    largest = np.abs(_by_input(node, channels)).max(axis=(1, 3))
    return np.asarray(largest.reshape(-1), np.float64)


def _by_input(node: gs.Node, channels: int) -> Array:
    """Return a view of the weights as (groups, outputs, inputs, taps)."""
    weights = np.asarray(node.inputs[1].values)
    if is_op(node, "ConvTranspose"):
        return weights.reshape(1, channels, -1, 1).swapaxes(1, 2)
    groups = int(node.attrs.get("group", 1))
    return weights.reshape(groups, weights.shape[0] // groups, channels // groups, -1)


def _scale_inputs(node: gs.Node, factors: Array) -> None:
    weights = node.inputs[1].values
    if is_op(node, "ConvTranspose"):
        scaled = weights * factors.reshape([-1] + [1] * (weights.ndim - 1))
    else:
        groups = int(node.attrs.get("group", 1))
        scaled = _by_input(node, len(factors)) * factors.reshape(groups, 1, -1, 1)
    node.inputs[1] = _renamed(node.inputs[1], scaled.reshape(weights.shape))


def _scale_outputs(node: gs.Node, factors: Array) -> None:
    weights = node.inputs[1].values
    axis = 1 if is_op(node, "ConvTranspose") else 0
    shape = [-1 if a == axis else 1 for a in range(weights.ndim)]
    node.inputs[1] = _renamed(node.inputs[1], weights * factors.reshape(shape))
    if len(node.inputs) > 2:
        node.inputs[2] = _renamed(node.inputs[2], node.inputs[2].values * factors)


def _renamed(constant: gs.Constant, values: Array) -> gs.Constant:
    return gs.Constant(constant.name, np.asarray(values, np.float32))


def _clip_by_channel(graph: gs.Graph, node: gs.Node, factors: Array, rank: int) -> None:
    """Give each channel its own upper limit, which Clip has not."""
    if np.all(factors == 1):
        return
    source, _, limit = node.inputs
    limits = (float(limit.values) / factors).reshape([1, -1] + [1] * (rank - 2))
    names, label = FreeNames(graph), node.outputs[0].name
    positive = gs.Variable(names.tensor(f"{label}/positive"), np.float32, source.shape)
    graph.nodes.append(Node("Relu", names.node(f"{node.name}/Relu"), {}, [source], [positive]))
    set_op(node, "Min")
    node.attrs = {}
    node.inputs = [
        positive, gs.Constant(names.tensor(f"{label}/limits"), limits.astype(np.float32)),
    ]  # fmt: skip
