"""What scripts and shells rely on: objects for errors, the version, completion, the width."""

from __future__ import annotations

import errno
import json
import subprocess
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest

from onnxgraft import commands
from onnxgraft.cli import COMMANDS
from onnxgraft.cli._completion import SHELLS, VARIABLE
from onnxgraft.errors import OnnxgraftError, advice_in
from tests.conftest import Cli, model_of
from tests.running import Done

NAMES = [command.__name__.replace("_", "-") for command in COMMANDS]


def object_of(done: Done) -> dict[str, object]:
    """Return the one object that a failed command printed, which agrees with its sentence."""
    told = json.loads(done.stdout)
    assert set(told) == {"passed", "command", "error", "advice", "exit_status"}
    assert told["passed"] is False
    assert told["exit_status"] == done.returncode
    assert told["advice"]
    assert str(told["error"]) in done.stderr
    assert len(done.stderr.splitlines()) == 1
    return dict(told)


def test_the_version_is_printed(cli: Cli) -> None:
    assert cli("--version").stdout == f"onnxgraft {metadata.version('onnxgraft')}\n"


@pytest.mark.parametrize("name", NAMES)
def test_h_is_help(name: str, cli: Cli) -> None:
    done = cli(name, "-h")
    assert done.returncode == 0
    assert done.stdout == cli(name, "--help").stdout


@pytest.mark.parametrize(
    ("words", "command", "error"),
    [
        (["inspect", "none.onnx"], "inspect", "none.onnx: the model does not exist"),
        (["build", "none.onnx"], "build", "Missing option '-o'"),
        (["build", "none.onnx", "--nope"], "build", "No such option: --nope"),
        (["bench", "none", "--runs", "many"], "bench", "Invalid value for '--runs'"),
        (["bnech"], "", "No such command 'bnech'"),
        ([], "", "No such option: --json"),
    ],
    ids=["input", "missing", "option", "value", "command", "nothing"],
)
def test_an_error_is_one_object(
    words: list[str], command: str, error: str, tmp_path: Path, cli: Cli
) -> None:
    done = cli(*words, "--json", cwd=tmp_path)
    assert done.returncode == 2
    told = object_of(done)
    assert told["command"] == command
    assert error in str(told["error"])


def test_without_json_nothing_is_on_standard_output(cli: Cli) -> None:
    assert cli("inspect", "none.onnx").stdout == ""
    assert cli("bnech").stdout == ""


def test_json_behind_two_dashes_is_a_file(cli: Cli) -> None:
    done = cli("inspect", "--", "--json")
    assert done.stdout == ""
    assert "--json: the model does not exist" in done.stderr


@pytest.mark.parametrize(
    ("raised", "status", "words"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (MemoryError(), 2, "memory ran out"),
        (ZeroDivisionError("a bug"), 70, "internal error, ZeroDivisionError: a bug"),
        (OSError(errno.EMFILE, "Too many open files"), 2, "no more: Too many open files; free"),
        (OSError(errno.ENOSPC, "No space left", "/a/b"), 2, "no more for /a/b: No space left"),
        (OSError(errno.ENAMETOOLONG, "too long", "n" * 300), 2, "takes no names that long"),
        (OSError(errno.EBADF, "Bad file"), 70, "internal error, OSError"),
    ],
    ids=["interrupted", "memory", "internal", "files", "disk", "name", "ours"],
)
def test_whatever_goes_wrong_is_an_object(
    raised: BaseException, status: int, words: str, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise raised

    monkeypatch.setattr(commands, "inspect", broken)
    done = cli("inspect", "net.onnx", "--json")
    assert done.returncode == status
    assert words in str(object_of(done)["error"])


def test_what_is_stopped_at_a_limit_is_an_object(tmp_path: Path, process: Cli) -> None:
    model_of("n (float[N, 4] x) => (float[N, 4] y) { y = Relu(x) }").save(tmp_path / "n.onnx")
    done = process("inspect", tmp_path / "n.onnx", "--json", "--max-seconds", "0.01")
    assert done.returncode == 2
    told = object_of(done)
    assert "did not end within the 0.01 s" in str(told["error"])
    assert told["advice"] == "allow more, or less work"


def test_a_missing_package_has_its_line_as_advice() -> None:
    advice = advice_in("Reading it needs tensorflow: pip install 'onnxgraft[tensorflow]'")
    assert advice == "pip install 'onnxgraft[tensorflow]'"
    assert advice_in(str(OnnxgraftError("m.onnx: is empty"))) == ""


COMPLETED = {
    "onnxgraft bui": {"build"},
    "onnxgraft build x.onnx --target ": {"tensorrt", "openvino", "onnxruntime"},
    "onnxgraft deploy x.onnx --targets openvino,o": {"openvino,onnxruntime"},
    "onnxgraft calibrate x.onnx --method per": {"percentile"},
    "onnxgraft quantize x.onnx --show-": {"--show-placement"},
}


@pytest.fixture
def completions(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], str]:
    """Return a function that asks as the script of a shell does."""

    def ask(shell: str, line: str) -> str:
        for name, value in {
            VARIABLE: f"complete_{shell}", "COMP_WORDS": line, "COMP_CWORD": str(line.count(" ")),
            "_TYPER_COMPLETE_ARGS": line, "_TYPER_COMPLETE_FISH_ACTION": "get-args",
        }.items():  # fmt: skip
            monkeypatch.setenv(name, value)
        return str(cli().stdout)

    return ask


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("line", COMPLETED)
def test_a_shell_gets_what_completes_a_word(
    line: str, shell: str, completions: Callable[[str, str], str]
) -> None:
    told = completions(shell, line)
    for word in COMPLETED[line]:
        assert word in told
    if shell == "bash":
        assert set(told.split()) == COMPLETED[line]


@pytest.mark.parametrize("shell", SHELLS)
def test_files_are_left_to_the_shell(shell: str, completions: Callable[[str, str], str]) -> None:
    assert completions(shell, "onnxgraft inspect ").strip() in ("", "_files")


@pytest.mark.parametrize("shell", SHELLS)
def test_the_script_of_a_shell_asks_this_command(shell: str, cli: Cli) -> None:
    done = cli("--show-completion", shell)
    assert done.returncode == 0
    assert f"_ONNXGRAFT_COMPLETE=complete_{shell}" in done.stdout


def test_bash_takes_the_script(tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "script").write_text(cli("--show-completion", "bash").stdout)
    told = subprocess.run(
        ["bash", "--norc", "-c", f". {tmp_path}/script; complete -p onnxgraft"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert "-o default" in told
    assert "onnxgraft" in told


def test_another_shell_is_refused(cli: Cli) -> None:
    done = cli("--show-completion", "tcsh")
    assert done.returncode == 2
    assert "there are: bash, zsh, fish" in " ".join(done.stderr.replace("│", " ").split())
