"""Boxes in the outputs of detectors: every form by its definition, and told by its shape."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from pydantic import ValidationError

from onnxgraft.data.boxes import BoxForm, Found, find_boxes, form_of
from onnxgraft.data.postprocess import Postprocess
from onnxgraft.errors import InputError
from onnxgraft.graph.tensors import Array

SIZE = (64, 96)
CELLS = sum((64 // stride) * (96 // stride) for stride in (8, 16, 32))
ANCHORS = [[4, 5, 9, 8], [12, 20, 24, 18], [40, 33, 50, 60]]


def same(one: Found, other: Found) -> None:
    np.testing.assert_array_equal(one.classes, other.classes)
    np.testing.assert_allclose(one.scores, other.scores, rtol=1e-12)
    np.testing.assert_allclose(one.edges, other.edges, rtol=1e-9, atol=1e-9)
    assert len(one.scores) > 5


def heads(classes: int, anchors: int) -> dict[str, Array]:
    """Return raw heads of (1, anchors, h, w, 5 + classes)."""
    rng = np.random.default_rng(3)
    return {
        f"p{s}": rng.normal(size=(1, anchors, 64 // s, 96 // s, 5 + classes)).astype(np.float32)
        for s in (8, 16, 32)
    }


def rows_of(raw: dict[str, Array], anchors: list[list[int]]) -> Array:
    """Return YOLOv5's rows of its heads: the formula, a cell at a time."""
    rows = []
    for (name, head), sizes in zip(raw.items(), anchors, strict=True):
        stride = int(name[1:])
        s = 1 / (1 + np.exp(-head[0].astype(np.float64)))
        for a, y, x in np.ndindex(*s.shape[:3]):
            cell = s[a, y, x]
            rows.append([
                (2 * cell[0] - 0.5 + x) * stride, (2 * cell[1] - 0.5 + y) * stride,
                (2 * cell[2]) ** 2 * sizes[2 * a], (2 * cell[3]) ** 2 * sizes[2 * a + 1],
                *cell[4:],
            ])  # fmt: skip
    return np.array([rows])


