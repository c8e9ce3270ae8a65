"""Labels as COCO, VOC and YOLO write them: the same boxes, told what is wrong before the work."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from onnxgraft.data.labels import check_labels, labelled, read_labels
from onnxgraft.data.preprocess import Preprocess
from onnxgraft.data.samples import Samples, open_samples
from onnxgraft.errors import InputError
from onnxgraft.graph.tensors import Array, TensorSpec
from onnxgraft.stages.validate.metrics.detection import labelled_boxes
from tests.data.test_orientation import encoded

NAMES = ("car", "dog")
# A dog at columns 20..59 and rows 10..39 of a photograph of 160 x 120.
VOC = """<annotation><filename>a.jpg</filename>
<size><width>160</width><height>120</height><depth>3</depth></size>
<object><name>dog</name><difficult>0</difficult>
<bndbox><xmin>21</xmin><ymin>11</ymin><xmax>60</xmax><ymax>40</ymax></bndbox></object>
<object><name>car</name><difficult>1</difficult>
<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>160</xmax><ymax>120</ymax></bndbox></object>
</annotation>"""


def coco(**changes: Any) -> dict[str, Any]:
    return {
        "images": [{"id": 7, "file_name": "val/a.jpg", "width": 160, "height": 120}],
        "categories": [{"id": 3, "name": "dog"}, {"id": 9, "name": "car"}],
        "annotations": [
            {"image_id": 7, "category_id": 3, "bbox": [20, 10, 40, 30]},
            {"image_id": 7, "category_id": 9, "bbox": [0, 0, 160, 120], "iscrowd": 1},
        ],
        **changes,
    }  # fmt: skip


def write(folder: Path, form: str) -> Path:
    """Write the labels; return what is named."""
    if form == "coco":
        (folder / "coco.json").write_text(json.dumps(coco()))
        return folder / "coco.json"
    place = folder / form
    place.mkdir()
    if form == "voc":
        (place / "a.xml").write_text(VOC)
    else:
        (place / "a.txt").write_text("1 0.25 0.208333333333 0.25 0.25\n")
        (place / "classes.txt").write_text("car\ndog\n")
    return place


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    cv2.imwrite(str(tmp_path / "images/a.jpg"), np.zeros((120, 160, 3), np.uint8))
    return tmp_path


def samples(folder: Path, recipe: Preprocess) -> Samples:
    spec = TensorSpec("x", "float32", (1, "h", "w", 3))
    return open_samples(folder / "images", [spec], recipe)


def boxes(folder: Path, labels: Path, recipe: Preprocess) -> Array:
    found = read_labels(labels, NAMES)
    data = samples(folder, recipe)
    check_labels(data, found, labels)
    label = labelled(next(iter(data)), found, recipe).label
    assert label is not None
    return label


def test_two_images_of_one_name_and_other_boxes_are_refused(folder: Path) -> None:
    document = coco()
    document["images"].append({**document["images"][0], "id": 99, "file_name": "other/a.jpg"})
    (folder / "c.json").write_text(json.dumps(document))
    with pytest.raises(InputError, match=r"two images are called a\.jpg, and their boxes differ"):
        read_labels(folder / "c.json", NAMES)


@pytest.mark.parametrize("form", ["coco", "voc", "yolo"])
def test_two_images_that_have_one_label_are_refused(form: str, folder: Path) -> None:
    (folder / "images/more").mkdir()
    (folder / "images/a.jpg").rename(folder / "images/more/a.png")
    cv2.imwrite(str(folder / "images/a.png"), np.zeros((120, 160, 3), np.uint8))
    place = write(folder, form)
    if form == "coco":
        place.write_text(place.read_text().replace("a.jpg", "a.png"))
    (folder / "list.txt").write_text("images/a.png\nimages/more/a.png\n")
    data = open_samples(folder / "list.txt", [TensorSpec("x", "float32", (1, "h", "w", 3))])
    with pytest.raises(InputError, match=r"a\.png and .*more.a\.png have one label, 'a"):
        check_labels(data, read_labels(place, NAMES), place)


def test_two_images_that_coco_lists_with_the_same_boxes_may_share_them(folder: Path) -> None:
    (folder / "images/more").mkdir()
    cv2.imwrite(str(folder / "images/more/a.jpg"), np.zeros((120, 160, 3), np.uint8))
    (folder / "list.txt").write_text("images/a.jpg\nimages/more/a.jpg\n")
    document = coco(annotations=[])
    document["images"].append({**document["images"][0], "id": 8, "file_name": "more/a.jpg"})
    (folder / "c.json").write_text(json.dumps(document))
    data = open_samples(folder / "list.txt", [TensorSpec("x", "float32", (1, "h", "w", 3))])
    check_labels(data, read_labels(folder / "c.json", NAMES), folder / "c.json")


def test_a_label_in_a_corner_stays_in_pixels() -> None:
    placed = np.array([[1, 0, 0, 1.5, 1.5, 0]])
    np.testing.assert_array_equal(labelled_boxes(placed, (120, 160))[1], placed[:, 1:5])
    fractions = np.array([[1, 0, 0, 0.5, 0.5]])
    np.testing.assert_array_equal(labelled_boxes(fractions, (120, 160))[1], [[0, 0, 80, 60]])


@pytest.mark.parametrize("form", ["coco", "voc", "yolo"])
def test_every_form_says_the_same_box(form: str, folder: Path) -> None:
    rows = boxes(folder, write(folder, form), Preprocess())
    np.testing.assert_allclose(rows[0], [1, 20, 10, 60, 40, 0], atol=1e-6)
    ignored = {"coco": [1], "voc": [2], "yolo": []}[form]
    assert rows[1:, 5].tolist() == ignored


@pytest.mark.parametrize("form", ["coco", "voc", "yolo"])
def test_boxes_follow_the_letterbox_and_the_crop(form: str, folder: Path) -> None:
    # Twice as large, 40 rows above and below, then rows 60 to 299 and columns 50 to 299.
    recipe = Preprocess(resize=(320, 320), letterbox=0, crop=(60, 50, 240, 250))
    rows = boxes(folder, write(folder, form), recipe)
    np.testing.assert_allclose(rows[0], [1, 0, 0, 70, 60, 0], atol=1e-6)


def test_an_object_that_was_cut_off_is_not_asked_for(folder: Path) -> None:
    rows = boxes(folder, write(folder, "yolo"), Preprocess(crop=(60, 0, 60, 160)))
    assert rows.shape == (0, 6)


@pytest.mark.parametrize("form", ["coco", "voc", "yolo"])
def test_boxes_of_a_stored_photograph_are_turned_with_it(form: str, folder: Path) -> None:
    stored = encoded(".jpg", np.zeros((120, 160, 3), np.uint8), 6)
    (folder / "images/a.jpg").write_bytes(stored)
    rows = boxes(folder, write(folder, form), Preprocess())
    # A quarter turn clockwise of 160 x 120: x becomes 120 - y, y becomes x.
    np.testing.assert_allclose(rows[0], [1, 80, 20, 110, 60, 0], atol=1e-6)


def test_boxes_of_the_turned_photograph_stay(folder: Path) -> None:
    stored = encoded(".jpg", np.zeros((120, 160, 3), np.uint8), 6)
    (folder / "images/a.jpg").write_bytes(stored)
    document = coco()
    document["images"][0] |= {"width": 120, "height": 160}
    (folder / "coco.json").write_text(json.dumps(document))
    rows = boxes(folder, folder / "coco.json", Preprocess())
    np.testing.assert_allclose(rows[0], [1, 20, 10, 60, 40, 0])


def test_labels_of_another_size_are_told(folder: Path) -> None:
    cv2.imwrite(str(folder / "images/a.jpg"), np.zeros((60, 80, 3), np.uint8))
    with pytest.raises(InputError, match=r"a\.jpg: is 80x60 .*labels are of an image of 160x120"):
        boxes(folder, write(folder, "voc"), Preprocess())


def test_categories_from_0_need_no_names(folder: Path) -> None:
    document = coco(categories=[{"id": 0, "name": "x"}, {"id": 1, "name": "y"}])
    document["annotations"] = [{"image_id": 7, "category_id": 1, "bbox": [1, 2, 3, 4]}]
    (folder / "c.json").write_text(json.dumps(document))
    assert read_labels(folder / "c.json")["a.jpg"].rows[0, 0] == 1  # type: ignore[union-attr]


@pytest.mark.parametrize("form", ["coco", "voc"])
def test_labels_that_name_classes_need_the_networks_order(form: str, folder: Path) -> None:
    with pytest.raises(InputError, match=r"name their classes \('dog'\).*--classes"):
        read_labels(write(folder, form))


def test_labels_of_other_classes_are_counted_or_refused(folder: Path) -> None:
    labels = read_labels(write(folder, "coco"), ("cat", "dog"))
    assert labels.notes == (
        "1 labels were left out, for their classes are not among those named: car (1)",
    )
    with pytest.raises(InputError, match=r"no box is of one of the classes: 'dog'.*mean dot"):
        read_labels(folder / "coco.json", ("dot", "hat"))


@pytest.mark.parametrize("form", ["voc", "yolo"])
def test_a_photograph_without_a_file_of_labels_is_told(form: str, folder: Path) -> None:
    cv2.imwrite(str(folder / "images/b.jpg"), np.zeros((120, 160, 3), np.uint8))
    with pytest.raises(InputError, match=r"no label for 1 of 2 images, such as \['b\.jpg'\]"):
        boxes(folder, write(folder, form), Preprocess())


def test_a_photograph_without_objects_has_an_empty_file(folder: Path) -> None:
    place = write(folder, "yolo")
    (place / "a.txt").write_text("")
    assert boxes(folder, place, Preprocess()).shape == (0, 6)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.xml", "<annotation><object/></annotation>", "object has no name"),
        ("a.xml", "<svg/>", "its root is 'svg'"),
        ("a.xml", "<!DOCTYPE a [<!ENTITY b 'c'>]><annotation/>", "declares entities"),
        ("a.xml", "<annotation>", "not VOC's XML of an image"),
        ("a.txt", "0 20 10 60 40", "beyond 0 to 1"),
        ("a.txt", "car 0.1 0.1 0.1 0.1", "not YOLO's text"),
        ("a.txt", "0.5 0.1 0.1 0.1 0.1", "line 1 is not a class and four fractions"),
        ("a.csv", "x", "neither .xml nor .txt files"),
    ],
    ids=["no_name", "root", "entities", "cut_off", "pixels", "names", "fraction", "nothing"],
)
def test_wrong_files_are_told(name: str, text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message):
        read_labels(tmp_path, NAMES)


@pytest.mark.parametrize(
    "changes",
    [{"annotations": [{"image_id": 8, "category_id": 3, "bbox": [0, 0, 1, 1]}]},
     {"annotations": [{"image_id": 7, "category_id": 4, "bbox": [0, 0, 1, 1]}]},
     {"annotations": [{"image_id": 7, "category_id": 3, "bbox": [0, 0, 1]}]},
     {"annotations": [{"image_id": 7}]}, {"images": [{}]}],
    ids=["image", "category", "box", "nothing", "no_id"],
)  # fmt: skip
def test_a_wrong_document_of_coco_is_told(changes: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text(json.dumps(coco(**changes)))
    with pytest.raises(InputError, match="not a file of labels"):
        read_labels(tmp_path / "c.json", NAMES)
