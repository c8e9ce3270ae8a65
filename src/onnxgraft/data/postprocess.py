"""From an engine's outputs to what a person wants to see: classes, a coloured map, boxes."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

import numpy as np

from onnxgraft.data.boxes import BoxForm, find_boxes
from onnxgraft.data.classes import CLASS_SETS, classes_of, find_classes, palette
from onnxgraft.data.declared import Field, PositiveInt, model_validator
from onnxgraft.data.functions import Function
from onnxgraft.data.placement import Placement
from onnxgraft.errors import InputError, nearest
from onnxgraft.graph.tensors import Array, Outputs

__all__ = ["Box", "Postprocess", "Seen", "see"]


class Postprocess(BoxForm):
    """What to make of an engine's outputs; of boxes, for metrics too."""

    kind: Literal["auto", "classes", "segmentation", "boxes"] = Field(
        default="auto",
        description="`classes` prints the best, `segmentation` colours the photograph, `boxes` "
        "draws on it; `auto` tells by the shape of the output.",
    )
    output: str | None = Field(
        default=None,
        examples=["prob:0"],
        description="Output that is looked at; the first if not given.",
    )
    names: tuple[str, ...] | Literal["camvid", "cityscapes"] = Field(
        default=(),
        examples=[["cat", "dog"]],
        description="Names of the classes, in order; or `camvid` or `cityscapes`.",
    )
    classes: str | None = Field(
        default=None,
        examples=["classes.txt"],
        description="In place of `names`: `camvid`, `cityscapes` or a file of classes, which the "
        "metric takes too.",
    )
    top: PositiveInt = Field(default=5, description="How many classes are printed.")
    opacity: float = Field(
        default=0.5, ge=0, le=1, description="Opacity of the colours over the photograph, 0 to 1."
    )
    letterbox: bool | None = Field(
        default=None,
        examples=[True],
        description="Whether the resize of `[preprocess]` keeps the picture's proportions; "
        "otherwise that table says it itself.",
    )
    function: Function | None = Field(
        default=None,
        examples=["finish.py:finish"],
        description="`FILE.py:FUNCTION`: takes the outputs of one image by name, and returns "
        "others that pictures and metrics are made of in their place: by name, or one array.",
    )

    @model_validator(mode="after")
    def _names_once(self) -> Self:
        if self.classes is not None and self.names:
            raise ValueError("names and classes say the same: give one of them")
        return self

    def named(self, folder: Path | None = None) -> Self:
        """Return the same with the names of ``classes``; ``folder`` is where its path begins."""
        if self.classes is None or self.names:
            return self
        place = self.classes
        if folder is not None and Path(place).suffix:
            place = os.path.normpath(folder / place)
        names = place if place in CLASS_SETS else find_classes(place).names
        return self.model_copy(update={"classes": place, "names": names})

    def applied(self, outputs: Outputs) -> Outputs:
        """Return what the function makes of the outputs of one image, or these where there is none.

        Raises:
            InputError: It fails, or returns no arrays.
        """
        if self.function is None:
            return outputs
        call = self.function.call
        try:
            found = call(outputs)
            if not isinstance(found, Mapping):
                name = self.output if self.output in outputs else next(iter(outputs))
                found = {name: found}
            made = {str(name): np.asarray(value) for name, value in found.items()}
        except Exception as error:  # it is the user's own
            told = ", ".join(f"{name} {value.shape}" for name, value in outputs.items())
            raise InputError(
                f"the postprocessing {self.function} failed on {told}: {type(error).__name__}: "
                f"{error}"
            ) from error
        if not made or any(value.dtype.kind not in "biuf" for value in made.values()):
            raise InputError(f"the postprocessing {self.function} returned no arrays of numbers")
        return made

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
        pixels: The same in pixels of the image file, as it is to be seen.
    """

    label: str
    score: float
    edges: tuple[float, float, float, float]
    pixels: tuple[float, float, float, float] | None = None


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


def see(
    outputs: Outputs,
    how: Postprocess,
    photograph: Array,
    placed: Placement | None = None,
    *,
    draw: bool = True,
) -> Seen | None:
    """Return what the outputs of one image mean, or None if ``auto`` can't tell.

    Args:
        outputs: By name, with a batch of 1.
        how: What to make of them.
        photograph: (height, width, 3) uint8 BGR, as the network saw it.
        placed: Where the image file lies in it.
        draw: Whether to draw that on the photograph, which needs OpenCV.

    Raises:
        InputError: The output is not there, or has no shape of that kind.
    """
    outputs = how.applied(outputs)
    name = how.output or next(iter(outputs))
    if name not in outputs and how.function is None:
        raise InputError(f"[postprocess] output {name!r}: {nearest(name, outputs)}")
    name = name if name in outputs else next(iter(outputs))
    value = outputs[name]
    kind: str | None = how.kind
    if kind == "auto":
        kind = "boxes" if how.form != "auto" else _guess(value, photograph)
    if kind is None:
        return None
    if kind == "classes":
        return _classes(name, value, how)
    if kind == "segmentation":
        return _segmentation(name, value, how, photograph, draw)
    return _boxes(outputs, how, photograph, placed, draw)


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


def _segmentation(name: str, value: Array, how: Postprocess, photograph: Array, draw: bool) -> Seen:
    found = _class_map(value, photograph)
    if found is None:
        raise InputError(f"{name} {value.shape} is not a map of classes of {photograph.shape[:2]}")
    channels = [n for n in value.shape[1:] if n not in found.shape]
    count = channels[0] if value.dtype.kind == "f" and channels else int(found.max()) + 1
    present, pixels = np.unique(found, return_counts=True)
    order = np.argsort(-pixels, kind="stable")
    shares = [(int(present[i]), float(pixels[i] / found.size)) for i in order]
    named = tuple((how.name(index, count), share) for index, share in shares)
    if not draw:
        return Seen(shares=named)
    known = CLASS_SETS[how.names] if isinstance(how.names, str) else classes_of(count)
    colors = palette(max(count, int(found.max()) + 1), known)
    legend = [(how.name(index, count), colors[index]) for index, _ in shares]
    layer = colors[found.astype(np.int64)][:, :, ::-1]
    return Seen(shares=named, picture=_with_legend(_over(photograph, layer, how.opacity), legend))


def _over(photograph: Array, layer: Array, opacity: float) -> Array:
    """Return a photograph with a layer of any size over it."""
    import cv2

    height, width = photograph.shape[:2]
    whole = cv2.resize(layer, (width, height), interpolation=cv2.INTER_NEAREST)
    return np.asarray(cv2.addWeighted(photograph, 1 - opacity, whole, opacity, 0))


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


def _boxes(
    outputs: Outputs, how: Postprocess, photograph: Array, placed: Placement | None, draw: bool
) -> Seen:
    height, width = photograph.shape[:2]
    chosen = how.output if how.output in outputs else None
    found = find_boxes(outputs, how, (height, width), output=chosen)
    fractions = found.edges / (width, height, width, height)
    pixels = None if placed is None else placed.back(found.edges)
    boxes = tuple(
        Box(
            how.name(int(found.classes[i])), float(found.scores[i]), _four(fractions[i]),
            None if pixels is None else _four(pixels[i]),
        )
        for i in np.argsort(-found.scores, kind="stable")
    )  # fmt: skip
    return Seen(boxes=boxes, picture=_with_boxes(photograph, boxes) if draw else None)


def _with_boxes(photograph: Array, boxes: Sequence[Box]) -> Array:
    """Return the photograph with boxes and their labels drawn on it."""
    import cv2

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
    return picture


def _four(edges: Array) -> tuple[float, float, float, float]:
    left, top, right, bottom = map(float, edges)
    return left, top, right, bottom
