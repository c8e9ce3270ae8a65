"""Deploy holds every stage against the original, and stops at the first one that is broken."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from onnxgraft.commands import deploy, read_recipe
from onnxgraft.commands._deployment import _worst
from onnxgraft.commands._recipe import make_recipe
from onnxgraft.data.samples import Sample
from onnxgraft.errors import InputError
from onnxgraft.stages import surgery
from onnxgraft.stages.engine import read_passport
from onnxgraft.stages.surgery import Pass
from onnxgraft.stages.validate.report import Report
from tests.commands.test_validate import break_relu
from tests.conftest import model_of, only_ci
from tests.validate.planted import THIN
from tests.validate.test_stream import Fake


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Path:
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
    # Not `equalize`, whose graph has ranges of its own.
    recipe.quantize.improve = ("activations", "rounding")
    return deploy(recipe, out, keep_going=keep_going, workers=workers)


@pytest.fixture(scope="module")
def alone(net: Path, tmp_path_factory: pytest.TempPathFactory) -> Report:
    """Return the report of a deployment in one process."""
    return run(net, tmp_path_factory.mktemp("alone") / "out")


def test_every_stage_has_a_line_on_the_same_samples(alone: Report) -> None:
    assert [row.stage for row in alone.stages] == [
        "converted", "cleaned", "int8 graph for onnxruntime", "onnxruntime engine",
    ]  # fmt: skip
    assert all(row.passed for row in alone.stages)
    assert {row.candidate for row in alone.layers} == {"onnxruntime int8"}
    assert {row.precision for row in alone.layers} == {"fp32", "int8"}
    assert alone.ranges
    assert (alone.calibrated, alone.samples) == (4, 2)
    assert sum(alone.ranges[0].counts) == 4 * 3 * 67 * 67
    assert set(alone.ranges[0].kept) == {"onnxruntime"}
    assert not [note for note in alone.notes if "they part" in note]


@only_ci
def test_workers_change_nothing(alone: Report, net: Path, tmp_path: Path) -> None:
    spread = run(net, tmp_path / "out", workers=2)
    assert spread.candidates == alone.candidates


@pytest.fixture
def spoilt(monkeypatch: pytest.MonkeyPatch) -> None:
    passes = (*surgery.PASSES, Pass("break-relu", break_relu))
    for module in ("onnxgraft.stages.surgery.running.runner", "onnxgraft.commands._blame"):
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
    assert "cleaned: first difference at conv1 (Elu" in told
    assert "caused by the pass break-relu" in told
    assert "stopped after the stage cleaned" in told
    assert json.loads((tmp_path / "out" / "report.json").read_text())["passed"] is False
    assert not (tmp_path / "out" / "engine.onnxruntime").exists()


@only_ci
@pytest.mark.usefixtures("spoilt")
def test_it_goes_on_when_asked(net: Path, tmp_path: Path) -> None:
    report = run(net, tmp_path / "out", keep_going=True)
    assert [row.passed for row in report.stages] == [True, False, True, True]
    assert not report.passed
    assert (tmp_path / "out" / "engine.onnxruntime").is_file()
    assert any("onnxruntime int8: difference at" in note for note in report.notes)


def test_a_metric_that_does_not_exist_is_told_before_anything_runs(
    net: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onnxgraft.stages.convert.Original.lower", None)
    with pytest.raises(InputError, match="no metric is called 'top6'; did you mean top5"):
        deploy(
            net / "net.prototxt", tmp_path / "out", weights=net / "net.caffemodel",
            data=str(net / "data.npz"), metric="top6", targets=["onnxruntime"],
        )  # fmt: skip


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Return a folder of images, a file of labels beside it, and a recipe that names both."""
    import cv2

    text = "net (float[N, 3, 8, 8] data) => (float[N, 4] y) { c = Conv(data, w)  y = Flatten(c) }"
    weights = np.random.default_rng(0).standard_normal((4, 3, 8, 8)).astype(np.float32)
    model_of(text, {"w": weights}).save(tmp_path / "net.onnx")
    (tmp_path / "images").mkdir()
    for number in range(4):
        pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3)).astype(np.uint8)
        cv2.imwrite(str(tmp_path / f"images/{number}.png"), pixels)
    (tmp_path / "labels.txt").write_text("".join(f"{n}.png {n}\n" for n in range(4)))
    (tmp_path / "own.py").write_text("def hits(output, label): return output.argmax() == label\n")
    (tmp_path / "recipe.toml").write_text("""
model = "net.onnx"
targets = ["openvino"]
[calibrate]
data = "images"
method = "minmax"
[validate]
data = "images"
labels = "labels.txt"
metric = "own.py:hits"
drop = 100.0
[bench]
rounds = 1
runs = 1
""")
    return tmp_path


