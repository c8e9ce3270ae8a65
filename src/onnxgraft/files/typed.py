"""Values of documents by the types that a dataclass declares, without pydantic."""

from __future__ import annotations

import functools
import types
import typing
from collections.abc import Collection, Mapping
from typing import Any

from onnxgraft.errors import reason_in

__all__ = ["check_types", "is_of", "misread"]


def check_types(
    values: Mapping[str, Any], kind: type, names: Collection[str] | None = None
) -> None:
    """Raise ValueError if a value is not of the type that a dataclass declares for its name.

    Args:
        values: From a JSON.
        kind: The dataclass, whose hints are of the kinds that `is_of` knows.
        names: Those that are looked at; all if None.
    """
    hints = _hints(kind)
    for name in hints if names is None else names:
        if name in values and not is_of(values[name], hints[name]):
            raise ValueError(f"{name} is {repr(values[name])[:100]}")


def misread(error: Exception) -> str:
    """Return what is wrong with a document, by what reading it raised.

    >>> misread(KeyError("layer")), misread(ValueError("depths is nan"))
    ("it has no 'layer'", 'depths is nan')
    >>> misread(TypeError("'NoneType' object is not iterable"))
    'an entry is missing, unknown or of another kind than it should be'
    """
    if isinstance(error, KeyError):
        return f"it has no {error}"
    if isinstance(error, (AttributeError, IndexError, TypeError)):
        return "an entry is missing, unknown or of another kind than it should be"
    return reason_in(error)


_hints = functools.cache(typing.get_type_hints)


def is_of(value: Any, kind: Any) -> bool:
    """Tell whether a value is of a type; a whole number is a float, too, and no bool is a number.

    >>> is_of({"a": [1.5, 2]}, dict[str, list[float]]), is_of(True, int)
    (True, False)
    >>> is_of((1, "N"), tuple[int | str, ...]), is_of([None], list[int])
    (True, False)
    """
    if kind is Any:
        return True
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin is types.UnionType:
        return any(is_of(value, one) for one in inner)
    if origin is dict:
        return isinstance(value, dict) and all(
            is_of(key, inner[0]) and is_of(one, inner[1]) for key, one in value.items()
        )
    if origin in (list, tuple):
        return isinstance(value, origin) and all(is_of(one, inner[0]) for one in value)
    if isinstance(value, bool):
        return kind is bool
    if isinstance(value, int):  # beyond, it would be no finite float, or no number of the machine
        return kind in (int, float) and abs(value) < 1 << (63 if kind is int else 1023)
    return isinstance(value, kind)
