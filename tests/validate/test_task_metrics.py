"""Area under the curve, top-k, detection, a user's function: against sklearn or slow code."""

from __future__ import annotations

import importlib
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxgraft.errors import InputError
from onnxgraft.graph.tensors import Array
from onnxgraft.stages.validate import (
    METRICS,
    Answered,
    Metric,
    find_classes,
    make_metric,
    read_labels,
)
from tests.conftest import ROOT


def fed(metric: Metric, outputs: Array, labels: list[Array]) -> Metric:
    for output, label in zip(outputs, labels, strict=True):
        metric.add(Answered(output[np.newaxis]), np.asarray(label))
    return metric


@given(st.integers(0, 1000), st.integers(1, 5))
def test_the_area_is_sklearns(seed: int, classes: int) -> None:
    sklearn = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(seed)
    # Whole numbers, so that there are ties.
    scores = rng.integers(0, 6, (40, classes)).astype(np.float32)
    labels = np.concatenate([np.arange(max(classes, 2)), rng.integers(0, max(classes, 2), 40)])[:40]
    values = fed(make_metric("auc"), scores, list(labels)).values()["AUC"]
    if classes > 2:
        areas = [sklearn.roc_auc_score(labels == i, scores[:, i]) for i in range(classes)]
        expected = float(np.mean(areas))
    else:
        chosen = scores[:, 0] if classes == 1 else scores[:, 1] - scores[:, 0]
        expected = float(sklearn.roc_auc_score(labels == 1, chosen))
    assert values == pytest.approx(100 * expected, abs=1e-9)


@given(st.integers(0, 1000))
def test_top5_is_sklearns(seed: int) -> None:
    sklearn = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(seed)
    scores, labels = rng.standard_normal((30, 12)).astype(np.float32), rng.integers(0, 12, 30)
    values = fed(make_metric("top5"), scores, list(labels)).values()
    for name, k in (("top5", 5), ("top1", 1)):
        right = sklearn.top_k_accuracy_score(labels, scores, k=k, labels=range(12))
        assert values[name] == pytest.approx(100 * right)
    assert list(values) == ["top5", "top1"]


def test_a_label_beyond_the_scores_is_refused() -> None:
    with pytest.raises(InputError, match="label 12 is not one of 10 classes"):
        make_metric("top5").add(Answered(np.zeros((1, 10))), np.asarray(12))


# Detection, against the definition box by box.


def slow_overlap(a: Array, b: Array) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    both = width * height
    either = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both
    return float(both / either)


def slow_precision(
    images: list[tuple[Array, Array]], index: int, least: float, points: int | None
) -> float:
    """Return the average precision of a class, over every recall or at ``points`` of them."""
    found = [
        (row[4], number, row[:4])
        for number, (rows, _) in enumerate(images)
        for row in rows
        if row[5] == index
    ]
    taken: set[tuple[int, int]] = set()
    total = sum(int(box[0] == index) for _, boxes in images for box in boxes)
    right, curve = 0, []
    for rank, (_, number, box) in enumerate(sorted(found, key=lambda f: -f[0]), 1):
        best, place = 0.0, None
        for j, wanted in enumerate(images[number][1]):
            if wanted[0] == index and (number, j) not in taken:
                overlap = slow_overlap(box, wanted[1:])
                if overlap > best:
                    best, place = overlap, (number, j)
        if place is not None and best >= least:
            taken.add(place)
            right += 1
        curve.append((right / total, right / rank))

    def reached(recall: float) -> float:
        return max((p for r, p in curve if r >= recall - 1e-12), default=0.0)

    if points is not None:
        return sum(reached(i / (points - 1)) for i in range(points)) / points
    recalls = sorted({r for r, _ in curve if r > 0})
    return sum((r - q) * reached(r) for q, r in zip([0.0, *recalls], recalls, strict=False))


