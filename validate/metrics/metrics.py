"""Task metrics over a labelled set, in percent; parts of the set can be measured apart."""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from onnxgraft.data.classes import Classes, find_classes
from onnxgraft.errors import InputError, nearest
from onnxgraft.files import existing_file
from onnxgraft.graph.tensors import (
    Array,
)
from onnxgraft.run.difference import (
    Sum,
)
from onnxgraft.stages.validate.metrics.detection import Detection

__all__ = ["METRICS", "Answered", "Metric", "Segmentation", "TopK", "make_metric", "own_function"]

METRICS = ("top1", "top5", "miou", "auc", "map")


class Answered:
    """One sample's output, and the classes that it says, which are looked for once.

    Attributes:
        output: Of batch 1.
    """

    def __init__(self, output: Array) -> None:
        self.output = output
        self._classes: dict[int, Array] = {}

    def classes(self, axis: int) -> Array:
        """Return the argmax along ``axis``."""
        if axis not in self._classes:
            self._classes[axis] = np.asarray(self.output.argmax(axis))
        return self._classes[axis]


class Metric(Protocol):
    """A number over a labelled set; the first of `values` is the one that a budget is held to."""

    name: str

    def add(self, answered: Answered, label: Array) -> None:
        """Take in one sample: an output of batch 1 and its label."""

    def merge(self, other: Self) -> None:
        """Take in what was measured in another part of the set; the order does not matter."""

    def values(self) -> dict[str, float]:
        """Return the metrics so far, in percent."""

    def per_class(self) -> dict[str, float]:
        """Return the metric of each class, in percent; empty where there are none."""

    def confusion_table(self) -> dict[str, list[int]]:
        """Return how often each labelled class was answered with each; empty without classes."""


class TopK:
    """The percentage of samples whose label is among the k largest outputs."""

    def __init__(self, k: int) -> None:
        """Begin with nothing."""
        self.name = f"top{k}"
        self.k = k
        self._right, self._first, self._total = 0, 0, 0

    def add(self, answered: Answered, label: Array) -> None:
        """Take in one sample: (1, classes) scores and a 0-d label."""
        output = answered.output
        scores = [dim for dim in output.shape if dim != 1]
        if label.ndim or len(scores) != 1:
            raise InputError(
                f"{self.name} wants one label a sample and one score a class; the label is of "
                f"shape {label.shape}, the output {output.shape}{_other_metric(label)}"
            )
        flat, right = output.ravel(), int(label)
        if not 0 <= right < flat.size:
            raise InputError(f"{self.name}: the label {right} is none of {flat.size} classes")
        # Ties count as argmax breaks them: the first is the largest.
        better = int((flat > flat[right]).sum()) + int((flat[:right] == flat[right]).sum())
        self._right += better < self.k
        self._first += better < 1
        self._total += 1

    def merge(self, other: Self) -> None:
        """Take in another part."""
        self._right += other._right
        self._first += other._first
        self._total += other._total

    def values(self) -> dict[str, float]:
        """Return the percentages so far."""
        total = self._total or 1
        values = {self.name: 100 * self._right / total}
        return values if self.k == 1 else {**values, "top1": 100 * self._first / total}

    def per_class(self) -> dict[str, float]:
        """Return nothing: the metric is of samples."""
        return {}

    def confusion_table(self) -> dict[str, list[int]]:
        """Return nothing."""
        return {}


def _other_metric(label: Array) -> str:
    """Return what else a label that is no class may be for."""
    if label.ndim != 2:
        return "; name the output with the scores with output in [validate] or --metric-output"
    other = "map" if label.shape[1] == 5 and label.dtype.kind == "f" else "miou"
    return f"; such labels are for --metric {other}"


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

    def add(self, answered: Answered, label: Array) -> None:
        """Take in one sample: (1, H, W, C) or (1, C, H, W) scores or (1, H, W) classes."""
        size = len(self.classes.names)
        answer = _classes_of(answered, label, size)
        if answered.output.shape == (1, *label.shape):
            answer = np.where((answer >= 0) & (answer < size), answer, size)
        # Labels beyond the classes fall into a row of their own, which is left out.
        pairs = np.minimum(label, size).astype(np.intp) * (size + 1) + answer
        counts = np.bincount(pairs.ravel(), minlength=(size + 1) ** 2)
        self.confusion += counts.reshape(size + 1, size + 1)[:size]

    def merge(self, other: Self) -> None:
        """Take in another part."""
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


