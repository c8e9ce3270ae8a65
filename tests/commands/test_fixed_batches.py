"""Inputs whose first axis is no free batch: every command feeds them alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest

from onnxgraft.commands import calibrate, deploy, infer, quantize, validate
from tests.conftest import few, only_ci

pytestmark = pytest.mark.usefixtures("untimed")

SEED = 0
WEIGHTS = np.random.default_rng(SEED).standard_normal((16, 4)).astype(np.float32)


def model(file: Path, inputs: str, output: str, body: str) -> Path:
    proto = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 17]> g ({inputs}) => ({output}) {{ {body} }}'
    )
    proto.graph.initializer.append(onnx.numpy_helper.from_array(WEIGHTS, "w"))
    onnx.save(proto, file)
    return file


def rows(*shape: int) -> Any:
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


CASES = {
    "fixed_batch": ("float[4, 16] x", "float[4, 4] y", "y = MatMul(x, w)", {"x": rows(9, 16)}, 2),
    "entries": ("float[4, 16] x", "float[4, 4] y", "y = MatMul(x, w)", {"x": rows(3, 4, 16)}, 3),
    "time_first": ("float[10, N, 16] x", "float[10, N, 4] y", "y = MatMul(x, w)",
                   {"x": rows(5, 10, 1, 16)}, 5),
    "one_sample": ("float[10, N, 16] x", "float[10, N, 4] y", "y = MatMul(x, w)",
                   {"x": rows(10, 1, 16)}, 1),
    "scalar": ("float[N, 16] x, float t", "float[N, 4] y", "s = Mul(x, t) y = MatMul(s, w)",
               {"x": rows(8, 16), "t": rows(8)}, 8),
    "no_batch": ("float[16] x", "float[4] y", "y = MatMul(x, w)", {"x": rows(8, 16)}, 8),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_what_is_calibrated_is_quantized_and_validated(tmp_path: Path, case: str) -> None:
    inputs, output, body, arrays, count = CASES[case]
    graph = model(tmp_path / "m.onnx", inputs, output, body)
    np.savez(tmp_path / "a.npz", **arrays)
    ranges = calibrate(graph, data=tmp_path / "a.npz")
    assert ranges.ranges.images == count
    quantize(graph, "onnxruntime", tmp_path / "q.onnx", ranges=ranges.ranges,
             samples=tmp_path / "a.npz")  # fmt: skip
    report = validate(graph, tmp_path / "q.onnx", tmp_path / "a.npz", report=tmp_path / "report",
                      bisect=True)  # fmt: skip
    assert report.samples == count
    assert report.passed
    left = [f"{tmp_path / 'a.npz'}: 1 of 9 rows for x were not used; they make no batch of 4"]
    for notes in (ranges.notes, report.notes):
        assert [note for note in notes if "not used" in note] == left * (case == "fixed_batch")


def test_a_metric_of_a_fixed_batch_is_that_of_its_rows(tmp_path: Path) -> None:
    x, labels = rows(12, 16), np.random.default_rng(2).integers(0, 4, 12)
    np.savez(tmp_path / "a.npz", x=x, labels=labels)
    found = []
    for name, batch in (("free", "N"), ("fixed", "4")):
        graph = model(tmp_path / f"{name}.onnx", f"float[{batch}, 16] x", f"float[{batch}, 4] y",
                      "y = MatMul(x, w)")  # fmt: skip
        report = validate(graph, graph, tmp_path / "a.npz", metric="top1")
        found.append(report.candidates[0].metrics["top1"])
    assert found[0] == found[1] == pytest.approx(100 * ((x @ WEIGHTS).argmax(1) == labels).mean())


KERNEL = ", ".join(f"{value:.3f}" for value in rows(135))
CONV = f"<float[5, 3, 3, 3] k = {{{KERNEL}}}>"
POOLED = "c = Conv<pads = [1, 1, 1, 1]>(x, k) p = GlobalAveragePool(c) y = Flatten(p)"


def classifier(file: Path, batch: str) -> Path:
    proto = onnx.parser.parse_model(
        f"""<ir_version: 8, opset_import: ["" : 17]>
        g (float[{batch}, 3, 8, 8] x) => (float[{batch}, 5] y) {CONV} {{ {POOLED} }}"""
    )
    onnx.save(proto, file)
    return file


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(7):
        pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), np.uint8)
        cv2.imwrite(str(folder / f"{number}.png"), pixels)
    return folder


def test_infer_says_of_each_image_what_a_free_batch_does(tmp_path: Path, images: Path) -> None:
    files = sorted(images.iterdir())
    answers = []
    for name, batch in (("free", "N"), ("fixed", "3")):
        infer(classifier(tmp_path / f"{name}.onnx", batch), files, out=tmp_path / f"{name}.npz")
        with np.load(tmp_path / f"{name}.npz") as stored:
            answers.append(stored["y"])
    assert answers[0].shape == answers[1].shape == (7, 5)
    assert np.allclose(answers[0], answers[1], rtol=1e-5)


def test_labels_by_file_are_of_the_images_of_a_batch(tmp_path: Path, images: Path) -> None:
    text = "".join(f"{number}.png {number % 5}\n" for number in range(7))
    (tmp_path / "labels.txt").write_text(text)
    found = {
        batch: validate(
            graph := classifier(tmp_path / f"{batch}.onnx", batch), graph, images,
            labels=tmp_path / "labels.txt", metric="top1", images=6,
        ).candidates[0].metrics["top1"]
        for batch in ("1", "2")
    }  # fmt: skip
    assert 0 <= found["2"] <= 100
    assert round(found["2"] * 6 / 100, 6).is_integer()


def test_a_fixed_batch_is_deployed(tmp_path: Path, images: Path) -> None:
    for number in range(7, 13):
        pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), np.uint8)
        cv2.imwrite(str(images / f"{number}.png"), pixels)
    report = deploy(
        classifier(tmp_path / "m.onnx", "3"), tmp_path / "out", data=images,
        validate_on=images, targets="onnxruntime",
    )  # fmt: skip
    assert report.samples == 2
    assert report.passed
    assert f"{images}: 1 of 13 images were not used; they make no batch of 3" in report.notes
    assert (
        len(infer(tmp_path / "out" / "engine.onnxruntime", sorted(images.iterdir())).answers) == 13
    )


@pytest.mark.parametrize("case", few(["no_batch", "time_first", "scalar"], 1))
def test_what_has_no_batch_is_deployed(tmp_path: Path, case: str) -> None:
    inputs, output, body, arrays, count = CASES[case]
    np.savez(tmp_path / "a.npz", **arrays)
    report = deploy(
        model(tmp_path / "m.onnx", inputs, output, body), tmp_path / "out",
        data=tmp_path / "a.npz", validate_on=tmp_path / "a.npz", targets="openvino",
    )  # fmt: skip
    assert report.samples + report.calibrated == count
    # So few random values say nothing of ranges, which is what the verdict would be about.
    assert [engine.proven for engine in report.engines] == [True]


@pytest.mark.parametrize("case", CASES)
def test_what_was_fed_can_be_fed_again_from_polygraphys_file(tmp_path: Path, case: str) -> None:
    inputs, output, body, arrays, count = CASES[case]
    graph = model(tmp_path / "m.onnx", inputs, output, body)
    np.savez(tmp_path / "a.npz", **arrays)
    validate(graph, graph, tmp_path / "a.npz", save_inputs=tmp_path / "fed.json")
    report = validate(graph, graph, tmp_path / "fed.json")
    assert report.samples == count
    assert report.passed


@only_ci
def test_a_budget_is_held_and_timed_on_fixed_batches(tmp_path: Path) -> None:
    x, labels = rows(12, 16), np.random.default_rng(2).integers(0, 4, 12)
    np.savez(tmp_path / "a.npz", x=x, labels=labels)
    graph = model(tmp_path / "m.onnx", "float[4, 16] x", "float[4, 4] y", "y = MatMul(x, w)")
    ranges = calibrate(graph, data=tmp_path / "a.npz").ranges
    for budget in ("top1=100", "cosine=0.5"):
        made = quantize(graph, "onnxruntime", ranges=ranges, samples=tmp_path / "a.npz",
                        data=tmp_path / "a.npz", budget=budget, trials=2)  # fmt: skip
        assert made.passed
