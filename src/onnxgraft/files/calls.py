"""Functions that call each other: how many nodes there are once they are written out.

Thirty functions of two nodes that each call the one before are a billion nodes, and libraries write
them out before they count.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, TypeVar

from onnxgraft.errors import ModelError
from onnxgraft.files.limits import CALL_LEVELS, ENDS, NODES

__all__ = ["check_calls"]

Name = TypeVar("Name", bound=Hashable)


def check_calls(
    nodes: Sequence[Name],
    functions: Mapping[Name, Sequence[Name]],
    where: str,
    ends: Mapping[Name, int] | None = None,
) -> None:
    """Raise ModelError if functions come to too many nodes, or call themselves.

    Args:
        nodes: What the nodes of the graph call.
        functions: What those of each function call; what is not among them is an operator.
        where: Begins the sentence.
        ends: How many inputs and outputs each function's own nodes have, where that is counted.
    """
    known: dict[Hashable, tuple[int, int, int]] = {}  # nodes, levels, inputs and outputs
    root = object()
    left: list[Hashable] = [root, *functions]
    open_ones: set[Hashable] = set()
    calls: dict[Any, Sequence[Name]] = {**functions, root: nodes}
    counted: dict[Any, int] = {**(ends or {})}
    while left:
        name = left[-1]
        if name in known:
            left.pop()
            continue
        inner = [called for called in calls[name] if called in functions]
        missing = {called for called in inner if called not in known}
        if missing:
            open_ones.add(name)
            if missing & open_ones:
                raise ModelError(
                    f"{where} one of its functions calls itself, which no engine has; export the "
                    "network without it"
                )
            left += missing
            continue
        open_ones.discard(name)
        count = len(calls[name]) + sum(known[called][0] for called in inner)
        levels = 1 + max((known[called][1] for called in inner), default=0)
        tensors = counted.get(name, 0) + sum(known[called][2] for called in inner)
        for limit, found in ((NODES, count), (CALL_LEVELS, levels - 1), (ENDS, tensors)):
            if found > limit.most:
                raise ModelError(
                    f"{where} {limit.refusal(found)}, as its functions call each other; export "
                    "the network without them"
                )
        known[name] = (count, levels, tensors)
        left.pop()
