"""An engine that takes pictures, behind HTTP: for the tests of the server, its clients and page."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

import onnxgraft
from tests.conftest import model_of

__all__ = ["write"]

_CLASSES = (
    "net (float[N, 3, 12, 16] data) => (float[N, 4] prob, float[N, 3, 12, 16] half) {"
    " half = Mul(data, h)  p = GlobalAveragePool(half)  f = Flatten(p)  s = MatMul(f, w)"
    " prob = Softmax(s) }"
)
_RECIPE = """
[preprocess]
resize = [12, 16]
color = "rgb"
mean = [120, 110, 100]
std = [60]
[postprocess]
names = ["cat", "dog", "eel", "fox"]
"""
_MAP = "net (float[1, 3, 12, 16] data) => (float[1, 2, 12, 16] score) { score = Conv(data, w) }"
_STREET = '[preprocess]\nresize = [12, 16]\n[postprocess]\nnames = ["sky", "road"]\n'


def write(folder: Path) -> None:
    """Write a classifier for both CPU targets, a segmenter, and pictures."""
    rng = np.random.default_rng(0)
    model_of(
        _CLASSES,
        {"w": rng.normal(size=(3, 4)).astype(np.float32), "h": np.float32(0.5)},
    ).save(folder / "net.onnx")
    (folder / "recipe.toml").write_text(_RECIPE)
    kernel = rng.normal(size=(2, 3, 1, 1)).astype(np.float32)
    model_of(_MAP, {"w": kernel}).save(folder / "map.onnx")
    (folder / "street.toml").write_text(_STREET)
    built = {
        "onnxruntime.engine": ("net.onnx", "recipe.toml"),
        "openvino.engine": ("net.onnx", "recipe.toml"),
        "map.engine": ("map.onnx", "street.toml"),
    }  # fmt: skip
    for name, (graph, recipe) in built.items():
        target = "openvino" if name.startswith("openvino") else "onnxruntime"
        onnxgraft.build(
            folder / graph, folder / name, target=target, prove=False, recipe=folder / recipe
        )
    for number in range(3):
        picture = rng.integers(0, 256, (20 + number, 30, 3)).astype(np.uint8)
        cv2.imwrite(str(folder / f"{number}.png"), picture)
    photograph = cv2.resize(rng.integers(0, 256, (3, 4, 3)).astype(np.uint8), (640, 480))
    cv2.imwrite(str(folder / "photo.jpg"), photograph)
