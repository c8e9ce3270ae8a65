"""What the user trusts of the files that he names: all of it, or what he named with ``--trust``."""

from __future__ import annotations

import shlex
from collections.abc import Collection
from typing import TypeAlias

__all__ = ["Trust", "offer", "trusts"]

# Everything, nothing, or what is named so.
Trust: TypeAlias = bool | str | Collection[str]


def trusts(trust: Trust, *names: str) -> bool:
    """Tell whether something that goes by any of ``names`` is trusted.

    >>> trusts(True, "twice"), trusts(["twice"], "twice", "Lambda"), trusts("twice", "thrice")
    (True, True, False)
    """
    if isinstance(trust, bool):
        return trust
    named = {trust} if isinstance(trust, str) else set(trust)
    return not named.isdisjoint(filter(None, names))


def offer(name: str) -> str:
    """Return the end of a refusal: how what goes by ``name`` is allowed.

    >>> offer("my layer")
    "--trust allows it, and --trust='my layer' nothing else"
    """
    return f"--trust allows it, and --trust={shlex.quote(name)} nothing else"
