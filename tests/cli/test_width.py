"""80 columns are enough: nothing is wider, and no line is broken within a word."""

from __future__ import annotations

import inspect
import io
import re
from pathlib import Path
from typing import Literal, get_args, get_origin

import pytest
from rich.console import Console

from onnxgraft import commands
from onnxgraft.cli import COMMANDS, _failing
from onnxgraft.cli import _printing as show
from onnxgraft.commands._bench import SpeedUp
from onnxgraft.data.ranges import Range, Ranges
from onnxgraft.errors import wrapped
from onnxgraft.stages.validate import render
from onnxgraft.stages.validate.report import CandidateRow, LatencyRow, OutputRow, Report
from onnxgraft.terminal import say
from tests.conftest import Cli, model_of

WIDTH = 80
BY_NAME = {command.__name__.replace("_", "-"): command for command in COMMANDS}
LONG = "encoder/block_17/separable_convolution_with_a_long_name/depthwise/BiasAdd_requantized:0"


def said(parameter: inspect.Parameter) -> set[str]:
    """Return the words that stand in the help of a parameter, none of which may be broken."""
    kind, *told = get_args(parameter.annotation)
    option = next(one for one in told if hasattr(one, "help"))
    names = [part for name in option.param_decls or () for part in name.split("/")]
    choices = get_args(kind) if get_origin(kind) is Literal else ()
    given = option.metavar or (f"<{'|'.join(choices)}>" if choices else "")
    text = (option.help or "").replace("\\[", "[")
    return {*(name for name in names if name.startswith("-")), *given.split(), *text.split()}


@pytest.mark.parametrize("name", BY_NAME)
def test_a_help_page_fits_and_breaks_no_word(name: str, cli: Cli) -> None:
    page = cli(name, "--help").stdout
    assert max(map(len, page.splitlines())) <= WIDTH
    assert "…" not in page
    words = set(re.sub("[│╭╮╰╯─]", " ", page).split())
    for option in inspect.signature(BY_NAME[name]).parameters.values():
        assert said(option) <= words, option.name


def test_the_list_of_commands_fits(cli: Cli) -> None:
    page = cli("--help").stdout
    assert max(map(len, page.splitlines())) <= WIDTH
    assert "…" not in page


def screen() -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=WIDTH, color_system=None)


def lines_of(console: Console) -> list[str]:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def fits(lines: list[str]) -> None:
    """Assert that no line is wider, but for a word that is."""
    for line in lines:
        assert len(line.rstrip()) <= WIDTH or len(line.split()) == 1, line


def test_what_is_said_on_a_terminal_is_broken_between_words() -> None:
    console = screen()
    text = f"  note: the tensor {LONG} has a range that moved by more than a tenth of itself"
    say(console, text)
    fits(lines_of(console))
    assert LONG in " ".join(lines_of(console)).split()
    assert " ".join(lines_of(console)).split() == text.split()


def test_off_a_terminal_a_line_stays_one() -> None:
    console = Console(file=io.StringIO(), width=WIDTH)
    text = "  note: " + 30 * "word "
    say(console, text.rstrip())
    assert lines_of(console) == [text.rstrip()]


def test_inspect_fits_a_terminal(tmp_path: Path) -> None:
    names = {f"{LONG}{n}": Range(-1.25, 2.5, -3, 4, "mse") for n in range(3)}
    Ranges("mse", 7, "0" * 64, "", "images/", names, notes=["word " * 30]).save(tmp_path / "r")
    model_of("n (float[N, 4] x) => (float[N, 4] y) { y = Relu(x) }").save(tmp_path / "n.onnx")
    for name in ("r", "n.onnx"):
        console = screen()
        show.inspection(commands.inspect(tmp_path / name), console)
        fits(lines_of(console))


def test_latencies_fit_a_terminal_and_no_name_is_broken() -> None:
    names = (f"deployed/{LONG}.engine", "openvino int8")
    rows = [
        LatencyRow(name, batch, 123.45, 124.56, 125.67, 50) for name in names for batch in (1, 64)
    ]
    ratios = [SpeedUp(original=12.34, fp32=23.45) for _ in rows]
    console = screen()
    show.benched(commands.Benched(rows, ratios, []), console)
    lines = lines_of(console)
    fits(lines)
    assert lines.count(names[0]) == 2
    assert all(line.endswith("23.45x") for line in lines if "123.45" in line)


def test_a_report_fits_a_terminal() -> None:
    row = OutputRow(LONG, 1e-3, 1e-4, 1e-5, 1e-3, 1e-4, 0.9999, 41.0, 43.0, 0.99, 0)
    candidates = [
        CandidateRow(name, [row], {"miou": 61.5}, {"road": 90.0, LONG: 1.0}, True, "word " * 30)
        for name in ("original", "openvino int8")
    ]
    report = Report(title=LONG, source="m.pb", candidates=candidates)
    report.notes.append(f"the layer {LONG} was left in float, as its range is not known")
    console = screen()
    render(report, console)
    fits(lines_of(console))
    said = " ".join(lines_of(console)).split()
    assert LONG in said or f"{LONG}," in said


def test_a_sentence_of_an_error_is_broken_on_a_terminal_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sentence = f"{LONG}: is an engine, and no model; name the model that it was built from"
    told = {}
    for terminal in (True, False):
        stream = io.StringIO()
        monkeypatch.setattr(stream, "isatty", lambda terminal=terminal: terminal)
        monkeypatch.setattr("sys.stderr", stream)
        monkeypatch.setenv("COLUMNS", str(WIDTH))
        _failing.tell("inspect", sentence)
        told[terminal] = stream.getvalue().splitlines()
    assert told[False] == [f"onnxgraft inspect: {sentence}"]
    fits(told[True])
    assert " ".join(told[True]).split() == told[False][0].split()


@pytest.mark.parametrize("width", [1, 10, 40, 80])
def test_words_stay_whole_at_any_width(width: int) -> None:
    text = f"    in float: {LONG} (a layer that-is-hyphenated)"
    assert wrapped(text, width).split() == text.split()
