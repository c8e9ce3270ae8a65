"""Dropout with a probability that inference decides: its mask is everywhere one.

Given:  mask = GreaterEqual(uniform, 0)      Result: mask is known to be True
Given:  y = x * Cast(mask)                   Result: y = x
Given:  y = x * Floor(uniform + 1)           Result: y = x

``uniform`` is drawn from [0, 1), as `tf.nn.dropout` of every version draws it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from onnxgraft.stages.convert.tensorflow.running import tensorflow

__all__ = ["resolve_dropouts"]

_UNIFORM = frozenset({"RandomUniform", "StatelessRandomUniform", "StatelessRandomUniformV2"})
_ADD = frozenset({"Add", "AddV2"})


def resolve_dropouts(graph_def: Any, bypass: Callable[[Any, str], None]) -> dict[str, bool]:
    """Free the graph of masks that keep everything.

    Args:
        graph_def: Is changed.
        bypass: Makes an Identity of a node, with the source given.

    Returns:
        The boolean nodes that are True everywhere.
    """
    masks = _Masks(graph_def)
    for node in graph_def.node:
        if node.op == "Mul":
            for index in (0, 1):
                if masks.is_one(node.input[index]):
                    bypass(node, node.input[1 - index])
                    break
    kept = {node.name for node in graph_def.node if masks.is_true(node.name)}
    return dict.fromkeys(kept, True)


class _Masks:
    """Tells what the masks of a graph are."""

    def __init__(self, graph_def: Any) -> None:
        self._nodes = {node.name: node for node in graph_def.node}

    def is_true(self, name: str) -> bool:
        """Tell whether a tensor is ``uniform >= 0`` or less."""
        node = self._node(name)
        if node is None or node.op != "GreaterEqual" or not self._is_uniform(node.input[0]):
            return False
        rate = self._scalar(node.input[1])
        return rate is not None and rate <= 0

    def is_one(self, name: str) -> bool:
        """Tell whether a tensor is one everywhere, as a mask that keeps everything."""
        node = self._node(name)
        if node is None:
            return False
        if node.op == "Cast":
            return self.is_true(node.input[0])
        total = self._node(node.input[0]) if node.op == "Floor" else None
        if total is None or total.op not in _ADD:
            return False
        return any(
            self._scalar(total.input[index]) == 1 and self._is_uniform(total.input[1 - index])
            for index in (0, 1)
        )

    def _is_uniform(self, name: str) -> bool:
        """Tell whether a tensor is drawn from [0, 1), also as ``draw * (1 - 0) + 0``."""
        node = self._node(name)
        if node is None:
            return False
        if node.op == "Mul" or node.op in _ADD:
            neutral = 1 if node.op == "Mul" else 0
            return any(
                self._scalar(node.input[index]) == neutral
                and self._is_uniform(node.input[1 - index])
                for index in (0, 1)
            )
        return node.op in _UNIFORM

    def _scalar(self, name: str) -> float | None:
        node = self._node(name)
        if node is None:
            return None
        if node.op == "Const" and not node.attr["value"].tensor.tensor_shape.dim:
            return float(tensorflow().make_ndarray(node.attr["value"].tensor).item())
        if node.op == "Cast":
            return self._scalar(node.input[0])
        if node.op == "Sub":
            sides = [self._scalar(side) for side in node.input[:2]]
            return None if sides[0] is None or sides[1] is None else sides[0] - sides[1]
        return None

    def _node(self, name: str) -> Any:
        """Return the node of a tensor, behind any Identity."""
        node = self._nodes.get(name.split(":")[0])
        while node is not None and node.op == "Identity":
            node = self._nodes.get(node.input[0].split(":")[0])
        return node
