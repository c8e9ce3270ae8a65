"""Every example does what it says."""

import re
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import ROOT, only_deep

EXAMPLES = ROOT / "examples"


@pytest.fixture
def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[[str], str]:
    """Return a function that runs an example into a folder, and returns what it prints."""

    def example(name: str) -> str:
        monkeypatch.setattr(sys, "argv", ["main.py", str(tmp_path / "out")])
        runpy.run_path(str(EXAMPLES / name / "main.py"), run_name="__main__")
        return capfd.readouterr().out

    return example


# These train, or export: `make deep` runs them.
LONG = {"01_own_classifier", "04_pytorch"}
SAID = {
    "01_own_classifier": r"deployed: True\nserved: (19\d|200) of 200 right\n",
    "02_caffe": r"deployed: True\n.*BGR.*middle of.*mean file mean\.binaryproto is named by.*\n",
    "03_detector": r"deployed: True\n[1-9]\d* boxes, drawn in \S+0\.png\n",
    "04_pytorch": r"deployed: True\ndiffers from PyTorch by at most 0\.0\d+\n",
    "05_quantized_already": r"built for openvino, proven: True\ndiffers .* by \d\.\d % of the .*\n",
    "06_runtime_only": r"(class \d: -?\d+\.\d+\n){4}",
}
NEEDS = {"01_own_classifier": "keras", "04_pytorch": "torch", "05_quantized_already": "openvino"}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=only_deep) if name in LONG else name for name in SAID]
)
def test_an_example_runs(name: str, run: Callable[[str], str]) -> None:
    pytest.importorskip(NEEDS.get(name, "numpy"))
    said = run(name)
    assert re.fullmatch(SAID[name], said), said


def test_every_example_is_run_and_listed() -> None:
    folders = {path.parent.name for path in EXAMPLES.glob("*/main.py")}
    listed = re.findall(r"\]\((\w+)/README\.md\)", (EXAMPLES / "README.md").read_text())
    assert sorted(folders) == sorted(SAID) == listed


@pytest.mark.parametrize("page", sorted(EXAMPLES.rglob("*.md")), ids=lambda page: page.parent.name)
def test_a_page_of_an_example_links_to_what_is_there(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)\)", page.read_text(encoding="utf-8"))
    assert not [link for link in links if not (page.parent / link).exists()]
