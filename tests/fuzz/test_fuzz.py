"""A few seconds of each reader's fuzzing; the long one is `make fuzz`."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.fuzz.readers import READERS

SECONDS, RUNS = 3, 2000


@pytest.mark.skipif(
    importlib.util.find_spec("atheris") is None,
    reason="atheris is not installed: pip install 'onnxgraft[fuzz]'",
)
@pytest.mark.parametrize("reader", READERS)
def test_nothing_new_breaks_a_reader(reader: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [
            # libFuzzer looks at the peak of memory, which begins with that of the parent: pytest's.
            "sh", "-c", '"$@"; exit $?', "sh",
            sys.executable, "-m", "tests.fuzz.run", reader, "--seconds", str(SECONDS),
            "--runs", str(RUNS), "--seed", "1", "--crashes", tmp_path,
        ],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT / "src")}, timeout=300,
        capture_output=True, text=True, errors="replace",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "stat::number_of_executed_units" in done.stderr
    assert not list(tmp_path.iterdir())
