"""Task metrics over a labelled set, in percent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from onnxgraft.errors import InputError, nearest
from onnxgraft.runtime import Array

__all__ = ["CAMVID", "CITYSCAPES", "METRICS", "Classes", "Metric", "Segmentation", "make_metric"]

METRICS = ("top1", "miou")


@dataclass(frozen=True)
class Classes:
    """The classes of a segmentation set, and the categories they belong to.

    Attributes:
        names: By label; labels beyond them are ignored.
        categories: Category -> names of its classes.
    """

    names: tuple[str, ...]
    categories: dict[str, tuple[str, ...]]


# The 11-class split of SegNet (Badrinarayanan et al., 2017); the categories are Cityscapes'.
CAMVID = Classes(
    ("sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian",
     "bicyclist"),
    {
        "sky": ("sky",),
        "construction": ("building", "fence"),
        "object": ("pole", "sign"),
        "flat": ("road", "pavement"),
        "nature": ("tree",),
        "vehicle": ("car", "bicyclist"),
        "human": ("pedestrian",),
    },
)  # fmt: skip
# The 19 evaluated classes (by trainId) and 7 categories of Cordts et al., 2016.
CITYSCAPES = Classes(
    ("road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign",
     "vegetation", "terrain", "sky", "person", "rider", "car", "truck", "bus", "train",
     "motorcycle", "bicycle"),
    {
        "flat": ("road", "sidewalk"),
        "construction": ("building", "wall", "fence"),
        "object": ("pole", "traffic light", "traffic sign"),
        "nature": ("vegetation", "terrain"),
        "sky": ("sky",),
        "human": ("person", "rider"),
        "vehicle": ("car", "truck", "bus", "train", "motorcycle", "bicycle"),
    },
)  # fmt: skip
_CLASS_SETS = {"camvid": CAMVID, "cityscapes": CITYSCAPES}


class Metric(Protocol):
    """A number over a labelled set; the first of `values` is the one that a budget is held to."""

    name: str

    def add(self, output: Array, label: Array) -> None:
        """Take in one sample: an output of batch 1 and its label."""

    def values(self) -> dict[str, float]:
        """Return the metrics so far, in percent."""

    def per_class(self) -> dict[str, float]:
        """Return the metric of each class, in percent; empty where there are none."""


class Top1:
    """The percentage of samples whose largest output is their label."""

    name = "top1"

    def __init__(self) -> None:
        """Begin with nothing."""
        self._right = self._total = 0

    def add(self, output: Array, label: Array) -> None:
        """Take in one sample: (1, classes) scores and a 0-d label."""
        scores = [dim for dim in output.shape if dim != 1]
        if label.ndim or len(scores) != 1:
            raise InputError("top1 wants one label a sample and one score a class")
        self._right += int(output.ravel().argmax() == int(label))
        self._total += 1

    def values(self) -> dict[str, float]:
        """Return the percentage so far."""
        return {"top1": 100 * self._right / self._total if self._total else 0.0}

    def per_class(self) -> dict[str, float]:
        """Return nothing: the metric is of samples."""
        return {}


class Segmentation:
    """Class and category mean IoU, from one confusion matrix over all pixels.

    IoU = TP / (TP + FP + FN); the mean is over the classes that occur in labels or answers.
    """

    name = "miou"

    def __init__(self, classes: Classes) -> None:
        """Begin with an empty (labels, answers) matrix, (classes, classes + 1)."""
        self.classes = classes
        size = len(classes.names)
        # The last column holds answers that are none of the classes.
        self.confusion: NDArray[np.int64] = np.zeros((size, size + 1), np.int64)

    def add(self, output: Array, label: Array) -> None:
        """Take in one sample: (1, H, W, C) or (1, C, H, W) scores or (1, H, W) classes."""
        size = len(self.classes.names)
        answer = _classes_of(output, label, size)
        answer = np.where((answer >= 0) & (answer < size), answer, size)
        counted = label < size
        pairs = label[counted].astype(np.int64) * (size + 1) + answer[counted]
        self.confusion += np.bincount(pairs, minlength=size * (size + 1)).reshape(size, size + 1)

    def values(self) -> dict[str, float]:
        """Return class and category mean IoU in percent."""
        groups = self.classes.categories
        index = np.array([
            next(i for i, g in enumerate(groups.values()) if n in g) for n in self.classes.names
        ])
        merged = np.zeros((len(groups), len(groups) + 1), np.int64)
        answers = np.append(index, len(groups))
        np.add.at(merged, (index[:, None], answers[None, :]), self.confusion)
        return {"class mIoU": _mean(_iou(self.confusion)), "category mIoU": _mean(_iou(merged))}

    def per_class(self) -> dict[str, float]:
        """Return the IoU of each class that occurs, in percent."""
        values = _iou(self.confusion)
        return {
            name: float(100 * value)
            for name, value in zip(self.classes.names, values, strict=True)
            if not np.isnan(value)
        }


def _iou(confusion: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the IoU of each class, NaN for one that does not occur."""
    hits = np.diag(confusion).astype(np.float64)
    union = confusion[:, :-1].sum(0) + confusion.sum(1) - hits
    empty = np.full(len(hits), np.nan)
    return np.asarray(np.divide(hits, union, out=empty, where=union > 0), np.float64)


def _mean(values: NDArray[np.float64]) -> float:
    return float(100 * np.nanmean(values)) if not np.isnan(values).all() else 0.0


def _classes_of(output: Array, label: Array, size: int) -> Array:
    if output.shape == (1, *label.shape):
        return np.asarray(output[0], np.int64)
    if output.shape == (1, *label.shape, size):
        return np.asarray(output[0].argmax(-1))
    if output.shape == (1, size, *label.shape):
        return np.asarray(output[0].argmax(0))
    raise InputError(
        f"miou over {size} classes wants scores for the {label.shape} pixels of a label, the "
        f"output is {output.shape}; name the right one with output in [validate]"
    )


def make_metric(name: str, classes: str = "camvid") -> Metric:
    """Return a new metric.

    Args:
        name: One of `METRICS`.
        classes: For ``miou``: ``camvid`` or ``cityscapes``.
    """
    if name == "top1":
        return Top1()
    if name != "miou":
        raise InputError(f"no metric is called {name!r}; {nearest(name, METRICS)}")
    if classes not in _CLASS_SETS:
        raise InputError(f"no classes are called {classes!r}; {nearest(classes, _CLASS_SETS)}")
    return Segmentation(_CLASS_SETS[classes])
