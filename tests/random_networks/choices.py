"""Where the choices come from, of which a random network is made."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, Protocol

from hypothesis import strategies as st

__all__ = ["Choices", "Drawn", "Seeded"]


class Choices(Protocol):
    """Makes choices."""

    def one_of(self, options: Sequence[Any]) -> Any:
        """Return one of some."""

    def order(self, values: Sequence[Any]) -> list[Any]:
        """Return all of them in some order."""


class Drawn:
    """Choices of hypothesis, which makes what fails smaller."""

    def __init__(self, draw: st.DrawFn) -> None:
        self._draw = draw

    def one_of(self, options: Sequence[Any]) -> Any:
        """Return one of some."""
        return self._draw(st.sampled_from(options))

    def order(self, values: Sequence[Any]) -> list[Any]:
        """Return all of them in some order."""
        return list(self._draw(st.permutations(values)))


class Seeded:
    """The same choices for the same seed, and quickly."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def one_of(self, options: Sequence[Any]) -> Any:
        """Return one of some."""
        return self._random.choice(options)

    def order(self, values: Sequence[Any]) -> list[Any]:
        """Return all of them in some order."""
        return self._random.sample(values, len(values))
