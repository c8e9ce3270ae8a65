"""What an image file says about itself, held against what OpenCV was asked to write."""

from __future__ import annotations

import io
import struct

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from onnxgraft.data.image_header import Form, jpeg_scans, stored_form
from tests import hostile


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
        (".ppm", 3, "uint8", Form(16, 12, 3, 8)),
        (".ppm", 3, "uint16", Form(16, 12, 3, 16)),
        (".pgm", 1, "uint8", Form(16, 12, 1, 8)),
        (".pbm", 1, "uint8", Form(16, 12, 1, 8, otherwise="a bitmap, whose 1 is black")),
    ],
)
def test_the_form_is_what_was_written(suffix: str, channels: int, dtype: str, form: Form) -> None:
    assert stored_form(encoded(suffix, channels, dtype)) == form


@pytest.mark.parametrize("data", [b"", b"GIF89a", b"\xff\xd8", b"\x89PNG\r\n\x1a\n"])
def test_nothing_is_known_of_other_and_of_cut_files(data: bytes) -> None:
    assert stored_form(data) is None


def drawn(file: str, **how: object) -> bytes:
    """Return what Pillow makes of a picture of 16 x 12."""
    pixels = np.random.default_rng(0).integers(0, 255, (12, 16, 3), np.uint8)
    made = io.BytesIO()
    Image.fromarray(pixels).save(made, file, **how)
    return made.getvalue()


def test_the_head_of_a_bitmap_of_os2_is_read() -> None:
    data = bytearray(drawn("BMP"))
    core = b"BM" + data[2:10] + struct.pack("<IIHHHH", 26, 12, 16, 12, 1, 24) + data[54:]
    assert stored_form(core) == Form(16, 12, 3, 8)
    pixels = cv2.imdecode(np.frombuffer(core, np.uint8), cv2.IMREAD_COLOR)
    assert pixels is not None
    assert pixels.shape == (12, 16, 3)


@pytest.mark.parametrize("comment", ["", "# a comment, 99 99\n", "#\n\n  # 1\n"])
@pytest.mark.parametrize("kind", "2356")
def test_comments_in_the_head_of_a_pnm_are_passed_over(kind: str, comment: str) -> None:
    head = f"P{kind}\n{comment}2 {comment}1\n{comment}255\n".encode()
    channels = 3 if kind in "36" else 1
    assert stored_form(head) == Form(2, 1, channels, 8)
    values = b"7 " * 6 if kind in "23" else b"7" * 6
    pixels = cv2.imdecode(np.frombuffer(head + values, np.uint8), cv2.IMREAD_UNCHANGED)
    assert pixels is not None
    assert pixels.shape[:2] == (1, 2)


# JPEG's scans ----------------------------------------------------------------------------------


@pytest.mark.parametrize("between", [b"", b"\0", b"\xff", b"garbage", b"\xff\xd0", b"\xff\x01"])
def test_every_scan_that_is_decoded_is_counted(between: bytes) -> None:
    plain, more = jpeg_scans(hostile.jpeg(0)), hostile.jpeg(7, between)
    assert jpeg_scans(more) == plain + 7
    assert cv2.imdecode(np.frombuffer(more, np.uint8), cv2.IMREAD_GRAYSCALE) is not None


def test_scans_elsewhere_are_not_counted() -> None:
    """A photograph has a small one in its metadata, and a film or another one behind it."""
    small = hostile.jpeg(200)
    exif = b"\xff\xe1" + struct.pack(">H", 2 + 6 + len(small)) + b"Exif\0\0" + small
    whole = hostile.jpeg(0)
    assert jpeg_scans(whole[:2] + exif + whole[2:] + small) == jpeg_scans(whole)
    assert stored_form(whole[:2] + exif + whole[2:]) == stored_form(whole)


def test_of_another_file_there_are_no_scans() -> None:
    assert jpeg_scans(drawn("PNG") + hostile.jpeg(3)) == 0
    assert jpeg_scans(encoded(".jpg", 3)) == 1


@given(
    st.sampled_from([".png", ".jpg", ".bmp", ".webp", ".tif", ".ppm"]),
    st.integers(0, 400),
    st.binary(max_size=9),
)
def test_damaged_files_do_no_harm(suffix: str, at: int, noise: bytes) -> None:
    data = encoded(suffix, 3)
    stored_form(data[:at] + noise + data[at + len(noise) :])
    stored_form(data[:at])
    jpeg_scans(data[:at] + noise)
