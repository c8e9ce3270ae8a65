"""From an engine's outputs to what a person wants to see: classes, a coloured map, boxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, PositiveInt

from onnxgraft.data.classes import CLASS_SETS, classes_of, palette
from onnxgraft.errors import InputError, nearest
from onnxgraft.graph.tensors import Array, Outputs

__all__ = ["Box", "Postprocess", "Seen", "see"]

# YOLOv5's anchors for strides 8, 16 and 32, width and height in pixels.
_ANCHORS = {
    8: ((10, 13), (16, 30), (33, 23)),
    16: ((30, 61), (62, 45), (59, 119)),
    32: ((116, 90), (156, 198), (373, 326)),
}


class Postprocess(BaseModel):
    """What to make of an engine's outputs.

    Attributes:
        kind: ``classes`` prints the best, ``segmentation`` colours the photograph, ``boxes`` draws
            on it; ``auto`` tells by the shape of the output.
        output: Which; None takes the first.
        names: Of the classes, in order; or ``camvid`` or ``cityscapes``.
        top: How many classes are printed.
        opacity: Of the colours over the photograph, 0 to 1.
        form: Of boxes: ``ssd`` is the rows of DetectionOutput (image, class, score, left, top,
            right, bottom, as fractions), ``yolov5`` its rows (centre, size, objectness, scores)
            or its three heads.
        score: Boxes below it are left out.
        overlap: Of two boxes of a class that share more of their union, the better is kept
            (``yolov5``).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["auto", "classes", "segmentation", "boxes"] = "auto"
    output: str | None = None
    names: tuple[str, ...] | Literal["camvid", "cityscapes"] = ()
    top: PositiveInt = 5
    opacity: float = Field(default=0.5, ge=0, le=1)
    form: Literal["ssd", "yolov5"] = "ssd"
    score: float = Field(default=0.5, ge=0, le=1)
    overlap: float = Field(default=0.5, ge=0, le=1)

    def labels(self, count: int | None = None) -> tuple[str, ...]:
        """Return the names of the classes; those of a known set where only their number fits."""
        if isinstance(self.names, str):
            return CLASS_SETS[self.names].names
        if self.names or count is None:
            return self.names
        known = classes_of(count)
        return known.names if known and self.kind != "classes" else ()

    def name(self, index: int, count: int | None = None) -> str:
        """Return the name of a class, or its number where it has none."""
        names = self.labels(count)
        return names[index] if 0 <= index < len(names) else f"class {index}"


@dataclass(frozen=True)
class Box:
    """An object that was found.

    Attributes:
        label: Its class.
        score: From 0 to 1.
        edges: Left, top, right and bottom, as fractions of the image that the network saw.
    """

    label: str
    score: float
    edges: tuple[float, float, float, float]


@dataclass(frozen=True)
class Seen:
    """What an engine saw in one image.

    Attributes:
        best: The best classes with their scores, for ``classes``.
        shares: For ``segmentation``: class -> its share of the pixels, largest first.
        boxes: For ``boxes``, the best first.
        picture: (height, width, 3) uint8 BGR, the photograph with what was seen; None for classes.
    """

    best: tuple[tuple[str, float], ...] = ()
    shares: tuple[tuple[str, float], ...] = ()
    boxes: tuple[Box, ...] = ()
    picture: Array | None = None


def see(outputs: Outputs, how: Postprocess, photograph: Array) -> Seen | None:
    """Return what the outputs of one image mean, or None if ``auto`` can't tell.

    Args:
        outputs: By name, with a batch of 1.
        how: What to make of them.
        photograph: (height, width, 3) uint8 BGR, as the network saw it.

    Raises:
        InputError: The output is not there, or has no shape of that kind.
    """
    name = how.output or next(iter(outputs))
    if name not in outputs:
        raise InputError(f"[postprocess] output {name!r}: {nearest(name, outputs)}")
    value = outputs[name]
    kind = _guess(value, photograph) if how.kind == "auto" else how.kind
    if kind is None:
        return None
    if kind == "classes":
        return _classes(name, value, how)
    if kind == "segmentation":
        return _segmentation(name, value, how, photograph)
    return _boxes(outputs, name, how, photograph)


def _guess(value: Array, photograph: Array) -> str | None:
    if value.shape[0] == 1 and value.size == value.shape[-1] > 1 and value.ndim == 2:
        return "classes"
    return "segmentation" if _class_map(value, photograph) is not None else None


