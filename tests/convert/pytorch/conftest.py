"""What the tests of PyTorch share; where it is not installed they are skipped."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from tests.conftest import once


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with programs, and what their modules computed before they were exported."""
    pytest.importorskip("torch")
    pytest.importorskip("onnxscript")

    def quietly(folder: Path) -> None:
        from tests.convert.pytorch.networks import make

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            make(folder)

    return once(tmp_path_factory, "pytorch", quietly)
