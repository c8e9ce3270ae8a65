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
    """Return what a command printed, without what hangs on the times that it measured.

    That is all numbers, tables' widths, and that an engine is slower than the float graph.
    """
    text = re.sub(r"\s+", " ", done.stdout.replace(str(out), "OUT"))
    text = re.sub(r"note: \S+ \S+ is slower here than .*? for a batch of \d+ ", "", text)
    return re.sub(r"\d+(\.\d+)?(e[+-]\d+)?", "1", text)


def test_that_an_engine_was_slower_is_left_out(tmp_path: Path) -> None:
    slower = "note: onnxruntime int8 is slower here than onnxruntime fp32:\n0.31 ms against 0.30"
    text = f"moved: 1e-3\n{slower} for a batch of 1\nnote: 48 images\n"
    assert told(Done([], 0, text, ""), tmp_path) == "moved: 1 note: 1 images "


@pytest.mark.parametrize("name", few([command.__name__ for command in COMMANDS], 3, 7))
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
