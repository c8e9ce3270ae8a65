"""How a page of figures begins: what made it, when, and with which versions."""

from __future__ import annotations

import sys
from datetime import UTC, datetime

from onnxgraft.stages.engine.tensorrt.builder import gpu
from onnxgraft.stages.validate.report import versions

__all__ = ["heading", "made_by", "this_gpu"]


def heading(title: str, docstring: str | None, *words: str) -> str:
    """Return the title, what made the page, and what the benchmark's docstring tells of it.

    Args:
        title: Of the page.
        docstring: Of the benchmark: what it asks, the command, what it needs, and then what
            readers of the figures want to know.
        words: Of the command, behind the benchmark's name.
    """
    told = (docstring or "").split("\n\n", 3)[3].strip()
    return f"# {title}\n\n{made_by(*words)}\n\n{told}\n"


def made_by(*words: str, where: str = "", **others: str) -> str:
    """Return the sentence that says so.

    Args:
        words: Of the command, behind the benchmark's name.
        where: The machine, where `versions` does not say enough.
        others: Versions of what is not among `versions`.
    """
    spec = sys.modules["__main__"].__spec__
    command = " ".join(("python -m", spec.name if spec else "benchmarks", *words))
    known = ", ".join(f"{name} {version}" for name, version in (versions() | others).items())
    where = f", on {where}" if where else ""
    return f"Made by `{command}` on {datetime.now(UTC):%Y-%m-%d}{where}, with\n{known}."


def this_gpu() -> str:
    """Return what a page says of the first GPU; without one the benchmark ends here."""
    here = gpu()
    if here is None:
        raise SystemExit("there is no NVIDIA GPU here")
    return (
        f"{here['gpu']} (compute capability {here['compute capability']}, driver {here['driver']})"
    )
