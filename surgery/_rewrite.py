"""What a pass is given and what it returns, and the few moves on a graph that all passes share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.model import Model, Origin
from onnxgraft.runtime import Array
from onnxgraft.surgery._shapes import Shapes

__all__ = [
    "Context",
    "Finding",
    "Pass",
    "Result",
    "bypass",
    "constant",
    "free_name",
    "inside",
    "is_output",
    "replace",
    "single_consumer",
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


class Context:
    """What a pass may know beside the graph: shapes, and the map to the framework's names."""

    def __init__(self, model: Model) -> None:
        """Look at ``model``; shapes are inferred when first asked for."""
        self.graph = model.graph
        self.names = model.names

    @cached_property
    def shapes(self) -> Shapes:
        """The symbolic shapes of the graph as it was when they were first asked for."""
        return Shapes(self.graph)

    def forget_shapes(self) -> None:
        """Have the shapes inferred anew when they are next asked for."""
        self.__dict__.pop("shapes", None)

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
    """

    name: str
    apply: Callable[[gs.Graph, Context], Result]
    changes_inputs: bool = False

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


def is_output(graph: gs.Graph, tensor: gs.Tensor) -> bool:
    """Tell whether the tensor is an output of the graph."""
    return any(tensor is output for output in graph.outputs)


def single_consumer(graph: gs.Graph, tensor: gs.Tensor) -> gs.Node | None:
    """Return the node of ``graph`` that alone consumes the tensor, once, or None.

    An output of the graph has one more consumer, and a node in the body of an If or a Loop is none
    that a pass could join with.
    """
    if len(tensor.outputs) != 1 or is_output(graph, tensor) or not inside(graph, tensor.outputs):
        return None
    return tensor.outputs[0]


def inside(graph: gs.Graph, nodes: Sequence[gs.Node]) -> bool:
    """Tell whether all ``nodes`` are of the graph itself, not of a body within it."""
    own = {id(node) for node in graph.nodes}
    return all(id(node) in own for node in nodes)


def free_name(graph: gs.Graph, name: str) -> str:
    """Return ``name``, or ``name_2`` and so on where a tensor is called so already."""
    taken = graph.tensors(check_duplicates=False)
    unique, number = name, 1
    while unique in taken:
        number += 1
        unique = f"{name}_{number}"
    return unique


def bypass(graph: gs.Graph, node: gs.Node, keep: int = 0) -> bool:
    """Remove a node that passes its input ``keep`` on unchanged.

    An output of the graph keeps its name: the tensor before the node takes it over.

    Returns:
        False, and nothing is changed, where both ends are fixed: an input or another output of
        the graph, or a constant, would have to be called by the output's name.
    """
    source, target = node.inputs[keep], node.outputs[0]
    if is_output(graph, target):
        fixed = isinstance(source, gs.Constant) or not source.inputs or is_output(graph, source)
        if fixed:
            return False
        producer = source.inputs[0]
        index = next(i for i, tensor in enumerate(producer.outputs) if tensor is source)
        for consumer in list(source.outputs):
            if consumer is not node:
                _swap_input(consumer, source, target)
        node.inputs.clear()
        node.outputs.clear()
        producer.outputs[index] = target
        return True
    replace(target, source)
    node.inputs.clear()
    node.outputs.clear()
    return True


def replace(old: gs.Tensor, new: gs.Tensor) -> None:
    """Let all consumers of ``old`` consume ``new``."""
    for consumer in list(old.outputs):
        _swap_input(consumer, old, new)


def _swap_input(consumer: gs.Node, old: gs.Tensor, new: gs.Tensor) -> None:
    for index, tensor in enumerate(consumer.inputs):
        if tensor is old:
            consumer.inputs[index] = new
