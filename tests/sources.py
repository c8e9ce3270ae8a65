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
    return [path for path in found if not any(parent.is_symlink() for parent in path.parents)]


def parsed(pattern: str, *more: str) -> Iterator[tuple[str, ast.Module]]:
    """Yield the files whose text has a regular expression: their names, and what they parse to."""
    for path in files(*more):
        text = path.read_text()
        if re.search(pattern, text):
            yield str(path.relative_to(ROOT)), ast.parse(text)
