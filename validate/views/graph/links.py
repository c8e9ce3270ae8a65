"""What became of the nodes of one graph in another."""

from __future__ import annotations

from collections.abc import Mapping

from onnxgraft.stages.validate.views.graph.data import Stage

__all__ = ["linked"]


def linked(
    before: Stage, after: Stage, became: Mapping[str, set[str]] | None = None
) -> list[tuple[int, int]]:
    """Return pairs of a node and what it became: by its name, its tensors, or what is known.

    A node of the later graph that nothing became, such as a quantizer, belongs to the node whose
    tensor it reads, beyond others like it; or else to the one that reads what it makes.

    Args:
        before: The one graph.
        after: The other.
        became: By node of the one, names of those of the other; None where that is not known.
    """
    mine, theirs = before.places(), after.places()
    if became is not None:
        pairs = {
            (mine[name], theirs[other])
            for name, others in became.items() if name in mine
            for other in others if other in theirs
        }  # fmt: skip
    else:
        pairs = {(place, theirs[name]) for name, place in mine.items() if name in theirs}
        makers = {after.tensors[t].name: at for at, n in enumerate(after.nodes) for t in n.outputs}
        done = {place for place, _ in pairs}
        for place, node in enumerate(before.nodes):
            names = [before.tensors[t].name for t in node.outputs]
            if place not in done:
                pairs |= {(place, makers[name]) for name in names if name in makers}
    pairs |= {
        (mine[node.name], theirs[node.name])
        for node in before.nodes if node.role and node.name in theirs
    }  # fmt: skip
    return sorted(pairs | (set() if became is not None else _beside(after, pairs)))


def _beside(after: Stage, pairs: set[tuple[int, int]]) -> set[tuple[int, int]]:
    """Return pairs for the nodes that nothing became: with what their neighbour was."""
    was: dict[int, int] = {other: place for place, other in sorted(pairs, reverse=True)}
    makers = {tensor: place for place, node in enumerate(after.nodes) for tensor in node.outputs}
    readers: dict[int, int] = {}
    for place, node in enumerate(after.nodes):
        for tensor in node.inputs:
            readers.setdefault(tensor, place)
    found: set[tuple[int, int]] = set()
    forward = list(enumerate(after.nodes))
    for entries, sides, near in (
        (forward, "inputs", makers),
        (forward[::-1], "outputs", readers),
    ):
        for place, node in entries:
            if place in was or node.role:
                continue
            others = (near.get(tensor) for tensor in getattr(node, sides))
            known = next((was[o] for o in others if o is not None and o in was), None)
            if known is not None:
                was[place] = known
                found.add((known, place))
    return found
