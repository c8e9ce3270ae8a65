"""Where an image lies in what is made of it: held against OpenCV's own resize of a drawn box."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pydantic import ValidationError

from onnxgraft.data.preprocess import Preprocess
from onnxgraft.data.samples import open_samples
from onnxgraft.errors import InputError
from onnxgraft.graph.tensors import TensorSpec

BOX = np.array([[40.0, 30.0, 80.0, 60.0]])
WAYS = {
    "as_it_is": {},
    "resized": {"resize": (240, 480)},
    "cropped": {"crop": (10, 20, 80, 120)},
    "letterboxed_wide": {"resize": (200, 480), "letterbox": 0},
    "letterboxed_high": {"resize": (480, 320), "letterbox": 0},
    "shorter_side": {"shorter_side": 180},
    "shorter_side_in_the_middle": {"shorter_side": 180, "center_crop": (170, 201)},
    "central_fraction": {"central_fraction": 0.8, "resize": (240, 300)},
    "padded": {"shorter_side": 90, "pad": (200, 300)},
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


def test_the_shorter_side_is_torchvisions_and_the_middle_too(tmp_path: Path) -> None:
    # torchvision/transforms/functional.py: _compute_resized_output_size and center_crop.
    for width, height in ((401, 300), (300, 401), (333, 500), (64, 64)):
        short, long = sorted((width, height))
        sides = (50, int(50 * long / short))
        size = sides if height <= width else sides[::-1]
        plan = Preprocess(shorter_side=50, center_crop=(45, 44)).plan(width, height)
        assert plan.size == size
        assert plan.crop == (round((size[0] - 45) / 2), round((size[1] - 44) / 2), 45, 44)


def test_padding_is_below_and_on_the_right(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.jpg"), np.full((20, 30, 3), 255, np.uint8))
    cv2.imwrite(str(tmp_path / "a.png"), np.full((20, 30), 3, np.uint8))
    recipe = Preprocess(pad=(32, 32), pad_value=7)
    spec = TensorSpec("x", "float32", (1, 3, 32, 32))
    sample = next(iter(open_samples(tmp_path, [spec], recipe)))
    pixels = sample.feeds["x"][0, 0]
    assert (pixels[:20, :30] == 255).all()
    assert (pixels[20:] == 7).all()
    assert (pixels[:, 30:] == 7).all()
    assert sample.label is not None
    assert (sample.label[20:] == 255).all()


def test_gray_pixels_are_centred_and_divided_by_the_deviation(tmp_path: Path) -> None:
    gray = np.arange(12, dtype=np.uint8).reshape(3, 4)
    cv2.imwrite(str(tmp_path / "a.png"), gray)
    recipe = Preprocess.model_validate({"color": "gray", "mean": 2, "scale": 3.0, "std": 4})
    for spec in (TensorSpec("x", "float32", shape) for shape in (("N", 1, 3, 4), ("N", 3, 4, 1))):
        (sample,) = open_samples(tmp_path, [spec], recipe)
        expected = (gray.astype(np.float32) - 2) * 3 / 4
        assert np.array_equal(sample.feeds["x"].reshape(3, 4), expected)


@pytest.mark.parametrize("shape", [("N", 30, 40, 3), ("N", 3, 30, 40), (3, 30, 40)], ids=str)
def test_the_size_may_be_the_inputs(shape: tuple[int | str, ...], tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((50, 60, 3), np.uint8))
    spec = TensorSpec("x", "float32", shape)
    samples = open_samples(tmp_path, [spec], Preprocess(resize="input"))
    assert samples.preprocess.resize == (30, 40)
    assert len(list(samples)) == 1


def test_a_size_that_the_input_leaves_free_is_wanted(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((50, 60, 3), np.uint8))
    spec = TensorSpec("x", "float32", ("N", "H", "W", 3))
    with pytest.raises(InputError, match=r'resize = "input": .* write resize = \[height, width\]'):
        open_samples(tmp_path, [spec], Preprocess(resize="input"))


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"letterbox": 114}, "set resize"),
        ({"resize": (4, 4), "shorter_side": 4}, "say the same"),
        ({"crop": (0, 0, 4, 4), "center_crop": (4, 4)}, "say the same"),
        ({"std": (0.229, 0.224, 0.225)}, "multiply those of pixels of 0 to 1 by 255"),
        ({"interpolation": "area", "antialias": True}, "area looks at all pixels"),
        ({"preset": "torch"}, "no preset is called 'torch'; did you mean"),
        ({"function": "mine.py:f", "mean": (1.0,)}, "takes the place of mean"),
        ({"function": "mine"}, r"write FILE\.py:FUNCTION"),
    ],
    ids=["letterbox", "resize", "crop", "std", "area", "preset", "function", "name"],
)
def test_keys_that_do_not_go_together_are_refused(keys: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        Preprocess.model_validate(keys)


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"center_crop": (60, 10)}, r"crops rows -5\.\.54 .* of 50x60"),
        ({"pad": (40, 80)}, r"pads to 40x80, and the image has 50x60"),
    ],
    ids=["center_crop", "pad"],
)
def test_an_image_of_another_size_is_told(keys: dict[str, Any], told: str, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((50, 60, 3), np.uint8))
    with pytest.raises(InputError, match=told):
        Preprocess.model_validate(keys).image(tmp_path / "a.png")
