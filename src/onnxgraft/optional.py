"""What may be missing: imported where it is used, and named with the line that installs it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from onnxgraft.errors import MissingDependencyError

__all__ = ["optional"]


@contextlib.contextmanager
def optional(purpose: str, extra: str = "") -> Iterator[None]:
    """Turn a failed import inside the block into the line that installs the package.

    Args:
        purpose: What needs the package, as the beginning of a sentence.
        extra: The extra of onnxgraft that brings it; none for what onnxgraft itself needs, which
            may be left out where engines are only run.

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
        if (error.name or "").partition(".")[0] == "onnxgraft":
            raise
        wanted = f"'onnxgraft[{extra}]'" if extra else "onnxgraft"
        raise MissingDependencyError(
            f"{purpose} needs {error.name}: pip install {wanted}"
        ) from error
