"""From a detector's outputs to boxes: the forms of the usual detectors, suppression, units.

Given outputs as a network makes them, Result is one row a box: class, score, and left, top, right,
bottom in pixels of the picture that the network saw.

- ``ssd``: rows (image, class, score, left, top, right, bottom) of DetectionOutput, in fractions.
- ``corners``: rows (left, top, right, bottom, score, class), as graphs with their own NMS end.
- ``yolov5``: rows (centre, size, objectness, scores), or its heads, not yet squashed. With s the
  sigmoid of a head, the centre is (2 s - 0.5 + cell) * stride and the size (2 s)^2 * anchor; a
  score is objectness times that of the class.
- ``yolov8``: the same rows without objectness, (1, 4 + C, boxes) or (1, boxes, 4 + C).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray

from onnxgraft.data.declared import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    model_validator,
)
from onnxgraft.errors import InputError, nearest
from onnxgraft.graph.tensors import Array

__all__ = [
    "FRACTIONS", "SHOWN", "BoxForm", "Found", "Size", "find_boxes", "form_of", "in_pixels",
    "suppressed",
]  # fmt: skip

Floats = NDArray[np.float64]
# Height and width of the picture that the network saw.
Size = tuple[int, int]
Form = Literal["auto", "ssd", "corners", "yolov5", "yolov8"]

# Boxes that end below it are fractions of a picture, which may reach over its edge, and not pixels.
FRACTIONS = 2.0
# Scores below are left out where nothing else is said: of pictures, and of metrics, which want the
# whole curve.
SHOWN, _COUNTED = 0.5, 0.01
_FORMS = (
    "rows of 7 values (ssd: image, class, score, corners) or of 6 (corners, score, class), rows or "
    "heads of YOLOv5 (yolov5), or YOLOv8's (yolov8)"
)


class BoxForm(BaseModel):
    """How boxes stand in a detector's outputs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    form: Form = Field(
        default="auto",
        description="How boxes stand in the outputs; `auto` tells by the shape.",
    )
    strides: tuple[PositiveInt, ...] = Field(
        default=(8, 16, 32),
        description="Pixels from one cell to the next, of each of YOLOv5's heads.",
    )
    anchors: tuple[tuple[PositiveFloat, ...], ...] = Field(
        default=(
            (10, 13, 16, 30, 33, 23), (30, 61, 62, 45, 59, 119), (116, 90, 156, 198, 373, 326),
        ),
        description="Width and height of each anchor of each of these heads, in pixels.",
    )  # fmt: skip
    score: float | None = Field(
        default=None,
        ge=0,
        le=1,
        examples=[0.25],
        description="Boxes below it are left out. Without it, 0.5 for pictures; for metrics 0.01 "
        "of YOLO's rows, and all of rows that the network chose itself.",
    )
    overlap: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="Of two boxes of a class that share more of their union, the better is kept "
        "(YOLO).",
    )

    units: Literal["auto", "pixels", "fractions"] = Field(
        default="auto",
        description="What boxes are measured in: pixels of the picture that the network sees, or "
        "fractions of it; `auto` takes fractions where most of an image's boxes end below 2.",
    )

    @model_validator(mode="after")
    def _one_row_a_stride(self) -> Self:
        if len(self.anchors) != len(self.strides) or len(set(self.strides)) != len(self.strides):
            raise ValueError("anchors wants a row of widths and heights for each of the strides")
        if any(len(row) % 2 or not row for row in self.anchors):
            raise ValueError("a row of anchors is width, height, width, height, ...")
        return self


@dataclass(frozen=True)
class Found:
    """The boxes of one image, the best first in each class.

    Attributes:
        classes: (boxes,).
        scores: (boxes,).
        edges: (boxes, 4) left, top, right, bottom: pixels of the network's picture where its size
            is known, else as the network says them.
        count: How many classes the output has; None where it does not say.
    """

    classes: NDArray[np.int64]
    scores: Floats
    edges: Floats
    count: int | None = None


