"""The names that a GraphDef's nodes are fed by: ``a``, ``a:1`` and, for order alone, ``^a``."""

from __future__ import annotations

__all__ = ["full_name", "node_of"]


def node_of(name: str) -> str:
    """Return the node of an input."""
    return name.removeprefix("^").split(":")[0]


def full_name(name: str) -> str:
    """Return the tensor of an input, with its number."""
    return name if ":" in name else f"{name}:0"
