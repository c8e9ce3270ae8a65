"""Detectors on the whole road: one table of boxes for every command, and what does not fit is told
before the work."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from onnxgraft import commands
from onnxgraft.data.boxes import BoxForm
from onnxgraft.data.postprocess import Postprocess
from onnxgraft.data.preprocess import Preprocess
from onnxgraft.errors import InputError
from onnxgraft.graph.tensors import Array
from tests.conftest import Cli, model_of
from tests.detectors import CAR, DOG, RECIPE, centre_and_size, in_picture, rows_of, save, write

pytestmark = pytest.mark.usefixtures("untimed")


def heads_of() -> dict[str, Array]:
    """Return raw heads that say the same: logits of the formula's inverse."""
    anchors = np.reshape(BoxForm().anchors[0], (-1, 2))
    heads = {f"p{s}": np.full((1, 3, 64 // s, 64 // s, 7), -12, np.float32) for s in (8, 16, 32)}

    def logit(share: Array) -> Array:
        return np.log(share / (1 - share))

    for edges, kind in ((in_picture(DOG), 1), (in_picture(CAR), 0)):
        x, y, width, height = centre_and_size(edges)
        column, row = int(x) // 8, int(y) // 8
        cell = heads["p8"][0, 2, row, column]
        cell[:2] = logit((np.array([x, y]) / 8 - (column, row) + 0.5) / 2)
        cell[2:4] = logit(np.sqrt(np.array([width, height]) / anchors[2]) / 2)
        cell[4], cell[5 + kind] = 6, 6
    return heads


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Return a folder with two photographs, a file of classes and labels in each form."""
    write(tmp_path)
    return tmp_path


def recipe(place: Path, form: str, more: str = "") -> Path:
    (place / "recipe.toml").write_text(RECIPE.replace("FORM", form) + more)
    return place / "recipe.toml"


def measured(place: Path, model: Path, labels: str, table: Path) -> dict[str, float]:
    report = commands.validate(
        model, model, place / "images", preprocess=table, metric="map", labels=place / labels,
        tolerance=1e-3,
    )  # fmt: skip
    assert list(report.candidates[1].per_class) == ["car", "dog"]
    return report.candidates[1].metrics


@pytest.mark.parametrize("labels", ["ours.json", "coco.json", "voc", "yolo"])
def test_labels_in_every_form_are_found_through_the_letterbox(place: Path, labels: str) -> None:
    model = save(place, {"y": rows_of("yolov5")})
    values = measured(place, model, labels, recipe(place, "yolov5"))
    assert values == {name: pytest.approx(100.0) for name in ("mAP50", "mAP", "mAP50 COCO")}


@pytest.mark.parametrize("form", ["ssd", "yolov8", "auto"])
def test_outputs_in_every_form_are_judged(place: Path, form: str) -> None:
    model = save(place, {"y": rows_of("ssd" if form == "auto" else form)})
    assert measured(place, model, "coco.json", recipe(place, form))["mAP"] == pytest.approx(100.0)


def test_the_three_heads_are_one_answer(place: Path) -> None:
    model = save(place, heads_of())
    assert measured(place, model, "voc", recipe(place, "yolov5"))["mAP"] == pytest.approx(100.0)


def test_infer_says_where_a_box_is_in_the_photograph(place: Path) -> None:
    model = save(place, {"y": rows_of("yolov5")})
    table = recipe(place, "yolov5")
    (answer,) = commands.infer(model, [place / "images/a.png"], preprocess=table).answers
    assert [box.label for box in answer.boxes] == ["dog", "car"]
    for box, edges in zip(answer.boxes, (DOG, CAR), strict=True):
        assert box.pixels == pytest.approx(edges, abs=1e-4)


def test_the_passport_carries_the_table_and_the_names(place: Path, cli: Cli) -> None:
    model, table = save(place, {"y": rows_of("yolov5")}), recipe(place, "yolov5")
    done = cli("build", model, "--target", "onnxruntime", "-o", place / "e", "--recipe", table)
    assert done.returncode == 0, done.stderr
    (place / "classes.txt").unlink()
    done = cli("infer", place / "e", place / "images/a.png")
    assert "dog 0.90 at 0.250, 0.250, 0.750, 0.625" in done.stdout
    report = commands.validate(
        model, place / "e", place / "images", metric="map", labels=place / "voc",
        preprocess=Preprocess(resize=(64, 64), letterbox=114, color="rgb"),
    )  # fmt: skip
    assert report.candidates[1].per_class == {"car": 100.0, "dog": 100.0}


def test_a_score_in_the_table_is_noted_for_the_metric(place: Path) -> None:
    model = save(place, {"y": rows_of("yolov5")})
    report = commands.validate(
        model, model, place / "images", preprocess=recipe(place, "yolov5", "score = 0.85\n"),
        metric="map", labels=place / "voc", tolerance=1e-3,
    )  # fmt: skip
    assert report.candidates[1].per_class == {"car": 0.0, "dog": 100.0}
    assert any("map counts boxes of a score of 0.85 and more" in note for note in report.notes)


DEPLOYED = """
model = "net.onnx"
targets = ["onnxruntime"]
[calibrate]
data = "calib"
[validate]
data = "images"
"""
WRONG = {
    "metric": ('metric = "top1"\nlabels = "voc"', "top1 needs one label a sample"),
    "labels": ('metric = "map"', "the metric map needs labels, and there are none"),
    "some_labels": ('metric = "map"\nlabels = "few.json"', r"no label for 1 of 2 images"),
    "class": ('metric = "map"\nlabels = "odd.json"', "a label is of class 7, and the output has 2"),
    "output": ('metric = "map"\nlabels = "voc"\noutput = "z"', "no output is called 'z'"),
    "budget": ('labels = "voc"\n[quantize]\nbudget = "miou=1"', "miou"),
    "key": (
        'metric = "map"\nlabels = "voc"\nlable = "x"',
        r"line 10: .*lable: there is no such key",
    ),
    "table": ("[postproces]\nform = 'ssd'", "line 8: postproces: there is no such key"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit_is_told_before_the_work(
    case: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, message = WRONG[case]
    save(place, {"y": rows_of("yolov5")})
    (place / "calib").mkdir()
    cv2.imwrite(str(place / "calib/c.png"), np.zeros((60, 80, 3), np.uint8))
    (place / "few.json").write_text('{"a.png": []}')
    (place / "odd.json").write_text('{"a.png": [], "b.png": [[7, 1, 1, 2, 2]]}')
    (place / "deploy.toml").write_text(DEPLOYED + text + RECIPE.replace("FORM", "yolov5"))
    begun: list[str] = []
    monkeypatch.setattr(
        "onnxgraft.commands._deployment.measured_tolerance", lambda *a, **k: begun.append("work")
    )
    with pytest.raises(InputError, match=message):
        commands.deploy(place / "deploy.toml", place / "out")
    assert not begun
    assert not (place / "out").exists()


def test_a_wrong_key_beside_the_preprocessing_is_told(place: Path) -> None:
    model = save(place, {"y": rows_of("yolov5")})
    for more, message in (
        ("forms = 1\n", r"\[postprocess\] forms: there is no such key; did you mean form"),
        ("[postproces]\n", "postproces: there is no such key; did you mean postprocess"),
    ):
        table = recipe(place, "yolov5", more)
        with pytest.raises(InputError, match=message):
            commands.validate(model, model, place / "images", preprocess=table)


def test_a_letterbox_that_one_table_denies_is_told(place: Path) -> None:
    model = save(place, {"y": rows_of("yolov5")})
    with pytest.raises(InputError, match=r"letterbox is set in \[preprocess\], and false"):
        commands.infer(
            model, [place / "images/a.png"],
            preprocess=Preprocess(resize=(64, 64), letterbox=114),
            postprocess=Postprocess(letterbox=False),
        )  # fmt: skip


def test_a_budget_of_precision_takes_labels_from_a_file(place: Path) -> None:
    # A layer with weights in front, which changes nothing.
    model = model_of(
        "net (float[1, 3, 64, 64] x) => (float[1, 23, 7] y) "
        "{ c = Conv(x, w) m = ReduceMean<keepdims = 0>(c) y = Add(m, rows) }",
        {"w": np.zeros((1, 3, 1, 1), np.float32), "rows": rows_of("yolov5")},
    )
    table = recipe(place, "yolov5")
    data = {"data": place / "images", "preprocess": table}
    ranges = commands.calibrate(model, method="minmax", **data).ranges

    def quantized(labels: Path | None) -> commands.Quantized:
        return commands.quantize(
            model, "onnxruntime", ranges=ranges, budget="map=1", labels=labels, **data
        )

    done = quantized(place / "voc").done
    assert done is not None
    assert done.search is not None
    assert done.search.passed
    assert done.search.rows[0].metric == 100.0
    with pytest.raises(InputError, match="the metric map needs labels"):
        quantized(None)
