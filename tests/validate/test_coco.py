"""Mean average precision held against COCO's own code, on random boxes and a trained detector."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxgraft.graph.tensors import Array
from onnxgraft.stages.validate import Answered, make_metric

# Of each image: boxes (left, top, right, bottom, score, class), and labels (class, left, top,
# right, bottom, whether it is a crowd).
Scene = list[tuple[Array, Array]]


def coco_values(scene: Scene) -> dict[str, float]:
    """Return what pycocotools says."""
    coco = pytest.importorskip("pycocotools.coco")
    evaluation = pytest.importorskip("pycocotools.cocoeval")

    def size(left: float, top: float, right: float, bottom: float) -> list[float]:
        return [left, top, right - left, bottom - top]

    labels: list[dict[str, Any]] = []
    found = []
    for number, (boxes, wanted) in enumerate(scene):
        for kind, *corners, crowd in wanted.tolist():
            box = size(*corners)
            labels.append({
                "id": len(labels) + 1, "image_id": number, "category_id": int(kind), "bbox": box,
                "area": box[2] * box[3], "iscrowd": int(crowd),
            })  # fmt: skip
        for *corners, score, kind in boxes.tolist():
            found.append({
                "image_id": number, "category_id": int(kind), "bbox": size(*corners),
                "score": score,
            })  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()):
        truth = coco.COCO()
        truth.dataset = {
            "images": [{"id": n} for n in range(len(scene))], "annotations": labels,
            "categories": [{"id": n} for n in range(4)], "info": {},
        }  # fmt: skip
        truth.createIndex()
        done = evaluation.COCOeval(truth, truth.loadRes(found), "bbox")
        done.evaluate()
        done.accumulate()
        done.summarize()
    return {"mAP": 100 * done.stats[0], "mAP50 COCO": 100 * done.stats[1]}


def ours(scene: Scene) -> dict[str, float]:
    metric = make_metric("map")
    for boxes, wanted in scene:
        metric.add(Answered(boxes[np.newaxis]), wanted)
    return metric.values()


def random_scene(seed: int, *, crowds: bool, images: int = 3, boxes: int = 8) -> Scene:
    """Return labels on whole pixels, so that overlaps are often equal, and boxes about them."""
    rng = np.random.default_rng(seed)
    scene = []
    for _ in range(images):
        count = int(rng.integers(0, 6))
        corner = rng.integers(0, 40, (count, 2))
        corners = np.concatenate([corner, corner + rng.integers(4, 20, (count, 2))], 1)
        kinds = rng.integers(0, 3, (count, 1))
        crowd = rng.random((count, 1)) < (0.3 if crowds else 0.0)
        wanted = np.concatenate([kinds, corners, crowd], 1).astype(np.float64)
        about = rng.integers(0, count, boxes) if count else np.zeros(0, int)
        moved = corners[about] + rng.integers(-2, 3, (len(about), 4))
        moved[:, 2:] = np.maximum(moved[:, 2:], moved[:, :2] + 1)
        guessed = np.where(rng.random(len(about)) < 0.2, 1, kinds[about, 0])
        # No two scores are equal: which of two equal ones comes first is nobody's definition.
        scores = rng.permutation(10_000)[: len(about)] / 10_000 + 1e-5
        found = np.concatenate([moved, scores[:, None], guessed[:, None]], 1).astype(np.float64)
        scene.append((found, wanted))
    return scene


def check(scene: Scene) -> None:
    if not any(len(boxes) for boxes, _ in scene) or not any(
        (wanted[:, 5] == 0).any() for _, wanted in scene
    ):
        return  # pycocotools says -1 then
    expected, found = coco_values(scene), ours(scene)
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=1e-9), name


@given(st.integers(0, 100_000))
def test_precision_is_cocos(seed: int) -> None:
    check(random_scene(seed, crowds=False))


@given(st.integers(0, 100_000))
def test_crowds_count_as_coco_counts_them(seed: int) -> None:
    check(random_scene(seed, crowds=True))


def test_coco_looks_at_a_hundred_boxes_of_a_class_in_an_image() -> None:
    wanted = np.array([[0, 10.0, 10, 20, 20, 0], [0, 30, 30, 40, 40, 0]])
    right = [[10, 10, 20, 20, 0.9, 0], [30, 30, 40, 40, 0.1, 0]]
    wrong = [[50, 50, 60, 60, 0.2 + n / 1000, 0] for n in range(120)]
    scene = [(np.array(right + wrong, np.float64), wanted)]
    check(scene)
    values = ours(scene)
    assert values["mAP50 COCO"] == pytest.approx(100 * 51 / 101)
    assert values["mAP50"] > 50.0  # VOC looks at all


def test_what_is_difficult_is_neither_found_nor_missed() -> None:
    metric = make_metric("map")
    boxes = np.array([[[0, 0, 10, 10, 0.9, 0], [20, 20, 30, 30, 0.8, 0]]], np.float64)
    wanted = np.array([[0, 0.0, 0, 10, 10, 2], [0, 20, 20, 30, 30, 0]])
    metric.add(Answered(boxes), wanted)
    assert metric.values() == {"mAP50": 100.0, "mAP": pytest.approx(100.0), "mAP50 COCO": 100.0}


def textbook(rows: Array, score: float, overlap: float) -> Array:
    """Return the boxes of YOLOv5's rows, each class by itself: the slow way."""
    found: list[Sequence[float]] = []
    for index in range(rows.shape[1] - 5):
        kept: list[list[float]] = []
        for x, y, w, h, objectness, *classes in sorted(
            rows.tolist(), key=lambda row: -row[4] * row[5 + index]
        ):
            value = objectness * classes[index]
            if value < score:
                break
            box = [x - w / 2, y - h / 2, x + w / 2, y + h / 2]
            if all(union_share(box, other) <= overlap for other in kept):
                kept.append(box)
                found.append([*box, value, index])
    return np.array(found, np.float64).reshape(-1, 6)


def union_share(a: Sequence[float], b: Sequence[float]) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    both = width * height
    areas = sum((c[2] - c[0]) * (c[3] - c[1]) for c in (a, b))
    return both / (areas - both)


def test_the_trained_detector_has_the_precision_that_coco_gives_it(shared: Path) -> None:
    import cv2
    import onnxruntime

    from onnxgraft.data.postprocess import Postprocess

    stored = json.loads((shared / "data/camvid/val_boxes.json").read_text())
    model = onnxruntime.InferenceSession(shared / "models/yolo_camvid/yolo_camvid.onnx")
    metric = make_metric("map", how=Postprocess(form="yolov5"))
    scene = []
    for name in sorted(stored)[:40:8]:
        image = cv2.imread(str(shared / "data/camvid/val" / name))[4:356, :, ::-1]
        feed = np.ascontiguousarray(image.transpose(2, 0, 1)[None], np.float32) / 255
        (output,) = model.run(None, {"images": feed})
        labels = np.array(stored[name], np.float64).reshape(-1, 5)
        metric.add(Answered(output, {"output": output}, (352, 480)), labels)
        crowd = np.zeros((len(labels), 1))
        scene.append((textbook(output[0], 0.01, 0.5), np.concatenate([labels, crowd], 1)))
    expected, values = coco_values(scene), metric.values()
    assert expected["mAP50 COCO"] > 50
    assert values["mAP"] == pytest.approx(expected["mAP"], abs=1e-9)
    assert values["mAP50 COCO"] == pytest.approx(expected["mAP50 COCO"], abs=1e-9)
