"""Files of classes by image, as people and their tools write them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from onnxgraft.data.labels import read_labels
from onnxgraft.errors import InputError

FILES = {
    "commas": "a.png,3\nb c.png,4\n",
    "tabs": "a.png\t3\nb c.png\t4\n",
    "blanks": "a.png 3\n\nb c.png   4\n",
    "blanks behind commas": "a.png, 3\nb c.png ,4\n",
    "quotes": '"a.png","3"\n"b c.png",4\n',
    "folders": "left/a.png,3\nright/b c.png,4\n",
    "the same twice": "a.png,3\na.png,3\nb c.png,4\n",
    "Excel's byte order mark": "\ufeffa.png,3\r\nb c.png,4\r\n",
}


@pytest.mark.parametrize("text", FILES.values(), ids=FILES)
def test_an_image_and_its_class_stand_in_a_line(text: str, tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_bytes(text.encode())
    labels = read_labels(tmp_path / "labels.csv")
    assert {name: int(np.asarray(value)) for name, value in labels.items()} == {
        "a.png": 3, "b c.png": 4,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a" * 140_000 + ",3\n", "field larger than field limit"),
        ("image,label\na.png,3\n", "line 1: 'label' is no number of a class"),
        ("a.png,3\nb.png,4.0\n", "line 2: '4.0' is no number of a class"),
        ("a.png,3,0.5\n", "line 1: '0.5' is no number of a class"),
        ("a.png\n", "line 1: 'a.png' is no number of a class"),
        ("a.png,3\n\na.png,4\n", "line 3: a.png has another label before"),
        ("cats/1.png 0\ndogs/1.png 1\n", "line 2: 1.png has another label .* a list for --data"),
    ],
)
def test_what_else_stands_there_is_told_with_its_line(
    text: str, sentence: str, tmp_path: Path
) -> None:
    (tmp_path / "labels.txt").write_text(text)
    with pytest.raises(InputError, match=sentence):
        read_labels(tmp_path / "labels.txt")


@pytest.mark.parametrize(
    ("document", "sentence"),
    [
        ({"a.png": "4"}, "'4' is neither the number of a class nor boxes"),
        ({"a.png": 4.0}, "4.0 is neither"),
        ({"a.png": True}, "True is neither"),
        ({"x/a.png": 1, "y/a.png": 2}, "a.png has another label before"),
    ],
)
def test_what_is_no_class_in_json_is_told(document: object, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "labels.json").write_text(json.dumps(document))
    with pytest.raises(InputError, match=sentence):
        read_labels(tmp_path / "labels.json")
