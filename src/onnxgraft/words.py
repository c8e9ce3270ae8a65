"""Numbers with their nouns, as a sentence has them."""

from __future__ import annotations

__all__ = ["several"]


def several(count: int, one: str, many: str = "") -> str:
    """Return a count with its noun, in the singular for 1.

    >>> several(1, "layer"), several(3, "layer"), several(0, "entry", "entries")
    ('1 layer', '3 layers', '0 entries')

    Words may follow the noun: ``several(1, "tensor has", "tensors have")``.
    """
    return f"{count} {one if count == 1 else many or one + 's'}"
