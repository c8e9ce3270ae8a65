"""Tensors at the border of every stage: their arrays, and what an input or output looks like."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

__all__ = ["Array", "Feeds", "Outputs", "TensorSpec"]

Array = NDArray[Any]
Feeds = Mapping[str, Array]
Outputs = dict[str, Array]


@dataclass(frozen=True)
class TensorSpec:
    """Name, numpy dtype and shape of an input or output.

    A dimension is an int, or a str where it is free; equal names mean equal sizes.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    def __str__(self) -> str:
        """Return the form that messages use, such as ``data (N, 3, 224, 224) float32``."""
        return f"{self.name} ({', '.join(map(str, self.shape))}) {self.dtype}"

    @property
    def kind(self) -> str:
        """Numpy's letter for what its type counts: also of types that numpy has not.

        >>> TensorSpec("x", "float8e5m2", ()).kind, TensorSpec("x", "uint4", ()).kind
        ('f', 'u')
        """
        letters = {"bfloat": "f", "float": "f", "uint": "u", "int": "i", "bool": "b"}
        return next((k for name, k in letters.items() if self.dtype.startswith(name)), "O")

    def accepts(self, shape: Sequence[int]) -> bool:
        """Tell whether an array of ``shape`` fits.

        >>> TensorSpec("x", "float32", ("N", 3)).accepts((7, 3))
        True
        """
        return len(shape) == len(self.shape) and all(
            isinstance(want, str) or want == have
            for want, have in zip(self.shape, shape, strict=True)
        )
