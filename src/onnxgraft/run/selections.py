"""Outputs that are indices, compared by what they select: equal choices, not equal numbers.

An ArgMax, a TopK or a NonMaxSuppression says where the best scores are. Where two are as good as
equal, rounding decides, and the index may be any other number though nothing is wrong. So an index
is replaced by the score that the original gives to what it names, which is what is lost by it:

    ArgMax, ArgMin, TopK     score[index] - mean of the scores along the axis
    NonMaxSuppression        the score of each box, less the least that is selected; boxes of both
                             sides are partners where they are of one class and one would suppress
                             the other; without a partner a box has 0
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnxgraft.graph.model import Model
from onnxgraft.graph.operators import constant_value, is_op, op_of
from onnxgraft.graph.tensors import Array, Feeds, Outputs
from onnxgraft.run.answers import adapted, partners
from onnxgraft.run.engine import Resource
from onnxgraft.run.session import OnnxRuntime, exposing
from onnxgraft.run.tolerances import FLOAT_TOLERANCE

__all__ = ["Chosen", "Selecting", "Selector", "chosen_by_scores", "selecting"]

# Behind these an index is still the same number at the same place.
_KEEPING = ("Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze")
# Of NonMaxSuppression's (image, class, box) these take the box.
_COLUMNS = ("Gather", "Slice", "Split")
# Two boxes are one object where they overlap by so much, if the graph does not say by how much.
_SAME_BOX = 0.5

Pair = tuple[NDArray[np.float32], NDArray[np.float32]]


@dataclass(frozen=True)
class _Selection:
    """How an output is chosen.

    Attributes:
        operator: ``ArgMax``, ``ArgMin``, ``TopK`` or ``NonMaxSuppression``.
        scores: The tensor of scores.
        boxes: Of NonMaxSuppression, the tensor of boxes.
        axis: Along which the best is chosen.
        centers: Of NonMaxSuppression: whether boxes are centres and sizes.
        most: Likewise: how many boxes of a class are selected at most; None for any number.
        overlap: Likewise: the overlap with a better box from which on one is left out.
        least: Likewise: the score that a box has to have; None for any.
    """

    operator: str
    scores: str
    boxes: str = ""
    axis: int = -1
    centers: bool = False
    most: float | None = None
    overlap: float | None = None
    least: float | None = None


def selecting(model: Model) -> dict[str, _Selection]:
    """Return the outputs of a graph that are indices of scores in it."""
    found = ((tensor.name, _selection(tensor)) for tensor in model.graph.outputs)
    return {name: value for name, value in found if value is not None}


def _selection(tensor: gs.Tensor) -> _Selection | None:
    columns = False
    while tensor.inputs:
        node = tensor.inputs[0]
        if is_op(node, "ArgMax", "ArgMin") and node.inputs[0].inputs and not columns:
            axis = int(node.attrs.get("axis", 0))
            return _Selection(op_of(node), node.inputs[0].name, axis=axis)
        if is_op(node, "TopK") and tensor is node.outputs[-1] and not columns:
            axis = int(node.attrs.get("axis", -1))
            return _Selection("TopK", node.inputs[0].name, axis=axis)
        if is_op(node, "NonMaxSuppression"):
            boxes, scores = (given.name for given in node.inputs[:2])
            centers = bool(node.attrs.get("center_point_box", 0))
            most, overlap, least = (_number(node, place) for place in (2, 3, 4))
            return _Selection("NonMaxSuppression", scores, boxes, -1, centers, most, overlap, least)
        if not is_op(node, *_KEEPING, *_COLUMNS):
            return None
        columns = columns or is_op(node, *_COLUMNS)
        tensor = node.inputs[0]
    return None


def _number(node: gs.Node, place: int) -> float | None:
    """Return a constant input of one number, or None."""
    given = node.inputs[place] if len(node.inputs) > place else None
    if isinstance(given, gs.Constant) and np.size(given.values) == 1:
        return float(np.asarray(given.values).item())
    made = given.inputs[0] if given is not None and given.inputs else None
    value = None if made is None else constant_value(made)
    return float(value.item()) if value is not None and value.size == 1 else None


class Selecting(Protocol):
    """What knows from which scores indices were chosen."""

    def at(self, feeds: Feeds, expected: Outputs) -> Chosen:
        """Return what the original's indices on one sample were chosen from."""


