"""Dimensions as numbers times named unknowns."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

__all__ = ["Dim", "Shape", "Value", "target_of"]


@dataclass(frozen=True)
class Dim:
    """A number times named unknowns: ``N*168960`` is ``Dim(168960, ("N",))``."""

    number: int
    symbols: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return the form in which a dimension is given to onnx's inference."""
        number = [str(self.number)] if self.number != 1 or not self.symbols else []
        return "*".join([*self.symbols, *number])

    @property
    def fixed(self) -> bool:
        """Whether the dimension is a number."""
        return not self.symbols

    @property
    def known(self) -> bool:
        """Whether every unknown in it has a name that means something: others begin with ``?``."""
        return not any(symbol.startswith("?") for symbol in self.symbols)

    @property
    def written(self) -> int | str | None:
        """The dimension as a graph stores it: a number, a name, or nothing."""
        if self.fixed:
            return self.number
        return str(self) if self.known else None

    def times(self, other: Dim) -> Dim:
        """Return the product."""
        return Dim(self.number * other.number, tuple(sorted(self.symbols + other.symbols)))

    def over(self, other: Dim) -> Dim | None:
        """Return the quotient where it is exact, else None.

        >>> Dim(6, ("H", "N")).over(Dim(3, ("N",)))
        Dim(number=2, symbols=('H',))
        """
        if other.number == 0 or self.number % other.number:
            return None
        left = Counter(self.symbols)
        left.subtract(other.symbols)
        if any(count < 0 for count in left.values()):
            return None
        return Dim(self.number // other.number, tuple(sorted(left.elements())))


Shape = tuple[Dim, ...]
# The elements of an integer tensor of rank 0 or 1; None where an element is not known.
Value = tuple[Dim | None, ...]


def target_of(source: Shape | None, wanted: Shape | None) -> list[int] | None:
    """Return the target with which a Reshape makes ``wanted`` of ``source``, or None.

    A free dimension that stays at its place is 0, one other may be -1.

    >>> target_of((Dim(1, ("N",)), Dim(2), Dim(3)), (Dim(1, ("N",)), Dim(6)))
    [0, 6]
    """
    if source is None or wanted is None or Dim(0) in (*source, *wanted):
        return None
    target = [
        dim.number if dim.fixed else 0 if axis < len(source) and dim == source[axis] else -1
        for axis, dim in enumerate(wanted)
    ]
    return None if target.count(-1) > 1 else target
