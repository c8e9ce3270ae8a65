"""Task metrics, held against loops over single pixels and samples."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxgraft.data.classes import CAMVID, CITYSCAPES, Classes
from onnxgraft.errors import InputError
from onnxgraft.graph.tensors import Array
from onnxgraft.stages.validate import METRICS, make_metric
from onnxgraft.stages.validate.metrics import Answered
from onnxgraft.stages.validate.metrics.classification import AreaUnderCurve, TopK
from onnxgraft.stages.validate.metrics.segmentation import Segmentation

THREE = Classes(("road", "pavement", "car"), {"flat": ("road", "pavement"), "vehicle": ("car",)})


def slow_iou(pairs: list[tuple[int, int]], index: int) -> float | None:
    """Return the IoU of one class from (label, answer) pairs; None where it does not occur."""
    both = sum(label == index and answer == index for label, answer in pairs)
    either = sum(index in (label, answer) for label, answer in pairs)
    return both / either if either else None


def slow_values(pairs: list[tuple[int, int]], classes: Classes) -> dict[str, float]:
    """Return class and category mean IoU in percent, pixel by pixel."""
    category = {}
    for number, members in enumerate(classes.categories.values()):
        for name in members:
            category[classes.names.index(name)] = number
    merged = [(category[label], category[answer]) for label, answer in pairs]
    values = {}
    for name, of, count in (
        ("class mIoU", pairs, len(classes.names)),
        ("category mIoU", merged, len(classes.categories)),
    ):
        found = [iou for i in range(count) if (iou := slow_iou(of, i)) is not None]
        values[name] = 100 * sum(found) / len(found) if found else 0.0
    return values


def pixels(label: Array, answer: Array, classes: Classes) -> list[tuple[int, int]]:
    """Return the (label, answer) pairs of the pixels whose label is one of the classes."""
    return [
        (int(one), int(other))
        for one, other in zip(label.ravel(), answer.ravel(), strict=True)
        if one < len(classes.names)
    ]


@pytest.mark.parametrize("classes", [CAMVID, CITYSCAPES], ids=["camvid", "cityscapes"])
def test_every_class_has_exactly_one_category(classes: Classes) -> None:
    members = [name for names in classes.categories.values() for name in names]
    assert sorted(members) == sorted(classes.names)


@pytest.mark.parametrize(
    "classes", [THREE, CAMVID, CITYSCAPES], ids=["three", "camvid", "cityscapes"]
)
@pytest.mark.parametrize("seed", range(3))
def test_miou_is_that_of_a_loop_over_the_pixels(classes: Classes, seed: int) -> None:
    rng = np.random.default_rng(seed)
    metric = Segmentation(classes)
    pairs: list[tuple[int, int]] = []
    for _ in range(3):
        label = rng.integers(0, len(classes.names) + 2, (7, 9)).astype(np.uint8)
        scores = rng.standard_normal((1, 7, 9, len(classes.names))).astype(np.float32)
        metric.add(Answered(scores), label)
        pairs += pixels(label, scores[0].argmax(-1), classes)
    assert metric.values() == pytest.approx(slow_values(pairs, classes), rel=1e-12)
    each = {n: slow_iou(pairs, i) for i, n in enumerate(classes.names)}
    expected = {n: 100 * iou for n, iou in each.items() if iou is not None}
    assert metric.per_class() == pytest.approx(expected, rel=1e-12)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), min_size=1, max_size=12))
def test_miou_of_any_few_pixels_is_that_of_the_loop(given_pairs: list[tuple[int, int]]) -> None:
    label = np.array([[label for label, _ in given_pairs]], np.uint8)
    answer = np.array([[[answer for _, answer in given_pairs]]], np.int64)
    metric = Segmentation(THREE)
    metric.add(Answered(answer), label)
    pairs = pixels(label, answer, THREE)
    assert metric.values() == pytest.approx(slow_values(pairs, THREE), rel=1e-12)


def test_the_confusion_has_labels_in_rows_and_answers_in_columns() -> None:
    metric = Segmentation(THREE)
    metric.add(Answered(np.array([[[0, 1, 1, 2]]])), np.array([[0, 0, 0, 1]], np.uint8))
    assert metric.confusion[:, :3].tolist() == [[1, 2, 0], [0, 0, 1], [0, 0, 0]]


def test_a_confusion_within_a_category_costs_the_class_and_not_the_category() -> None:
    metric = Segmentation(THREE)
    metric.add(Answered(np.array([[[1, 0, 2]]])), np.array([[0, 1, 2]], np.uint8))
    assert metric.values() == {"class mIoU": pytest.approx(100 / 3), "category mIoU": 100.0}


def test_labels_beyond_the_classes_are_ignored() -> None:
    label = np.array([[0, 1, 2, 2]], np.uint8)
    answer = np.array([[[0, 1, 2, 0]]])
    plain, ignoring = Segmentation(THREE), Segmentation(THREE)
    plain.add(Answered(answer), label)
    ignoring.add(
        Answered(np.concatenate([answer, [[[2, 1]]]], -1)),
        np.concatenate([label, [[3, 255]]], -1).astype(np.uint8),
    )
    assert (plain.confusion == ignoring.confusion).all()


def test_an_answer_beyond_the_classes_is_a_miss() -> None:
    # A class map from a network with more classes: those pixels are wrong, not absent.
    metric = Segmentation(THREE)
    metric.add(Answered(np.array([[[0, 7, 7, 7]]])), np.array([[0, 0, 0, 0]], np.uint8))
    assert metric.per_class()["road"] == pytest.approx(25.0)


def test_a_negative_answer_is_never_a_hit() -> None:
    metric = Segmentation(THREE)
    metric.add(Answered(np.array([[[0, -1, -1, -1]]])), np.array([[0, 0, 0, 0]], np.uint8))
    assert metric.per_class()["road"] == pytest.approx(25.0)


def test_classes_that_do_not_occur_do_not_count() -> None:
    metric = Segmentation(THREE)
    metric.add(Answered(np.array([[[0, 0]]])), np.array([[0, 0]], np.uint8))
    assert metric.values() == {"class mIoU": 100.0, "category mIoU": 100.0}
    assert metric.per_class() == {"road": 100.0}


@pytest.mark.parametrize("seen", [False, True], ids=["no_samples", "all_ignored"])
def test_nothing_counted_is_zero(seen: bool) -> None:
    metric = Segmentation(THREE)
    if seen:
        metric.add(Answered(np.array([[[0, 1]]])), np.array([[255, 255]], np.uint8))
    assert metric.values() == {"class mIoU": 0.0, "category mIoU": 0.0}
    assert metric.per_class() == {}


@pytest.mark.parametrize("dtype", ["int64", "int32", "uint8", "float32"])
def test_scores_in_either_layout_and_class_maps_agree(dtype: str) -> None:
    rng = np.random.default_rng(0)
    scores = rng.standard_normal((1, 5, 4, 3)).astype(np.float32)
    label = rng.integers(0, 3, (5, 4)).astype(np.uint8)
    results = []
    for output in (scores, scores.transpose(0, 3, 1, 2), scores.argmax(-1).astype(dtype)):
        metric = Segmentation(THREE)
        metric.add(Answered(output), label)
        results.append(metric.confusion)
    assert (results[0] == results[1]).all()
    assert (results[0] == results[2]).all()


@pytest.mark.parametrize(
    "shape",
    [(1, 5, 4, 4), (1, 4, 5, 3), (2, 5, 4, 3), (5, 4, 3), (1, 3), (1, 5, 4, 1)],
    ids=str,
)
def test_an_output_that_is_no_answer_to_the_label_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"miou over 3 classes needs scores for the \(5, 4\)"):
        Segmentation(THREE).add(Answered(np.zeros(shape, np.float32)), np.zeros((5, 4), np.uint8))


@given(st.integers(0, 500))
def test_top1_is_the_share_of_right_answers(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.standard_normal((20, 1, 3)).astype(np.float32)
    labels = rng.integers(0, 3, 20)
    metric = TopK(1, ["cat", "dog"])
    table = [[0] * 4 for _ in range(3)]
    for row, label in zip(scores, labels, strict=True):
        metric.add(Answered(row), np.asarray(label))
        table[label][max(range(3), key=lambda i: row[0, i])] += 1
    right = sum(table[i][i] for i in range(3))
    assert metric.values() == {"top1": pytest.approx(100 * right / 20)}
    names = ["cat", "dog", "class 2"]
    assert metric.confusion_table() == dict(zip(names, table, strict=True))
    assert metric.per_class() == {
        name: pytest.approx(100 * row[i] / sum(row))
        for i, (name, row) in enumerate(zip(names, table, strict=True))
        if sum(row)
    }


def test_of_many_classes_no_table_is_made() -> None:
    metric = TopK(1)
    metric.add(Answered(np.eye(1, 1000)), np.asarray(0))
    assert (metric.values(), metric.per_class(), metric.confusion_table()) == (
        {"top1": 100.0}, {}, {},
    )  # fmt: skip


@pytest.mark.parametrize("k", [1, 2, 5])
@given(st.lists(st.sampled_from([-1.0, 0.0, 0.5]), min_size=6, max_size=9))
def test_ties_are_broken_as_argmax_and_a_stable_sort_do(k: int, scores: list[float]) -> None:
    row = np.array([scores], np.float32)
    first = np.argsort(-row[0], kind="stable")[:k]
    assert first[0] == row[0].argmax()
    for label in range(len(scores)):
        metric = TopK(k)
        metric.add(Answered(row), np.asarray(label))
        assert metric.values()[f"top{k}"] == (100.0 if label in first else 0.0)
        assert metric.values()["top1"] == (100.0 if label == first[0] else 0.0)


@pytest.mark.parametrize(
    ("label", "top1", "top5"), [(0, 100, 100), (1, 0, 100), (4, 0, 100), (5, 0, 0), (6, 0, 0)]
)
def test_of_equal_scores_the_first_are_the_largest(label: int, top1: int, top5: int) -> None:
    metric = TopK(5)
    metric.add(Answered(np.ones((1, 7), np.float32)), np.asarray(label))
    assert metric.values() == {"top1": top1, "top5": top5}


def test_top1_of_nothing_is_zero() -> None:
    assert TopK(1).values() == {"top1": 0.0}


@pytest.mark.parametrize("shape", [(1, 10), (1, 10, 1, 1), (1, 1, 1, 10)], ids=str)
def test_top1_takes_scores_with_spatial_axes_of_one(shape: tuple[int, ...]) -> None:
    scores = np.zeros(10, np.float32)
    scores[7] = 1
    metric = TopK(1)
    metric.add(Answered(scores.reshape(shape)), np.asarray(7))
    assert metric.values() == {"top1": 100.0}


@pytest.mark.parametrize(
    ("shape", "label"),
    [((1, 10), np.zeros((4, 4))), ((1, 10), np.zeros(2)), ((1, 1), np.asarray(0))],
    ids=["label_image", "label_row", "one_score"],
)
def test_top1_refuses_what_is_no_classification(shape: tuple[int, ...], label: Array) -> None:
    with pytest.raises(InputError, match="one label a sample and one score a class"):
        TopK(1).add(Answered(np.zeros(shape, np.float32)), label)


@pytest.mark.parametrize("metric", [TopK(1), AreaUnderCurve()], ids=["top1", "auc"])
def test_a_label_in_a_column_is_that_of_its_row(metric: TopK | AreaUnderCurve) -> None:
    # As keras.datasets.cifar10 has them.
    for label in (0, 1):
        scores = np.eye(2, dtype=np.float32)[label : label + 1]
        metric.add(Answered(scores), np.array([label]))
    assert [*metric.values().values()] == [100.0]


@pytest.mark.parametrize("classes", [3, 10])
def test_a_score_that_is_nan_is_no_right_answer(classes: int) -> None:
    metric = TopK(5)
    metric.add(Answered(np.full((1, classes), np.nan, np.float32)), np.asarray(2))
    assert metric.values() == {"top5": 0.0, "top1": 0.0}


def test_top1_refuses_more_than_one_answer() -> None:
    with pytest.raises(InputError, match="top1"):
        TopK(1).add(Answered(np.zeros((1, 5, 4, 3), np.float32)), np.asarray(0))


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_is_made_fresh_by_its_name(name: str) -> None:
    assert make_metric(name).name == name
    assert make_metric(name) is not make_metric(name)


def test_the_first_value_of_miou_is_that_of_the_classes() -> None:
    assert list(make_metric("miou", "cityscapes").values()) == ["class mIoU", "category mIoU"]


@pytest.mark.parametrize(
    ("name", "classes", "message"),
    [
        ("top2", "camvid", r"'top2'; did you mean top"),
        ("miou", "cityscape", r"'cityscape'; did you mean cityscapes\?"),
    ],
    ids=["metric", "classes"],
)
def test_an_unknown_name_tells_the_nearest(name: str, classes: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_metric(name, classes)