def chosen_by_scores(expected: Outputs, name: str, scores: Array, axis: int) -> Chosen:
    """Return what an output that holds the best of scores along an axis was chosen from."""
    return Chosen(expected, {name: _Selection("ArgMax", "scores", axis=axis)}, {"scores": scores})


class Selector(Resource):
    """The graph of an original, asked for the scores from which its indices were chosen."""

    def __init__(self, model: Model) -> None:
        """Take the original as a graph; it has no indices where none of its outputs is chosen."""
        self._model = model
        self._found = selecting(model)
        self._session: OnnxRuntime | None = None

    @property
    def outputs(self) -> list[str]:
        """The outputs that are indices."""
        return list(self._found)

    def at(self, feeds: Feeds, expected: Outputs) -> Chosen:
        """Return what the original's indices on one sample were chosen from.

        Args:
            feeds: Of the original.
            expected: What it makes of them.
        """
        names = {graph: asked for asked, graph in partners(list(expected), self.outputs).items()}
        wanted = {names[name]: how for name, how in self._found.items() if name in names}
        if not wanted:
            return Chosen({}, {}, {})
        if self._session is None:
            inner = [name for how in self._found.values() for name in (how.scores, how.boxes)]
            exposed = list(dict.fromkeys([*filter(None, inner), *self._found]))
            self._session = OnnxRuntime(
                exposing(self._model.to_onnx(), exposed), name="selected scores", optimize=False
            )
        values = self._session.infer(adapted(feeds, self._session))
        chosen = Chosen(expected, wanted, values)
        # The graph has to choose as the original does, or what it scores is something else.
        for name in [names[graph] for graph in self._found if graph in names]:
            graph = next(key for key, value in names.items() if value == name)
            if not chosen.agrees(name, values[graph]):
                wanted.pop(name)
        return chosen

    def close(self) -> None:
        """Close the session."""
        if self._session is not None:
            self._session.close()
            self._session = None


class Chosen:
    """One sample: the original's indices, and the scores that they were chosen from."""

    def __init__(self, expected: Outputs, found: Mapping[str, _Selection], values: Outputs) -> None:
        """Take what the original says, how each output is chosen, and the scores and boxes."""
        self._expected, self._found, self._values = expected, found, values

    def pair(self, name: str, actual: Array) -> Pair | None:
        """Return the scores of what original and candidate select; None if that is not known."""
        how = self._found.get(name)
        if how is None or actual.dtype.kind not in "iuf":
            return None
        scores = self._values[how.scores]
        expected = self._expected[name]
        if how.operator == "NonMaxSuppression":
            return _boxes(how, scores, self._values[how.boxes], expected, actual)
        if expected.shape != actual.shape:
            return None
        one, other = (_taken(scores, how.axis, index) for index in (expected, actual))
        return None if one is None or other is None else (one, other)

    def span(self, name: str) -> float:
        """Return the range of the scores that an output is chosen from."""
        return float(np.ptp(self._values[self._found[name].scores])) or 1.0

    def agrees(self, name: str, index: Array) -> bool:
        """Tell whether ``index`` selects what the original does, but for ties."""
        if index.shape != self._expected[name].shape:
            return False
        pair = self.pair(name, index)
        if pair is None:
            return False
        apart = np.abs(pair[0] - pair[1]).max(initial=0.0)
        return bool(apart <= FLOAT_TOLERANCE * self.span(name))


def _taken(scores: Array, axis: int, index: Array) -> NDArray[np.float32] | None:
    """Return the scores at indices along an axis, less their mean; None where they do not fit."""
    axis %= scores.ndim
    length = scores.shape[axis]
    shape = [*scores.shape[:axis], -1, *scores.shape[axis + 1 :]]
    others = scores.size // length if length else 0
    if not others or index.size % others or not np.isfinite(index).all():
        return None
    places = index.astype(np.int64).reshape(shape)
    if places.min(initial=0) < 0 or places.max(initial=0) >= length:
        return None
    centered = scores.astype(np.float32) - scores.mean(axis, keepdims=True, dtype=np.float32)
    return np.take_along_axis(centered, places, axis)


