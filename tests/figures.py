"""Figures in docs/: each script writes its own part of a page, between two marks."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

__all__ = ["PAGE", "part", "put", "today", "versions"]

PAGE = Path(__file__).parent.parent / "docs" / "security-figures.md"


def part(name: str, page: Path = PAGE) -> str:
    """Return what is between the marks of a part."""
    begin, end = _marks(name)
    return page.read_text().partition(begin)[2].partition(end)[0].strip()


def put(name: str, lines: Iterable[str], page: Path = PAGE) -> None:
    """Replace a part of the page, and print it."""
    begin, end = _marks(name)
    text = "\n".join(lines).strip()
    head, _, rest = page.read_text().partition(begin)
    _, _, tail = rest.partition(end)
    page.write_text(f"{head}{begin}\n{text}\n{end}{tail}")
    print(text)


def today() -> str:
    """Return the date."""
    return datetime.now(UTC).date().isoformat()


def versions(*packages: str) -> str:
    """Return what was running, in a sentence."""
    told = [f"python {platform.python_version()}", f"machine {platform.machine()}"]
    for package in ("onnxgraft", *packages):
        try:
            told.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            told.append(f"{package} not installed")
    return f"{today()}, with {', '.join(told)}, {sys.platform}."


def _marks(name: str) -> tuple[str, str]:
    return f"<!-- {name}: made by a script -->", f"<!-- end of {name} -->"
