"""Each command in a process of its own: what tests see of it here is what a user gets."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from onnxgraft.cli import COMMANDS
from tests.conftest import Cli, few
from tests.faults import COMMANDS as LINES
from tests.running import Done

INSPECT = "inspect {here}/m{v}.onnx"


def told(done: Done, out: Path) -> str:
    """Return what a command printed, without numbers, as it measures times, and tables' widths."""
    text = done.stdout.replace(str(out), "OUT")
    return re.sub(r"\s+", " ", re.sub(r"\d+(\.\d+)?(e[+-]\d+)?", "1", text))


@pytest.mark.parametrize("name", few([command.__name__ for command in COMMANDS], 3))
def test_a_process_of_its_own_gives_what_is_tested_here(
    name: str, inputs: Path, tmp_path: Path, cli: Cli, process: Cli
) -> None:
    line = LINES[name].words if name in LINES else INSPECT
    results = []
    for run in (process, cli):
        out = tmp_path / run.__name__
        out.mkdir()
        if name in LINES and (before := LINES[name].before) is not None:
            before(inputs, out)
        done = run(*line.format(v="a", here=inputs, out=out).split(), cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stderr == "" or name == "deploy"  # which tells of its stages
        if name in LINES:
            assert sorted(path.name for path in out.iterdir()) == sorted(LINES[name].made)
        results.append(told(done, out))
    assert results[0] == results[1]
    assert results[0]


@pytest.mark.parametrize(
    "words", [["validate"], ["inspect", "none.onnx"], ["bench", "--runs", "many"], ["bnech"]],
    ids=" ".join,
)  # fmt: skip
def test_a_refusal_is_the_same_too(
    words: list[str], tmp_path: Path, cli: Cli, process: Cli
) -> None:
    one, other = process(*words, cwd=tmp_path), cli(*words, cwd=tmp_path)
    assert one.returncode == other.returncode == 2
    assert one.stdout == other.stdout == ""
    own = f"{Path(sys.executable).name} -m onnxgraft"
    assert one.stderr.replace(own, "onnxgraft").split() == other.stderr.split()
