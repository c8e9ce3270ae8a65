"""What a report shows in pictures: the right answer beside both, scores, boxes, wrong classes."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

from onnxgraft.data.postprocess import Postprocess
from onnxgraft.data.preprocess import Preprocess
from onnxgraft.data.samples import Samples, open_samples
from onnxgraft.graph.tensors import Array, TensorSpec
from onnxgraft.stages.validate import Tally, make_metric, write_html
from onnxgraft.stages.validate.metrics import Metric
from onnxgraft.stages.validate.report import CandidateRow, GalleryRow, Report
from onnxgraft.stages.validate.views.gallery import gallery_rows
from tests.conftest import only_ci

RNG = np.random.default_rng(0)


def opened(folder: Path, labels: Array) -> Samples:
    """Return samples of small pictures with labels."""
    images = RNG.uniform(size=(len(labels), 3, 8, 12)).astype(np.float32)
    np.savez(folder / "data.npz", x=images, labels=labels)
    return open_samples(folder / "data.npz", [TensorSpec("x", "float32", ("N", 3, 8, 12))])


def shown(
    samples: Samples, metric: str, sides: Sequence[Sequence[Array]],
    classes: str | None = None, how: Postprocess | None = None,
) -> list[GalleryRow]:  # fmt: skip
    """Return the gallery of what an original and a candidate answer."""

    def make() -> Metric:
        return make_metric(metric, classes, how)

    tally = Tally.empty(1, make, "y")
    for position, (sample, *both) in enumerate(zip(samples, *sides, strict=True)):
        outputs: list[Mapping[str, Array]] = [{"y": value} for value in both]
        tally.add(position, sample, "y", [dict(one) for one in outputs], metric=make)
    rows = [CandidateRow(name, [], {}, {}, True, "") for name in ("original", "engine")]
    return gallery_rows(tally, rows, samples, classes)


def pixels(uri: str) -> Array:
    """Return (height, width, 3) RGB of a picture of the page."""
    data = np.frombuffer(base64.b64decode(uri.partition(",")[2]), np.uint8)
    found = cv2.imdecode(data, cv2.IMREAD_COLOR)
    assert found is not None
    return np.asarray(found[..., ::-1])


# Maps.


def maps(*classes: Array) -> list[Array]:
    """Return (1, 3, H, W) scores in which each place is of a class."""
    return [np.eye(3, dtype=np.float32)[one].transpose(2, 0, 1)[None] for one in classes]


def test_a_map_is_shown_with_the_right_one_and_the_score_of_each(tmp_path: Path) -> None:
    (tmp_path / "classes.toml").write_text(
        'names = ["sky", "road", "car"]\ncolors = [[1, 2, 3], [40, 50, 60], [70, 80, 90]]\n'
    )
    right = np.zeros((8, 12), np.uint8)
    right[4:] = 1
    right[0, 0] = 255  # of no class
    answer = np.where(right == 255, 0, right)
    other = answer.copy()
    other[4, :6] = 2
    samples = opened(tmp_path, np.stack([right, right]))
    [row] = shown(
        samples, "miou", [maps(answer, answer), maps(answer, other)],
        str(tmp_path / "classes.toml"),
    )  # fmt: skip
    assert row.sample == "sample 1"
    assert row.apart == 6 / 96
    # IoU of sky is 47 / 47, of road 42 / 48, of car 0 / 6.
    assert row.original_score == 100.0
    assert row.score == pytest.approx(100 * (1 + 42 / 48 + 0) / 3)
    assert row.classes == ["road"]
    assert row.colors == {"sky": "#010203", "road": "#28323c", "car": "#46505a"}
    truth = pixels(row.truth)
    assert truth[0, 0].tolist() == [0, 0, 0]
    assert truth[1, 1].tolist() == [1, 2, 3]
    assert truth[5, 1].tolist() == [40, 50, 60]
    assert pixels(row.actual)[4, 0].tolist() == [70, 80, 90]
    assert (pixels(row.difference)[..., 1] < 100).sum() == 6


def test_a_sample_with_nan_and_infinities_is_shown_without_them(tmp_path: Path) -> None:
    right = np.zeros((8, 12), np.uint8)
    samples = opened(tmp_path, np.stack([right]))
    images = np.array(np.load(tmp_path / "data.npz")["x"])
    images[0, :, 0, :4] = [np.nan, np.inf, -np.inf, 0]
    np.savez(tmp_path / "data.npz", x=images, labels=right[None])
    samples = open_samples(tmp_path / "data.npz", samples.inputs)
    other = right.copy()
    other[0, 5] = 2
    [row] = shown(samples, "miou", [maps(right), maps(other)])
    shade = pixels(row.photograph)
    assert np.ptp(shade[0, :4].astype(int), axis=0).max() <= 2  # 0 stands in for what is no number
    assert np.ptp(shade) > 200


# Pictures of one class.


def test_pictures_of_wrong_classes_are_shown_even_where_both_are_wrong(tmp_path: Path) -> None:
    labels = np.array([0, 1, 2, 2])
    samples = opened(tmp_path, labels)
    original, engine = ([np.eye(1, 3, k, np.float32) for k in said] for said in (
        [0, 1, 2, 0], [0, 2, 2, 0],
    ))  # fmt: skip
    rows = shown(samples, "top1", [original, engine])
    assert [(row.sample, row.label, row.expected, row.actual) for row in rows] == [
        ("sample 1", "class 1", "class 1", "class 2"),
        ("sample 3", "class 2", "class 0", "class 0"),
    ]
    assert [(row.original_score, row.score) for row in rows] == [(100.0, 0.0), (0.0, 0.0)]
    assert rows[0].classes == ["class 1", "class 2"]
    assert rows[0].photograph.startswith("data:image/png")


# Boxes.


def detector(*boxes: tuple[float, float, float, float, float, int]) -> Array:
    """Return rows of left, top, right, bottom, score and class."""
    padding = [(0.0, 0.0, 0.0, 0.0, 0.0, 0)] * (4 - len(boxes))
    return np.array([[*boxes, *padding]], np.float32)


def test_boxes_are_shown_where_they_have_no_partner(tmp_path: Path) -> None:
    label = np.array([[0, 0, 0, 6, 4], [1, 6, 4, 12, 8]], np.float32)
    samples = opened(tmp_path, np.stack([label, label]))
    car, dog = (0.0, 0.0, 6.0, 4.0, 0.9, 0), (6.0, 4.0, 12.0, 8.0, 0.8, 1)
    faint, stray = (6.0, 4.0, 12.0, 8.0, 0.3, 1), (0.0, 5.0, 3.0, 8.0, 0.7, 0)
    how = Postprocess(form="corners", names=("car", "dog"))
    [row] = shown(
        samples, "map",
        [[detector(car, dog)] * 2, [detector(car, dog), detector(car, faint, stray)]], how=how,
    )  # fmt: skip
    assert row.sample == "sample 1"
    assert row.apart == pytest.approx(1 - 2 / 4)  # the car alone has a partner
    assert row.classes == ["car", "dog"]
    sides = {
        side: [(box.label, box.score, box.matched) for box in boxes]
        for side, boxes in row.boxes.items()
    }
    assert sides == {
        "truth": [("car", None, True), ("dog", None, False)],
        "original": [("car", 0.9, True), ("dog", 0.8, True)],
        "candidate": [("car", 0.9, True), ("car", 0.7, False)],
    }
    assert row.boxes["original"][1].edges == [0.5, 0.5, 1.0, 1.0]
    # The metric counts the faint box, too: it is right at an overlap of 0.5.
    assert (row.original_score, row.score) == (100.0, 100.0)


def test_a_box_of_another_class_is_no_partner(tmp_path: Path) -> None:
    samples = opened(tmp_path, np.array([[[0, 0, 0, 6, 4]]], np.float32))
    sides = [[detector((0.0, 0.0, 6.0, 4.0, 0.9, kind))] for kind in (0, 1)]
    [row] = shown(samples, "map", sides, how=Postprocess(form="corners"))
    assert row.apart == 1.0


# The size of the page.


@only_ci
def test_a_page_with_24_street_scenes_takes_less_than_two_and_a_half_megabytes(
    shared: Path, tmp_path: Path
) -> None:
    samples = open_samples(
        shared / "data/camvid/val", [TensorSpec("x", "float32", ("N", 3, 352, 480))],
        Preprocess(crop=(4, 0, 352, 480)), images=8,
    )  # fmt: skip
    tally = Tally.empty(3, lambda: make_metric("miou", "camvid"), "y")
    for position, sample in enumerate(samples):
        assert sample.label is not None
        scores = np.eye(12, 11, dtype=np.float32)[np.minimum(sample.label, 11)][None]
        moved = [{"y": np.roll(scores, by, 2)} for by in range(4)]
        tally.add(position, sample, "y", moved, metric=lambda: make_metric("miou", "camvid"))
    rows = [CandidateRow(name, [], {"class mIoU": 70.0}, {}, True, "") for name in "oabc"]
    report = Report("net.pb", "net.pb", candidates=rows)
    report.gallery = gallery_rows(tally, rows, samples, "camvid")
    assert len(report.gallery) == 24
    write_html(report, tmp_path / "report.html")
    size = (tmp_path / "report.html").stat().st_size
    assert 500_000 < size < 2_500_000
