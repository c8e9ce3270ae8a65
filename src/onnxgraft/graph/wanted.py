"""What is known of a network's inputs: plain data, which needs no graph to be read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["Indices", "Wants"]


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
