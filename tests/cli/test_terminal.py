"""What README's commands print on a terminal of 80 x 24."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from onnxgraft.cli import COMMANDS
from tests.conftest import ROOT, Cli
from tests.faults import COMMANDS as LINES
from tests.running import on_a_terminal
from tests.snippets import blocks

README = (ROOT / "README.md").read_text("utf-8")
LISTED = set(re.findall(r"^\| `onnxgraft ([\w-]+)", README, re.MULTILINE))
# It prints nothing until it is ended: tests/commands/test_serve.py.
NAMES = sorted(LISTED - {"serve"})
STYLE = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]|\x1b\][^\x1b\x07]*(?:\x07|\x1b\\)")
# Of what takes longer elsewhere.
SHORTER = {
    "inspect": "inspect {here}/ma.onnx",
    "quantize": "quantize {here}/ma.onnx --ranges {here}/ra.json --target onnxruntime "
    "--samples {here}/dataa.npz -o {out}/q.onnx",
}


def words(text: str, out: Path) -> set[str]:
    """Return the words of what was printed, without numbers: times differ."""
    return set(re.sub(r"\d+(\.\d+)?(e[+-]\d+)?", "1", text.replace(str(out), "OUT")).split())


@pytest.mark.parametrize("name", NAMES)
def test_what_a_command_prints_fits_and_breaks_no_word(
    name: str, inputs: Path, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onnxgraft.commands._deployment._Deployment._latency", lambda self: [])
    line = SHORTER.get(name) or LINES[name].words
    printed = []
    for run in (on_a_terminal, cli):
        out = tmp_path / f"{len(printed)}"
        out.mkdir()
        if name in LINES and (before := LINES[name].before) is not None:
            before(inputs, out)
        done = run(*line.format(v="a", here=inputs, out=out).split(), cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        printed.append((STYLE.sub("", done.stdout), out))
    shown, _ = printed[0]
    wide = [row for row in shown.splitlines() if len(row.rstrip()) > 80 and len(row.split()) > 1]
    assert not wide
    assert words(*printed[0]) == words(*printed[1])


def test_every_command_is_in_the_table_of_the_readme() -> None:
    hidden = {"init", "recipe_schema"}  # of recipes: README says where they are
    assert LISTED | hidden >= {command.__name__ for command in COMMANDS}


def test_the_lines_to_type_fit() -> None:
    typed = [row for block in blocks(README) if block.language == "sh"
             for row in block.text.splitlines()]  # fmt: skip
    assert typed
    assert [row for row in typed if len(row) > 80] == []
