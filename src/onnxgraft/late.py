"""Names of a package whose modules are loaded when a name is first asked for."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

from onnxgraft.optional import optional

__all__ = ["late"]


def late(package: str, places: Mapping[str, str]) -> Callable[[str], Any]:
    """Return the ``__getattr__`` of a package.

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