def find_boxes(
    outputs: Mapping[str, Array],
    how: BoxForm,
    size: Size | None = None,
    *,
    output: str | None = None,
    counted: bool = False,
) -> Found:
    """Return the boxes in the outputs of one image.

    Args:
        outputs: By name, with a batch of 1.
        how: What they mean.
        size: Of the picture that the network saw, where it is known.
        output: The one that holds the boxes; None takes the first, and all heads.
        counted: For a metric: all that may count, and a box for each class whose score suffices;
            otherwise for a picture.

    Raises:
        InputError: There are no boxes of that form in them.
    """
    if output is not None:
        if output not in outputs:
            raise InputError(f"[postprocess] output {output!r}: {nearest(output, outputs)}")
        outputs = {output: outputs[output]}
    form = form_of(outputs, how, size)[0]
    if form is None:
        told = ", ".join(f"{name} {value.shape}" for name, value in outputs.items())
        raise InputError(
            f"{told}: no boxes in a form that is known: {_FORMS}; name the right output, and the "
            "form in [postprocess]"
        )
    if form in ("ssd", "corners"):
        return _finished(outputs, form, how, size, counted)
    rows, objectness = _rows(outputs, form, how, size)
    least = how.score if how.score is not None else _COUNTED if counted else SHOWN
    # In float64: objectness times the score of the class.
    values = rows.astype(np.float64)
    first = 5 if objectness else 4
    scores = values[:, first:] * values[:, 4:5] if objectness else values[:, first:]
    centre, extent = values[:, :2], values[:, 2:4]
    wanted = scores >= least
    if not counted:
        wanted &= np.arange(scores.shape[1]) == scores.argmax(1)[:, None]
    some = wanted.any(1)
    scores, wanted, centre, extent = scores[some], wanted[some], centre[some], extent[some]
    edges = np.concatenate([centre - extent / 2, centre + extent / 2], 1)
    edges = in_pixels(edges, size, how.units)
    places, classes = [np.zeros(0, np.intp)], [np.zeros(0, np.int64)]
    for index in np.flatnonzero(wanted.any(0)):
        mine = np.flatnonzero(wanted[:, index])
        kept = mine[suppressed(edges[mine], scores[mine, index], how.overlap)]
        places.append(kept)
        classes.append(np.full(len(kept), index, np.int64))
    chosen, kinds = np.concatenate(places), np.concatenate(classes)
    return Found(kinds, scores[chosen, kinds], edges[chosen], scores.shape[1])


