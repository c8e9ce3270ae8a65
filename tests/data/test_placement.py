"""Where an image lies in what is made of it: held against OpenCV's own resize of a drawn box."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from pydantic import ValidationError

from onnxgraft.data.preprocess import Preprocess
from onnxgraft.data.samples import open_samples
from onnxgraft.graph.tensors import TensorSpec

BOX = np.array([[40.0, 30.0, 80.0, 60.0]])
WAYS = {
    "as_it_is": {},
    "resized": {"resize": (240, 480)},
    "cropped": {"crop": (10, 20, 80, 120)},
    "letterboxed_wide": {"resize": (200, 480), "letterbox": 0},
    "letterboxed_high": {"resize": (480, 320), "letterbox": 0},
    "all": {"resize": (480, 320), "letterbox": 0, "crop": (100, 40, 300, 250)},
}


@pytest.mark.parametrize("way", WAYS)
def test_a_box_is_where_its_pixels_are(way: str, tmp_path: Path) -> None:
    image = np.zeros((120, 160, 3), np.uint8)
    left, top, right, bottom = BOX[0].astype(int)
    image[top:bottom, left:right] = 255
    cv2.imwrite(str(tmp_path / "a.png"), image)
    recipe = Preprocess.model_validate({**WAYS[way], "interpolation": "nearest"})
    picture = recipe.image(tmp_path / "a.png")[:, :, 0]
    rows, columns = np.nonzero(picture == 255)
    seen = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    placed = recipe.placement(160, 120)
    np.testing.assert_allclose(placed.forth(BOX)[0], seen, atol=1)
    np.testing.assert_allclose(placed.back(placed.forth(BOX)), BOX, atol=1e-9)


def test_a_letterbox_fills_both_sides_with_its_gray(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.jpg"), np.full((50, 100, 3), 255, np.uint8))
    cv2.imwrite(str(tmp_path / "a.png"), np.full((50, 100), 3, np.uint8))
    recipe = Preprocess.model_validate({"resize": (100, 100), "letterbox": True})
    spec = TensorSpec("x", "float32", (1, 3, 100, 100))
    sample = next(iter(open_samples(tmp_path, [spec], recipe)))
    pixels = sample.feeds["x"][0, 0]
    assert (pixels[:25] == 114).all()
    assert (pixels[75:] == 114).all()
    assert (pixels[25:75] == 255).all()
    assert sample.label is not None
    assert (sample.label[25:75] == 3).all()
    assert (sample.label[:25] == 255).all()  # no class
    assert sample.picture == (100, 100)


def test_a_letterbox_without_a_size_is_refused() -> None:
    with pytest.raises(ValidationError, match="set resize"):
        Preprocess.model_validate({"letterbox": 114})
