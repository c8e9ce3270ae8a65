"""Damaged files of every kind through the command line."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.conftest import ROOT, only_deep

CODE = """
from tests.fuzz.whole import KINDS, tried
found = tried(100, 0, list(KINDS), sound=True)
assert not found.wrong, "\\n".join(found.wrong)
assert sum(outcomes.total() for outcomes in found.outcomes.values()) == 100
assert set(found.outcomes) == set(KINDS)
"""


@only_deep
def test_a_damaged_file_ends_as_promised() -> None:
    # In a process of its own: it forks one for each command, before anything has threads.
    done = subprocess.run(
        [sys.executable, "-c", CODE], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        capture_output=True, text=True, timeout=1800,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