LAYOUTS = {
    "planes": lambda v: v,
    "channels_first": lambda v: v.transpose(0, 1, 4, 2, 3).reshape(1, -1, *v.shape[2:4]),
    "channels_last": lambda v: v.transpose(0, 2, 3, 1, 4).reshape(1, *v.shape[2:4], -1),
    "planes_last": lambda v: v.transpose(0, 2, 3, 1, 4),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_heads_with_anchors_of_their_own_are_decoded_by_the_formula(layout: str) -> None:
    raw = heads(4, 2)
    how = BoxForm(anchors=ANCHORS, score=0.2)
    laid = {name: LAYOUTS[layout](value) for name, value in raw.items()}
    assert form_of(laid, how, SIZE) == ("yolov5", None)
    expected = find_boxes({"rows": rows_of(raw, ANCHORS)}, how, SIZE, counted=True)
    same(find_boxes(laid, how, SIZE, counted=True), expected)


def test_of_rows_and_the_heads_that_they_are_made_of_the_rows_count() -> None:
    raw = heads(4, 3)
    rows = rows_of(raw, [list(row) for row in BoxForm().anchors])
    both = {**raw, "rows": rows}
    how = BoxForm(form="yolov5", score=0.3)
    same(find_boxes(both, how, SIZE), find_boxes({"rows": rows}, how, SIZE))


@pytest.mark.parametrize("last", [False, True], ids=["channels_first", "channels_last"])
def test_yolov8_is_held_against_opencvs_suppression(last: bool) -> None:
    rng = np.random.default_rng(1)
    rows = np.concatenate(
        [rng.uniform(5, 60, (CELLS, 2)), rng.uniform(4, 20, (CELLS, 2)), rng.random((CELLS, 3))], 1
    )
    output = rows[None] if last else rows.T[None]
    assert form_of({"out": output}, BoxForm(), SIZE) == ("yolov8", "out")
    found = find_boxes({"out": output}, BoxForm(score=0.6, overlap=0.3), SIZE, counted=True)
    corner = rows[:, :2] - rows[:, 2:4] / 2
    boxes = np.concatenate([corner, rows[:, 2:4]], 1).tolist()
    for index in range(3):
        kept = cv2.dnn.NMSBoxes(boxes, rows[:, 4 + index].tolist(), 0.6, 0.3)
        expected = sorted(rows[np.asarray(kept).reshape(-1), 4 + index], reverse=True)
        np.testing.assert_allclose(found.scores[found.classes == index], expected)


def test_a_picture_shows_a_box_once_and_a_metric_counts_it_for_each_class() -> None:
    rows = np.array([[[10, 10, 8, 8, 1.0, 0.9, 0.6, 0.2]]])
    how = BoxForm(form="yolov5")
    assert find_boxes({"y": rows}, how, SIZE).classes.tolist() == [0]
    assert find_boxes({"y": rows}, how, SIZE, counted=True).classes.tolist() == [0, 1, 2]


def test_rows_in_fractions_are_boxes_in_pixels() -> None:
    rows = np.array([[[[0, 1, 0.9, 0.25, 0.5, 0.75, 1.0], [-1, 0, 0, 0, 0, 0, 0]]]])
    found = find_boxes({"y": rows}, BoxForm(), SIZE, counted=True)
    assert found.edges.tolist() == [[24, 32, 72, 64]]
    assert found.classes.tolist() == [1]


@pytest.mark.parametrize("score", [0.0, 0.9], ids=["left_out", "counted"])
def test_one_wide_box_leaves_the_others_in_fractions(score: float) -> None:
    # YOLOv5's widest box of 640 pixels is 4 * 373: 2.3 pictures.
    rows = np.array([
        [0.50, 0.50, 0.2, 0.2, 0.8, 0],
        [0.25, 0.25, 0.2, 0.2, 0.7, 0],
        [0.97, 0.90, 2.3, 0.4, score, 0],
        *[[0.5, 0.5, 0.1, 0.1, 0, 0]] * 9,
    ])
    found = find_boxes({"y": rows[None]}, BoxForm(form="yolov8"), SIZE, counted=True)
    shown = found.edges[np.isin(found.scores, [0.8, 0.7])]
    height, width = SIZE
    expected = [[0.4 * width, 0.4 * height, 0.6 * width, 0.6 * height],
                [0.15 * width, 0.15 * height, 0.35 * width, 0.35 * height]]  # fmt: skip
    np.testing.assert_allclose(shown, expected, atol=1e-9)


def test_the_recipe_may_say_what_boxes_are_measured_in() -> None:
    rows = np.array([[[0, 1, 0.9, 0.5, 0.5, 1.5, 1.0]]])
    for units, edges in {"pixels": [0.5, 0.5, 1.5, 1.0], "fractions": [48, 32, 144, 64]}.items():
        found = find_boxes({"y": rows}, BoxForm(form="ssd", units=units), SIZE)
        assert found.edges.tolist() == [edges]


KINDS, PARTS = np.arange(40.0)[:, None] % 3, np.full((40, 5), 0.3)
CASES = {
    "ssd": (
        np.concatenate([0 * KINDS, KINDS, PARTS], 1)[None, None],
        "ssd",
    ),
    "corners": (np.concatenate([PARTS, KINDS], 1)[None], "corners"),
    "yolov5": (np.full((1, 3 * CELLS, 9), 0.3), "yolov5"),
    "yolov5_of_two_classes": (np.full((1, 3 * CELLS, 7), 0.3), "yolov5"),
    "yolov5_of_one_class": (np.full((1, 3 * CELLS, 6), 0.3), "yolov5"),
    "yolov8": (np.full((1, 7, CELLS), 0.3), "yolov8"),
    "yolov8_of_one_class": (np.full((1, 5, CELLS), 0.3), "yolov8"),
    "scores_of_classes": (np.full((1, 10), 0.3), None),
    "a_map": (np.full((1, 11, 64, 96), 0.3), None),
}


@pytest.mark.parametrize("case", CASES)
def test_the_form_is_told_by_the_shape(case: str) -> None:
    output, form = CASES[case]
    assert form_of({"y": output}, BoxForm(), SIZE)[0] == form


@pytest.mark.parametrize(
    ("form", "output", "message"),
    [
        ("auto", np.zeros((1, 10)), r"y \(1, 10\): no boxes in a form that is known"),
        ("yolov5", np.zeros((1, 50, 5)), "not rows of yolov5, which have 5 . classes values"),
        ("yolov5", np.zeros((1, 27, 7, 9)), r"for a picture of 64x96.*strides of 8, 16, 32"),
        ("ssd", np.zeros((1, 50, 9)), "rows have 7 values"),
    ],
    ids=["auto", "rows", "heads", "ssd"],
)
def test_what_holds_no_boxes_is_refused(form: str, output: Array, message: str) -> None:
    how = BoxForm.model_validate({"form": form})
    with pytest.raises(InputError, match=message):
        find_boxes({"y": output}, how, SIZE)


def test_an_output_that_is_not_there_is_named() -> None:
    with pytest.raises(InputError, match="did you mean boxes"):
        find_boxes({"boxes": np.zeros((1, 9, 6))}, BoxForm(), SIZE, output="boxs")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"strides": [8, 16]}, "a row of widths and heights for each of the strides"),
        ({"strides": [8], "anchors": [[1, 2, 3]]}, "width, height, width"),
        ({"classes": "camvid", "names": ["a"]}, "names and classes say the same"),
        ({"overlaps": 0.5}, "Extra inputs are not permitted"),
    ],
    ids=["strides", "odd", "names", "unknown"],
)
def test_a_wrong_table_is_told(table: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Postprocess.model_validate(table)
