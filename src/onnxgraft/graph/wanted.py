"""What is known of a network's inputs: plain data, and how it is gathered from their uses."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Indices", "Use", "Wants", "followed"]


@dataclass(frozen=True)
class Indices:
    """Whole numbers that are legal in one place.

    Attributes:
        first: The smallest; -1 where a table can be read from its end too.
        last: The largest, counted from the size of the free dimension ``of``, if there is one.
        of: A free dimension of the graph's inputs.
    """

    first: int
    last: int
    of: str = ""


@dataclass(frozen=True)
class Wants:
    """What is known of a network's inputs, by their names.

    Attributes:
        indices: What is legal in each place that an input is used as an index.
        masks: Inputs that are used as masks of 0 and 1, whatever their type.
        special: Numbers that an input is compared with.
        least: The smallest size of a free axis with which the network runs.
    """

    indices: Mapping[str, tuple[Indices, ...]] = field(default_factory=dict)
    masks: frozenset[str] = frozenset()
    special: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    least: Mapping[tuple[str, int], int] = field(default_factory=dict)


@dataclass(frozen=True)
class Use:
    """What one use of a tensor says of its values.

    Attributes:
        indices: What is legal there.
        special: Numbers that the values are compared with.
        mask: Whether the values are used as a mask.
        onward: The tensors that the values go on to.
    """

    indices: tuple[Indices, ...] = ()
    special: frozenset[int] = frozenset()
    mask: bool = False
    onward: tuple[Any, ...] = ()


def followed(
    starts: Mapping[str, Any],
    uses: Callable[[Any], Iterable[Use]],
    key: Callable[[Any], Hashable] = id,
) -> Wants:
    """Return what the uses of some tensors say, and of those that their values go on to.

    Args:
        starts: The tensors, by the names of the inputs that they are.
        uses: Returns the uses of a tensor.
        key: Tells tensors apart.
    """
    indices: dict[str, tuple[Indices, ...]] = {}
    special: dict[str, tuple[int, ...]] = {}
    masks = set()
    for name, start in starts.items():
        found: list[Use] = []
        left, seen = [start], {key(start)}
        while left:
            for use in uses(left.pop()):
                found.append(use)
                fresh = {key(tensor): tensor for tensor in use.onward if key(tensor) not in seen}
                seen.update(fresh)
                left += fresh.values()
        limits = tuple(dict.fromkeys(entry for use in found for entry in use.indices))
        if limits:
            indices[name] = limits
        elif any(use.mask for use in found):
            masks.add(name)
        numbers = {number for use in found for number in use.special}
        if numbers:
            special[name] = tuple(sorted(numbers))
    return Wants(indices, frozenset(masks), special)