def scene(seed: int) -> list[tuple[Array, Array]]:
    """Return images of (detections [x1 y1 x2 y2 score class], labels [class x1 y1 x2 y2])."""
    rng = np.random.default_rng(seed)
    images = []
    for _ in range(4):
        corner = rng.uniform(0, 50, (5, 2))
        boxes = np.concatenate([corner, corner + rng.uniform(5, 30, (5, 2))], 1)
        labels = np.concatenate([rng.integers(0, 2, (5, 1)), boxes], 1)
        moved = np.repeat(boxes, 2, 0) + rng.uniform(-4, 4, (10, 4))
        kinds = np.repeat(labels[:, :1], 2, 0)
        kinds[rng.uniform(size=10) < 0.2] = 1
        images.append((np.concatenate([moved, rng.uniform(0.1, 1, (10, 1)), kinds], 1), labels))
    return images


@pytest.mark.parametrize("form", ["six", "seven"])
@pytest.mark.parametrize("seed", range(6))
def test_average_precision_is_that_of_its_definition(seed: int, form: str) -> None:
    images = scene(seed)
    metric = make_metric("map")
    for rows, labels in images:
        output = rows[np.newaxis]
        if form == "seven":
            first = np.zeros((10, 1))
            output = np.concatenate([first, rows[:, 5:], rows[:, 4:5], rows[:, :4]], 1)[None, None]
        metric.add(Answered(output), labels)
    classes = sorted({int(box[0]) for _, labels in images for box in labels})
    voc = [slow_precision(images, i, 0.5, None) for i in classes]
    coco = [
        slow_precision(images, i, least, 101) for i in classes for least in np.arange(0.5, 1, 0.05)
    ]
    values = metric.values()
    assert values["mAP50"] == pytest.approx(100 * np.mean(voc), abs=1e-9)
    assert values["mAP"] == pytest.approx(100 * np.mean(coco), abs=1e-9)
    assert list(metric.per_class().values()) == pytest.approx([100 * v for v in voc])


def slow_confusion(images: list[tuple[Array, Array]]) -> dict[tuple[int, int], int]:
    """Return how often a labelled class (row) was taken for one (column); -1 is nothing."""
    table: dict[tuple[int, int], int] = {}
    for rows, labels in images:
        shown = [row for row in rows if row[4] >= 0.5]
        pairs = [
            (slow_overlap(box, wanted[1:]), i, j)
            for i, box in enumerate(shown)
            for j, wanted in enumerate(labels)
        ]
        taken: dict[int, int] = {}
        for overlap, i, j in sorted(pairs, reverse=True):
            if overlap >= 0.5 and i not in taken and j not in taken.values():
                taken[i] = j
        told = [(int(labels[j][0]), int(shown[i][5])) for i, j in taken.items()]
        told += [(int(w[0]), -1) for j, w in enumerate(labels) if j not in taken.values()]
        told += [(-1, int(box[5])) for i, box in enumerate(shown) if i not in taken]
        for pair in told:
            table[pair] = table.get(pair, 0) + 1
    return table


@pytest.mark.parametrize("seed", range(6))
def test_a_detectors_confusion_is_that_of_its_definition(seed: int) -> None:
    metric = make_metric("map")
    for rows, labels in scene(seed):
        metric.add(Answered(rows[np.newaxis]), labels)
    expected = slow_confusion(scene(seed))
    found = metric.confusion_table()
    assert list(found) == ["0", "1", "nothing"]
    assert found == {
        name: [expected.get((row, column), 0) for column in (0, 1, -1)]
        for name, row in (("0", 0), ("1", 1), ("nothing", -1))
    }
    assert found["nothing"][-1] == 0


def test_a_box_on_what_is_difficult_is_confused_with_nothing() -> None:
    box, place = [10.0, 10.0, 20.0, 20.0, 0.9, 0.0], [0.0, 10.0, 10.0, 20.0, 20.0]
    metric = make_metric("map")
    metric.add(Answered(np.array([[box]])), np.array([[*place, 2.0], [1, 50, 50, 60, 60, 0]]))
    assert metric.confusion_table() == {
        "0": [0, 0, 0], "1": [0, 0, 1], "nothing": [0, 0, 0],
    }  # fmt: skip


def test_no_detections_are_no_precision() -> None:
    metric = make_metric("map")
    metric.add(Answered(np.zeros((1, 5, 6))), np.array([[0, 1, 1, 2, 2]]))
    assert metric.values() == {"mAP50": 0.0, "mAP": 0.0, "mAP50 COCO": 0.0}


