"""The metric of segmentation: mean intersection over union."""

from __future__ import annotations

from typing import Self

import numpy as np
from numpy.typing import NDArray

from onnxgraft.data.classes import Classes, find_classes, numbered
from onnxgraft.errors import InputError
from onnxgraft.graph.tensors import Array
from onnxgraft.stages.validate.metrics.metric import (
    Answered,
    Curve,
    Direction,
    MetricKind,
    check_classes,
)

__all__ = ["KINDS", "Segmentation"]


class Segmentation:
    """Class and category mean IoU, from one confusion matrix over all pixels.

    IoU = TP / (TP + FP + FN); the mean is over the classes that occur in labels or answers.
    """

    name = "miou"
    scale: float | None = 100.0
    direction: Direction | None = "up"

    def __init__(self, classes: Classes | None = None) -> None:
        """Begin with an empty (labels, answers) matrix, (classes, classes + 1).

        Args:
            classes: None takes as many as the first output has channels.
        """
        self._begin(classes or Classes((), {}))

    def _begin(self, classes: Classes) -> None:
        self.classes = classes
        size = len(classes.names)
        # The last column holds answers that are none of the classes.
        self.confusion: NDArray[np.int64] = np.zeros((size, size + 1), np.int64)

    def add(self, answered: Answered, label: Array) -> None:
        """Take in one sample: (1, H, W, C) or (1, C, H, W) scores or (1, H, W) classes."""
        if not self.classes.names:
            self._begin(numbered(_channels(answered.output, label)))
        size = len(self.classes.names)
        answer = _classes_of(answered, label, size)
        if answered.output.shape == (1, *label.shape):
            answer = np.where((answer >= 0) & (answer < size), answer, size)
        check_classes(self.name, label)
        # Labels that are none of the classes fall into a row of their own, which is left out.
        known = np.where((label >= 0) & (label < size), label, size)
        pairs = known.astype(np.intp) * (size + 1) + answer
        counts = np.bincount(pairs.ravel(), minlength=(size + 1) ** 2)
        self.confusion += counts.reshape(size + 1, size + 1)[:size]

    def merge(self, other: Self) -> None:
        """Take in another part."""
        if not self.classes.names:
            self._begin(other.classes)
        if other.classes.names:
            self.confusion += other.confusion

    def values(self) -> dict[str, float]:
        """Return class and category mean IoU in percent."""
        values = {"class mIoU": _mean(_iou(self.confusion))}
        groups = self.classes.categories
        if not groups:
            return values
        index = np.array([
            next(i for i, g in enumerate(groups.values()) if n in g) for n in self.classes.names
        ])
        merged = np.zeros((len(groups), len(groups) + 1), np.int64)
        answers = np.append(index, len(groups))
        np.add.at(merged, (index[:, None], answers[None, :]), self.confusion)
        return {**values, "category mIoU": _mean(_iou(merged))}

    def per_class(self) -> dict[str, float]:
        """Return the IoU of each class that occurs, in percent."""
        values = _iou(self.confusion)
        return {
            name: float(100 * value)
            for name, value in zip(self.classes.names, values, strict=True)
            if not np.isnan(value)
        }

    def confusion_table(self) -> dict[str, list[int]]:
        """Return the rows of the matrix: pixels of a class, by what they were taken for."""
        return dict(zip(self.classes.names, self.confusion.tolist(), strict=True))

    def curves(self) -> list[Curve]:
        """Return nothing."""
        return []


def _iou(confusion: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the IoU of each class, NaN for one that does not occur."""
    hits = np.diag(confusion).astype(np.float64)
    union = confusion[:, :-1].sum(0) + confusion.sum(1) - hits
    empty = np.full(len(hits), np.nan)
    return np.asarray(np.divide(hits, union, out=empty, where=union > 0), np.float64)


def _mean(values: NDArray[np.float64]) -> float:
    return float(100 * np.nanmean(values)) if not np.isnan(values).all() else 0.0


def _channels(output: Array, label: Array) -> int:
    """Return how many classes the scores of an output are of."""
    if output.ndim == 4 and output.shape[0] == 1:
        if output.shape[1:3] == label.shape:
            return int(output.shape[3])
        if output.shape[2:] == label.shape:
            return int(output.shape[1])
    if output.shape == (1, *label.shape):
        raise InputError(
            f"miou: the output {output.shape} holds numbers of classes, and does not say how many "
            "there are: name them with --classes, or classes in [validate]: camvid, cityscapes, or "
            "a file with a name a line"
        )
    raise InputError(
        f"miou wants scores for the {label.shape} pixels of a label, the output is "
        f"{output.shape}; name the right one with output in [validate] or --metric-output"
    )


def _classes_of(answered: Answered, label: Array, size: int) -> Array:
    output = answered.output
    if output.shape == (1, *label.shape):
        return np.asarray(output[0], np.int64)
    if output.shape == (1, *label.shape, size):
        return np.asarray(answered.classes(-1)[0])
    if output.shape == (1, size, *label.shape):
        return np.asarray(answered.classes(1)[0])
    raise InputError(
        f"miou over {size} classes needs scores for the {label.shape} pixels of a label, the "
        f"output is {output.shape}; name the right one with output in [validate] or "
        "--metric-output, or the right classes"
    )


KINDS = (
    MetricKind(
        "miou",
        "mean intersection over union of classes, and of categories where there are any; the IoU "
        "of each class, and the confusion",
        "a label image",
        lambda classes, how: Segmentation(None if classes is None else find_classes(classes)),
    ),
)
