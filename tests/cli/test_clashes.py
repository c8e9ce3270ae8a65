"""Distributions that own the same module are told with what cures it."""

import logging
from pathlib import Path

import pytest

from onnxgraft.cli._clashes import clashes
from tests.conftest import Cli

BESIDE = {
    "opencv": ("cv2", ["opencv-python", "opencv-python-headless"], "opencv-python-headless"),
    "contrib": ("cv2", ["opencv-contrib-python", "opencv-python"], "opencv-python-headless"),
    "gpu": ("onnxruntime", ["onnxruntime", "onnxruntime-gpu"], "onnxruntime"),
    "openvino": ("onnxruntime", ["onnxruntime", "onnxruntime-openvino"], "onnxruntime"),
    "directml": ("onnxruntime", ["onnxruntime-directml", "onnxruntime"], "onnxruntime"),
}


def install(folder: Path, *names: str) -> None:
    """Write what pip writes of distributions."""
    for name in names:
        info = folder / f"{name.replace('-', '_')}-9.8.7.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 9.8.7\n")


@pytest.mark.parametrize("case", BESIDE)
def test_two_owners_of_a_module_are_told(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, names, kept = BESIDE[case]
    install(tmp_path, *names)
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    (told,) = clashes()
    assert all(f"{name} 9.8.7" in told for name in names)
    assert f"brings the module {module}" in told
    uninstalled, installed = told.partition("pip uninstall -y ")[2].split(" && ")
    assert sorted(uninstalled.split()) == sorted(names)
    assert installed == f"pip install {kept}"


@pytest.mark.parametrize("names", [(), ("opencv-python", "onnxruntime-gpu"), ("onnxruntime-x",)])
def test_one_owner_is_no_clash(
    names: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, *names)
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    assert clashes() == []


def test_a_plug_in_that_was_an_onnxruntime_of_its_own_once_is_no_clash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, "onnxruntime", "onnxruntime-qnn")
    record = tmp_path / "onnxruntime_qnn-9.8.7.dist-info" / "RECORD"
    record.write_text("onnxruntime_qnn/__init__.py,,\n")
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    assert clashes() == []
    record.write_text("onnxruntime/__init__.py,,\n")
    assert len(clashes()) == 1


def test_a_command_begins_with_it(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    install(tmp_path, "opencv-python", "opencv-python-headless")
    monkeypatch.syspath_prepend(str(tmp_path))
    with caplog.at_level(logging.WARNING):
        done = cli("recipe-schema", "-o", tmp_path / "s.json")
    assert done.returncode == 0
    assert "which of them runs is chance" in done.stderr + caplog.text
