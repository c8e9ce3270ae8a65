"""Mutations of JSON: an entry is changed, and what comes of it can still be parsed."""

from __future__ import annotations

import json
import random
from typing import Any

__all__ = ["mutated"]

_VALUES = (
    None, True, 0, -1, 0.5, 1e308, -1e308, 1 << 63, 1 << 70, float("nan"), float("inf"), "", "x",
    "../x", "0", "é" * 300, [], {}, [0], [[]], {"x": 0}, ["x", 1],
)  # fmt: skip

# Entries of a list, or characters, up to which it is repeated.
_LONG = 50


def mutated(data: bytes, most: int, seed: int) -> bytes | None:
    """Return a JSON with one to three entries changed; None where that can't be or is too long.

    Args:
        data: A JSON.
        most: Bytes.
        seed: Of what is drawn.
    """
    rng = random.Random(seed)
    try:
        document = json.loads(data)
        for _ in range(rng.choice((1, 1, 2, 3))):
            document = _changed(document, rng)
        made = json.dumps(document).encode()
    except (ValueError, RecursionError, OverflowError):
        return None
    return made if len(made) <= most else None


def _changed(document: Any, rng: random.Random) -> Any:
    """Return a document with something changed: a value somewhere in it, or all of it."""
    root = [document]
    holder: Any = root
    key: Any = 0
    while isinstance(holder[key], dict | list) and holder[key] and rng.random() > 0.1:
        holder = holder[key]
        key = rng.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
    value = holder[key]
    kind = rng.randrange(7)
    if kind == 0 and holder is not root:
        del holder[key]
    elif kind == 1:
        holder[key] = rng.choice(list(holder.values()) if isinstance(holder, dict) else holder)
    elif kind == 2:
        holder[key] = [value]
    elif kind == 3 and isinstance(value, int | float):
        holder[key] = value * rng.choice((-1, 2, 1000))
    elif kind == 4 and isinstance(value, list | str) and len(value) < _LONG:
        holder[key] = value * rng.choice((2, 20))
    elif kind == 5 and isinstance(holder, dict):
        holder[rng.choice(["x", "", key * 2])] = value
    else:
        holder[key] = rng.choice(_VALUES)
    return root[0]
