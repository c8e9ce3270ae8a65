"""Boxes as COCO, PASCAL VOC and YOLO write them: of the image files, not of what is made of them.

- COCO: one JSON with ``images``, ``annotations`` (``bbox`` is left, top, width, height in pixels;
  ``iscrowd``) and ``categories``.
- VOC: a folder with an XML a image. Its pixels are counted from 1 and both ends are in the box, so
  that left and top are one less as edges. What is ``difficult`` neither counts nor is missed.
- YOLO: a folder with a text a image: class, centre x and y, width and height, as fractions, a line.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onnxgraft.errors import InputError, nearest
from onnxgraft.files import existing_file
from onnxgraft.files.limits import LABEL_BYTES
from onnxgraft.graph.tensors import Array

__all__ = ["ImageBoxes", "Numbering", "coco_labels", "folder_labels", "is_coco", "voc_label"]

# Of a row: that it does not count, and how it overlaps (COCO's crowds by the share of the box).
COUNTS, CROWD, DIFFICULT = 0, 1, 2


@dataclass(frozen=True)
class ImageBoxes:
    """The labels of one image file.

    Attributes:
        rows: (boxes, 6) class, left, top, right, bottom, and 0 for what counts, 1 for a crowd, 2
            for what is difficult.
        size: (width, height) of the image, where the labels state it.
        fractions: Whether the corners are fractions of the image; else they are its pixels.
    """

    rows: Array
    size: tuple[int, int] | None = None
    fractions: bool = False


class Numbering:
    """The numbers of classes that labels name.

    Attributes:
        left_out: How many boxes there are of each name that is none of the classes.
    """

    def __init__(self, names: Sequence[str], where: Path) -> None:
        """Begin; ``names`` are the network's, in its order; ``where`` is what has the labels."""
        self.names, self.where = tuple(names), where
        self.left_out: Counter[str] = Counter()
        self._used: set[str] = set()

    def number(self, name: str) -> int | None:
        """Return the number of a class; None, and a note of it, for one that is not asked for.

        Raises:
            InputError: There are no names to look it up in.
        """
        if not self.names:
            raise InputError(
                f"{self.where}: these labels name their classes ({name!r:.80}), the network does "
                "not: give the names in the order of its output, with classes in [postprocess] or "
                "with --classes"
            )
        if name not in self.names:
            self.left_out[name] += 1
            return None
        self._used.add(name)
        return self.names.index(name)

    def notes(self) -> list[str]:
        """Return a sentence on what was left out.

        Raises:
            InputError: No box has one of the names.
        """
        if not self.left_out:
            return []
        if not self._used:
            name = next(iter(self.left_out))
            raise InputError(
                f"{self.where}: no box is of one of the classes: {name!r:.80}: "
                f"{nearest(name, self.names)}"
            )
        told = ", ".join(f"{name:.80} ({count})" for name, count in self.left_out.most_common(4))
        more = len(self.left_out) - 4
        some = (
            f"{sum(self.left_out.values())} labels were left out, for their classes are not among "
        )
        return [f"{some}those named: {told}{f' and {more} more' if more > 0 else ''}"]


def is_coco(document: object) -> bool:
    """Tell whether a JSON document holds labels as COCO has them."""
    if not isinstance(document, dict):
        return False
    return isinstance(document.get("annotations"), list) and "images" in document


def coco_labels(document: dict[str, Any], numbering: Numbering) -> dict[str, ImageBoxes]:
    """Return the boxes of each image that a COCO document lists, by its file's name.

    Without names of classes, categories that are numbered 0, 1, 2, ... stand for themselves, and so
    do those that are not listed.

    Raises:
        ValueError: It is not written so; KeyError and TypeError likewise.
        InputError: Its classes can't be told.
    """
    images = {entry["id"]: entry for entry in document["images"]}
    names = {entry["id"]: str(entry["name"]) for entry in document.get("categories", ())}
    plain = not names or (not numbering.names and sorted(names) == list(range(len(names))))
    rows: dict[Any, list[list[float]]] = {key: [] for key in images}
    for entry in document["annotations"]:
        category, place = entry["category_id"], entry["image_id"]
        if place not in images:
            raise ValueError(f"an annotation is of the image {place!r:.80}, which is not listed")
        if names and category not in names:
            raise ValueError(f"an annotation is of the category {category!r:.80}, not listed")
        if plain and (not isinstance(category, int) or category < 0):
            raise ValueError(f"the category {category!r:.80} is no number")
        number = category if plain else numbering.number(names[category])
        if number is not None:
            left, top, width, height = map(float, entry["bbox"])
            crowd = CROWD if entry.get("iscrowd") else COUNTS
            rows[place].append([number, left, top, left + width, top + height, crowd])
    found: dict[str, ImageBoxes] = {}
    for key, entry in images.items():
        name, label = Path(entry["file_name"]).name, ImageBoxes(_rows(rows[key]), _size(entry))
        before = found.setdefault(name, label)
        if before.size != label.size or not np.array_equal(before.rows, label.rows):
            raise InputError(
                f"two images are called {name}, and their boxes differ; labels belong to file "
                "names: give images of several folders names of their own"
            )
    return found


