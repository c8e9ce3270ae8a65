"""Labels from one file beside the data: classes of images, or boxes in them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from onnxgraft.data.preprocess import Preprocess
from onnxgraft.data.samples import Sample, Samples
from onnxgraft.errors import InputError
from onnxgraft.files import existing_file, read_json
from onnxgraft.files.limits import DOCUMENT_BYTES
from onnxgraft.graph.tensors import Array

__all__ = ["check_labels", "labelled", "read_labels"]


def read_labels(path: str | os.PathLike[str]) -> dict[str, Array]:
    """Read labels by the images' file names.

    Args:
        path: A ``.json`` with an object: image -> class, or image -> list of boxes [class, x1, y1,
            x2, y2]; or a text file with an image, a comma, tab or blanks, and its class a line.

    Returns:
        () int64 classes, or (boxes, 5) float64.

    Raises:
        InputError: The file says something else.
    """
    file = existing_file(path, "the file of labels", DOCUMENT_BYTES)
    try:
        if file.suffix == ".json":
            document = read_json(file)
            return {Path(name).name: _label(value) for name, value in document.items()}
        labels = {}
        for line in file.read_text().splitlines():
            if line.strip():
                name, _, value = line.strip().replace(",", " ").replace("\t", " ").rpartition(" ")
                labels[Path(name.strip()).name] = _label(int(value))
        return labels
    except (ValueError, TypeError, AttributeError, OverflowError) as error:
        raise InputError(
            f"{file}: not a file of labels ({error}); it needs an image and its class a line, or a "
            "JSON object of classes or of boxes [class, x1, y1, x2, y2] by image"
        ) from error


def _label(value: object) -> Array:
    if isinstance(value, int) and not isinstance(value, bool):
        return np.asarray(value, np.int64)
    boxes = np.asarray(value, np.float64)
    if boxes.size == 0:
        return np.zeros((0, 5))
    if boxes.ndim != 2 or boxes.shape[1] != 5:
        raise ValueError(f"boxes of {boxes.shape}")
    return boxes


def check_labels(
    samples: Samples, labels: Mapping[str, Array], path: str | os.PathLike[str]
) -> None:
    """Raise InputError unless every image has a label."""
    names = [
        image.name
        for position in range(len(samples))
        for image, _ in (samples.files_at(position) if samples.files else ())
    ]
    missing = [name for name in names if name not in labels]
    if missing or not names:
        what = f"no label for {len(missing)} of {len(names)} images, such as {missing[:1]}"
        raise InputError(f"{os.fspath(path)}: {what if names else 'labels by name are for images'}")


def labelled(sample: Sample, labels: Mapping[str, Array], recipe: Preprocess) -> Sample:
    """Return a sample of images with their labels, turned as they are."""
    found = []
    for image in sample.images:
        label = labels[image.path.name]
        if label.ndim == 2 and image.form is not None:
            label = recipe.boxes(label, image.form)
        found.append(label)
    return sample.labelled(found)
