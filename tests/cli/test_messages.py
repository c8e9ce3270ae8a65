"""What a command says while it works: on standard error, in a file, and by Python's logging."""

import json
import logging
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from onnxgraft import progress
from tests.conftest import Cli, once
from tests.faults import prepare

STAGES = [
    "original", "data", "original, run on samples", "convert",
    "convert, compared with the original", "surgery", "calibrate", "quantize for onnxruntime",
    "build for onnxruntime", "validate", "layers", "bench", "graphs",
]  # fmt: skip


@pytest.fixture(scope="module")
def deployed(cli: Cli, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a recipe and what it was deployed to, with what was told."""

    def make(folder: Path) -> None:
        prepare(folder)
        with (folder / "a.toml").open("a") as recipe:
            recipe.write("[quantize]\nimprove = []\n")
        done = cli("deploy", folder / "a.toml", "-o", folder / "out")
        assert done.returncode == 0, done.stderr
        (folder / "told").write_text(done.stderr)

    return once(tmp_path_factory, "messages", make)


def test_off_a_terminal_there_is_a_line_for_each_stage(deployed: Path) -> None:
    *lines, last = (deployed / "told").read_text().splitlines()
    found = [re.fullmatch(r"onnxgraft deploy: (.*): \d+\.\d s", line) for line in lines]
    assert [match and match[1] for match in found] == STAGES
    assert re.fullmatch(rf"onnxgraft deploy: kept for the next run: {deployed}/out.kept .*", last)


def test_stages_that_are_taken_over_are_told(deployed: Path, cli: Cli) -> None:
    told = cli("deploy", deployed / "a.toml", "-o", deployed / "out").stderr
    assert re.search(r"^onnxgraft deploy: calibrate: taken over from 20\d\d-.* \(0\.\d s\)$", told,
                     re.MULTILINE)  # fmt: skip


def test_the_result_is_the_same_however_much_is_told(deployed: Path, cli: Cli) -> None:
    call = ("deploy", deployed / "a.toml", "-o", deployed / "out")
    usual, quiet, verbose = (cli(*call, *more) for more in ((), ("-q",), ("-v",)))
    told = {  # but for the seconds, and how wide they are
        " ".join(re.sub(r"\d+\.\d\b", "1", done.stdout).split()) for done in (usual, quiet, verbose)
    }
    assert len(told) == 1
    assert quiet.stderr == ""
    assert len(verbose.stderr.splitlines()) > len(usual.stderr.splitlines())


def test_more_and_less_at_once_is_refused(deployed: Path, cli: Cli) -> None:
    done = cli("inspect", deployed / "ma.onnx", "-v", "-q")
    assert done.returncode == 2
    assert "-v says more and -q says less" in done.stderr


def test_a_file_gets_everything_with_times_and_the_error(
    deployed: Path, tmp_path: Path, cli: Cli
) -> None:
    log = tmp_path / "log"
    call = ("calibrate", deployed / "ma.onnx", "-o", tmp_path / "r.json", "--log-file", log, "-q")
    assert cli(*call, "--data", deployed / "dataa.npz").returncode == 0
    assert re.search(r"^20\d\d-\S+ \S+ onnxgraft calibrate: calibrating$", log.read_text(), re.M)
    done = cli(*call, "--data", tmp_path / "none.npz")
    assert done.returncode == 2
    assert done.stderr.startswith("onnxgraft calibrate: ")  # errors are told by -q too
    assert "InputError" in log.read_text().splitlines()[-1]


def test_where_a_file_can_not_be_written_is_told_before_the_work(
    deployed: Path, tmp_path: Path, cli: Cli
) -> None:
    done = cli("inspect", deployed / "ma.onnx", "--log-file", tmp_path / "none/log")
    assert done.returncode == 2
    assert "there is no folder" in done.stderr


def test_what_is_no_file_takes_no_messages(deployed: Path, tmp_path: Path, cli: Cli) -> None:
    os.mkfifo(tmp_path / "log")
    done = cli("inspect", deployed / "ma.onnx", "--log-file", tmp_path / "log")
    assert done.returncode == 2
    assert "log: is a FIFO" in done.stderr
    assert (tmp_path / "log").is_fifo()


def test_messages_are_added_to_no_file_but_a_log(deployed: Path, tmp_path: Path, cli: Cli) -> None:
    for name, held in (("net.onnx", (deployed / "ma.onnx").read_bytes()), ("x.bin", b"a\0b")):
        (tmp_path / name).write_bytes(held)
        done = cli("inspect", deployed / "ma.onnx", "--log-file", tmp_path / name)
        assert done.returncode == 2
        assert f"--log-file {tmp_path / name}: is no text that can be added to" in done.stderr
        assert (tmp_path / name).read_bytes() == held
    (tmp_path / "log").write_text("what was there\n")
    done = cli("inspect", deployed / "ma.onnx", "--log-file", tmp_path / "log", "-v")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "log").read_text().startswith("what was there\n")


def test_a_warning_is_told_by_all_but_the_quiet(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    for quiet in (False, True):
        with progress.reporting("infer", verbose=False, quiet=quiet, file=None):
            progress.logger.warning("an engine\nfor another processor")
        told = "onnxgraft infer: warning: an engine for another processor\n"
        assert capsys.readouterr().err == ("" if quiet else told)


def test_a_long_work_has_a_line_a_minute(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "_MINUTE", 0.01)
    told = ""
    with (
        progress.reporting("quantize", verbose=False, quiet=False, file=None),
        progress.told("quantize for openvino"),
    ):
        for _ in progress.track(range(2), "mix 1 of at most 24", 2):
            deadline = time.monotonic() + 30
            while "1 of 2" not in told and time.monotonic() < deadline:
                time.sleep(0.01)
                told += capsys.readouterr().err
                if "0 of 2" in told:
                    break
    wanted = (
        r"^onnxgraft quantize: quantize for openvino; mix 1 of at most 24, [01] of 2 \(0 min\)$"
    )
    assert re.search(wanted, told, re.MULTILINE)


def test_pythons_logging_gets_the_stages(
    deployed: Path, caplog: pytest.LogCaptureFixture, cli: Cli
) -> None:
    import onnxgraft

    caplog.set_level(logging.DEBUG, "onnxgraft")
    onnxgraft.deploy(deployed / "a.toml", deployed / "out")
    told = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert ("DEBUG", "calibrate") in told  # it begins
    assert any(level == "INFO" and text.startswith("calibrate: ") for level, text in told)


def test_python_hears_nothing_that_it_did_not_ask_for(
    deployed: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    import onnxgraft

    onnxgraft.deploy(deployed / "a.toml", deployed / "out")
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("words", [["inspect", "a.onnx"], ["--json", "build", "a.onnx"]])
def test_an_interrupt_before_a_command_began_is_told(words: list[str]) -> None:
    """Its packages are still being imported then."""
    code = """
import sys

class Interrupts:
    def find_spec(self, name, path=None, target=None):
        if name == "onnxgraft.cli._graph":
            sys.meta_path.remove(self)
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interrupts())
from onnxgraft.__main__ import main
main()
"""
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    assert done.returncode == 130
    name = next(word for word in words if not word.startswith("-"))
    assert done.stderr == f"onnxgraft {name}: interrupted\n"
    if "--json" in words:
        assert json.loads(done.stdout)["exit_status"] == 130
    else:
        assert not done.stdout
