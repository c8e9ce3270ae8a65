"""Fixtures of the conversion tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.convert.graphs import Build, write


@pytest.fixture
def pb(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a graph as ``x.pb``."""

    def written(build: Build, **options: Any) -> Path:
        return write(tmp_path / "x.pb", build, **options)

    return written