@pytest.mark.parametrize(
    ("output", "label", "message"),
    [
        (np.zeros((1, 10)), np.zeros((1, 5)), "no boxes in a form that is known: rows of 7 values"),
        (np.zeros((1, 5, 6)), np.asarray(3), r"labels of \(boxes, 5\)"),
    ],
    ids=["output", "label"],
)
def test_what_is_no_detection_is_refused(output: Array, label: Array, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_metric("map").add(Answered(output), label)


@pytest.mark.parametrize(("scores", "label"), [([[0.2]], 2), ([[0.2, 0.8]], 2), ([[0.1] * 3], -1)])
def test_auc_refuses_a_class_that_the_output_has_not(scores: list[list[float]], label: int) -> None:
    with pytest.raises(InputError, match=f"auc: a label is of class {label}"):
        make_metric("auc").add(Answered(np.array(scores)), np.array(label))


def test_auc_refuses_pixels() -> None:
    with pytest.raises(
        InputError, match=r"auc needs one label a sample.*such labels are for --metric miou"
    ):
        make_metric("auc").add(Answered(np.zeros((1, 4, 4, 3))), np.zeros((4, 4), np.uint8))


# Parts.


def segmented(metric: Metric, part: slice) -> Metric:
    rng = np.random.default_rng(5)
    scores = rng.standard_normal((8, 3, 4, 11)).astype(np.float32)
    labels = rng.integers(0, 11, (8, 3, 4)).astype(np.uint8)
    return fed(metric, scores[part], list(labels[part]))


def scored(metric: Metric, part: slice) -> Metric:
    rng = np.random.default_rng(6)
    return fed(metric, rng.standard_normal((8, 7))[part], list(rng.integers(0, 7, 8)[part]))


def boxed(metric: Metric, part: slice) -> Metric:
    for rows, labels in [*scene(1), *scene(2)][part]:
        metric.add(Answered(rows[np.newaxis]), labels)
    return metric


def own_metric(folder: Path) -> str:
    file = folder / "own.py"
    file.write_text("def sharpness(output, label):\n    return {'a': output.max() / 3, 'b': 1.0}\n")
    return f"{file}:sharpness"


# What feeds each metric: a part of some samples.
SAMPLES: dict[str, Callable[[Metric, slice], Metric]] = {
    "auc": scored, "map": boxed, "miou": segmented, "own": scored, "top1": scored, "top5": scored,
}  # fmt: skip


def metric_classes() -> dict[str, type]:
    """Return the classes of metrics, by name: what in a family's file has parts to merge."""
    found = {}
    for file in (ROOT / "validate/metrics").glob("*.py"):
        if file.stem not in ("metric", "own"):  # the protocol, and what has no name of its own
            module = importlib.import_module(f"onnxgraft.stages.validate.metrics.{file.stem}")
            for name, value in vars(module).items():
                if getattr(value, "__module__", "") == module.__name__ and hasattr(value, "merge"):
                    found[name] = value
    return found


@pytest.mark.parametrize("name", sorted(metric_classes()))
def test_every_class_has_its_line(name: str) -> None:
    listed = {type(make_metric(kind)) for kind in METRICS}
    assert metric_classes()[name] in listed, f"{name} is in no KINDS, or its family not in METRICS"


@pytest.mark.parametrize("name", sorted({*METRICS, *SAMPLES}))
def test_parts_in_any_order_give_the_same(name: str, tmp_path: Path) -> None:
    assert name in METRICS or name == "own", f"{name} has no line in KINDS"
    assert name in SAMPLES, f"give samples of {name} in SAMPLES"
    feed = SAMPLES[name]
    name = own_metric(tmp_path) if name == "own" else name
    whole = feed(make_metric(name), slice(None))
    total = make_metric(name)
    for part in (slice(5, 8), slice(0, 2), slice(2, 5)):
        # As it comes from another process.
        total.merge(pickle.loads(pickle.dumps(feed(make_metric(name), part))))
    assert total.values() == whole.values()
    assert total.per_class() == whole.per_class()
    assert total.confusion_table() == whole.confusion_table()


# A user's own.


def test_a_users_function_is_averaged(tmp_path: Path) -> None:
    metric = make_metric(own_metric(tmp_path))
    for value in (3.0, 6.0):
        metric.add(Answered(np.array([[value, 0.0]])), np.asarray(0))
    assert metric.values() == {"a": 1.5, "b": 1.0}


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("def other(o, l): return 1", "has no function 'mine'"),
        ("def mine(o, l): return o['x']", "the metric mine failed on an output of"),
        ("def mine(o, l): return float('nan')", "returned nan for mine"),
        ("1 / 0", "can't be run .ZeroDivisionError"),
    ],
    ids=["missing", "failing", "nan", "broken_file"],
)
def test_a_users_function_that_does_not_work_is_told(
    code: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / "own.py").write_text(code)
    with pytest.raises(InputError, match=message):
        make_metric(f"{tmp_path / 'own.py'}:mine").add(Answered(np.zeros((1, 3))), np.asarray(0))


