"""Objects and progress in a notebook: small, escaped, with nothing fetched."""

from __future__ import annotations

import sys
from html.parser import HTMLParser
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from onnxgraft import progress
from onnxgraft.data.ranges import Range, Ranges
from onnxgraft.graph.model import Model, Source
from onnxgraft.run.verdicts import Verdict, hold
from onnxgraft.stages.validate.report import CandidateRow, LatencyRow, Report
from tests.conftest import model_of

EVIL = "<script>alert('x')</script><img src=http://evil.example/a.png onerror=alert(1)>"


def model() -> Model:
    made = model_of("n (float[N, 4] x) => (float[N, 4] y) { y = Relu(x) }")
    made.graph.inputs[0].name = EVIL
    made.source = Source(EVIL, "tensorflow", "0" * 64)
    return made


def ranges(count: int = 3) -> Ranges:
    tensors = {f"{EVIL}{n}": Range(-1, 2, -3, 4, EVIL) for n in range(count)}
    return Ranges("mse", 7, "0" * 64, "", EVIL, tensors, notes=[EVIL])


def report() -> Report:
    rows = [
        CandidateRow(name, [], {EVIL: 61.53}, {}, passed, EVIL)
        for name, passed in (("original", True), (EVIL, False))
    ]
    latency = [LatencyRow(EVIL, 1, 2.5, 3.0, 4.0, 10)]
    return Report(title=EVIL, source=EVIL, candidates=rows, latency=latency, notes=[EVIL])


SHOWN: dict[str, tuple[Any, tuple[str, ...]]] = {
    "model": (model(), ("1 node", "1 Relu", "float32")),
    "ranges": (ranges(), ("mse ranges of 3 tensors, 7 samples", "<td>-1</td>")),
    "report": (report(), ("FAIL", "61.53", "2.50", "Latency")),
    "verdict": (Verdict(EVIL, False, 0.5, 0.1, 0.01, EVIL), ("FAIL", "5.0e-01", "1.0e-02")),
}


class Tags(HTMLParser):
    """Collects what a page consists of."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag != "br":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.mark.parametrize("name", SHOWN)
def test_an_object_is_shown_and_a_strangers_words_are_text(name: str) -> None:
    shown, words = SHOWN[name]
    page = shown._repr_html_()
    for word in words:
        assert word in page
    found = Tags(page)
    assert found.tags <= {"div", "b", "br", "table", "tr", "th", "td"}
    assert found.attributes == set()
    assert found.open == []
    assert "&lt;script&gt;" in page


def test_a_verdict_that_was_made_is_shown() -> None:
    value = np.arange(4, dtype=np.float32)
    (verdict,) = hold({"y": value}, {"y": value})
    assert "y: pass" in verdict._repr_html_()


def test_a_large_table_is_cut() -> None:
    page = ranges(5000)._repr_html_()
    assert "and 4970 more" in page
    assert len(page) < 50_000


class Display:
    """What a notebook shows of the pages that it is given."""

    def __init__(self) -> None:
        self.pages: list[str] = []

    def update(self, page: str) -> None:
        self.pages.append(page)


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> Display:
    """Pretend that this is a notebook's kernel, without widgets."""
    shown = Display()
    package, part = ModuleType("IPython"), ModuleType("IPython.display")
    shell = type("ZMQInteractiveShell", (), {})()
    package.get_ipython = lambda: shell  # type: ignore[attr-defined]
    part.HTML = str  # type: ignore[attr-defined]

    def display(page: str, *, display_id: bool) -> Display:
        assert display_id
        shown.update(page)
        return shown

    part.display = display  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", package)
    monkeypatch.setitem(sys.modules, "IPython.display", part)
    return shown


def test_progress_is_shown_in_a_notebook_and_disappears(
    notebook: Display, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onnxgraft.notebook._REDRAW", -1)
    assert list(progress.track("abc", "reading <images>", 3)) == ["a", "b", "c"]
    assert '<progress value="2" max="3"></progress> 2/3' in "".join(notebook.pages)
    assert "reading &lt;images&gt;" in notebook.pages[0]
    assert notebook.pages[-1] == ""
    assert capfd.readouterr() == ("", "")


def test_steps_hide_what_is_done(notebook: Display, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxgraft.notebook._REDRAW", -1)
    with progress.steps("building") as tell:
        tell("fusing", 1, 2)
        assert 'fusing <progress value="1" max="2">' in notebook.pages[-1]
        tell("fusing", 2, 2)
        assert "fusing" not in notebook.pages[-1]
    assert notebook.pages[-1] == ""


def test_a_status_is_shown_until_an_error_ends_it(notebook: Display) -> None:
    with pytest.raises(ZeroDivisionError), progress.status("converting"):
        raise ZeroDivisionError
    assert notebook.pages == ["<div>converting</div>", ""]


def test_pages_are_not_drawn_for_every_step(notebook: Display) -> None:
    for _ in progress.track(range(10_000), "reading", 10_000):
        pass
    assert len(notebook.pages) < 100


def test_elsewhere_nothing_is_shown(capfd: pytest.CaptureFixture[str]) -> None:
    assert list(progress.track("abc", "reading", 3)) == ["a", "b", "c"]
    with progress.status("converting"):
        pass
    assert capfd.readouterr() == ("", "")