@only_ci
def test_labels_and_metric_of_a_recipe_are_files_beside_it(photographs: Path) -> None:
    recipe = read_recipe(photographs / "recipe.toml", trust=True)
    report = deploy(recipe, photographs / "out")
    from onnxgraft.data.samples import open_samples
    from onnxgraft.data.split import split
    from onnxgraft.graph.model import Model
    from onnxgraft.run.session import OnnxRuntime

    with OnnxRuntime(Model.load(photographs / "net.onnx").to_onnx()) as session:
        samples = split(open_samples(photographs / "images", session.inputs))[1]
        hits = [
            int(session.infer(s.feeds)["y"].argmax()) == n
            for n, s in zip(samples.indices, samples, strict=True)
        ]
    assert report.candidates[0].metrics == {"hits": np.mean(hits)}
    (photographs / "labels.txt").write_text(f"{samples.indices[0]}.png 0\n")
    with pytest.raises(InputError, match="no label for 1 of 2 images"):
        deploy(recipe, photographs / "out")


@only_ci
def test_the_float_layers_of_an_openvino_engine_run_in_what_the_recipe_says(
    photographs: Path,
) -> None:
    openvino = pytest.importorskip("openvino")
    if "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this machine's processor has no BF16")
    file = photographs / "recipe.toml"
    file.write_text(file.read_text() + '[quantize]\nfloat = { openvino = "bf16" }\n')
    report = deploy(read_recipe(file, trust="hits"), photographs / "out")
    assert read_passport(photographs / "out/engine.openvino").floats == "bf16"
    assert [row.name for row in report.candidates][-1] == "openvino int8+bf16"
    assert [row.name for row in report.latency][-1] == "openvino int8+bf16"


def test_other_numbers_of_boxes_are_infinitely_far_in_a_stage() -> None:
    def finder(count: int) -> Fake:
        return Fake("boxes", lambda x: {"y": np.ones((1, 1, count, 7), np.float32)})

    probe = [Sample("one", {"x": np.ones((1, 4), np.float32)}, None)]
    expected = [finder(3).infer(probe[0].feeds)]
    assert _worst(probe, expected, finder(3)).relative == 0.0
    assert _worst(probe, expected, finder(2)).relative == np.inf


@only_ci
def test_nothing_is_validated_on_what_was_calibrated_on(
    alone: Report, net: Path, tmp_path: Path
) -> None:
    data = net / "data.npz"
    assert alone.data == (
        f"calibrated on 4 samples of {data}, validated on 2 others of it (no validation data were "
        "named, so they were split)"
    )
    recipe = make_recipe(
        net / "net.prototxt", weights=net / "net.caffemodel", data=data, validate_on=data,
        targets=["onnxruntime"],
    )  # fmt: skip
    recipe.bench.rounds = recipe.bench.runs = 1
    recipe.calibrate.method, recipe.quantize.improve = "minmax", ()
    report = deploy(recipe, tmp_path / "out")
    assert (report.calibrated, report.samples) == (4, 2)
    assert "2 others of it (both are one, so they were split)" in report.data
    # A copy of some of them under another name.
    arrays = np.load(data)
    np.savez(tmp_path / "more.npz", **{name: arrays[name][:3] for name in arrays})
    rows = np.random.default_rng(1).standard_normal((2, 3, 67, 67)).astype(np.float32)
    np.savez(
        tmp_path / "other.npz", data=np.concatenate([arrays["data"][:1], rows]), labels=np.arange(3)
    )
    recipe.validation.data = str(tmp_path / "other.npz")
    report = deploy(recipe, tmp_path / "out")
    assert (report.calibrated, report.samples) == (6, 2)
    assert "validated on 2 of 3 samples" in report.data
    recipe.validation.data = str(tmp_path / "more.npz")
    with pytest.raises(InputError, match="each of the 3 samples to validate on is calibrated on"):
        deploy(recipe, tmp_path / "out")


def test_the_layer_table_is_the_engines_or_says_that_it_is_not(alone: Report) -> None:
    said = alone.layers_from["onnxruntime int8"]
    told = [row for row in alone.layers if row.told]
    assert told
    assert f"onnxruntime int8 tells the precision of {len(told)} of these" in said
    (output,) = (row for row in alone.candidates[-1].outputs if row.output == "prob")
    last = alone.layers[-1]
    # It is of the first sample, and the table of both.
    assert last.arrived is not None
    assert abs(last.arrived - output.sqnr) < 6


def test_an_onnx_file_has_a_layer_table_too(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    model_of(
        "net (float[N, 3, 8, 8] x) => (float[N, 4, 6, 6] y)"
        " { c = Conv(x, w) r = Relu(c) y = Conv<pads = [1, 1, 1, 1]>(r, v) }",
        {
            "w": rng.standard_normal((8, 3, 3, 3)).astype(np.float32),
            "v": rng.standard_normal((4, 8, 3, 3)).astype(np.float32),
        },
    ).save(tmp_path / "net.onnx")
    np.savez(tmp_path / "data.npz", x=rng.standard_normal((16, 3, 8, 8)).astype(np.float32))
    recipe = make_recipe(
        tmp_path / "net.onnx", data=str(tmp_path / "data.npz"), targets=["onnxruntime"]
    )
    recipe.bench.rounds = recipe.bench.runs = 1
    report = deploy(recipe, tmp_path / "out")
    assert report.passed
    assert {row.tensor for row in report.layers} >= {"c", "y"}
    assert any(row.told for row in report.layers)
