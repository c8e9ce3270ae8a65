"""A few mutated ONNX files and TensorFlow graphs; more of them with `make fuzz`."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT

CODE = """
import json
from tests.fuzz.mutants import tried
outcomes, wrong = tried("{kind}", {count})
print("outcomes", json.dumps(outcomes))
assert not wrong, "\\n".join(wrong)
assert sum(outcomes.values()) == {count}
assert outcomes["converted"] > {count} / 20
assert outcomes["refused"] > {count} / 20
assert not outcomes["too long"]
assert not outcomes["too large"]
"""


@pytest.mark.parametrize(("kind", "count"), [("onnx", 60), ("tensorflow", 12)])
def test_a_mutant_ends_in_a_sentence_or_in_a_model(kind: str, count: int) -> None:
    if kind == "tensorflow":
        pytest.importorskip("tensorflow")
    # In a process of its own: it forks one for each mutant, before anything has threads.
    done = subprocess.run(
        [sys.executable, "-c", CODE.format(kind=kind, count=count)], cwd=ROOT, timeout=900,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