def _size(entry: dict[str, Any]) -> tuple[int, int] | None:
    if "width" not in entry or "height" not in entry:
        return None
    return int(entry["width"]), int(entry["height"])


def folder_labels(folder: Path, numbering: Numbering) -> dict[str, ImageBoxes]:
    """Return the boxes of a folder of VOC's XML or YOLO's text, by the files' stems.

    Raises:
        InputError: There are no such files in it, or both, or one says something else.
    """
    documents = sorted(folder.glob("*.xml"))
    texts = [file for file in sorted(folder.glob("*.txt")) if file.name != "classes.txt"]
    if bool(documents) == bool(texts):
        found = "both .xml and .txt files" if texts else "neither .xml nor .txt files"
        raise InputError(
            f"{folder}: {found} in the folder of labels; VOC has an .xml for each image, YOLO "
            "a .txt (label images stand beside the photographs, or in a list for --data: image, "
            "tab, label image)"
        )
    if documents:
        return {file.stem: voc_label(file, numbering) for file in documents}
    return {file.stem: _yolo_label(file) for file in texts}


def voc_label(file: Path, numbering: Numbering) -> ImageBoxes:
    """Return the boxes of one XML of VOC.

    Raises:
        InputError: It says something else, or its classes can't be told.
    """
    existing_file(file, "the labels", LABEL_BYTES)
    try:
        root = ET.fromstring(file.read_bytes(), ET.XMLParser(target=_Plain()))
        if root.tag != "annotation":
            raise ValueError(f"its root is {root.tag[:40]!r}, not 'annotation'")
        size = None
        if root.find("size") is not None:
            size = int(_text(root, "size/width")), int(_text(root, "size/height"))
        rows = []
        for entry in root.findall("object"):
            number = numbering.number(_text(entry, "name"))
            if number is None:
                continue
            left, top, right, bottom = (
                float(_text(entry, f"bndbox/{edge}")) for edge in ("xmin", "ymin", "xmax", "ymax")
            )
            hard = DIFFICULT if (entry.findtext("difficult") or "0").strip() == "1" else COUNTS
            rows.append([number, left - 1, top - 1, right, bottom, hard])
        # Some tools write a size of 0 where they do not know it.
        return ImageBoxes(_rows(rows), size if size and min(size) > 0 else None)
    except (ET.ParseError, ValueError, LookupError, OverflowError) as error:
        raise InputError(f"{file}: not VOC's XML of an image ({error})") from error


class _Plain(ET.TreeBuilder):
    """Refuses what declares entities, which can be made to fill the memory."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        """Raise ValueError."""
        raise ValueError("it declares entities of its own")


def _text(entry: ET.Element, path: str) -> str:
    found = entry.findtext(path)
    if found is None:
        raise ValueError(f"{entry.tag} has no {path}")
    return found.strip()


def _yolo_label(file: Path) -> ImageBoxes:
    LABEL_BYTES.check(file.stat().st_size, f"{file}: the labels")
    rows = []
    try:
        for number, line in enumerate(file.read_text("utf-8-sig").splitlines(), 1):
            if not line.strip():
                continue
            values = [float(word) for word in line.split()]
            if len(values) != 5 or values[0] < 0 or not values[0].is_integer():
                raise ValueError(f"line {number} is not a class and four fractions")
            kind, x, y, width, height = values
            if not all(0 <= value <= 1 for value in (x, y, width, height)):
                raise ValueError(f"line {number} has values beyond 0 to 1, which are no fractions")
            box = [x - width / 2, y - height / 2, x + width / 2, y + height / 2]
            rows.append([kind, *box, COUNTS])
        return ImageBoxes(_rows(rows), fractions=True)
    except (ValueError, OSError) as error:
        raise InputError(
            f"{file}: not YOLO's text of an image ({error}); it needs class, centre x, centre y, "
            "width and height, as fractions, a line"
        ) from error


def _rows(rows: Iterable[Sequence[float]]) -> Array:
    found = np.array(list(rows), np.float64).reshape(-1, 6)
    if not np.isfinite(found).all():
        raise ValueError("a box is not of finite numbers")
    return found
