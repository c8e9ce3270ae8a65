"""Arrays for outputs that are used again once nobody holds them.

A fresh array of some megabytes costs the system's work for each of its pages, which is a good
part of a fast network's time; an array that is used again costs nothing.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from onnxgraft.graph.tensors import Array

__all__ = ["Buffers"]

Allocate = Callable[[tuple[int, ...], str], Array]


class Buffers:
    """A pool that knows from Python's reference counts which of its arrays are in use.

    Whoever holds an array, or a view of it, keeps it; nothing has to be given back.

    Args:
        allocate: Makes an array of a shape and a dtype.
        most: How many arrays of a kind are kept; beyond that they are fresh each time.
    """

    def __init__(self, allocate: Allocate = np.empty, most: int = 8) -> None:
        self._allocate = allocate
        self._most = most
        self._kept: dict[tuple[str, tuple[int, ...], str], list[Array]] = {}
        self._lock = threading.Lock()

    def take(self, name: str, shape: tuple[int, ...], dtype: str) -> Array:
        """Return an array that nobody else holds; its values are whatever they were."""
        with self._lock:
            kept = self._kept.setdefault((name, shape, dtype), [])
            index = _unused(kept)
            if index is not None:
                return kept[index]
            fresh = self._allocate(shape, dtype)
            if len(kept) < self._most:
                kept.append(fresh)
            return fresh


def _unused(kept: list[Any]) -> int | None:
    return next((i for i, entry in enumerate(map(_holders, kept)) if entry == _ALONE), None)


def _holders(entry: object) -> int:
    return sys.getrefcount(entry)


# What it says of an object that a list alone holds, asked the same way: the number differs between
# versions of Python.
_ALONE = next(map(_holders, [object()]))
