"""Metrics of classifiers: one label a sample."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Self

import numpy as np
from numpy.typing import NDArray

from onnxgraft.data.classes import find_classes
from onnxgraft.data.postprocess import Postprocess
from onnxgraft.errors import InputError
from onnxgraft.graph.tensors import Array
from onnxgraft.stages.validate.metrics.metric import (
    Answered,
    Curve,
    Direction,
    MetricKind,
    check_classes,
)

__all__ = ["KINDS", "AreaUnderCurve", "TopK"]

# A table of more classes says nothing to a person.
_MOST_CLASSES = 50


class TopK:
    """The percentage of samples whose label is among the k largest outputs."""

    scale: float | None = 100.0
    direction: Direction | None = "up"

    def __init__(self, k: int, names: Sequence[str] = ()) -> None:
        """Begin with nothing; ``names`` are those of the classes."""
        self.name = f"top{k}"
        self.k, self.names = k, tuple(names)
        self._right, self._first, self._total = 0, 0, 0
        self._classes = 0
        self._taken: Counter[tuple[int, int]] = Counter()  # (label, answer)

    def add(self, answered: Answered, label: Array) -> None:
        """Take in one sample: (1, classes) scores and a 0-d label."""
        output, label = answered.output, _plain(label)
        scores = [dim for dim in output.shape if dim != 1]
        if label.ndim or len(scores) != 1:
            raise InputError(
                f"{self.name} needs one label a sample and one score a class; the label is of "
                f"shape {label.shape}, the output {output.shape}{_other_metric(label)}"
            )
        check_classes(self.name, label)
        flat, right = output.ravel(), int(label)
        if not 0 <= right < flat.size:
            raise InputError(f"{self.name}: the label {right} is not one of {flat.size} classes")
        # Ties count as argmax breaks them: the first is the largest.
        better = int((flat > flat[right]).sum()) + int((flat[:right] == flat[right]).sum())
        if flat[right] != flat[right]:  # NaN is no score
            better = max(flat.size, self.k)
        self._right += better < self.k
        self._first += better < 1
        self._total += 1
        self._classes = flat.size
        if flat.size <= _MOST_CLASSES:
            self._taken[right, int(flat.argmax())] += 1

    def merge(self, other: Self) -> None:
        """Take in another part."""
        self._right += other._right
        self._first += other._first
        self._total += other._total
        self._classes = max(self._classes, other._classes)
        self._taken.update(other._taken)

    def values(self) -> dict[str, float]:
        """Return the percentages so far."""
        total = self._total or 1
        values = {self.name: 100 * self._right / total}
        return values if self.k == 1 else {**values, "top1": 100 * self._first / total}

    def per_class(self) -> dict[str, float]:
        """Return which percentage of each class is answered right; nothing of many classes."""
        return {
            name: 100 * counts[index] / sum(counts)
            for index, (name, counts) in enumerate(self.confusion_table().items())
            if any(counts)
        }

    def confusion_table(self) -> dict[str, list[int]]:
        """Return for what each class was taken; nothing of many classes."""
        if self._classes > _MOST_CLASSES:
            return {}
        every = range(self._classes)
        return {
            self.names[row] if row < len(self.names) else f"class {row}": [
                *(self._taken[row, column] for column in every), 0,
            ]
            for row in every
        }  # fmt: skip

    def curves(self) -> list[Curve]:
        """Return nothing."""
        return []


def _plain(label: Array) -> Array:
    """Return the label of a sample as it is, or without an axis of its own, as Keras has them."""
    return label.reshape(()) if label.shape == (1,) else label


def _other_metric(label: Array) -> str:
    """Return what else a label that is no class may be for."""
    if label.ndim != 2:
        return "; name the output with the scores with output in [validate] or --metric-output"
    other = "map" if label.shape[1] == 5 and label.dtype.kind == "f" else "miou"
    return f"; such labels are for --metric {other}"


class AreaUnderCurve:
    """The area under the ROC curve, in percent: the mean over classes of each against the rest.

    It is the probability that a sample of the class has a larger score than one of another; equal
    scores count half (Hanley and McNeil, 1982). With one score, or two, it is that of class 1.
    """

    name = "auc"
    scale: float | None = 100.0
    direction: Direction | None = "up"

    def __init__(self) -> None:
        """Begin with nothing."""
        self._scores: list[NDArray[np.float64]] = []
        self._labels: list[int] = []

    def add(self, answered: Answered, label: Array) -> None:
        """Take in one sample: (1, classes) scores, or one, and a 0-d label."""
        scores, label = answered.output.astype(np.float64).ravel(), _plain(label)
        if label.ndim or max(answered.output.shape, default=1) != scores.size:
            raise InputError(
                "auc needs one label a sample and one score a class; the label is of shape "
                f"{label.shape}, the output {answered.output.shape}{_other_metric(label)}"
            )
        check_classes(self.name, label)
        count = max(scores.size, 2)
        if not 0 <= int(label) < count:
            raise InputError(
                f"auc: a label is of class {int(label)}, and the output has the classes 0 to "
                f"{count - 1}"
            )
        self._scores.append(scores)
        self._labels.append(int(label))

    def merge(self, other: Self) -> None:
        """Take in another part."""
        self._scores += other._scores
        self._labels += other._labels

    def _areas(self) -> dict[int, float]:
        if not self._scores:
            return {}
        scores, labels = np.stack(self._scores), np.array(self._labels)
        if scores.shape[1] > 2:
            chosen = dict(enumerate(scores.T))
        else:
            # Of two scores the difference ranks as their softmax does.
            chosen = {1: scores[:, -1] - (scores[:, 0] if scores.shape[1] == 2 else 0.0)}
        return {
            index: area
            for index, column in chosen.items()
            if (area := _area(column, labels == index)) is not None
        }

    def values(self) -> dict[str, float]:
        """Return the mean area in percent; 0 where there are only samples of one class."""
        areas = self._areas()
        return {"AUC": 100 * float(np.mean(list(areas.values()))) if areas else 0.0}

    def per_class(self) -> dict[str, float]:
        """Return the area of each class, by its number."""
        areas = self._areas()
        return {str(index): 100 * area for index, area in areas.items()} if len(areas) > 1 else {}

    def confusion_table(self) -> dict[str, list[int]]:
        """Return nothing."""
        return {}

    def curves(self) -> list[Curve]:
        """Return nothing."""
        return []


def _area(scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> float | None:
    """Return the area under the ROC curve by ranks; None without both kinds of samples."""
    wanted, other = int(positive.sum()), int((~positive).sum())
    if not wanted or not other:
        return None
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    middle = np.cumsum(counts) - (counts - 1) / 2  # the mean rank of equal scores
    ranks = middle[inverse]
    return float((ranks[positive].sum() - wanted * (wanted + 1) / 2) / (wanted * other))


def _names(classes: str | None, how: Postprocess | None) -> Sequence[str]:
    if classes is not None:
        return find_classes(classes).names
    return () if how is None else how.labels()


KINDS = (
    MetricKind(
        "top1",
        "samples whose label has the largest score; of at most 50 classes the share of each, "
        "and the confusion",
        "a class",
        lambda classes, how: TopK(1, _names(classes, how)),
    ),
    MetricKind(
        "top5", "samples whose label is among the five largest scores, and `top1`", "a class",
        lambda classes, how: TopK(5, _names(classes, how)),
    ),
    MetricKind(
        "auc", "area under the ROC curve, the mean over classes", "a class",
        lambda classes, how: AreaUnderCurve(),
    ),
)  # fmt: skip
