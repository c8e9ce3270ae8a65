"""Values of documents by the types that a dataclass declares, without pydantic."""

from __future__ import annotations

import functools
import typing
from collections.abc import Collection, Mapping
from typing import Any

__all__ = ["check_types", "is_of"]


def check_types(values: Mapping[str, Any], kind: type, names: Collection[str]) -> None:
    """Raise ValueError if a value is not of the type that a class declares for its name.

    Args:
        values: From a JSON.
        kind: The class, whose hints are plain types, lists and dicts of them.
        names: Those that are looked at.
    """
    hints = _hints(kind)
    for name in names:
        if name in values and not is_of(values[name], hints[name]):
            raise ValueError(f"{name} is {repr(values[name])[:100]}")


_hints = functools.cache(typing.get_type_hints)


def is_of(value: Any, kind: Any) -> bool:
    """Tell whether a value is of a type; a whole number is a float, too, and no bool is a number.

    >>> is_of({"a": [1.5, 2]}, dict[str, list[float]]), is_of(True, int)
    (True, False)
    """
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin is dict:
        return isinstance(value, dict) and all(
            is_of(key, inner[0]) and is_of(one, inner[1]) for key, one in value.items()
        )
    if origin is list:
        return isinstance(value, list) and all(is_of(one, inner[0]) for one in value)
    if isinstance(value, bool):
        return kind is bool
    if kind is float and isinstance(value, int):
        return abs(value) < 1 << 1023  # beyond, it would be no finite float
    return isinstance(value, kind)
