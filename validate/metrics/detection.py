"""Detection: mean average precision, by the rules of PASCAL VOC and of COCO."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Self

import numpy as np
from numpy.typing import NDArray

from onnxgraft.data.boxes import SHOWN, Found, Size, find_boxes, in_pixels
from onnxgraft.data.classes import find_classes
from onnxgraft.data.postprocess import Postprocess
from onnxgraft.errors import InputError
from onnxgraft.graph.tensors import Array
from onnxgraft.stages.validate.metrics.metric import Answered, Curve, Direction, MetricKind

__all__ = ["KINDS", "Detection", "labelled_boxes", "partners"]

# COCO's thresholds of overlap; the first is VOC's. As pycocotools has them, to the last bit: boxes
# of whole pixels do overlap by exactly 0.6.
_OVERLAPS = np.linspace(0.5, 0.95, 10)
_RECALLS = np.linspace(0, 1, 101)
# COCO looks at so many boxes of a class in an image.
_MOST = 100
# Of a detection at an overlap. What matches a label that does not count is neither right nor wrong.
_WRONG, _RIGHT, _IGNORED = 0, 1, 2
# In place of a class.
_NOTHING = -1
# Curves of more classes would fill the page; so many points are drawn of each.
_MOST_CURVES, _POINTS = 20, 40

Floats = NDArray[np.float64]
States = NDArray[np.int8]


class Detection:
    """Mean average precision over the classes that occur in labels, in percent.

    ``mAP50`` is the area under the interpolated precision-recall curve at an overlap of 0.5 (VOC
    2010 and later), over all boxes; ``mAP`` the mean over overlaps 0.50, 0.55 .. 0.95 of the
    precision at 101 recalls, and ``mAP50 COCO`` the same at 0.50, of the best 100 boxes of a class
    in an image (COCO). Detections match labels by falling score, each label once, and the one of
    largest overlap that is free.
    """

    name = "map"
    scale: float | None = 100.0
    direction: Direction | None = "up"

    def __init__(self, names: Sequence[str] = (), how: Postprocess | None = None) -> None:
        """Begin with nothing.

        Args:
            names: Of the classes, for people.
            how: How boxes stand in the outputs; None tells by their shapes.
        """
        self.names = tuple(names)
        self.how = how or Postprocess()
        # By class: scores; at each overlap what the detection is, and at the end whether COCO looks
        # at it; and how many labels there are.
        self._found: dict[int, list[tuple[Floats, States]]] = defaultdict(list)
        self._wanted: dict[int, int] = defaultdict(int)
        # How often a labelled class was taken for another; `_NOTHING` stands on either side.
        self._taken: Counter[tuple[int, int]] = Counter()
        self._images = 0

    def add(self, answered: Answered, label: Array) -> None:
        """Take in one sample.

        Args:
            answered: Boxes in a form of `onnxgraft.data.boxes`.
            label: (boxes, 5) [class, x1, y1, x2, y2] in pixels of what the network sees, or in
                fractions of it; rows of class -1 are none. A sixth value says that a label does
                not count: 1 of a crowd, 2 of what is difficult.
        """
        if label.ndim != 2 or label.shape[1] not in (5, 6):
            raise InputError(
                f"map needs labels of (boxes, 5), class x1 y1 x2 y2; this one is {label.shape}"
                f"{_other_metric(label)}"
            )
        found = self._all_boxes(answered)
        wanted, corners = labelled_boxes(label, answered.size)
        count = found.count
        if len(wanted) and count is not None and wanted[:, 0].max() >= count:
            raise InputError(
                f"map: a label is of class {wanted[:, 0].max():g}, and the output has {count} "
                f"classes, 0 to {count - 1}"
            )
        kinds = wanted[:, 5] if wanted.shape[1] == 6 else np.zeros(len(wanted))
        self._images += 1
        for index in map(int, np.unique(wanted[kinds == 0, 0])):
            self._wanted[index] += int(((wanted[:, 0] == index) & (kinds == 0)).sum())
        for index in map(int, np.unique(found.classes)):
            mine = np.flatnonzero(found.classes == index)
            mine = mine[np.argsort(-found.scores[mine], kind="stable")]
            same = wanted[:, 0] == index
            states = _matches(found.edges[mine], corners[same], kinds[same])
            seen = (np.arange(len(mine)) < _MOST).astype(np.int8)[:, None]
            self._found[index].append((found.scores[mine], np.concatenate([states, seen], 1)))
        self._confuse(self.boxes(answered), wanted[:, 0].astype(np.int64), corners, kinds == 0)

    def _all_boxes(self, answered: Answered) -> Found:
        """Return all boxes that may count; they are looked for once in an answer."""
        if answered.found is None:
            try:
                answered.found = find_boxes(
                    answered.outputs, self.how, answered.size, output=self.how.output, counted=True
                )
            except InputError as error:
                raise InputError(f"map: {error}") from error
        return answered.found

    def boxes(self, answered: Answered) -> Found:
        """Return the boxes that a person would be shown."""
        found = self._all_boxes(answered)
        kept = found.scores >= (SHOWN if self.how.score is None else self.how.score)
        return Found(found.classes[kept], found.scores[kept], found.edges[kept], found.count)

    def _confuse(
        self, found: Found, wanted: NDArray[np.int64], corners: Floats, counts: NDArray[np.bool_]
    ) -> None:
        """Note for what each label was taken, whatever its class, and what was seen in nothing.

        Args:
            found: The boxes.
            wanted: (labels,) classes.
            corners: (labels, 4).
            counts: (labels,) whether a label counts: a box on one that does not is no mistake.
        """
        classes, kinds = wanted[counts], [int(kind) for kind in found.classes]
        pairs = _paired(found.edges, corners[counts])
        self._taken.update((int(classes[label]), kinds[box]) for box, label in pairs)
        boxes, labels = ({pair[side] for pair in pairs} for side in (0, 1))
        for label in set(range(len(classes))) - labels:
            self._taken[int(classes[label]), _NOTHING] += 1
        others = _overlap(found.edges, corners[~counts], np.zeros(sum(~counts), np.bool_))
        for box in set(range(len(kinds))) - boxes:
            if others[box].max(initial=0.0) < _OVERLAPS[0]:
                self._taken[_NOTHING, kinds[box]] += 1

    def merge(self, other: Self) -> None:
        """Take in another part."""
        for index, found in other._found.items():
            self._found[index] += found
        for index, count in other._wanted.items():
            self._wanted[index] += count
        self._taken.update(other._taken)
        self._images += other._images

    def _ranked(self, index: int) -> tuple[Floats, States]:
        """Return the detections of a class by falling score.

        Of equal scores the wrong ones are first: the order of the parts must not matter.
        """
        parts = self._found.get(index, [])
        if not parts:
            return np.zeros(0), np.zeros((0, len(_OVERLAPS) + 1), np.int8)
        scores = np.concatenate([part for part, _ in parts])
        states = np.concatenate([part for _, part in parts])
        order = np.lexsort([*states.T[::-1], -scores])
        return scores[order], states[order]

    def _precisions(self) -> dict[int, Floats]:
        """Return (1 + overlaps,) average precisions of each class: VOC's, then COCO's."""
        return {
            index: _average(self._ranked(index)[1], count)
            for index, count in sorted(self._wanted.items())
        }

    def values(self) -> dict[str, float]:
        """Return the means over classes in percent, that of VOC first."""
        found = self._precisions()
        table = np.stack(list(found.values())) if found else np.zeros((1, 1 + len(_OVERLAPS)))
        return {
            "mAP50": 100 * float(table[:, 0].mean()),
            "mAP": 100 * float(table[:, 1:].mean()),
            "mAP50 COCO": 100 * float(table[:, 1].mean()),
        }

    def per_class(self) -> dict[str, float]:
        """Return the average precision of each class at an overlap of 0.5, in percent."""
        return {
            self.name_of(index): 100 * float(values[0])
            for index, values in self._precisions().items()
        }

    def name_of(self, index: int) -> str:
        """Return the name of a class."""
        return self.names[index] if index < len(self.names) else str(index)

    def confusion_table(self) -> dict[str, list[int]]:
        """Return for what labels of each class were taken; the last row is of what is nothing.

        It is of boxes that a person would be shown, at an overlap of 0.5.
        """
        if not self._taken:
            return {}
        size = max(len(self.names), 1 + max(max(pair) for pair in self._taken))
        every = (*range(size), _NOTHING)
        return {
            "nothing" if row == _NOTHING else self.name_of(row): [
                self._taken[row, column] for column in every
            ]
            for row in every
        }

    def curves(self) -> list[Curve]:
        """Return curves at an overlap of 0.5: of all classes together, then of each."""
        ranked = {index: self._ranked(index) for index in sorted(self._wanted)}
        if not ranked:
            return []
        scores = np.concatenate([found for found, _ in ranked.values()])
        states = np.concatenate([found for _, found in ranked.values()])
        order = np.lexsort([*states.T[::-1], -scores])
        whole = (scores[order], states[order])
        curves = self._curves("", *whole, sum(self._wanted.values()))
        if 1 < len(ranked) <= _MOST_CURVES:
            for index, part in ranked.items():
                curves += self._curves(self.name_of(index), *part, self._wanted[index])
        return curves

    def _curves(self, name: str, scores: Floats, states: States, wanted: int) -> list[Curve]:
        right, wrong = ((states[:, 0] == what).cumsum() for what in (_RIGHT, _WRONG))
        precision = right / np.maximum(right + wrong, 1)
        recall = right / wanted
        both = np.maximum(precision + recall, 1e-12)
        sides = {
            "precision": (recall, precision),
            "found": (wrong / max(self._images, 1), recall),
            "score": (scores, 2 * precision * recall / both),
        }
        places = _places(right)
        return [
            Curve(kind, name, [(round(float(x[i]), 5), round(float(y[i]), 5)) for i in places])
            for kind, (x, y) in sides.items()
        ]


def _other_metric(label: Array) -> str:
    """Return which metric a label that holds no boxes may be for."""
    if label.ndim == 0:
        return "; such labels are for --metric top1"
    if label.ndim == 2 and label.dtype.kind in "iu":
        return "; label images are for --metric miou; name the file of boxes with --labels"
    return ""


def _places(right: NDArray[np.int64]) -> NDArray[np.intp]:
    """Return where points of a curve are drawn: evenly among the right boxes, and among all."""
    if not len(right):
        return np.zeros(0, np.intp)
    evenly = np.linspace(0, len(right) - 1, _POINTS).round().astype(np.intp)
    risen = np.searchsorted(right, np.linspace(1, max(right[-1], 1), _POINTS).round())
    return np.unique(np.concatenate([evenly, risen[risen < len(right)]]))


def _matches(boxes: Floats, wanted: Floats, kinds: Floats) -> States:
    """Return (boxes, overlaps): what detections are, by falling score.

    Args:
        boxes: (boxes, 4).
        wanted: (labels, 4).
        kinds: (labels,): 0 for what counts, 1 for a crowd, which overlaps by the share of the
            box, and 2 for what is difficult.
    """
    states = np.full((len(boxes), len(_OVERLAPS)), _WRONG, np.int8)
    if not len(wanted):
        return states
    overlaps = _overlap(boxes, wanted, kinds == 1)
    counts = kinds == 0
    ignored = np.where(counts, -1.0, overlaps).max(1)
    # Of equal overlaps COCO takes the last.
    overlaps = overlaps[:, counts][:, ::-1]
    best = overlaps.max(1) if counts.any() else np.full(len(boxes), -1.0)
    for column, least in enumerate(_OVERLAPS):
        free = np.ones(overlaps.shape[1], np.bool_)
        for row in np.flatnonzero((best >= least) | (ignored >= least)):
            values = np.where(free, overlaps[row], -1.0)
            place = int(values.argmax()) if len(values) else -1
            if place >= 0 and values[place] >= least:
                states[row, column], free[place] = _RIGHT, False
            elif ignored[row] >= least:
                states[row, column] = _IGNORED
    return states


def labelled_boxes(label: Array, size: Size | None) -> tuple[Floats, Floats]:
    """Return the rows of a label that are boxes, and their corners in pixels of the picture."""
    rows = label[label[:, 0] >= 0].astype(np.float64)
    placed = rows.shape[1] > 5  # of an image file, and in pixels however small
    return rows, rows[:, 1:5] if placed else in_pixels(rows[:, 1:5], size)


def _paired(boxes: Floats, wanted: Floats) -> list[tuple[int, int]]:
    """Return which boxes are of which others: those that overlap most first, each once.

    Args:
        boxes: (boxes, 4).
        wanted: (others, 4).
    """
    overlaps = _overlap(boxes, wanted, np.zeros(len(wanted), np.bool_))
    rows, columns = np.nonzero(overlaps >= _OVERLAPS[0])
    pairs: dict[int, int] = {}
    taken: set[int] = set()
    for place in np.argsort(-overlaps[rows, columns], kind="stable"):
        row, column = int(rows[place]), int(columns[place])
        if row not in pairs and column not in taken:
            pairs[row] = column
            taken.add(column)
    return list(pairs.items())


def partners(one: Found, other: Found) -> list[tuple[int, int]]:
    """Return which boxes are of which others: of the same class, and at an overlap of 0.5."""
    found = []
    for kind in np.intersect1d(one.classes, other.classes):
        mine, theirs = (np.flatnonzero(side.classes == kind) for side in (one, other))
        pairs = _paired(one.edges[mine], other.edges[theirs])
        found += [(int(mine[first]), int(theirs[second])) for first, second in pairs]
    return found


def _overlap(boxes: Floats, wanted: Floats, crowd: NDArray[np.bool_]) -> Floats:
    """Return (boxes, wanted): intersection over union, or over the box where it is a crowd."""
    low = np.maximum(boxes[:, None, :2], wanted[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], wanted[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(-1)
    one, other = ((b[:, 2:] - b[:, :2]).clip(0).prod(-1) for b in (boxes, wanted))
    whole = np.where(crowd[None], one[:, None], one[:, None] + other[None] - shared)
    found = np.divide(shared, whole, out=np.zeros_like(shared), where=whole > 0)
    return np.asarray(found, np.float64)


def _average(states: States, wanted: int) -> Floats:
    """Return the average precision by VOC at the first overlap, and by COCO at each."""
    recall, precision = _curve(states[:, 0], wanted)
    values = [float((np.diff(recall, prepend=0.0) * precision).sum())]
    looked_at = states[states[:, -1] == 1]
    for column in range(len(_OVERLAPS)):
        recall, precision = _curve(looked_at[:, column], wanted)
        places = np.searchsorted(recall, _RECALLS, side="left")
        reached = places < len(recall)
        values.append(float(precision[places[reached]].sum()) / len(_RECALLS))
    return np.array(values)


def _curve(states: States, wanted: int) -> tuple[Floats, Floats]:
    """Return the recall at each detection that counts, and the best precision from there on."""
    right = (states[states != _IGNORED] == _RIGHT).cumsum().astype(np.float64)
    precision = right / np.arange(1, len(right) + 1)
    return right / wanted, np.maximum.accumulate(precision[::-1])[::-1]


def _make(classes: str | None, how: Postprocess | None) -> Detection:
    if classes is not None:
        return Detection(find_classes(classes).names, how)
    return Detection(() if how is None else how.labels(), how)


KINDS = (
    MetricKind(
        "map",
        "mean average precision of boxes: at an overlap of 0.5 (VOC), and over 0.50..0.95 and at "
        "0.50 (COCO); curves, and the confusion",
        "boxes",
        _make,
    ),
)
