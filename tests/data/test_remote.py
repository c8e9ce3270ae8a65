"""Data by URL: the same samples, in the same order, as from a folder of this machine."""

from __future__ import annotations

import pickle
import uuid
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from onnxgraft.commands._evidence import hash_of_data
from onnxgraft.data.samples import Samples, open_samples
from onnxgraft.errors import InputError, MissingDependencyError
from onnxgraft.files import remote
from onnxgraft.files.limits import Limit
from onnxgraft.files.remote import Remote, is_url
from onnxgraft.graph.tensors import TensorSpec

fsspec = pytest.importorskip("fsspec")
INPUT = (TensorSpec("x", "float32", ("N", 6, 5, 3)),)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder of images with label images, and beside it one with a folder a class."""
    rng = np.random.default_rng(0)
    for name in ("a", "b", "c"):
        for place, end in (("flat", ".bmp"), ("flat", ".png"), ("classes/" + name, ".png")):
            (tmp_path / place).mkdir(parents=True, exist_ok=True)
            label = place == "flat" and end == ".png"
            image = rng.integers(0, 200, (6, 5) if label else (6, 5, 3), np.uint8)
            cv2.imwrite(str(tmp_path / place / f"{name}{end}"), image)
    # Paths are in order by their parts, where text would have them otherwise.
    (tmp_path / "classes/a/x").mkdir()
    (tmp_path / "classes/a/x-1").mkdir()
    for name in ("x/1.png", "x-1/1.png"):
        cv2.imwrite(str(tmp_path / "classes/a" / name), rng.integers(0, 200, (6, 5, 3), np.uint8))
    return tmp_path


@pytest.fixture(params=["file", "memory", "zip", "zip of memory"])
def url(request: pytest.FixtureRequest, folder: Path) -> str:
    """Return the URL under which all of the folder stands."""
    with zipfile.ZipFile(folder / "all.zip", "w") as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file() and file.suffix != ".zip":
                archive.write(file, file.relative_to(folder))
    kind, unique = request.param, uuid.uuid4().hex
    if kind == "file":
        return folder.as_uri()
    if kind == "zip":
        return f"zip://%::{(folder / 'all.zip').as_uri()}"
    memory = fsspec.filesystem("memory")
    if kind == "memory":
        memory.put(str(folder), f"/{unique}", recursive=True)
        return f"memory://{unique}"
    memory.put(str(folder / "all.zip"), f"/{unique}.zip")
    return f"zip://%::memory://{unique}.zip"


def below(url: str, place: str) -> str:
    return url.replace("%", place) if "%" in url else f"{url}/{place}"


def fed(samples: Samples) -> list[tuple[bytes, object]]:
    return [
        (sample.feeds["x"].tobytes(), None if sample.label is None else sample.label.tolist())
        for sample in samples
    ]


@pytest.mark.parametrize("place", ["flat", "classes"])
def test_a_url_gives_the_samples_of_the_folder(place: str, url: str, folder: Path) -> None:
    here = open_samples(folder / place, INPUT)
    there = open_samples(below(url, place), INPUT)
    assert fed(there) == fed(here)
    assert there.labelled and here.labelled
    assert [there.identity(at) for at in range(len(there))] == [
        here.identity(at) for at in range(len(here))
    ]
    assert hash_of_data(there) == hash_of_data(here)


def test_another_process_opens_it_itself(url: str, folder: Path) -> None:
    there = open_samples(below(url, "flat"), INPUT)
    remote._files.cache_clear()
    assert fed(pickle.loads(pickle.dumps(there))) == fed(open_samples(folder / "flat", INPUT))


def test_a_list_names_images_by_url_and_may_have_one_itself(url: str, folder: Path) -> None:
    names = ["c.bmp", "a.bmp"]
    (folder / "local.txt").write_text("\n".join(below(url, f"flat/{name}") for name in names))
    here = open_samples(folder / "local.txt", INPUT)
    memory = fsspec.filesystem("memory")
    unique = uuid.uuid4().hex
    memory.put(str(folder), f"/{unique}", recursive=True)
    memory.pipe(f"/{unique}/flat/list.txt", "\n".join(names).encode())
    there = open_samples(f"memory://{unique}/flat/list.txt", INPUT)
    wanted = [cv2.imread(str(folder / "flat" / name)).astype(np.float32) for name in names]
    for samples in (here, there):
        for sample, image in zip(samples, wanted, strict=True):
            np.testing.assert_array_equal(sample.feeds["x"][0], image)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("memory://nothing-there", "is not a folder of images or a .txt"),
        ("memory://nothing/there.txt", "does not exist; check the URL"),
        ("zip::file:///no/such.zip", "does not exist; check the URL"),
        ("nosuch://bucket/a", "can't be read"),
        ("memory://a/b.npz", "copy it here: a list may name images by URLs"),
    ],
)
def test_what_can_not_be_read_is_told(text: str, told: str) -> None:
    with pytest.raises((InputError, MissingDependencyError)) as error:
        open_samples(text, INPUT)
    assert told in str(error.value) and text.partition("::")[0].split("/")[-1] in str(error.value)


def test_an_image_that_is_gone_is_told_by_its_url(folder: Path) -> None:
    (folder / "l.txt").write_text("memory://gone/a.png\n")
    with pytest.raises(InputError, match=r"memory://gone/a\.png: does not exist"):
        open_samples(folder / "l.txt", INPUT).at(0)


def test_an_image_is_not_read_beyond_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    fsspec.filesystem("memory").pipe("/large/a.png", b"\0" * 2000)
    monkeypatch.setattr(
        "onnxgraft.data.images.IMAGE_BYTES", Limit("an image file", 1000, "Bytes: ")
    )
    monkeypatch.setattr(Remote, "read_bytes", lambda _: pytest.fail("was read"))
    with pytest.raises(InputError, match=r"memory:///large/a\.png: the image has 1\.95 KB"):
        open_samples("memory://large", INPUT).at(0)


@pytest.mark.parametrize("text", ["a.txt", "a/b", "/x/y", "C:/x", "data:3", "./s3:/x", "a.py:f"])
def test_a_path_is_no_url(text: str) -> None:
    assert not is_url(text)
