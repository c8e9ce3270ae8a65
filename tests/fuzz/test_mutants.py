"""A few mutated ONNX networks; in CI of each framework, and many with `make fuzz`."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT, only_deep

CODE = """
import json
from tests.fuzz.mutants import tried
found = tried("{kind}", {count})
print("outcomes", json.dumps(found.outcomes), found.peak)
assert not found.wrong, "\\n".join(found.wrong)
assert sum(found.outcomes.values()) == {count}
assert found.outcomes["converted"] > {count} / 20
assert found.outcomes["refused"] > {count} / 20
assert not found.outcomes["too long"]
assert not found.outcomes["too large"]
assert found.peak < {peak}
"""


# TensorFlow alone is half a gigabyte.
@pytest.mark.parametrize(
    ("kind", "count", "peak"),
    [
        ("onnx", 15, 1_000_000),
        pytest.param("tensorflow", 10, 2_000_000, marks=only_deep),
        pytest.param("caffe", 15, 1_000_000, marks=only_deep),
    ],
    ids=["onnx", "tensorflow", "caffe"],
)
def test_a_mutant_ends_in_a_sentence_or_in_a_model(kind: str, count: int, peak: int) -> None:
    if kind == "tensorflow":
        pytest.importorskip("tensorflow")
    # In a process of its own: it forks one for each mutant, before anything has threads.
    done = subprocess.run(
        [sys.executable, "-c", CODE.format(kind=kind, count=count, peak=peak)], cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")}, capture_output=True, text=True,
        timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
