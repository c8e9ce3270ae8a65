"""EXIF orientations: one rule for a picture, its label map and its boxes."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest

from onnxgraft.commands import calibrate, validate
from onnxgraft.data.image_header import Form, stored_form
from onnxgraft.data.images import read_image
from onnxgraft.data.orientation import turn, turn_boxes
from onnxgraft.data.preprocess import Preprocess
from onnxgraft.data.samples import open_samples
from onnxgraft.graph.tensors import Array, TensorSpec

ORIENTATIONS = range(1, 9)
HEIGHT, WIDTH = 4, 6

# What the numbers mean in numpy's words; EXIF 2.32 says where row 0 and column 0 are seen.
MEANING: dict[int, Callable[[Array], Array]] = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a.swapaxes(0, 1), 2),
    8: lambda a: np.rot90(a, 1),
}


def picture(height: int = HEIGHT, width: int = WIDTH) -> Array:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def exif(orientation: int, order: str = "<") -> bytes:
    mark = b"II*\0" if order == "<" else b"MM\0*"
    return mark + struct.pack(f"{order}IHHHIHHI", 8, 1, 0x112, 3, 1, orientation, 0, 0)


def encoded(suffix: str, pixels: Array, orientation: int, order: str = "<") -> bytes:
    """Return an image file with an orientation."""
    flags = [cv2.IMWRITE_WEBP_QUALITY, 101] if suffix == ".webp" else []
    data = cv2.imencode(suffix, pixels, flags)[1].tobytes()
    tags = exif(orientation, order)
    if suffix == ".jpg":
        tags = b"Exif\0\0" + tags
        return data[:2] + b"\xff\xe1" + struct.pack(">H", len(tags) + 2) + tags + data[2:]
    if suffix == ".png":
        crc = struct.pack(">I", zlib.crc32(b"eXIf" + tags))
        at = data.index(b"IEND") - 4  # behind the pixels, as some write it
        return data[:at] + struct.pack(">I", len(tags)) + b"eXIf" + tags + crc + data[at:]
    if suffix == ".webp":
        height, width = (size - 1 for size in pixels.shape[:2])
        size = width.to_bytes(3, "little") + height.to_bytes(3, "little")
        extended = b"VP8X" + struct.pack("<I", 10) + bytes([8, 0, 0, 0]) + size
        body = b"WEBP" + extended + data[12:] + b"EXIF" + struct.pack("<I", len(tags)) + tags
        return b"RIFF" + struct.pack("<I", len(body)) + body
    # TIFF: its directory once more, with one tag in its place, behind all else.
    (begin,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, begin)
    entries = [data[begin + 2 + 12 * i : begin + 14 + 12 * i] for i in range(count)]
    entries = sorted(
        [*entries, struct.pack("<HHIHH", 0x112, 3, 1, orientation, 0)],
        key=lambda entry: int.from_bytes(entry[:2], "little"),
    )
    data += b"\0" * (len(data) % 2)
    end = struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)
    return data[:4] + struct.pack("<I", len(data)) + data[8:] + end


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_turning_is_what_the_numbers_mean(orientation: int) -> None:
    assert (turn(picture(), orientation) == MEANING[orientation](picture())).all()


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_a_picture_is_turned_as_opencv_turns_it(
    tmp_path: Path, suffix: str, orientation: int
) -> None:
    file = tmp_path / f"a{suffix}"
    file.write_bytes(encoded(suffix, picture(), orientation))
    found = read_image(file)
    data = np.frombuffer(file.read_bytes(), np.uint8)
    assert (found == cv2.imdecode(data, cv2.IMREAD_COLOR)).all()
    gray = cv2.imdecode(data, cv2.IMREAD_GRAYSCALE)
    assert (read_image(file, gray=True)[:, :, 0] == gray).all()
    if suffix != ".jpg":  # which loses
        assert (found == MEANING[orientation](picture())).all()


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
def test_a_picture_is_turned_as_pillow_turns_it(tmp_path: Path, suffix: str) -> None:
    image = pytest.importorskip("PIL.Image")
    ops = pytest.importorskip("PIL.ImageOps")
    for orientation in ORIENTATIONS:
        file = tmp_path / f"{orientation}{suffix}"
        file.write_bytes(encoded(suffix, picture(), orientation))
        theirs = np.asarray(ops.exif_transpose(image.open(file)).convert("RGB"))[:, :, ::-1]
        # Two decoders of JPEG differ by a few steps.
        least = 8 if suffix == ".jpg" else 0
        assert np.abs(read_image(file).astype(int) - theirs).max() <= least


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_the_form_has_the_orientation(suffix: str, order: str) -> None:
    form = stored_form(encoded(suffix, picture(), 6, order))
    assert form == Form(WIDTH, HEIGHT, 3, 8, 6)
    assert form is not None
    assert form.upright == (HEIGHT, WIDTH)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_is_none_turns_nothing(tmp_path: Path, orientation: int) -> None:
    (tmp_path / "a.png").write_bytes(encoded(".png", picture(), orientation))
    assert (read_image(tmp_path / "a.png") == picture()).all()


# Label maps.


def street(folder: Path, orientation: int, label: bytes, height: int = 48, width: int = 64) -> Path:
    """Write a photograph that is dark at the top of what is stored, and its label map."""
    pixels = np.full((height, width, 3), 200, np.uint8)
    pixels[:16] = 0
    pixels[:, :16] = 0
    (folder / "a.jpg").write_bytes(encoded(".jpg", pixels, orientation))
    (folder / "a.png").write_bytes(label)
    return folder


def dark(height: int = 48, width: int = 64) -> Array:
    label = np.zeros((height, width), np.uint8)
    label[:16] = 1
    label[:, :16] = 1
    return label


def agree(folder: Path, recipe: Preprocess | None = None) -> bool:
    """Tell whether what is dark in the photograph is what its label says."""
    (sample,) = open_samples(folder, [TensorSpec("x", "float32", ("N", 3, "H", "W"))], recipe)
    assert sample.label is not None
    return bool(((sample.feeds["x"][0].mean(0) < 100) == (sample.label == 1)).all())


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("size", [(48, 64), (64, 48), (48, 48)], ids=["wide", "high", "square"])
def test_a_label_map_of_the_stored_picture_is_turned_with_it(
    tmp_path: Path, orientation: int, size: tuple[int, int]
) -> None:
    label = cv2.imencode(".png", dark(*size))[1].tobytes()
    assert agree(street(tmp_path, orientation, label, *size))
    assert agree(tmp_path, Preprocess(resize=(96, 96), crop=(16, 0, 64, 80)))


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_a_label_map_that_fits_the_turned_picture_is_not_turned_twice(
    tmp_path: Path, orientation: int
) -> None:
    label = np.ascontiguousarray(MEANING[orientation](dark()))
    assert agree(street(tmp_path, orientation, cv2.imencode(".png", label)[1].tobytes()))


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("own", [3, 6])
def test_a_label_map_with_an_orientation_of_its_own_is_turned_by_that(
    tmp_path: Path, orientation: int, own: int
) -> None:
    back = {3: 3, 6: 8}[own]
    stored = np.ascontiguousarray(MEANING[back](MEANING[orientation](dark())))
    assert agree(street(tmp_path, orientation, encoded(".png", stored, own)))


# Boxes.

BOXES = np.array([[2, 1, 0, 4, 1], [0, 0, 2, 1, 4], [-1, 9, 9, 9, 9]], np.float64)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_a_box_stays_around_its_pixels(orientation: int) -> None:
    turned = turn_boxes(BOXES[:2], orientation, WIDTH, HEIGHT)
    for (_, x1, y1, x2, y2), box in zip(BOXES[:2].astype(int), turned, strict=True):
        marked = np.zeros((HEIGHT, WIDTH), bool)
        marked[y1:y2, x1:x2] = True
        rows, columns = np.nonzero(MEANING[orientation](marked))
        around = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert box[1:].tolist() == around
    assert turned[:, 0].tolist() == [2, 0]


def test_boxes_are_turned_where_they_can_be_of_the_stored_picture() -> None:
    form = Form(WIDTH, HEIGHT, 3, 8, 6)
    pixels, shares = BOXES[:2], BOXES[:2] / (1, WIDTH, HEIGHT, WIDTH, HEIGHT)
    turned = turn_boxes(pixels, 6, WIDTH, HEIGHT)
    assert (Preprocess().boxes(pixels, form) == turned).all()
    assert (Preprocess().boxes(BOXES, form)[:2] == turned).all()
    for recipe in (Preprocess(), Preprocess(resize=(8, 8))):
        assert np.allclose(
            recipe.boxes(shares, form), turned / (1, HEIGHT, WIDTH, HEIGHT, WIDTH), atol=1e-12
        )
    stay = [
        (Preprocess(resize=(8, 8)), pixels),
        (Preprocess(crop=(0, 0, 2, 2)), shares),
        (Preprocess(), np.array([[1.0, 0, 4, 2, 6]])),  # lower than the stored picture is high
        (Preprocess(), np.zeros((0, 5))),
    ]
    for recipe, boxes in stay:
        assert (recipe.boxes(boxes, form) == boxes).all()
    assert (Preprocess().boxes(pixels, form._replace(orientation=1)) == pixels).all()


# What is told.


def test_the_images_that_were_turned_are_counted(tmp_path: Path) -> None:
    graph = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        g (float[N, 3, 4, 4] x) => (float[N, 3, 4, 4] y) <float[3, 3, 1, 1] w = {1, 0, 0, 0, 1, 0,
        0, 0, 1}> { y = Conv(x, w) }"""
    )
    onnx.save(graph, tmp_path / "m.onnx")
    data = tmp_path / "data"
    data.mkdir()
    for number, orientation in enumerate((1, 3, 6)):
        pixels = picture(4, 4)
        (data / f"{number}.png").write_bytes(encoded(".png", pixels, orientation))
    told = "2 of 3 images were turned as their EXIF orientation says"
    assert calibrate(tmp_path / "m.onnx", data=data, method="minmax").notes == [told]
    boxes = {f"{number}.png": [[0, 0.0, 0.0, 0.25, 0.5]] for number in range(3)}
    (tmp_path / "labels.json").write_text(json.dumps(boxes))
    (tmp_path / "own.py").write_text("def right(output, label):\n    return label[0, 3]\n")
    report = validate(
        tmp_path / "m.onnx", tmp_path / "m.onnx", data, labels=tmp_path / "labels.json",
        metric=f"{tmp_path}/own.py:right",
    )  # fmt: skip
    assert [note for note in report.notes if note.startswith(told)] == [
        f"{told}, and label maps and boxes with them where they are of the stored picture"
    ]
    # Right edges: as stored 0.25, of the first; 1 of the second and of the third.
    assert report.candidates[0].metrics == {"right": pytest.approx((0.25 + 1 + 1) / 3)}


def test_sizes_are_those_of_the_turned_pictures() -> None:
    upright, turned = Form(WIDTH, HEIGHT, 3, 8), Form(HEIGHT, WIDTH, 3, 8, 6)
    assert Preprocess().notes({upright: 1, turned: 1}) == [
        "1 of 2 images were turned as their EXIF orientation says"
    ]
    notes = Preprocess().notes({upright: 2, upright._replace(orientation=8): 1})
    assert notes[1].startswith(f"1 of 3 images are not {WIDTH}x{HEIGHT}")
