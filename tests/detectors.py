"""A detector that finds the same in every picture, its photographs, and labels in every form."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np

from onnxgraft.graph.tensors import Array
from tests.conftest import model_of

__all__ = ["CAR", "DOG", "RECIPE", "centre_and_size", "in_picture", "rows_of", "save", "write"]

NAMES = ("car", "dog")
# In the photograph of 80 x 60, which becomes a picture of 64 x 64: 64 x 48, with 8 rows above.
DOG, CAR = (20, 10, 60, 40), (5, 5, 25, 35)
RECIPE = """
[preprocess]
resize = [64, 64]
color = "rgb"
[postprocess]
letterbox = true
form = "FORM"
classes = "classes.txt"
"""


def in_picture(box: tuple[int, int, int, int]) -> Array:
    return np.array(box) * 0.8 + (0, 8, 0, 8)


def centre_and_size(edges: Array) -> list[float]:
    return [*(edges[:2] + edges[2:]) / 2, *edges[2:] - edges[:2]]


def rows_of(form: str) -> Array:
    """Return what a network says that finds the dog and the car, and the dog a second time."""
    again = in_picture(DOG) + 1
    found = [(in_picture(DOG), 1, 0.9), (in_picture(CAR), 0, 0.8), (again, 1, 0.7)]
    if form == "yolov5":
        rows = [[*centre_and_size(e), s, 1 - k, k] for e, k, s in found]
        return np.array([rows + [[0.0] * 7] * 20], np.float32)
    if form == "yolov8":
        rows = [[*centre_and_size(e), s * (1 - k), s * k] for e, k, s in found]
        return np.array(rows + [[0.0] * 6] * 20, np.float32).T[np.newaxis]
    rows = [[0, k, s, *(e / 64)] for e, k, s in found[:2]]
    return np.array([[[*rows, [-1.0] * 7]]], np.float32)


def save(folder: Path, outputs: dict[str, Array]) -> Path:
    """Write a network that gives the same answer to every picture."""
    made = " ".join(f"{name} = Add(zero_{name}, {name}_rows)" for name in outputs)
    zeros = " ".join(f"zero_{name} = Mul(mean, nothing)" for name in outputs)
    shapes = ", ".join(
        f"float[{', '.join(map(str, value.shape))}] {name}" for name, value in outputs.items()
    )
    text = (
        f"net (float[1, 3, 64, 64] x) => ({shapes}) "
        f"{{ mean = ReduceMean<keepdims = 0>(x) {zeros} {made} }}"
    )
    model = model_of(
        text,
        {"nothing": np.zeros((), np.float32)} | {f"{n}_rows": v for n, v in outputs.items()},
    )
    model.save(folder / "net.onnx")
    return folder / "net.onnx"


def write(folder: Path) -> None:
    """Write two photographs, a file of classes and labels in each form into a folder."""
    (folder / "images").mkdir()
    rng = np.random.default_rng(0)
    for name in "ab":
        cv2.imwrite(str(folder / f"images/{name}.png"), rng.integers(0, 255, (60, 80, 3)))
    (folder / "classes.txt").write_text("\n".join(NAMES))
    boxes = ((1, DOG), (0, CAR))
    own = {f"{n}.png": [[k, *in_picture(b).tolist()] for k, b in boxes] for n in "ab"}
    (folder / "ours.json").write_text(json.dumps(own))
    coco = {
        "images": [{"id": n, "file_name": f"{n}.png", "width": 80, "height": 60} for n in "ab"],
        "categories": [{"id": 1, "name": "car"}, {"id": 2, "name": "dog"}],
        "annotations": [
            {"image_id": n, "category_id": k + 1, "bbox": [*b[:2], b[2] - b[0], b[3] - b[1]]}
            for n in "ab"
            for k, b in boxes
        ],
    }
    (folder / "coco.json").write_text(json.dumps(coco))
    for form in ("voc", "yolo"):
        (folder / form).mkdir()
    for name in "ab":
        objects = "".join(
            f"<object><name>{NAMES[k]}</name><bndbox><xmin>{b[0] + 1}</xmin><ymin>{b[1] + 1}</ymin>"
            f"<xmax>{b[2]}</xmax><ymax>{b[3]}</ymax></bndbox></object>"
            for k, b in boxes
        )
        (folder / f"voc/{name}.xml").write_text(f"<annotation>{objects}</annotation>")
        lines = [
            " ".join(map(str, [k, *np.array(centre_and_size(np.array(b))) / (80, 60, 80, 60)]))
            for k, b in boxes
        ]
        (folder / f"yolo/{name}.txt").write_text("\n".join(lines))
