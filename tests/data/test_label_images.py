"""A label image says classes, however it stores them: never the colours that they stand for."""

from __future__ import annotations

import builtins
import io
import struct
import sys
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from onnxgraft.data.images import read_label
from onnxgraft.errors import InputError, MissingDependencyError

CLASSES = np.random.default_rng(0).integers(0, 4, (5, 7), np.uint8)


def saved(folder: Path, pixels: Any, name: str = "a.png") -> Path:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(folder / name)
    return folder / name


def with_palette(bits: int = 2) -> Image.Image:
    """Return the classes in the colours that PASCAL VOC gives them, with room for more."""
    image = Image.fromarray(CLASSES).convert("P")
    image.putdata(CLASSES.ravel().tolist())
    colors = [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0]
    image.putpalette(colors + [7] * (3 * (1 << bits) - len(colors)))
    return image


def test_gray_levels_are_classes(tmp_path: Path) -> None:
    assert np.array_equal(read_label(saved(tmp_path, CLASSES))[:, :, 0], CLASSES)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_numbers_of_a_palette_are_classes(bits: int, tmp_path: Path) -> None:
    file = saved(tmp_path, with_palette(bits))
    assert file.read_bytes()[24:26] == bytes([bits, 3])  # as PNG has it
    assert np.array_equal(read_label(file)[:, :, 0], CLASSES)


def test_a_single_bit_is_class_0_or_1(tmp_path: Path) -> None:
    file = saved(tmp_path, Image.fromarray(CLASSES > 1))
    assert file.read_bytes()[24] == 1
    assert np.array_equal(read_label(file)[:, :, 0], CLASSES > 1)


@pytest.mark.parametrize("bits", [2, 4])
def test_gray_levels_of_a_few_bits_are_classes(bits: int, tmp_path: Path) -> None:
    """As PNG has them: rows of a filter's number, and of pixels from the upper bits down."""
    places = 8 // bits
    padded = np.pad(CLASSES, [(0, 0), (0, -CLASSES.shape[1] % places)])
    shifts = np.arange(places)[::-1] * bits
    rows = (padded.reshape(len(CLASSES), -1, places) << shifts).sum(-1).astype(np.uint8)
    data = b"".join(b"\0" + row.tobytes() for row in rows)
    head = struct.pack(">IIBBBBB", *CLASSES.shape[::-1], bits, 0, 0, 0, 0)
    parts = ((b"IHDR", head), (b"IDAT", zlib.compress(data)), (b"IEND", b""))
    chunks = (
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in parts
    )
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
    assert np.array_equal(read_label(tmp_path / "a.png")[:, :, 0], CLASSES)


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_16_bits_hold_the_same_classes(suffix: str, tmp_path: Path) -> None:
    file = saved(tmp_path, CLASSES.astype(np.uint16), f"a.{suffix}")
    assert np.array_equal(read_label(file)[:, :, 0], CLASSES)


def test_a_class_beyond_255_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has 16 bits a pixel and values up to 900"):
        read_label(saved(tmp_path, CLASSES.astype(np.uint16) * 300))


def test_gray_in_three_channels_is_gray(tmp_path: Path) -> None:
    file = saved(tmp_path, np.stack([CLASSES] * 3, -1))
    assert np.array_equal(read_label(file)[:, :, 0], CLASSES)


def test_a_picture_in_colours_is_no_label(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a picture in colours"):
        read_label(saved(tmp_path, with_palette().convert("RGB")))


def bmp(colors: list[tuple[int, int, int]]) -> bytes:
    """Return the classes as numbers of these colours, in a BMP of 8 bits that has no more."""
    image = Image.fromarray(CLASSES).convert("P")
    image.putdata(CLASSES.ravel().tolist())
    image.putpalette([level for color in colors for level in color])
    made = io.BytesIO()
    image.save(made, "BMP")
    assert struct.unpack_from("<I", made.getvalue(), 46) == (len(colors),)
    return made.getvalue()


def tiff(meaning: int) -> bytes:
    """Return the classes as a TIFF of 8 bits says them where 0 is white (0) or black (1)."""
    made = io.BytesIO()
    Image.fromarray(CLASSES).save(made, "TIFF", tiffinfo={262: meaning})
    return made.getvalue()


def pgm(kind: int, white: int) -> bytes:
    head = f"P{kind}\n{CLASSES.shape[1]} {CLASSES.shape[0]}\n{white}\n".encode()
    if kind == 2:
        return head + b" ".join(b"%d" % value for value in CLASSES.ravel()) + b"\n"
    return head + CLASSES.astype(">u1" if white < 256 else ">u2").tobytes()


GRAYS = [(level, level, level) for level in range(4)]


@pytest.mark.parametrize(
    "data",
    [cv2.imencode(".bmp", CLASSES)[1].tobytes(), bmp(GRAYS), tiff(1), pgm(2, 255), pgm(5, 255)],
    ids=["BMP", "short palette", "TIFF", "PGM in text", "PGM"],
)
@pytest.mark.parametrize("decoder", ["OpenCV", "Pillow"])
def test_gray_levels_of_other_files_are_classes(
    decoder: str, data: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_bytes(data)
    if decoder == "Pillow":
        monkeypatch.setitem(sys.modules, "cv2", None)
    assert np.array_equal(read_label(tmp_path / "a")[:, :, 0], CLASSES)


def packed(kind: str) -> bytes:
    made = io.BytesIO()
    Image.fromarray(CLASSES > 1).save(made, kind)
    return made.getvalue()


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (bmp(GRAYS[::-1]), "a BMP with a palette"),
        (bmp([(0, 0, 0), (85, 85, 85), (170, 170, 170), (255, 255, 255)]), "a BMP with a palette"),
        (packed("BMP"), "a BMP with a palette"),
        (tiff(0), "a TIFF whose 0 is white"),
        (packed("TIFF"), "a TIFF of less than 8 bits"),
        (packed("PPM"), "a bitmap, whose 1 is black"),
        (pgm(2, 3), "a PGM or PPM whose white is 3"),
        (pgm(5, 3), "a PGM or PPM whose white is 3"),
        (pgm(5, 1000), "a PGM or PPM whose white is 1000"),
    ],
)
@pytest.mark.parametrize("decoder", ["OpenCV", "Pillow"])
def test_classes_that_are_decoded_as_other_numbers_are_refused(
    decoder: str, data: bytes, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Decoders differ in them, or give the colours that numbers stand for."""
    (tmp_path / "a").write_bytes(data)
    if decoder == "Pillow":
        monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(InputError, match=f"a: is {kind}"):
        read_label(tmp_path / "a")


def test_without_pillow_a_palette_is_not_guessed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, load = saved(tmp_path, with_palette()), builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name.partition(".")[0] == "PIL":
            raise ModuleNotFoundError(name)
        return load(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    for name in [name for name in sys.modules if name.partition(".")[0] == "PIL"]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(MissingDependencyError, match="needs Pillow"):
        read_label(file)