def _classes(name: str, value: Array, how: Postprocess) -> Seen:
    scores = value.reshape(-1)
    if scores.size != max(value.shape) or scores.size < 2:
        raise InputError(f"{name} {value.shape} are not scores of classes")
    order = np.argsort(-scores, kind="stable")[: how.top]
    return Seen(best=tuple((how.name(int(i), scores.size), float(scores[i])) for i in order))


def _class_map(value: Array, photograph: Array) -> Array | None:
    """Return (height, width) class numbers of (1, C, h, w), (1, h, w, C) or (1, h, w), or None."""
    height, width = photograph.shape[:2]

    def fits(rows: int, columns: int) -> bool:
        return rows > 1 and columns > 1 and abs(rows * width - columns * height) < max(
            height, width
        )  # fmt: skip

    if value.ndim == 4 and value.shape[0] == 1:
        if value.shape[1] == 1 and value.dtype.kind in "iu" and fits(*value.shape[2:]):
            return np.asarray(value[0, 0])
        if fits(*value.shape[2:]) and value.shape[1] > 1:
            return np.asarray(value[0].argmax(0))
        if fits(*value.shape[1:3]) and value.shape[3] > 1:
            return np.asarray(value[0].argmax(2))
    if value.ndim == 3 and value.shape[0] == 1 and value.dtype.kind in "iu":
        return np.asarray(value[0]) if fits(*value.shape[1:]) else None
    return None


def _segmentation(name: str, value: Array, how: Postprocess, photograph: Array) -> Seen:
    import cv2

    found = _class_map(value, photograph)
    if found is None:
        raise InputError(f"{name} {value.shape} is not a map of classes of {photograph.shape[:2]}")
    channels = [n for n in value.shape[1:] if n not in found.shape]
    count = channels[0] if value.dtype.kind == "f" and channels else int(found.max()) + 1
    known = CLASS_SETS[how.names] if isinstance(how.names, str) else classes_of(count)
    colors = palette(max(count, int(found.max()) + 1), known)
    height, width = photograph.shape[:2]
    small = colors[found.astype(np.int64)][:, :, ::-1]
    layer = cv2.resize(small, (width, height), interpolation=cv2.INTER_NEAREST)
    mixed = cv2.addWeighted(photograph, 1 - how.opacity, layer, how.opacity, 0)
    present, pixels = np.unique(found, return_counts=True)
    order = np.argsort(-pixels, kind="stable")
    shares = [(int(present[i]), float(pixels[i] / found.size)) for i in order]
    legend = [(how.name(index, count), colors[index]) for index, _ in shares]
    return Seen(
        shares=tuple((how.name(index, count), share) for index, share in shares),
        picture=_with_legend(mixed, legend),
    )


def _with_legend(picture: Array, legend: Sequence[tuple[str, Array]]) -> Array:
    """Return the picture with a column beside it that names the colours."""
    import cv2

    row = 22
    height = max(picture.shape[0], row * len(legend) + 8)
    canvas = np.full((height, picture.shape[1] + 150, 3), 255, np.uint8)
    canvas[: picture.shape[0], : picture.shape[1]] = picture
    left = picture.shape[1] + 8
    for number, (name, rgb) in enumerate(legend):
        top = 6 + row * number
        bgr = tuple(int(v) for v in rgb[::-1])
        cv2.rectangle(canvas, (left, top), (left + 16, top + 14), bgr, -1)
        cv2.putText(canvas, name[:16], (left + 24, top + 12), cv2.FONT_HERSHEY_SIMPLEX, 0.42,
                    (0, 0, 0), 1, cv2.LINE_AA)  # fmt: skip
    return canvas


def _boxes(outputs: Outputs, name: str, how: Postprocess, photograph: Array) -> Seen:
    import cv2

    if how.form == "ssd":
        boxes = _ssd(name, outputs[name], how)
    else:
        boxes = _yolo(outputs if how.output is None else {name: outputs[name]}, how, photograph)
    picture = photograph.copy()
    height, width = picture.shape[:2]
    names = list(dict.fromkeys(box.label for box in boxes))
    colors = palette(max(len(names), 1))
    for box in boxes:
        colour = tuple(int(v) for v in colors[names.index(box.label)][::-1])
        left, top, right, bottom = (
            round(edge * side)
            for edge, side in zip(box.edges, (width, height) * 2, strict=True)
        )  # fmt: skip
        cv2.rectangle(picture, (left, top), (right, bottom), colour, 2)
        cv2.putText(picture, f"{box.label} {box.score:.2f}", (left, max(top - 4, 10)),
                    cv2.FONT_HERSHEY_SIMPLEX, 0.45, colour, 1, cv2.LINE_AA)  # fmt: skip
    return Seen(boxes=tuple(boxes), picture=picture)


