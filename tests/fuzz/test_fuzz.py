"""A few seconds of each reader's fuzzing; the long one is `make fuzz`."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, once, only_deep
from tests.fuzz.readers import READERS

# For each reader.
SECONDS, RUNS = 1, 500

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("atheris") is None,
    reason="atheris is not installed: pip install 'onnxgraft[fuzz]'",
)


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with each reader's log, and the inputs that broke one in ``crashes``."""

    def make(folder: Path) -> None:
        subprocess.run(
            [
                # libFuzzer looks at the peak of memory, which begins with that of the parent.
                "sh", "-c", '"$@"; exit $?', "sh",
                sys.executable, "-m", "tests.fuzz.run", *READERS, "--seconds", str(SECONDS),
                "--runs", str(RUNS), "--seed", "1", "--crashes", folder / "crashes",
                "--logs", folder,
            ],
            cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
            timeout=300 + 3 * len(READERS) * SECONDS, capture_output=True, check=False,
        )  # fmt: skip

    return once(tmp_path_factory, "fuzzed", make)


@only_deep
@pytest.mark.parametrize("reader", READERS)
def test_nothing_new_breaks_a_reader(reader: str, fuzzed: Path) -> None:
    log = (fuzzed / f"{reader}.log").read_text(errors="replace")
    assert not list((fuzzed / "crashes").glob(f"{reader}-*")), log[-3000:]
    assert "stat::number_of_executed_units" in log, log[-3000:]
    assert "Done" in log, log[-3000:]
