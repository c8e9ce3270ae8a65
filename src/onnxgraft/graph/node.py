"""The nodes that our graphs are made of."""

from __future__ import annotations

from typing import Any

import onnx_graphsurgeon as gs

__all__ = ["Node", "own"]


class Node(gs.Node):  # type: ignore[misc]
    """A node that equals itself alone.

    onnx-graphsurgeon's own compares operators, attributes and tensors, and is compared whenever a
    node is taken off a tensor: with each node before it in the list of those that read the tensor.
    """

    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def copy(self, *args: Any, **kwargs: Any) -> Node:
        """Return a copy, as onnx-graphsurgeon makes it."""
        return own(super().copy(*args, **kwargs))


def own(node: gs.Node) -> Node:
    """Turn a node that onnx-graphsurgeon made into one of ours."""
    ours: Node = node
    ours.__class__ = Node
    return ours