def _ssd(name: str, value: Array, how: Postprocess) -> list[Box]:
    if value.ndim < 2 or value.shape[-1] != 7:
        raise InputError(f"{name} {value.shape} is not a DetectionOutput, whose rows have 7 values")
    rows = [row for row in value.reshape(-1, 7).tolist() if row[0] >= 0 and row[2] >= how.score]
    found = [
        Box(how.name(int(row[1])), row[2], (row[3], row[4], row[5], row[6])) for row in rows
    ]  # fmt: skip
    return sorted(found, key=lambda box: -box.score)


def _yolo(outputs: Outputs, how: Postprocess, photograph: Array) -> list[Box]:
    height, width = photograph.shape[:2]
    rows = np.concatenate([
        _decoded(value, height, width) if value.ndim > 3 else value.reshape(-1, value.shape[-1])
        for value in outputs.values()
        if value.ndim >= 3
    ] or [np.zeros((0, 6), np.float32)])  # fmt: skip
    if rows.shape[1] < 6:
        raise InputError(f"rows of {rows.shape[1]} values are not YOLOv5's, which have 5 + classes")
    # In float64, and by class: YOLOv5 multiplies objectness and the score of the class.
    scores = rows[:, 4:5].astype(np.float64) * rows[:, 5:]
    classes = scores.argmax(1)
    best = scores[np.arange(len(rows)), classes]
    kept = np.flatnonzero(best >= how.score)
    centre, size = rows[:, 0:2].astype(np.float64), rows[:, 2:4].astype(np.float64)
    corners = np.concatenate([centre - size / 2, centre + size / 2], 1)
    edges = corners / (width, height, width, height)
    chosen: list[int] = []
    for index in kept[np.argsort(-best[kept], kind="stable")]:
        rivals = [other for other in chosen if classes[other] == classes[index]]
        if all(_union(edges[index], edges[other]) <= how.overlap for other in rivals):
            chosen.append(int(index))
    return [
        Box(how.name(int(classes[i])), float(best[i]), tuple(float(v) for v in edges[i]))  # type: ignore[arg-type]
        for i in chosen
    ]


def _decoded(head: Array, height: int, width: int) -> Array:
    """Return the rows of a head: (1, 3 * (5 + C), h, w) or (1, 3, h, w, 5 + C), not yet squashed.

    As YOLOv5 defines it: the centre is (2 s - 0.5 + cell) * stride and the size (2 s)^2 * anchor,
    with s the sigmoid of what the network says.
    """
    if head.ndim == 4:
        head = head.reshape(1, 3, -1, *head.shape[2:]).transpose(0, 1, 3, 4, 2)
    _, anchors, rows, columns, values = head.shape
    stride = height // rows
    if stride not in _ANCHORS or anchors != 3 or width // columns != stride:
        raise InputError(f"an output of {head.shape} is not a head of YOLOv5 for {height}x{width}")
    squashed = 1 / (1 + np.exp(-head[0].astype(np.float64)))
    cells = np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), -1)
    squashed[..., 0:2] = (2 * squashed[..., 0:2] - 0.5 + cells) * stride
    anchor = np.asarray(_ANCHORS[stride], np.float64).reshape(3, 1, 1, 2)
    squashed[..., 2:4] = (2 * squashed[..., 2:4]) ** 2 * anchor
    return np.asarray(squashed.reshape(-1, values))


def _union(one: Array, other: Array) -> float:
    """Return the share of two boxes' union that is in both."""
    low, high = np.maximum(one[:2], other[:2]), np.minimum(one[2:], other[2:])
    common = float(np.prod(np.clip(high - low, 0, None)))
    areas = sum(float(np.prod(box[2:] - box[:2])) for box in (one, other))
    return common / (areas - common) if areas > common else 0.0
