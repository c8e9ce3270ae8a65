"""Damaged files of some kinds through the command line; with `make deep` of all."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT, in_ci, only_deep
from tests.fuzz.whole import KINDS

CODE = """
import json
from tests.fuzz.whole import tried
found = tried({count}, 0, {kinds}, sound={sound})
assert not found.wrong, "\\n".join(found.wrong)
assert sum(outcomes.total() for outcomes in found.outcomes.values()) == {count}
assert set(found.outcomes) == set({kinds})
"""
LIGHT = [name for name, kind in KINDS.items() if kind.needs == "onnx"]


@pytest.mark.parametrize(
    ("kinds", "count", "sound"),
    [
        (LIGHT[::3], len(LIGHT[::3]), False), pytest.param(list(KINDS), 100, True, marks=only_deep),
    ],
    ids=["some", "all"],
)  # fmt: skip
def test_a_damaged_file_ends_as_promised(kinds: list[str], count: int, sound: bool) -> None:
    in_ci()
    # In a process of its own: it forks one for each command, before anything has threads.
    done = subprocess.run(
        [sys.executable, "-c", CODE.format(kinds=kinds, count=count, sound=sound)], cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")}, capture_output=True, text=True,
        timeout=1800,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