def _boxes(how: _Selection, scores: Array, boxes: Array, one: Array, other: Array) -> Pair | None:
    """Return the scores of the boxes that either selected, on both sides, less the least."""
    sides = [_rows(index, scores.shape) for index in (one, other)]
    if sides[0] is None or sides[1] is None:
        return None
    mine, theirs = sides[0], sides[1]
    corners = _corners(boxes.astype(np.float64), how.centers)
    values = scores.astype(np.float64)
    same = how.overlap or _SAME_BOX
    pairs: list[tuple[float, float]] = []
    for image, kind in np.unique(np.concatenate([mine, theirs])[:, :2], axis=0):
        table, places = values[image, kind], corners[image]
        left, right = (
            side[(side[:, 0] == image) & (side[:, 1] == kind), 2] for side in (mine, theirs)
        )
        least = float(table.min()) if how.least is None else how.least
        if how.most is not None and len(left) >= how.most:
            least = max(least, float(table[left].min()))
        free = np.ones(len(right), np.bool_)
        for box in left[np.argsort(-table[left], kind="stable")]:
            overlaps = _overlap(places[box], places[right])
            # Its partner is the nearest that is free; what suppressed it may be taken already.
            fitting = np.where((overlaps >= same) & free, overlaps, -1.0)
            best = int(fitting.argmax()) if len(fitting) else -1
            if best >= 0 and fitting[best] >= 0:
                free[best] = False
                pairs.append((table[box] - least, table[right[best]] - least))
                continue
            pairs.append((table[box] - least, _instead(table, box, right[overlaps >= same], least)))
        for box in right[free]:
            rivals = left[_overlap(places[box], places[left]) >= same]
            pairs.append((_instead(table, box, rivals, least), table[box] - least))
    found = np.array(pairs, np.float32).reshape(-1, 2)
    return found[:, 0].copy(), found[:, 1].copy()


def _instead(
    table: NDArray[np.float64], box: int, rivals: NDArray[np.int64], least: float
) -> float:
    """Return the score that stands for a box that was not selected: of what suppressed it, or 0."""
    best = float(table[rivals].max()) if len(rivals) else least
    return max(min(best, float(table[box])) - least, 0.0)


def _rows(index: Array, shape: tuple[int, ...]) -> NDArray[np.int64] | None:
    """Return (boxes, 3) image, class and box, or None where the indices are something else."""
    if index.ndim == 1 and shape[:2] == (1, 1):
        index = np.stack([np.zeros_like(index), np.zeros_like(index), index], axis=1)
    if index.ndim != 2 or index.shape[1] != 3 or not np.isfinite(index).all():
        return None
    rows = index.astype(np.int64)
    inside = (rows >= 0).all() and (rows < np.array(shape)).all()
    return rows if inside else None


def _corners(boxes: NDArray[np.float64], centers: bool) -> NDArray[np.float64]:
    """Return (images, boxes, 4): the lower corner, then the upper one."""
    if centers:
        low, high = boxes[..., :2] - boxes[..., 2:] / 2, boxes[..., :2] + boxes[..., 2:] / 2
    else:
        low, high = boxes[..., :2], boxes[..., 2:]
    return np.concatenate([np.minimum(low, high), np.maximum(low, high)], -1)


def _overlap(one: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return (boxes,): the intersection over union of a box with each of others."""
    low, high = np.maximum(one[:2], others[:, :2]), np.minimum(one[2:], others[:, 2:])
    shared = np.clip(high - low, 0, None).prod(-1)
    union = (one[2:] - one[:2]).prod() + (others[:, 2:] - others[:, :2]).prod(-1) - shared
    found = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    # Two boxes without an area are the same where they are at one place.
    same = (one == others).all(-1)
    return np.asarray(np.where(union > 0, found, same), np.float64)