def _iou(confusion: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the IoU of each class, NaN for one that does not occur."""
    hits = np.diag(confusion).astype(np.float64)
    union = confusion[:, :-1].sum(0) + confusion.sum(1) - hits
    empty = np.full(len(hits), np.nan)
    return np.asarray(np.divide(hits, union, out=empty, where=union > 0), np.float64)


def _mean(values: NDArray[np.float64]) -> float:
    return float(100 * np.nanmean(values)) if not np.isnan(values).all() else 0.0


def _classes_of(answered: Answered, label: Array, size: int) -> Array:
    output = answered.output
    if output.shape == (1, *label.shape):
        return np.asarray(output[0], np.int64)
    if output.shape == (1, *label.shape, size):
        return np.asarray(answered.classes(-1)[0])
    if output.shape == (1, size, *label.shape):
        return np.asarray(answered.classes(1)[0])
    raise InputError(
        f"miou over {size} classes wants scores for the {label.shape} pixels of a label, the "
        f"output is {output.shape}; name the right one with output in [validate] or "
        "--metric-output, or the right classes"
    )


class AreaUnderCurve:
    """The area under the ROC curve, in percent: the mean over classes of each against the rest.

    It is the probability that a sample of the class has a larger score than one of another; equal
    scores count half (Hanley and McNeil, 1982). With one score, or two, it is that of class 1.
    """

    name = "auc"

    def __init__(self) -> None:
        """Begin with nothing."""
        self._scores: list[NDArray[np.float64]] = []
        self._labels: list[int] = []

    def add(self, answered: Answered, label: Array) -> None:
        """Take in one sample: (1, classes) scores, or one, and a 0-d label."""
        scores = answered.output.astype(np.float64).ravel()
        if label.ndim or max(answered.output.shape, default=1) != scores.size:
            raise InputError(
                "auc wants one label a sample and one score a class; the label is of shape "
                f"{label.shape}, the output {answered.output.shape}{_other_metric(label)}"
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


def _area(scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> float | None:
    """Return the area under the ROC curve by ranks; None without both kinds of samples."""
    wanted, other = int(positive.sum()), int((~positive).sum())
    if not wanted or not other:
        return None
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    middle = np.cumsum(counts) - (counts - 1) / 2  # the mean rank of equal scores
    ranks = middle[inverse]
    return float((ranks[positive].sum() - wanted * (wanted + 1) / 2) / (wanted * other))


class Own:
    """The mean of what a user's function returns for each sample."""

    def __init__(self, function: Callable[[Array, Array], Any], name: str) -> None:
        """Begin with nothing.

        Args:
            function: Takes an output of batch 1 and its label, and returns a number or several by
                name.
            name: Of a single number.
        """
        self.name = name
        self._function = function
        self._sums: dict[str, Sum] = {}
        self._count = 0

    def __getstate__(self) -> dict[str, Any]:
        """Leave the function behind: only what was measured travels between processes."""
        return {**self.__dict__, "_function": None}

    def add(self, answered: Answered, label: Array) -> None:
        """Take in one sample."""
        try:
            found = self._function(answered.output, label)
            named = found if isinstance(found, Mapping) else {self.name: found}
            values = {str(name): float(value) for name, value in named.items()}
        except Exception as error:  # it is the user's own
            raise InputError(
                f"the metric {self.name} failed on an output of {answered.output.shape} and a "
                f"label of {label.shape}: {type(error).__name__}: {error}"
            ) from error
        for name, value in values.items():
            if not np.isfinite(value):
                raise InputError(f"the metric {self.name} returned {value} for {name}")
            self._sums.setdefault(name, Sum()).add(value)
        self._count += 1

    def merge(self, other: Self) -> None:
        """Take in another part."""
        for name, total in other._sums.items():
            self._sums.setdefault(name, Sum()).merge(total)
        self._count += other._count

    def values(self) -> dict[str, float]:
        """Return the means so far."""
        return {name: total.value / self._count for name, total in self._sums.items()} or {
            self.name: 0.0
        }

    def per_class(self) -> dict[str, float]:
        """Return nothing."""
        return {}

    def confusion_table(self) -> dict[str, list[int]]:
        """Return nothing."""
        return {}


def make_metric(name: str, classes: str = "camvid") -> Metric:
    """Return a new metric.

    Args:
        name: One of `METRICS`, or ``FILE.py:FUNCTION``: a function of an output and a label.
        classes: Of ``miou`` and ``map``: ``camvid``, ``cityscapes`` or a file, see `find_classes`.
    """
    if name.startswith("top") and name in METRICS:
        return TopK(int(name.removeprefix("top")))
    if name == "auc":
        return AreaUnderCurve()
    if name == "miou":
        return Segmentation(find_classes(classes))
    if name == "map":
        return Detection(find_classes(classes).names if Path(classes).suffix else ())
    if ".py:" in name:
        return Own(own_function(name), name.rpartition(":")[2])
    raise InputError(
        f"no metric is called {name!r}; {nearest(name, METRICS)}, or name a function of your own "
        "as FILE.py:FUNCTION"
    )


def own_function(name: str) -> Callable[..., Any]:
    """Return the function ``FILE.py:FUNCTION`` of the user's own; the file is run.

    Raises:
        InputError: The file is not there or can't be run, or has no such function.
    """
    path, _, function = name.rpartition(":")
    file = existing_file(path, "the metric's file")
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # it is the user's own
        raise InputError(f"{file}: can't be run ({type(error).__name__}: {error})") from error
    found = getattr(module, function, None)
    if not callable(found):
        known = [key for key, value in vars(module).items() if inspect.isfunction(value)]
        raise InputError(f"{file}: has no function {function!r}; {nearest(function, known)}")
    return found  # type: ignore[no-any-return]
