"""Image files where there is no OpenCV: Pillow gives the same pixels, or the file is refused."""

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from onnxgraft.data.images import read_image
from onnxgraft.errors import InputError, MissingDependencyError

PIL = pytest.importorskip("PIL.Image")


@pytest.fixture
def photograph() -> np.ndarray:
    small = np.random.default_rng(0).integers(0, 256, (6, 8, 3)).astype(np.uint8)
    return cv2.resize(small, (80, 60), interpolation=cv2.INTER_CUBIC)


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "webp", "tif", "ppm"])
def test_colours_are_those_of_opencv(
    suffix: str, photograph: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cv2.imwrite(str(tmp_path / f"a.{suffix}"), photograph)
    wanted = read_image(tmp_path / f"a.{suffix}")
    monkeypatch.setitem(sys.modules, "cv2", None)
    np.testing.assert_array_equal(read_image(tmp_path / f"a.{suffix}"), wanted)


@pytest.mark.parametrize("kind", ["gray jpg", "colour jpg", "gray png"])
def test_gray_levels_are_those_of_opencv(
    kind: str, photograph: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / f"a.{kind[-3:]}"
    cv2.imwrite(str(file), photograph if "colour" in kind else photograph[:, :, 0])
    wanted = read_image(file, gray=True)
    monkeypatch.setitem(sys.modules, "cv2", None)
    np.testing.assert_array_equal(read_image(file, gray=True), wanted)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA"])
def test_every_form_of_png_is_opencvs(
    mode: str, photograph: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    PIL.fromarray(photograph).convert(mode).save(tmp_path / "a.png")
    wanted = read_image(tmp_path / "a.png")
    monkeypatch.setitem(sys.modules, "cv2", None)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), wanted)


def test_a_turned_photograph_is_turned(
    photograph: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exif = PIL.Exif()
    exif[274] = 6
    PIL.fromarray(photograph).save(tmp_path / "a.jpg", exif=exif)
    wanted = read_image(tmp_path / "a.jpg")
    assert wanted.shape == (80, 60, 3)
    monkeypatch.setitem(sys.modules, "cv2", None)
    np.testing.assert_array_equal(read_image(tmp_path / "a.jpg"), wanted)


@pytest.mark.parametrize("kind", ["deep", "gray of colours"])
def test_what_pillow_gives_otherwise_wants_opencv(
    kind: str, photograph: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = photograph.astype(np.uint16) * 257 if kind == "deep" else photograph
    cv2.imwrite(str(tmp_path / "a.png"), picture)
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(MissingDependencyError, match="needs OpenCV: pip install opencv-python"):
        read_image(tmp_path / "a.png", gray=kind != "deep")


@pytest.mark.parametrize("head", [b"P5 4 3 100\n", b"P6 2 2 100\n"])
def test_levels_of_which_white_is_not_255_want_opencv(
    head: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pillow spreads them over 0 to 255, and OpenCV leaves them as they are stored."""
    (tmp_path / "a.ppm").write_bytes(head + bytes(range(12)))
    assert read_image(tmp_path / "a.ppm").max() == 11
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(MissingDependencyError, match="needs OpenCV"):
        read_image(tmp_path / "a.ppm")


@pytest.mark.parametrize("fault", ["empty", "noise", "half"])
def test_a_damaged_file_is_a_sentence(
    fault: str, photograph: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = cv2.imencode(".png", photograph)[1].tobytes()
    data = {"empty": b"", "noise": bytes(range(200)), "half": whole[: len(whole) // 2]}[fault]
    (tmp_path / "a.png").write_bytes(data)
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(InputError, match=r"a\.png"):
        read_image(tmp_path / "a.png")