# Classes and labels by a file.


@pytest.mark.parametrize("suffix", [".toml", ".json", ".txt"])
def test_classes_come_from_a_small_file(suffix: str, tmp_path: Path) -> None:
    text = {
        ".toml": 'names = ["a", "b"]\n[categories]\nall = ["a", "b"]\n',
        ".json": '{"names": ["a", "b"], "categories": {"all": ["a", "b"]}}',
        ".txt": "a\nb\n",
    }[suffix]
    file = tmp_path / f"classes{suffix}"
    file.write_text(text)
    classes = find_classes(str(file))
    assert classes.names == ("a", "b")
    assert classes.categories == ({} if suffix == ".txt" else {"all": ("a", "b")})
    metric = make_metric("miou", str(file))
    metric.add(Answered(np.array([[[0, 1]]])), np.array([[0, 1]], np.uint8))
    assert metric.values()["class mIoU"] == 100.0


def test_a_byte_order_mark_is_no_part_of_a_class(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_bytes(b"\xef\xbb\xbfa\r\nb\r\n\r\n")
    assert find_classes(str(tmp_path / "classes.txt")).names == ("a", "b")


def test_a_line_without_a_class_is_refused(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("a\n\nb\n")
    with pytest.raises(InputError, match="line 2 is empty"):
        find_classes(str(tmp_path / "classes.txt"))


@pytest.mark.parametrize(
    "text",
    ["names = 3", 'names = ["a", "a"]', 'names = ["a"]\n[categories]\nx = ["b"]', "other = 1", "["],
    ids=["no_list", "twice", "foreign_category", "unknown_key", "no_toml"],
)
def test_a_wrong_file_of_classes_is_told(text: str, tmp_path: Path) -> None:
    (tmp_path / "classes.toml").write_text(text)
    with pytest.raises(InputError, match="not a file of classes"):
        find_classes(str(tmp_path / "classes.toml"))


def test_labels_come_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_text("images/a.jpg,3\nb c.jpg 4\n")
    assert {k: int(v) for k, v in read_labels(tmp_path / "l.csv").items()} == {
        "a.jpg": 3,
        "b c.jpg": 4,
    }
    (tmp_path / "l.json").write_text('{"a.jpg": [[1, 0, 0, 2, 2]], "b.jpg": []}')
    boxes = read_labels(tmp_path / "l.json")
    assert boxes["a.jpg"].tolist() == [[1, 0, 0, 2, 2]]
    assert boxes["b.jpg"].shape == (0, 5)


@pytest.mark.parametrize("text", ["a.jpg three", "a.jpg"])
def test_a_wrong_file_of_labels_is_told(text: str, tmp_path: Path) -> None:
    (tmp_path / "l.txt").write_text(text)
    with pytest.raises(InputError, match="not a file of labels"):
        read_labels(tmp_path / "l.txt")


@pytest.mark.parametrize("metric", ["top1", "auc", "miou"])
def test_a_label_that_is_a_fraction_is_no_class(metric: str) -> None:
    label = np.full((2, 2) if metric == "miou" else (), 1.5)
    output = np.zeros((1, 2, 2, 11) if metric == "miou" else (1, 11), np.float32)
    with pytest.raises(InputError, match=r"a label holds 1\.5, which is no class"):
        make_metric(metric).add(Answered(output), label)


def test_a_negative_label_is_left_out_of_the_miou() -> None:
    metric = make_metric("miou", "camvid")
    metric.add(Answered(np.zeros((1, 1, 2), np.int64)), np.array([[0, -1]]))
    assert sum(map(sum, metric.confusion_table().values())) == 1
