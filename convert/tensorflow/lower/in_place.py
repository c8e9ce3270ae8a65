"""tf2onnx's optimizers at work on its graph itself, and not on a deep copy for each of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

__all__ = ["in_place"]

T = TypeVar("T")


def in_place(convert: Callable[[], T]) -> T:
    """Return what a call of tf2onnx returns.

    It copies its graph before each of many steps, so as to go on without one that fails. The copies
    take much of the time, and hardly any step fails: where one does, or anything else, the call is
    made again as it would have been.
    """
    try:
        with _failing():
            return convert()
    except Exception:
        return convert()


@contextmanager
def _failing() -> Iterator[None]:
    """Let a step that fails end the conversion; the variable makes tf2onnx copy nothing."""
    from tf2onnx.constants import ENV_TF2ONNX_CATCH_ERRORS as name

    before = os.environ.get(name)
    os.environ[name] = "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