def form_of(
    outputs: Mapping[str, Array], how: BoxForm, size: Size | None
) -> tuple[Form | None, str | None]:
    """Return the form of boxes, and the output that alone holds them, where there is one.

    Where the form is not said, it is that of the first output that boxes can be in: None if there
    is none. YOLOv5 with two classes has rows of 7 values as well, and with one rows of 6: where the
    class stands, those of ``ssd`` and ``corners`` hold whole numbers.
    """
    if how.form in ("ssd", "corners"):
        return how.form, _finished_output(outputs, how.form)
    if how.form != "auto":
        return how.form, None
    for name, value in outputs.items():
        if value.ndim in (2, 3) or (value.ndim == 4 and value.shape[:2] == (1, 1)):
            rows, columns = value.shape[-2:]
            if columns == 7 and _whole(value[..., :2]):
                return "ssd", name
            if columns == 6 and _whole(value[..., 5]):
                return "corners", name
            several = value.ndim == 3 and value.shape[0] != 1
            if value.ndim == 4 or several or min(rows, columns) < 5:
                continue
            boxes, channels = max(rows, columns), min(rows, columns)
            cells = 0 if size is None else sum(
                (size[0] // stride) * (size[1] // stride) for stride in how.strides
            )  # fmt: skip
            if rows < columns or boxes == cells or channels < 6:
                return "yolov8", name
            return "yolov5", name
        if _head(value, how, size) is not None:
            return "yolov5", None
    return None, None


def _finished_output(outputs: Mapping[str, Array], form: str) -> str | None:
    columns = 7 if form == "ssd" else 6
    return next((n for n, v in outputs.items() if v.ndim > 1 and v.shape[-1] == columns), None)


def _whole(values: Array) -> bool:
    return bool((values == np.trunc(values)).all())


def in_pixels(edges: Floats, size: Size | None, units: str = "auto") -> Floats:
    """Return (boxes, 4) corners in pixels of a picture; they may be fractions of it.

    Where ``units`` is ``auto``, most boxes decide: a single one in fractions may be twice as wide
    as the picture, and a single one in pixels end within two of the corner.
    """
    if units == "auto" and len(edges):
        units = "fractions" if np.median(edges.max(1)) < FRACTIONS else "pixels"
    if size is None or units != "fractions":
        return edges
    height, width = size
    return np.asarray(edges * (width, height, width, height), np.float64)


def suppressed(edges: Floats, scores: Floats, overlap: float) -> NDArray[np.intp]:
    """Return the boxes that stay, the best first: each suppresses those that it overlaps by more.

    Args:
        edges: (boxes, 4) of one class.
        scores: (boxes,); of equal ones the first is the better.
        overlap: As a share of the union of two boxes.
    """
    areas = np.clip(edges[:, 2:] - edges[:, :2], 0, None).prod(1)
    left = np.argsort(-scores, kind="stable")
    kept = []
    while len(left):
        best, left = left[0], left[1:]
        kept.append(best)
        low = np.maximum(edges[best, :2], edges[left, :2])
        high = np.minimum(edges[best, 2:], edges[left, 2:])
        shared = np.clip(high - low, 0, None).prod(1)
        left = left[shared <= overlap * (areas[best] + areas[left] - shared)]
    return np.array(kept, np.intp)


def _finished(
    outputs: Mapping[str, Array], form: str, how: BoxForm, size: Size | None, counted: bool
) -> Found:
    """Return the boxes of rows that the network chose itself."""
    columns = 7 if form == "ssd" else 6
    name = _finished_output(outputs, form)
    if name is None:
        told = ", ".join(f"{name} {value.shape}" for name, value in outputs.items())
        what = "a DetectionOutput, whose rows have 7 values" if columns == 7 else "rows of 6 values"
        raise InputError(f"{told} is not {what}; name the right output, or another form")
    rows = outputs[name].reshape(-1, columns).astype(np.float64)
    if form == "ssd":
        rows = rows[rows[:, 0] >= 0]
        classes, scores, edges = rows[:, 1], rows[:, 2], rows[:, 3:]
    else:
        classes, scores, edges = rows[:, 5], rows[:, 4], rows[:, :4]
    least = how.score if how.score is not None else 0.0 if counted else SHOWN
    kept = (scores > 0) & (scores >= least) & (classes >= 0)
    placed = in_pixels(edges[kept], size, how.units)
    return Found(classes[kept].astype(np.int64), scores[kept], placed, None)


def _rows(
    outputs: Mapping[str, Array], form: str, how: BoxForm, size: Size | None
) -> tuple[Array, bool]:
    """Return (boxes, 4 or 5 + classes) rows of YOLO, and whether they hold an objectness.

    An export may have both the rows and the heads that they are made of: the rows are taken.
    """
    objectness = form == "yolov5"
    least = 6 if objectness else 5
    for name, value in outputs.items():
        if value.ndim not in (2, 3) or (value.ndim == 3 and value.shape[0] != 1):
            continue
        rows: Array = value.reshape(value.shape[-2:])
        if not objectness and rows.shape[0] < rows.shape[1]:
            rows = rows.T
        if rows.shape[1] < least:
            made = "5 + classes" if objectness else "4 + classes"
            raise InputError(f"{name} {value.shape}: not rows of {form}, which have {made} values")
        return rows, objectness
    heads = [_head(value, how, size) for value in outputs.values()] if objectness else []
    found = [head for head in heads if head is not None]
    if not found:
        told = ", ".join(f"{name} {value.shape}" for name, value in outputs.items())
        where = "" if size is None else f" for a picture of {size[0]}x{size[1]} (height x width)"
        raise InputError(
            f"{told}: neither rows nor heads of {form}{where}; heads have 3 x (5 + classes) "
            f"channels at strides of {', '.join(map(str, how.strides))}: set strides and anchors "
            "in [postprocess]"
        )
    return np.concatenate(found), True


def _head(head: Array, how: BoxForm, size: Size | None) -> Array | None:
    """Return the rows of a head of YOLOv5 in any of its layouts; None for what is none.

    (1, A * (5 + C), h, w), (1, h, w, A * (5 + C)), (1, A, h, w, 5 + C) or (1, h, w, A, 5 + C).
    """
    if size is None or head.ndim not in (4, 5) or head.shape[0] != 1:
        return None
    for stride, flat in zip(how.strides, how.anchors, strict=True):
        anchors = np.asarray(flat, np.float64).reshape(-1, 2)
        cells, count = (size[0] // stride, size[1] // stride), len(anchors)
        value: Array | None = None
        shape: tuple[int, ...] = head.shape
        if head.ndim == 4:
            if shape[2:] == cells:
                value = head[0].transpose(1, 2, 0)
            elif shape[1:3] == cells:
                value = head[0]
            if value is None or value.shape[2] % count or value.shape[2] // count < 6:
                continue
            value = value.reshape(*cells, count, -1).transpose(2, 0, 1, 3)
        elif shape[1:4] == (count, *cells):
            value = head[0]
        elif shape[1:4] == (*cells, count):
            value = head[0].transpose(2, 0, 1, 3)
        if value is None or value.shape[3] < 6:
            continue
        return _decoded(value, stride, anchors)
    return None


def _decoded(head: Array, stride: int, anchors: Floats) -> Array:
    """Return the rows of a head of (anchors, h, w, 5 + C) that is not yet squashed."""
    with np.errstate(over="ignore"):
        squashed = 1 / (1 + np.exp(-head.astype(np.float64)))
    rows, columns, values = head.shape[1:]
    cells = np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), -1)
    squashed[..., 0:2] = (2 * squashed[..., 0:2] - 0.5 + cells) * stride
    squashed[..., 2:4] = (2 * squashed[..., 2:4]) ** 2 * anchors[:, None, None]
    return np.asarray(squashed.reshape(-1, values))
