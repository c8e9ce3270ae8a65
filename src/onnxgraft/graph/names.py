"""Names for what is put into a graph: free ones, whatever a model calls its own tensors.

A graph and the bodies of its Ifs, Loops and Scans share one space of tensors' names, and so do all
their nodes: a body may read any tensor around it. Whoever adds a tensor, a constant or a node asks
here for its name, so that a model in which ``a/scale`` stands beside ``a`` is one like any other.
"""

from __future__ import annotations

from collections.abc import Iterable

import onnx_graphsurgeon as gs

from onnxgraft.graph.operators import op_of
from onnxgraft.graph.walk import bodies

__all__ = ["FreeNames", "Taken", "free", "name_nodes"]


class Taken(set[str]):
    """Names that are taken, with how far `free` has counted for each that was wished again.

    So 100,000 nodes of one name take a second, and not an hour.
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        super().__init__(names)
        self.counted: dict[str, int] = {}


class FreeNames:
    """The names that are taken in a graph, and others beside them.

    Args:
        graph: The outermost graph; None begins with nothing.
        tensors: Names that no new tensor may have either, such as those in a map of names.
    """

    def __init__(self, graph: gs.Graph | None = None, tensors: Iterable[str] = ()) -> None:
        self.tensors = Taken(tensors)
        self.nodes = Taken()
        for body in () if graph is None else bodies(graph):
            self.tensors.update(tensor.name for tensor in (*body.inputs, *body.outputs))
            for node in body.nodes:
                self.nodes.add(node.name)
                self.tensors.update(tensor.name for tensor in (*node.inputs, *node.outputs))

    def tensor(self, wish: str) -> str:
        """Return ``wish`` for a tensor, or ``wish_2`` and so on where that is taken; take it."""
        return free(self.tensors, wish)

    def node(self, wish: str) -> str:
        """Return ``wish`` for a node, or ``wish_2`` and so on where that is taken; take it."""
        return free(self.nodes, wish)


def name_nodes(graph: gs.Graph) -> None:
    """Give each node of a graph and of the bodies in it a name of its own.

    One without a name is called by what it makes. Layers are told apart by their names, in reports
    and in tables of what becomes of them.
    """
    taken = Taken()
    others = []
    for body in bodies(graph):
        for node in body.nodes:
            if node.name and node.name not in taken:
                taken.add(node.name)
            else:
                others.append(node)
    for node in others:
        made = node.outputs[0].name if node.outputs else ""
        node.name = free(taken, node.name or made or op_of(node))


def free(taken: set[str], wish: str) -> str:
    """Return ``wish``, or the first of ``wish_2``, ``wish_3`` ... that is not taken; take it.

    >>> free({"a", "a_2"}, "a")
    'a_3'
    """
    name = wish
    if wish in taken:
        counted = taken.counted if isinstance(taken, Taken) else {}
        number = counted.get(wish, 1) + 1
        while (name := f"{wish}_{number}") in taken:
            number += 1
        counted[wish] = number
    taken.add(name)
    return name
