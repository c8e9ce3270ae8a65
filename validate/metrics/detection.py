"""Detection: mean average precision, by the rules of PASCAL VOC and of COCO."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Self

import numpy as np
from numpy.typing import NDArray

from onnxgraft.data.classes import find_classes
from onnxgraft.errors import InputError
from onnxgraft.graph.tensors import Array
from onnxgraft.stages.validate.metrics.metric import Answered, Direction, MetricKind

__all__ = ["KINDS", "Detection"]

# COCO's thresholds of overlap; the first is VOC's.
_OVERLAPS = np.arange(0.5, 1.0, 0.05)
_RECALLS = np.linspace(0, 1, 101)

Floats = NDArray[np.float64]


class Detection:
    """Mean average precision over the classes that occur in labels, in percent.

    ``mAP50`` is the area under the interpolated precision-recall curve at an overlap of 0.5 (VOC
    2010 and later); ``mAP`` the mean over overlaps 0.50, 0.55 .. 0.95 of the precision at 101
    recalls (COCO). Detections match labels by falling score, each label once, and the one of
    largest overlap that is free.
    """

    name = "map"
    scale: float | None = 100.0
    direction: Direction | None = "up"

    def __init__(self, names: Sequence[str] = ()) -> None:
        """Begin with nothing; ``names`` are of the classes, for people."""
        self.names = tuple(names)
        # By class: score, and at each overlap whether the detection is right; and how many labels.
        self._found: dict[int, list[tuple[float, tuple[bool, ...]]]] = defaultdict(list)
        self._wanted: dict[int, int] = defaultdict(int)

    def add(self, answered: Answered, label: Array) -> None:
        """Take in one sample.

        Args:
            answered: Rows of [image, class, score, x1, y1, x2, y2], as DetectionOutput makes them,
                or [x1, y1, x2, y2, score, class]; rows of score 0 or class -1 are none.
            label: (boxes, 5) [class, x1, y1, x2, y2] in the same units; rows of class -1 are none.
        """
        classes, scores, boxes = _detections(answered.output)
        if label.ndim != 2 or label.shape[1] != 5:
            raise InputError(
                f"map needs labels of (boxes, 5), class x1 y1 x2 y2; this one is {label.shape}"
            )
        wanted = label[label[:, 0] >= 0].astype(np.float64)
        for index in map(int, np.unique(wanted[:, 0])):
            self._wanted[index] += int((wanted[:, 0] == index).sum())
        for index in map(int, np.unique(classes)):
            mine = classes == index
            order = np.argsort(-scores[mine], kind="stable")
            right = _matches(boxes[mine][order], wanted[wanted[:, 0] == index, 1:])
            self._found[index] += [
                (float(score), tuple(map(bool, row)))
                for score, row in zip(scores[mine][order], right, strict=True)
            ]

    def merge(self, other: Self) -> None:
        """Take in another part."""
        for index, found in other._found.items():
            self._found[index] += found
        for index, count in other._wanted.items():
            self._wanted[index] += count

    def _precisions(self) -> dict[int, Floats]:
        """Return (overlaps + 1,) average precisions of each class: VOC's, then COCO's."""
        return {
            index: _average(self._found.get(index, []), count)
            for index, count in sorted(self._wanted.items())
        }

    def values(self) -> dict[str, float]:
        """Return mAP50 and mAP in percent."""
        found = self._precisions()
        if not found:
            return {"mAP50": 0.0, "mAP": 0.0}
        table = np.stack(list(found.values()))
        return {"mAP50": 100 * float(table[:, 0].mean()), "mAP": 100 * float(table[:, 1:].mean())}

    def per_class(self) -> dict[str, float]:
        """Return the average precision of each class at an overlap of 0.5, in percent."""
        return {
            self.names[index] if index < len(self.names) else str(index): 100 * float(values[0])
            for index, values in self._precisions().items()
        }

    def confusion_table(self) -> dict[str, list[int]]:
        """Return nothing: a detection is right or it is not."""
        return {}


def _detections(output: Array) -> tuple[NDArray[np.int64], Floats, Floats]:
    """Return classes (rows,), scores (rows,) and boxes (rows, 4)."""
    if output.ndim < 2 or output.shape[-1] not in (6, 7) or output.size == 0:
        if output.ndim >= 2 and output.size == 0:
            return np.zeros(0, np.int64), np.zeros(0), np.zeros((0, 4))
        raise InputError(
            "map needs rows of [image, class, score, x1, y1, x2, y2] or [x1, y1, x2, y2, score, "
            f"class]; the output is {output.shape}; name the right one with --metric-output"
        )
    rows = output.reshape(-1, output.shape[-1]).astype(np.float64)
    if rows.shape[1] == 7:
        classes, scores, boxes = rows[:, 1], rows[:, 2], rows[:, 3:]
    else:
        classes, scores, boxes = rows[:, 5], rows[:, 4], rows[:, :4]
    kept = (scores > 0) & (classes >= 0)
    return classes[kept].astype(np.int64), scores[kept], boxes[kept]


def _matches(boxes: Floats, wanted: Floats) -> NDArray[np.bool_]:
    """Return (boxes, overlaps): which detections, by falling score, are right."""
    right = np.zeros((len(boxes), len(_OVERLAPS)), np.bool_)
    if not len(wanted):
        return right
    overlaps = _overlap(boxes, wanted)
    for column, least in enumerate(_OVERLAPS):
        free = np.ones(len(wanted), np.bool_)
        for row, values in enumerate(overlaps):
            best = int(np.where(free, values, -1.0).argmax())
            if free[best] and values[best] >= least:
                right[row, column], free[best] = True, False
    return right


def _overlap(boxes: Floats, wanted: Floats) -> Floats:
    """Return (boxes, wanted): intersection over union."""
    low = np.maximum(boxes[:, None, :2], wanted[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], wanted[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(-1)
    one, other = ((b[:, 2:] - b[:, :2]).clip(0).prod(-1) for b in (boxes, wanted))
    union = one[:, None] + other[None] - shared
    found = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return np.asarray(found, np.float64)


def _average(found: list[tuple[float, tuple[bool, ...]]], wanted: int) -> Floats:
    """Return the average precision by VOC at the first overlap, and by COCO at each."""
    # Of equal scores the wrong ones first: the order in which parts were merged must not matter.
    ordered = sorted(found, key=lambda entry: (-entry[0], entry[1]))
    if not ordered:
        return np.zeros(1 + len(_OVERLAPS))
    right = np.array([row for _, row in ordered], np.float64).cumsum(0)
    precision = right / np.arange(1, len(ordered) + 1)[:, None]
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    recall = right / wanted
    steps = np.diff(recall[:, 0], prepend=0.0)
    values = [float((steps * precision[:, 0]).sum())]
    for column in range(len(_OVERLAPS)):
        places = np.searchsorted(recall[:, column], _RECALLS, side="left")
        reached = places < len(ordered)
        values.append(float(precision[places[reached], column].sum()) / len(_RECALLS))
    return np.array(values)


def _names(classes: str | None) -> tuple[str, ...]:
    return () if classes is None else find_classes(classes).names


KINDS = (
    MetricKind(
        "map",
        "mean average precision of boxes: at an overlap of 0.5 (VOC), and over 0.50..0.95 (COCO)",
        "boxes",
        lambda classes: Detection(_names(classes)),
    ),
)
