"""What may be missing: imported where it is used, and named with the line that installs it."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from onnxgraft.errors import MissingDependencyError

__all__ = ["late", "optional"]


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


def late(package: str, places: Mapping[str, str]) -> Callable[[str], Any]:
    """Return the ``__getattr__`` of a package whose names are loaded when they are asked for.

    Args:
        package: Its name.
        places: Name -> the module in which it stands, such as ``.loading``; a name that is another
            there has it after a colon, ``.loading:load``.

    >>> late("os", {"joined": ".path:join"})("joined").__name__
    'join'
    """

    def get(name: str) -> Any:
        if name not in places:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        place, _, called = places[name].partition(":")
        with optional(f"onnxgraft's {name}"):
            module = importlib.import_module(place, package)
        return getattr(module, called or name)

    return get
