"""Labels from a file or folder beside the data: classes of images, or boxes in them."""

from __future__ import annotations

import csv
import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from onnxgraft.data.box_labels import (
    ImageBoxes,
    Numbering,
    coco_labels,
    folder_labels,
    is_coco,
    voc_label,
)
from onnxgraft.data.image_header import stored_form
from onnxgraft.data.orientation import turn_boxes
from onnxgraft.data.preprocess import Preprocess
from onnxgraft.data.samples import Image, Sample, Samples
from onnxgraft.errors import InputError
from onnxgraft.files import existing_file, read_json
from onnxgraft.files.limits import DOCUMENT_BYTES, ROWS
from onnxgraft.files.remote import File, Remote
from onnxgraft.files.typed import misread
from onnxgraft.graph.tensors import Array

__all__ = ["Labels", "check_labels", "labelled", "read_labels"]

# The header of an image is within so many bytes.
_HEADER_BYTES = 1 << 18


class Labels(dict[str, Array | ImageBoxes]):
    """Labels by the images' file names, or their stems.

    Attributes:
        notes: A sentence on each thing that was left out.
        listed: How often a name stands in the labels, where that is more than once.
    """

    notes: tuple[str, ...] = ()
    listed: Mapping[str, int] = {}

    def name_of(self, image: File) -> str | None:
        """Return the name that an image's label has; None where there is none."""
        return next((name for name in (image.name, image.stem) if name in self), None)

    def of(self, image: File) -> Array | ImageBoxes | None:
        """Return the label of an image; None where there is none."""
        name = self.name_of(image)
        return None if name is None else self[name]

    @property
    def fingerprint(self) -> str:
        """The SHA-256 of all of them, as hexadecimal digits."""
        digest = hashlib.sha256()
        for name, label in sorted(self.items()):
            rows = label.rows if isinstance(label, ImageBoxes) else label
            digest.update(f"{name}\0{rows.shape}{rows.tobytes().hex()}\n".encode())
        return digest.hexdigest()


def read_labels(path: str | os.PathLike[str], names: Sequence[str] = ()) -> Labels:
    """Read labels by the images' file names.

    Args:
        path: A ``.json`` with an object: image -> class, or image -> list of boxes [class, x1, y1,
            x2, y2]; a text file with an image, a comma, tab or blanks, and its class a line; or
            boxes as COCO (``.json``), VOC (a folder of ``.xml``) or YOLO (of ``.txt``) have them.
        names: Of the network's classes in their order, where the labels name theirs.

    Returns:
        () int64 classes, or (boxes, 5) float64 in the picture that the network sees, or boxes of
        the image files.

    Raises:
        InputError: The file says something else.
    """
    place = Path(path)
    numbering = Numbering(names, place)
    if place.is_dir():
        labels = Labels(folder_labels(place, numbering))
    elif place.suffix == ".xml":
        labels = Labels({place.stem: voc_label(place, numbering)})
    else:
        labels = _of_file(existing_file(path, "the file of labels", DOCUMENT_BYTES), numbering)
    labels.notes = tuple(numbering.notes())
    return labels


def _of_file(file: Path, numbering: Numbering) -> Labels:
    try:
        if file.suffix == ".json":
            document = read_json(file)
            if is_coco(document):
                labels = Labels(coco_labels(document, numbering))
                labels.listed = _counted(entry["file_name"] for entry in document["images"])
                return labels
            ROWS.check(len(document), f"{file}: the file of labels")
            labels = Labels()
            for name, value in document.items():
                _put(labels, str(file), name, _label(value))
            labels.listed = _counted(document)
            return labels
        labels = Labels()
        names = []
        lines = file.read_text("utf-8-sig").splitlines()
        ROWS.check(len(lines), f"{file}: the file of labels")
        for number, line in enumerate(lines, 1):
            if line.strip():
                name, value = _cells(line)
                if not re.fullmatch(r"[+-]?\d+", value):
                    raise ValueError(f"line {number}: {value[:40]!r} is no number of a class")
                _put(labels, f"{file}: line {number}", name, _label(int(value)))
                names.append(name)
        labels.listed = _counted(names)
        return labels
    except (
        ValueError, TypeError, AttributeError, KeyError, OverflowError, csv.Error,
    ) as error:  # fmt: skip
        raise InputError(
            f"{file}: not a file of labels ({misread(error)}); it needs an image and its class a "
            "line, a JSON object of classes or of boxes [class, x1, y1, x2, y2] by image, or "
            "COCO's JSON"
        ) from error


def _cells(line: str) -> tuple[str, str]:
    """Return the image and the class of a line: a row of CSV, or parted by a tab or blanks."""
    mark = next((mark for mark in "\t," if mark in line), None)
    if mark is None:
        name, _, value = line.strip().rpartition(" ")
        return name.strip().strip('"'), value
    cells = next(csv.reader([line], delimiter=mark, skipinitialspace=True))
    return mark.join(cells[:-1]).strip(), cells[-1].strip()


