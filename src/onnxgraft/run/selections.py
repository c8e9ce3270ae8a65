"""Outputs that are indices, compared by what they select: equal choices, not equal numbers.

An ArgMax, a TopK or a NonMaxSuppression says where the best scores are. Where two are as good as
equal, rounding decides, and the index may be any other number though nothing is wrong. So an index
is replaced by the score that the original gives to what it names, which is what is lost by it:

    ArgMax, ArgMin, TopK     score[index] - mean of the scores along the axis
    NonMaxSuppression        the score of each box; boxes of both sides are partners where they are
                             of one class and overlap by half or more; without a partner it is 0
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnxgraft.graph.model import Model
from onnxgraft.graph.operators import is_op, op_of
from onnxgraft.graph.tensors import Array, Feeds, Outputs
from onnxgraft.run.answers import adapted, partners
from onnxgraft.run.engine import Resource
from onnxgraft.run.session import OnnxRuntime, exposing
from onnxgraft.run.tolerances import FLOAT_TOLERANCE

__all__ = ["Chosen", "Selector", "selecting"]

# Behind these an index is still the same number at the same place.
_KEEPING = ("Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze")
# Of NonMaxSuppression's (image, class, box) these take the box.
_COLUMNS = ("Gather", "Slice", "Split")
# Two boxes are one object where they overlap by so much, as for mAP50.
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
    """

    operator: str
    scores: str
    boxes: str = ""
    axis: int = -1
    centers: bool = False


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
            return _Selection("NonMaxSuppression", scores, boxes, centers=centers)
        if not is_op(node, *_KEEPING, *_COLUMNS):
            return None
        columns = columns or is_op(node, *_COLUMNS)
        tensor = node.inputs[0]
    return None


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
    """Return the scores of boxes that both selected, or one of them, in which case it has 0."""
    rows = [_rows(index, scores.shape) for index in (one, other)]
    if rows[0] is None or rows[1] is None:
        return None
    corners = _corners(boxes.astype(np.float64), how.centers)
    left: list[float] = []
    right: list[float] = []
    free = np.ones(len(rows[1]), np.bool_)
    for image, kind, box in rows[0]:
        score = float(scores[image, kind, box])
        same = free & (rows[1][:, 0] == image) & (rows[1][:, 1] == kind)
        overlaps = np.where(
            same, _overlap(corners[image, box], corners[rows[1][:, 0], rows[1][:, 2]]), 0.0
        )
        best = int(overlaps.argmax()) if len(overlaps) else -1
        left.append(score)
        if best < 0 or overlaps[best] < _SAME_BOX:
            right.append(0.0)
            continue
        free[best] = False
        right.append(float(scores[tuple(rows[1][best])]))
    for place in rows[1][free]:
        left.append(0.0)
        right.append(float(scores[tuple(place)]))
    return np.array(left, np.float32), np.array(right, np.float32)


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
