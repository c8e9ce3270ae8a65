"""Standard output and error that are closed, full or read no further, and what libraries print."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from onnxgraft import commands
from tests.conftest import ROOT, Cli, model_of

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT / "src")}


@pytest.fixture
def net(tmp_path: Path) -> Path:
    model_of("net (float[N, 4] x) => (float[N, 4] y) { y = Relu(x) }").save(tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


def in_a_shell(line: str, **names: object) -> subprocess.CompletedProcess[str]:
    """Run a line of bash; a word in capitals is what was given, RUN the command."""
    words = {"RUN": f"{sys.executable} -m onnxgraft", **names}
    for name, value in words.items():
        line = line.replace(name, str(value))
    return subprocess.run(
        ["bash", "-c", line], env=ENVIRONMENT, capture_output=True, text=True, timeout=300
    )


@pytest.mark.parametrize("words", ["inspect NET", "inspect NET --json", "--help"])
def test_a_full_disk_behind_standard_output_is_told(words: str, net: Path) -> None:
    done = in_a_shell(f"RUN {words} > /dev/full", NET=net)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "standard output can't be written (No space left on device)" in done.stderr


@pytest.mark.parametrize("option", ["", " --json"])
def test_who_reads_no_further_ends_it_as_sigpipe_would(option: str, net: Path) -> None:
    """1 would say that a comparison failed."""
    done = in_a_shell(f"RUN inspect NET{option} | true; exit ${{PIPESTATUS[0]}}", NET=net)
    assert done.returncode == 141
    assert done.stderr == ""


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_what_the_caller_closed_is_no_place_for_a_file(
    closed: str, net: Path, tmp_path: Path
) -> None:
    done = in_a_shell(f"RUN convert NET -o OUT {closed}", NET=net, OUT=tmp_path / "out.onnx")
    assert done.returncode == 0, done.stderr
    assert in_a_shell("RUN inspect OUT", OUT=tmp_path / "out.onnx").returncode == 0
    assert in_a_shell(f"RUN inspect none.onnx {closed}").returncode == 2


def test_standard_error_that_can_not_be_written_changes_no_status() -> None:
    assert in_a_shell("RUN inspect none.onnx 2> /dev/full").returncode == 2


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_what_the_encoding_lacks_is_written_escaped(encoding: str, tmp_path: Path) -> None:
    model = model_of("net (float[N, 4] x) => (float[N, 4] y) { y = Relu(x) }")
    model.save(tmp_path / "net→.onnx")
    done = in_a_shell(
        f"PYTHONIOENCODING={encoding} RUN convert NET -o OUT", NET=tmp_path / "net→.onnx",
        OUT=tmp_path / "out→.onnx",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "out\\u2192.onnx" in done.stdout


def test_what_a_library_prints_is_not_in_the_json(
    net: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    inspect = commands.inspect

    def chatty(*words: object, **more: object) -> object:
        print("from Python")
        os.write(1, b"from C\n")
        ctypes.CDLL(None).puts(b"from C, written later")
        return inspect(*words, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(commands, "inspect", chatty)
    done = cli("inspect", net, "--json")
    assert json.loads(done.stdout)["framework"] == "onnx"
    for words in ("from Python", "from C", "from C, written later"):
        assert f"{words}\n" in done.stderr
    assert "from Python" in cli("inspect", net).stdout