def _counted(images: Iterable[str]) -> Counter[str]:
    return Counter(Path(image).name for image in images)


def _put(labels: Labels, where: str, image: str, label: Array) -> None:
    """Take the label of an image, of which there may be one alone."""
    name = Path(image).name
    before = labels.get(name)
    if before is not None and not np.array_equal(np.asarray(before), label):
        raise InputError(
            f"{where}: {name} has another label before; labels belong to file names: where images "
            "of several folders have one, name each with its class in a list for --data"
        )
    labels[name] = label


def _label(value: object) -> Array:
    if isinstance(value, int) and not isinstance(value, bool):
        return np.asarray(value, np.int64)
    if not isinstance(value, list):
        raise ValueError(f"{value!r:.40} is neither the number of a class nor boxes")
    boxes = np.asarray(value, np.float64)
    if boxes.size == 0:
        return np.zeros((0, 5))
    if boxes.ndim != 2 or boxes.shape[1] != 5:
        raise ValueError(f"boxes of {boxes.shape}")
    return boxes


def check_labels(samples: Samples, labels: Labels, path: str | os.PathLike[str]) -> None:
    """Raise InputError unless every image has a label, its own, and of the size that it states."""
    images = [
        entry.images[0]
        for position in range(len(samples))
        for entry in (samples.files_at(position) if samples.files else ())
    ]
    missing = [image.name for image in images if labels.of(image) is None]
    if missing or not images:
        what = f"no label for {len(missing)} of {len(images)} images, such as {missing[:1]}"
        if missing and Path(path).is_dir():
            what += "; an image without objects needs a file without boxes"
        raise InputError(
            f"{os.fspath(path)}: {what if images else 'labels by name are for images'}"
        )
    _check_shared(images, labels, path)
    for image in images:
        label = labels.of(image)
        # An image that has a URL is looked at when it is read: it is told then.
        if isinstance(image, Remote):
            continue
        if isinstance(label, ImageBoxes) and label.size is not None:
            with image.open("rb") as file:
                form = stored_form(file.read(_HEADER_BYTES))
            if form is not None:
                _check_size(label.size, form.upright, (form.width, form.height), image)


def _check_shared(images: Sequence[File], labels: Labels, path: str | os.PathLike[str]) -> None:
    """Raise InputError where a label that stands once in the labels is that of several images."""
    sharing: dict[str | None, dict[str, None]] = {}
    for image in images:
        sharing.setdefault(labels.name_of(image), {})[str(image)] = None
    for name, files in sharing.items():
        if len(files) > max(labels.listed.get(str(name), 1), 1):
            first, second, *_ = files
            raise InputError(
                f"{os.fspath(path)}: {first} and {second} have one label, {name!r}; labels belong "
                "to file names: give images of several folders names of their own"
            )


def _check_size(
    stated: tuple[int, int], upright: tuple[int, int], stored: tuple[int, int], image: File
) -> None:
    if stated not in (upright, stored):
        raise InputError(
            f"{image}: is {upright[0]}x{upright[1]} (width x height), its labels are of an image "
            f"of {stated[0]}x{stated[1]}; give the images that were labelled, and resize them in "
            "[preprocess]"
        )


def labelled(sample: Sample, labels: Labels, recipe: Preprocess) -> Sample:
    """Return a sample of images with their labels, turned and placed as they are."""
    found = []
    for image in sample.images:
        label = labels.of(image.path)
        if label is None:
            raise InputError(f"{image.path}: has no label")
        if isinstance(label, ImageBoxes):
            label = _placed(label, image, recipe)
        elif label.ndim == 2 and image.form is not None:
            label = recipe.boxes(label, image.form)
        found.append(label)
    return sample.labelled(found)


def _placed(label: ImageBoxes, image: Image, recipe: Preprocess) -> Array:
    """Return (boxes, 6) labels of an image file in pixels of the picture that is made of it."""
    width, height = image.size
    rows, turned = label.rows.copy(), 1 if image.form is None else image.form.orientation
    stored = (height, width) if turned > 4 else (width, height)
    if label.size is not None:
        _check_size(label.size, (width, height), stored, image.path)
        if label.size != stored:  # they are of the picture as it is to be seen
            turned = 1
    whole = (1, 1) if label.fractions else stored
    rows[:, :5] = turn_boxes(rows[:, :5], turned, *whole)
    if label.fractions:
        rows[:, 1:5] *= (width, height, width, height)
    plan = recipe.plan(width, height)
    rows[:, 1:5] = plan.placement.forth(rows[:, 1:5])
    if not recipe.cuts:
        return rows
    # Nobody can find what was cut off.
    rows[:, 1:5] = np.clip(rows[:, 1:5], 0, (plan.crop.width, plan.crop.height) * 2)
    return rows[(rows[:, 3:5] > rows[:, 1:3]).all(1)]
