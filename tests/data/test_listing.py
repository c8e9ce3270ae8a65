"""Folders by class, CSV and JSON lists, and several image inputs."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from onnxgraft.data.samples import Samples, open_samples
from onnxgraft.errors import InputError
from onnxgraft.graph.tensors import TensorSpec

IMAGE = TensorSpec("image_in:0", "float32", ("N", 4, 4, 3))
LEFT, RIGHT = (TensorSpec(name, "float32", ("N", 3, 4, 4)) for name in ("left", "right"))
VECTOR = TensorSpec("ids", "int64", ("N", "T"))


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Return a folder with three gray pictures, by level, in folders of their classes."""
    for level, kind in ((10, "dog"), (20, "cat"), (30, "dog")):
        folder = tmp_path / "photographs" / kind
        folder.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / f"{level}.png"), np.full((4, 4, 3), level, np.uint8))
    return tmp_path


def seen(samples: Samples) -> list[tuple[int, int | None]]:
    """Return the level and the class of each picture."""
    return [
        (int(value.flat[0]), None if sample.label is None else int(sample.label))
        for sample in samples
        for value in list(sample.feeds.values())[:1]
    ]


def written(place: Path, name: str, text: str) -> Path:
    """Write a list."""
    (place / name).write_text(text)
    return place / name


def test_folders_are_classes_in_the_order_of_their_names(place: Path) -> None:
    samples = open_samples(place / "photographs", [IMAGE])
    assert seen(samples) == [(20, 0), (10, 1), (30, 1)]
    assert samples.classes == ("cat", "dog")
    assert "cat = 0, dog = 1" in samples.notes[0]


def test_folders_are_numbered_as_keras_does(place: Path) -> None:
    keras = pytest.importorskip("keras")
    for kind in ("10", "9", "B"):
        (place / "photographs" / kind).mkdir()
        cv2.imwrite(str(place / "photographs" / kind / "1.png"), np.zeros((4, 4, 3), np.uint8))
    theirs = keras.utils.image_dataset_from_directory(place / "photographs", verbose=False)
    assert open_samples(place / "photographs", [IMAGE]).classes == tuple(theirs.class_names)


def test_named_classes_number_the_folders(place: Path) -> None:
    samples = open_samples(place / "photographs", [IMAGE], names=["bird", "dog", "cat"])
    assert seen(samples) == [(20, 2), (10, 1), (30, 1)]
    assert not samples.notes


def test_a_folder_that_is_no_named_class_is_told(place: Path) -> None:
    with pytest.raises(InputError, match=r"'cat' is none of the 2 classes.*did you mean cats"):
        open_samples(place / "photographs", [IMAGE], names=["cats", "dog"])


def test_a_csv_has_a_column_of_images_and_one_of_labels(place: Path) -> None:
    rows = "photographs/dog/10.png,3\nphotographs/cat/20.png,1\n"
    for head in ("", "image,label\n", "image_in,label\n"):
        assert seen(open_samples(written(place, "a.csv", head + rows), [IMAGE])) == [
            (10, 3), (20, 1),
        ]  # fmt: skip


def test_a_csv_without_labels_has_none(place: Path) -> None:
    samples = open_samples(written(place, "a.csv", "photographs/dog/10.png\n"), [IMAGE])
    assert seen(samples) == [(10, None)]


def test_names_in_a_list_are_classes(place: Path) -> None:
    listed = written(place, "a.csv", "photographs/dog/10.png,dog\nphotographs/cat/20.png,cat\n")
    assert seen(open_samples(listed, [IMAGE])) == [(10, 1), (20, 0)]
    assert seen(open_samples(listed, [IMAGE], names=["dog", "cat"])) == [(10, 0), (20, 1)]


def test_a_label_in_a_list_may_be_an_image(place: Path) -> None:
    listed = written(place, "a.csv", "photographs/dog/10.png,photographs/cat/20.png\n")
    (sample,) = open_samples(listed, [IMAGE])
    assert sample.label is not None
    assert sample.label.shape == (4, 4)


def test_several_inputs_have_a_column_each(place: Path) -> None:
    rows = "photographs/dog/10.png,photographs/dog/30.png,1\n"
    (sample,) = open_samples(written(place, "a.csv", f"left,right,label\n{rows}"), [LEFT, RIGHT])
    assert [int(sample.feeds[name].flat[0]) for name in ("left", "right")] == [10, 30]
    assert sample.feeds["right"].shape == (1, 3, 4, 4)


def test_a_change_of_any_image_changes_the_identity(place: Path) -> None:
    listed = written(place, "a.csv", "left,right\nphotographs/dog/10.png,photographs/dog/30.png\n")
    samples = open_samples(listed, [LEFT, RIGHT])
    before = samples.identity(0)
    cv2.imwrite(str(place / "photographs/dog/30.png"), np.zeros((4, 4, 3), np.uint8))
    assert samples.identity(0) != before


@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_a_json_list_has_an_object_for_each_sample(place: Path, suffix: str) -> None:
    rows = [{"image": "photographs/dog/10.png", "label": 2}, {"image": "photographs/cat/20.png",
            "label": 0}]  # fmt: skip
    text = json.dumps(rows) if suffix == ".json" else "\n".join(map(json.dumps, rows))
    assert seen(open_samples(written(place, f"a{suffix}", text), [IMAGE])) == [(10, 2), (20, 0)]


def test_a_json_list_may_hold_the_numbers_themselves(place: Path) -> None:
    rows = [{"ids": [7, 8, 9], "label": 1}, {"ids": [5], "label": 0}]
    samples = open_samples(written(place, "a.jsonl", "\n".join(map(json.dumps, rows))), [VECTOR])
    assert [sample.feeds["ids"].tolist() for sample in samples] == [[[7, 8, 9]], [[5]]]
    assert [int(sample.label) for sample in samples if sample.label is not None] == [1, 0]


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("a.csv", "image,label\nno.png,1\n", r"line 2: .*no\.png does not exist"),
        ("a.csv", "photographs/dog/10.png,1,2\n", r"line 1: has 3 cells under 2 names"),
        ("a.csv", "label\n3\n", r"line 2: has nothing for 'image_in'"),
        ("a.json", '{"a": 1', r"neither a JSON list nor a JSON object a line"),
        ("a.json", "[1, 2]", r"a list of samples is a list of objects"),
        ("a.json", '[{"image": "photographs/dog/10.png", "label": 2.5}]', r"the label is 2\.5"),
        ("a.json", '[{"image": "photographs/dog/10.png"}, {"image": 3}]', r"in one list"),
        ("a.csv", "photographs/dog/10.png,10.0\n", r"the label is '10\.0'; .*3, and not 3\.0"),
        ("a.csv", "photographs/dog/10.png,1e0\n", r"the label is '1e0'"),
        ("a.csv", "photographs/dog/10.png,-.5\n", r"the label is '-\.5'"),
    ],
    ids=["missing", "cells", "column", "damaged", "numbers", "fraction", "mixed",
         "with a point", "with an exponent", "negative"],
)  # fmt: skip
def test_a_list_that_is_wrong_is_told_by_its_row(
    place: Path, name: str, text: str, told: str
) -> None:
    with pytest.raises(InputError, match=told):
        open_samples(written(place, name, text), [IMAGE])


def test_a_name_that_no_file_can_have_is_a_sentence(tmp_path: Path) -> None:
    file = tmp_path / "data.csv"
    file.write_text("}" * 100_000)
    with pytest.raises(InputError):
        open_samples(file, [TensorSpec("x", "float32", (1, 3, 8, 8))])
