"""The product's own code, for tests of what it must not have in more than one place."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from tests.conftest import ROOT

FOLDERS = ("src/onnxgraft", "convert", "surgery", "quantize", "engine", "validate")


def files(*more: str) -> list[Path]:
    """Return the product's files, each once, and those of more folders."""
    found = [path for name in (*FOLDERS, *more) for path in sorted((ROOT / name).rglob("*.py"))]
    found = [path for path in found if not any(map(Path.is_symlink, _within(path)))]
    assert len(found) > 100
    return found


def _within(path: Path) -> list[Path]:
    """Return the folders of the checkout that a file is in."""
    return [parent for parent in path.parents if parent.is_relative_to(ROOT) and parent != ROOT]


def parsed(pattern: str, *more: str) -> Iterator[tuple[str, ast.Module]]:
    """Yield the files whose text has a regular expression: their names, and what they parse to."""
    for path in files(*more):
        text = path.read_text()
        if re.search(pattern, text):
            yield str(path.relative_to(ROOT)), ast.parse(text)
