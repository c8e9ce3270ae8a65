"""Deploy holds every stage against the original, and stops at the first one that is broken."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from onnxgraft import surgery
from onnxgraft.pipeline import deploy, make_recipe
from onnxgraft.report import Report
from onnxgraft.surgery import Pass
from tests.test_validate import break_relu
from tests.validate.planted import THIN


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import numpy as np

    folder = tmp_path_factory.mktemp("net")
    text, weights = THIN["squeezenet"]()
    (folder / "net.prototxt").write_text(text)
    (folder / "net.caffemodel").write_bytes(weights)
    images = np.random.default_rng(0).standard_normal((6, 3, 67, 67)).astype(np.float32)
    np.savez(folder / "data.npz", data=images, labels=np.arange(6))
    return folder


def run(net: Path, out: Path, *, keep_going: bool = False, workers: int = 1) -> Report:
    recipe = make_recipe(
        net / "net.prototxt", weights=net / "net.caffemodel", data=str(net / "data.npz"),
        metric="top5", targets=["onnxruntime"],
    )  # fmt: skip
    recipe.bench.rounds = recipe.bench.runs = 1
    recipe.calibrate.method = "minmax"  # the fastest
    return deploy(recipe, out, keep_going=keep_going, workers=workers)


def test_every_stage_has_a_line_on_the_same_samples(net: Path, tmp_path: Path) -> None:
    report = run(net, tmp_path / "out")
    assert [row.stage for row in report.stages] == [
        "converted", "cleaned", "int8 graph for onnxruntime", "onnxruntime engine",
    ]  # fmt: skip
    assert all(row.passed for row in report.stages)
    assert {row.candidate for row in report.layers} == {"onnxruntime int8"}
    assert {row.precision for row in report.layers} == {"fp32", "int8"}
    assert report.ranges
    assert sum(report.ranges[0].counts) == 6 * 3 * 67 * 67
    assert not [note for note in report.notes if "they part" in note]


def test_workers_change_nothing(net: Path, tmp_path: Path) -> None:
    alone, spread = run(net, tmp_path / "a"), run(net, tmp_path / "b", workers=2)
    assert spread.candidates == alone.candidates


@pytest.fixture
def spoilt(monkeypatch: pytest.MonkeyPatch) -> None:
    passes = (*surgery.PASSES, Pass("break-relu", break_relu))
    for module in ("onnxgraft.surgery._runner", "onnxgraft.pipeline._blame"):
        monkeypatch.setattr(f"{module}.PASSES", passes)


@pytest.mark.usefixtures("spoilt")
def test_it_stops_at_the_first_broken_stage_and_names_layer_and_pass(
    net: Path, tmp_path: Path
) -> None:
    report = run(net, tmp_path / "out")
    assert [(row.stage, row.passed) for row in report.stages] == [
        ("converted", True), ("cleaned", False),
    ]  # fmt: skip
    assert not report.passed
    told = "\n".join(report.notes)
    assert "cleaned: they part at conv1 (Elu" in told
    assert "made in the pass break-relu" in told
    assert "stopped after the stage cleaned" in told
    assert json.loads((tmp_path / "out" / "report.json").read_text())["passed"] is False
    assert not (tmp_path / "out" / "engine.onnxruntime").exists()


@pytest.mark.usefixtures("spoilt")
def test_it_goes_on_when_asked(net: Path, tmp_path: Path) -> None:
    report = run(net, tmp_path / "out", keep_going=True)
    assert [row.passed for row in report.stages] == [True, False, True, True]
    assert not report.passed
    assert (tmp_path / "out" / "engine.onnxruntime").is_file()
    assert any("onnxruntime int8: they part at" in note for note in report.notes)
