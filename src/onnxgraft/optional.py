"""Optional dependencies: imported where they are used, and named with their install line."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from onnxgraft.errors import MissingDependencyError

__all__ = ["optional"]


@contextlib.contextmanager
def optional(purpose: str, extra: str) -> Iterator[None]:
    """Turn a failed import inside the block into the line that installs the package.

    Args:
        purpose: What needs the package, as the beginning of a sentence.
        extra: The extra of onnxgraft that brings it.

    Raises:
        MissingDependencyError: A module that the block imports is not there.

    >>> with optional("Reading a frozen graph", "tensorflow"):
    ...     import no_such_module
    Traceback (most recent call last):
    onnxgraft.errors.MissingDependencyError: Reading a frozen graph needs no_such_module: \
pip install 'onnxgraft[tensorflow]'
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"{purpose} needs {error.name}: pip install 'onnxgraft[{extra}]'"
        ) from error
