"""What an image file says about itself, held against what OpenCV was asked to write."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxgraft.data.image_header import Form, stored_form


def encoded(suffix: str, channels: int, dtype: str = "uint8") -> bytes:
    shape = (12, 16) if channels == 1 else (12, 16, channels)
    pixels = np.random.default_rng(0).integers(0, 255, shape).astype(dtype)
    done, data = cv2.imencode(suffix, pixels)
    assert done
    return bytes(data)


@pytest.mark.parametrize(
    ("suffix", "channels", "dtype", "form"),
    [
        (".png", 1, "uint8", Form(16, 12, 1, 8)),
        (".png", 3, "uint8", Form(16, 12, 3, 8)),
        (".png", 4, "uint8", Form(16, 12, 4, 8)),
        (".png", 3, "uint16", Form(16, 12, 3, 16)),
        (".jpg", 1, "uint8", Form(16, 12, 1, 8)),
        (".jpg", 3, "uint8", Form(16, 12, 3, 8)),
        (".bmp", 3, "uint8", Form(16, 12, 3, 8)),
        (".bmp", 4, "uint8", Form(16, 12, 4, 8)),
        (".webp", 3, "uint8", Form(16, 12, 3, 8)),
        (".webp", 4, "uint8", Form(16, 12, 4, 8)),
        (".tif", 1, "uint8", Form(16, 12, 1, 8)),
        (".tif", 3, "uint8", Form(16, 12, 3, 8)),
        (".tif", 3, "uint16", Form(16, 12, 3, 16)),
    ],
)
def test_the_form_is_what_was_written(suffix: str, channels: int, dtype: str, form: Form) -> None:
    assert stored_form(encoded(suffix, channels, dtype)) == form


@pytest.mark.parametrize("data", [b"", b"GIF89a", b"\xff\xd8", b"\x89PNG\r\n\x1a\n"])
def test_nothing_is_known_of_other_and_of_cut_files(data: bytes) -> None:
    assert stored_form(data) is None


@given(
    st.sampled_from([".png", ".jpg", ".bmp", ".webp", ".tif"]),
    st.integers(0, 400),
    st.binary(max_size=9),
)
def test_damaged_files_do_no_harm(suffix: str, at: int, noise: bytes) -> None:
    data = encoded(suffix, 3)
    stored_form(data[:at] + noise + data[at + len(noise) :])
    stored_form(data[:at])
