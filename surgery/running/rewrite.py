"""What a pass is given and what it returns, and the few moves on a graph that all passes share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.graph.model import Model, Origin
from onnxgraft.graph.names import FreeNames, Taken
from onnxgraft.graph.node import Node
from onnxgraft.graph.shapes import Shapes
from onnxgraft.graph.tensors import Array
from onnxgraft.graph.walk import detach, pinned
from onnxgraft.targets import TARGETS

__all__ = [
    "Context",
    "Finding",
    "Pass",
    "Plugin",
    "Result",
    "constant",
    "replace",
]


@dataclass(frozen=True)
class Finding:
    """One rewrite that was done, or refused, and why.

    Attributes:
        node: The node's name.
        sentence: What was done, or why not.
    """

    node: str
    sentence: str


@dataclass
class Result:
    """What a pass did and what it refused."""

    done: list[Finding] = field(default_factory=list)
    refused: list[Finding] = field(default_factory=list)

    def did(self, node: gs.Node, sentence: str) -> None:
        """Note a rewrite."""
        self.done.append(Finding(node.name, sentence))

    def refuse(self, node: gs.Node, sentence: str) -> None:
        """Note a rewrite that would have been wrong."""
        self.refused.append(Finding(node.name, sentence))


@dataclass(frozen=True)
class Plugin:
    """A plugin of TensorRT that stands for a custom operator."""

    name: str
    version: str = "1"
    namespace: str = ""


class Context:
    """What a pass may know beside the graph: shapes, who reads what, and the framework's names.

    One context serves a run: what it knows of a tensor stays true while the tensor lives, because
    a tensor keeps its value (what gets another value is another tensor).

    Attributes:
        graph: What the pass rewrites: the main graph, or the body of an If, Loop or Scan.
        names: The map of tensors to the framework's names.
        plugins: The plugins that stand for custom operators.
    """

    def __init__(self, model: Model, plugins: Mapping[str, Plugin] | None = None) -> None:
        """Look at ``model``; shapes are inferred when they are asked for."""
        self.plugins = dict(plugins or {})
        self.main = self.graph = model.graph
        self.names = model.names
        self.opset = model.graph.opset
        self.shapes = Shapes(model.graph)
        self._free = FreeNames(self.main, self.names)
        self.begin()

    def begin(self) -> None:
        """Turn to the main graph, whatever was done before."""
        self._outputs: dict[int, gs.Tensor] = {}
        self.graph = self.main
        self.enter(self.main)

    def enter(self, graph: gs.Graph) -> None:
        """Turn to a graph: the main one, or a body in it."""
        # Those that a pass has given the graph before this one, or its bodies, are outputs too.
        self._outputs.update(pinned(self.graph))
        self.graph = graph
        self._own = {id(node) for node in graph.nodes}

    def taken(self) -> tuple[frozenset[str], frozenset[str]]:
        """Return the names of tensors and of nodes that are or were in use."""
        return frozenset(self._free.tensors), frozenset(self._free.nodes)

    def start_from(self, tensors: frozenset[str], nodes: frozenset[str]) -> None:
        """Take these names as in use, and infer anew: the graph is one that it was before."""
        self._free.tensors, self._free.nodes = Taken(tensors), Taken(nodes)
        self.shapes.forget(everything=True)

    def add(
        self, op: str, name: str, inputs: Sequence[gs.Tensor], outputs: Sequence[gs.Tensor],
        **attrs: Any,
    ) -> gs.Node:  # fmt: skip
        """Append a node to the graph; the runner sorts afterwards."""
        node = self.node(op, name, inputs, outputs, **attrs)
        self.graph.nodes.append(node)
        self._own.add(id(node))
        return node

    def take(self, nodes: Iterable[gs.Node]) -> None:
        """Append nodes of a body, which is no body any more, to the graph."""
        for node in nodes:
            self.graph.nodes.append(node)
            self._own.add(id(node))

    def node(
        self, op: str, name: str, inputs: Sequence[gs.Tensor], outputs: Sequence[gs.Tensor],
        **attrs: Any,
    ) -> gs.Node:  # fmt: skip
        """Return a node for a body, called ``name`` if that is free."""
        return Node(op, self._free.node(name), dict(attrs), list(inputs), list(outputs))

    def inside(self, nodes: Iterable[gs.Node]) -> bool:
        """Tell whether all ``nodes`` are of the graph itself, not of a body or around it."""
        return all(id(node) in self._own for node in nodes)

    def is_output(self, tensor: gs.Tensor) -> bool:
        """Tell whether the tensor is an output of the graph, or of a body."""
        return id(tensor) in self._outputs

    def is_shared(self, tensor: gs.Tensor) -> bool:
        """Tell whether a constant has another user than the one node that asks."""
        return len(tensor.outputs) > 1 or self.is_output(tensor)

    def producer(self, tensor: gs.Tensor) -> gs.Node | None:
        """Return the node of the graph that makes the tensor, or None."""
        if tensor.inputs and id(tensor.inputs[0]) in self._own:
            node: gs.Node = tensor.inputs[0]
            return node
        return None

    def single_consumer(self, tensor: gs.Tensor) -> gs.Node | None:
        """Return the node of the graph that alone consumes the tensor, once, or None.

        An output of the graph has one more consumer, and a node in the body of an If or a Loop is
        none that a pass could join with.
        """
        if len(tensor.outputs) != 1 or self.is_output(tensor) or not self.inside(tensor.outputs):
            return None
        node: gs.Node = tensor.outputs[0]
        return node

    def free_name(self, name: str) -> str:
        """Return ``name``, or ``name_2`` and so on where a tensor is or was called so already."""
        return self._free.tensor(name)

    def variable(self, name: str, source: gs.Tensor) -> gs.Variable:
        """Return a new tensor of the type of ``source``, called ``name`` if that is free."""
        return gs.Variable(self.free_name(name), self.shapes.dtype(source))

    def constant(self, name: str, value: Array) -> gs.Constant:
        """Return a new constant, called ``name`` if that is free."""
        return gs.Constant(self.free_name(name), np.ascontiguousarray(value).reshape(value.shape))

    def bypass(self, node: gs.Node, keep: int = 0) -> bool:
        """Remove a node that passes its input ``keep`` on unchanged.

        An output of the graph keeps its name: the tensor before the node takes it over.

        Returns:
            False, and nothing is changed, where both ends are fixed: an input or another output
            of the graph, a constant, or what is made outside of a body, would have to be called
            by the output's name.
        """
        source, target = node.inputs[keep], node.outputs[0]
        if self.is_output(target):
            producer = self.producer(source)
            if producer is None or self.is_output(source):
                return False
            index = next(i for i, tensor in enumerate(producer.outputs) if tensor is source)
            for consumer in list(source.outputs):
                if consumer is not node:
                    _swap_input(consumer, source, target)
            detach(node)
            producer.outputs[index] = target
            return True
        replace(target, source)
        detach(node)
        return True

    def moved(self, new: gs.Tensor, old: gs.Tensor, perm: Sequence[int]) -> None:
        """Note that ``new`` is ``numpy.transpose(old, perm)``, for the map of names."""
        origin = self.names.get(old.name)
        if origin is not None and new.name not in self.names:
            before = origin.perm or tuple(range(len(perm)))
            self.names[new.name] = Origin(origin.name, tuple(before[axis] for axis in perm))


@dataclass(frozen=True)
class Pass:
    """A rewrite in the list of passes.

    Attributes:
        name: As ``--only`` and ``--skip`` take it.
        apply: Rewrites the graph in place.
        changes_inputs: The pass may remove an input of the graph.
        optional: The pass runs only where it is asked for by name.
        final: The pass runs when the others change nothing more.
        seals: What the pass leaves only the target runs: it is run last, and not verified.
        rounds: The pass rounds anew: what is kept is measured, and not held against float noise.
    """

    name: str
    apply: Callable[[gs.Graph, Context], Result]
    changes_inputs: bool = False
    optional: bool = False
    final: bool = False
    seals: bool = False
    rounds: bool = False

    @property
    def targets(self) -> tuple[str, ...]:
        """The targets that the pass is for, if it is not for all."""
        return tuple(target.name for target in TARGETS if self.name in target.lowering)

    @property
    def summary(self) -> str:
        """The first line of the pass's file."""
        import sys

        doc = sys.modules[self.apply.__module__].__doc__ or ""
        return doc.strip().splitlines()[0]


def constant(tensor: Any) -> Array | None:
    """Return the value of a constant, or None."""
    if isinstance(tensor, gs.Constant):
        return np.asarray(tensor.values)
    return None


def replace(old: gs.Tensor, new: gs.Tensor) -> None:
    """Let all consumers of ``old`` consume ``new``."""
    for consumer in list(old.outputs):
        _swap_input(consumer, old, new)


def _swap_input(consumer: gs.Node, old: gs.Tensor, new: gs.Tensor) -> None:
    for index, tensor in enumerate(consumer.inputs):
        if tensor is old:
            consumer.inputs[index] = new
