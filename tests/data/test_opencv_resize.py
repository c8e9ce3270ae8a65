"""Resizing in numpy, held against OpenCV."""

import sys
from collections.abc import Iterator

import cv2
import numpy as np
import pytest

from onnxgraft.data.opencv_resize import Interpolation, resized
from onnxgraft.data.resampling import plain

MODES: dict[Interpolation, int] = {
    "nearest": cv2.INTER_NEAREST, "bilinear": cv2.INTER_LINEAR, "bicubic": cv2.INTER_CUBIC,
    "area": cv2.INTER_AREA,
}  # fmt: skip
# What OpenCV computes in 8 bits of bicubic goes through float32 in its vector code, and whole
# numbers in the rest; of float32 it adds the four products in another order.
LEAST = {("bicubic", "uint8"): 1, ("bicubic", "float32"): 2e-4}
SIZES = [(37, 53, 20, 31), (37, 53, 64, 80), (100, 100, 50, 50), (90, 120, 30, 40),
         (64, 64, 32, 64), (5, 7, 1, 1), (1, 1, 5, 6), (2, 3, 3, 2), (34, 98, 80, 1)]  # fmt: skip


@pytest.fixture(autouse=True)
def definition() -> Iterator[None]:
    """Let OpenCV compute by its own code: Intel's IPP gives other last bits on other processors."""
    cv2.ipp.setUseIPP(False)
    yield
    cv2.ipp.setUseIPP(True)


@pytest.mark.parametrize("kind", ["uint8", "float32"])
@pytest.mark.parametrize("mode", MODES)
def test_a_picture_is_resized_as_by_opencv(mode: Interpolation, kind: str) -> None:
    rng = np.random.default_rng(0)
    sizes = [*SIZES, *map(tuple, rng.integers(1, 90, (60, 4)).tolist())]
    for number, (height, width, rows, columns) in enumerate(sizes):
        picture = rng.integers(0, 256, (height, width, 1 + number % 4)).astype(kind)
        wanted = cv2.resize(picture, (columns, rows), interpolation=MODES[mode])
        made = resized(picture, (rows, columns), mode)
        assert made.dtype == picture.dtype
        np.testing.assert_allclose(
            made.astype(float), wanted.reshape(made.shape).astype(float), rtol=0,
            atol=LEAST.get((mode, kind), 0), err_msg=f"{picture.shape} to {rows}x{columns}",
        )  # fmt: skip


@pytest.mark.parametrize("kind", ["uint8", "float32"])
@pytest.mark.parametrize("mode", MODES)
def test_the_bits_are_the_same_without_opencv(
    mode: Interpolation, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cv2.ipp.setUseIPP(True)  # as it is usually
    picture = np.random.default_rng(1).integers(0, 256, (75, 100, 3)).astype(kind)
    for size in ((32, 32), (150, 200), (25, 50), (80, 60)):
        usual = plain(picture, size, mode)
        with monkeypatch.context() as without:
            without.setitem(sys.modules, "cv2", None)
            np.testing.assert_array_equal(plain(picture, size, mode), usual)
