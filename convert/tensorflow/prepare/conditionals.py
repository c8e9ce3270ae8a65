"""Conditionals of TensorFlow 1 with a branch of constants: a Switch of its own for what it gives.

Given:  Merge(a constant behind ^pivot_f, g(Switch(x, p):1))
Result: Merge(Switch(the constant, p):0, g(Switch(x, p):1))

Such a branch hangs on its side of the conditional by order alone. Without that every optimizer
takes the constant for what is always there.
"""

from __future__ import annotations

from typing import Any

from onnxgraft.errors import NotSupportedError
from onnxgraft.stages.convert.tensorflow.names import full_name, node_of

__all__ = ["lead_through_switches"]

# A Merge of a loop reads the one, or the other.
_LOOPS = frozenset({"Enter", "NextIteration", "RefEnter", "RefNextIteration"})
_FORKS = frozenset({"Merge", "RefMerge", "RefSwitch", "Switch"})
# The predicate, and 1 where it holds.
_Side = tuple[str, int]


def lead_through_switches(path: str, graph_def: Any) -> None:
    """Give in place each branch of a conditional a Switch where it has none.

    Args:
        path: Of the file, for errors.
        graph_def: Is changed.

    Raises:
        NotSupportedError: Nothing tells which branch is which.
    """
    conditionals = _Conditionals(path, graph_def)
    for node in list(graph_def.node):
        if node.op in ("Merge", "RefMerge"):
            conditionals.lead(node)


class _Conditionals:
    def __init__(self, path: str, graph_def: Any) -> None:
        self.path, self.graph = path, graph_def
        self.nodes = {node.name: node for node in graph_def.node}
        self.done: set[str] = set()

    def lead(self, merge: Any) -> None:
        """Give the inputs of a Merge a Switch each."""
        if merge.name in self.done:
            return
        self.done.add(merge.name)
        data = [at for at, name in enumerate(merge.input) if not name.startswith("^")]
        if len(data) != 2 or self._of_loop(merge):
            return  # one of many, or a loop's
        found = {at: self._side(merge.input[at]) for at in data}
        known = [side for side, _ in found.values() if side is not None]
        for at, (side, switched) in found.items():
            if switched:
                continue
            if side is None and known:  # it is the other one
                side = known[0][0], 1 - known[0][1]
            if side is None:
                raise NotSupportedError(
                    f"{self.path}: {merge.name}: nothing tells which of its constants is for true "
                    "and which for false: the order of the graph's nodes was taken out; convert it "
                    "as it was before"
                )
            merge.input[at] = self._switch(f"{merge.name}/side_{at}", merge, at, side)

    def _side(self, tensor: str) -> tuple[_Side | None, bool]:
        """Return the side that a branch's end is on, and whether there is a Switch behind it.

        Where it is computed of nothing that was switched, what its nodes wait for is on its side:
        the pivot, an Identity of the predicate's Switch, or others that do.
        """
        found = self._switched(tensor, waits=False)
        return (found, True) if found is not None else (self._switched(tensor, waits=True), False)

    def _switched(self, tensor: str, *, waits: bool) -> _Side | None:
        """Return the predicate and the side of a Switch that a tensor comes from."""
        stack, seen = [(tensor, 0)], set()
        while stack:
            name, depth = stack.pop()
            node = self.nodes.get(node_of(name))
            if node is None or (node.name, depth) in seen:
                continue
            seen.add((node.name, depth))
            if self._of_loop(node):
                pass
            elif node.op in ("Switch", "RefSwitch"):
                if not depth:
                    return node.input[1], int(full_name(name.removeprefix("^"))[-1])
                depth -= 1
            elif node.op in ("Merge", "RefMerge"):
                self.lead(node)
                depth += 1  # a conditional within the branch
            stack += [(s, depth) for s in node.input if waits or not s.startswith("^")]
        return None

    def _of_loop(self, node: Any) -> bool:
        """Tell whether a Merge or a Switch is that of a loop, which stands for no conditional."""
        read = {self.nodes[n].op for n in map(node_of, node.input) if n in self.nodes}
        kinds = {"LoopCond"} if node.op in ("Switch", "RefSwitch") else _LOOPS
        return node.op in _FORKS and not read.isdisjoint(kinds)

    def _switch(self, name: str, merge: Any, at: int, side: _Side) -> str:
        """Write a Switch in front of a Merge; return the tensor on its side."""
        while name in self.nodes:
            name += "_"
        node = self.graph.node.add(name=name, op="Switch")
        node.input.extend([merge.input[at], side[0]])
        node.attr["T"].CopyFrom(merge.attr["T"])
        self.nodes[name] = node
        return f"{name}:{side[1]}"
