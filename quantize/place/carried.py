"""Constants that a Loop or Scan carries from turn to turn and never changes: its body reads them.

    Loop (w) { body (state) -> MatMul (x, state), state }     Loop { body -> MatMul (x, w) }

Converters write the weights of a loop so, as the frameworks' own loops have them. What the body
multiplies would be an activation to whoever looks for weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx_graphsurgeon as gs

from onnxgraft.graph.body_rules import scanned_inputs
from onnxgraft.graph.operators import is_op
from onnxgraft.graph.walk import nodes_within, pinned

__all__ = ["carried", "let_in"]


@dataclass(frozen=True)
class _State:
    """A state that stays the same: its node, body, and places among the inputs and outputs."""

    node: gs.Node
    body: gs.Graph
    start: int
    inside: int
    end: int
    made: int


def carried(graph: gs.Graph) -> bool:
    """Tell whether a body in the graph carries a constant."""
    return any(True for _ in _states(graph))


def let_in(graph: gs.Graph) -> None:
    """Let bodies read the constants that they carry, in place, and carry them no more."""
    for state in list(_states(graph))[::-1]:  # the last first, so that the places stay right
        node, body = state.node, state.body
        value, inside = node.inputs[state.start], body.inputs[state.inside]
        readers = [*inside.outputs, *node.outputs[state.made].outputs]
        for reader in readers:
            for index, tensor in enumerate(reader.inputs):
                if tensor is inside or tensor is node.outputs[state.made]:
                    reader.inputs[index] = value
        del node.inputs[state.start], body.inputs[state.inside]
        del body.outputs[state.end], node.outputs[state.made]


def _states(graph: gs.Graph) -> Iterator[_State]:
    fixed = pinned(graph)
    for node in nodes_within(graph):
        if is_op(node, "Loop"):
            body, before, ends = node.attrs["body"], 2, 1  # a count and conditions
            count = len(node.inputs) - 2
        elif scanned := scanned_inputs(node):
            body, before, ends = node.attrs["body"], 0, 0
            count = len(node.inputs) - scanned
        else:
            continue
        for index in range(min(count, len(node.outputs))):
            state = _State(node, body, before + index, before + index, ends + index, index)
            inside = body.inputs[state.inside]
            handed = [place for place, end in enumerate(body.outputs) if _passed(end) is inside]
            constant = isinstance(node.inputs[state.start], gs.Constant)
            if constant and handed == [state.end] and id(node.outputs[index]) not in fixed:
                yield state


def _passed(tensor: gs.Tensor) -> gs.Tensor:
    while tensor.inputs and is_op(tensor.inputs[0], "Identity"):
        tensor = tensor.inputs[0].inputs[0]
    return tensor
