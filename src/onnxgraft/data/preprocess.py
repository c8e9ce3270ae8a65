"""The recipe by which an image becomes what the network was trained on."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Self

import numpy as np
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveInt,
    field_validator,
    model_validator,
)

from onnxgraft.data.boxes import FRACTIONS
from onnxgraft.data.image_header import Form
from onnxgraft.data.images import read_label, read_picture
from onnxgraft.data.orientation import turn_boxes
from onnxgraft.data.placement import Placement, fitted
from onnxgraft.errors import InputError
from onnxgraft.graph.tensors import Array

__all__ = ["Preprocess", "turned_notes"]

# What YOLO fills a letterbox with; and what label images are filled with, which is no class.
_GRAY, _NO_CLASS = 114, 255


class Preprocess(BaseModel):
    """From a decoded image to the array that the network was trained on.

    In this order: resize, crop, colour order, float32, minus ``mean``, times ``scale``, layout.

    Attributes:
        resize: (height, width) in pixels; None keeps the image's.
        interpolation: Of the resize.
        letterbox: The resize keeps the image's proportions, and fills what is left on both sides
            with this value of 0 to 255; True takes 114, as YOLO does. None stretches the image.
        crop: (top, left, height, width) in pixels after the resize; None keeps all.
        color: Order of the channels that the network wants.
        mean: Per channel in that order, or one for all, in 0..255.
        scale: Factor after the mean, per channel or one for all.
        layout: ``auto`` takes what fits the model's input.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    resize: tuple[PositiveInt, PositiveInt] | None = None
    interpolation: Literal["nearest", "bilinear", "area"] = "bilinear"
    letterbox: int | None = Field(default=None, ge=0, le=255)
    crop: tuple[NonNegativeInt, NonNegativeInt, PositiveInt, PositiveInt] | None = None
    color: Literal["bgr", "rgb", "gray"] = "bgr"
    mean: tuple[float, ...] = (0.0,)
    scale: tuple[float, ...] = (1.0,)
    layout: Literal["auto", "nhwc", "nchw"] = "auto"

    @field_validator("letterbox", mode="before")
    @classmethod
    def _usual_gray(cls, value: object) -> object:
        return (_GRAY if value else None) if isinstance(value, bool) else value

    @model_validator(mode="after")
    def _letterbox_of_a_size(self) -> Self:
        if self.letterbox is not None and self.resize is None:
            raise ValueError("letterbox is how the resize is done: set resize = [height, width]")
        return self

    @property
    def fingerprint(self) -> str:
        """The SHA-256 of the recipe, as hexadecimal digits."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()

    def image(self, path: Path) -> Array:
        """Return the image file as (height, width, channels) float32."""
        return self.picture(path)[0]

    def picture(self, path: Path) -> tuple[Array, Form | None, tuple[int, int]]:
        """Return what `image` does; how the image is stored where that is known; its upright size.

        The size is (width, height).
        """
        pixels, form = read_picture(path, gray=self.color == "gray")
        size = pixels.shape[1], pixels.shape[0]
        try:
            pixels = self._geometry(pixels, self.interpolation)
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
        return self.normalized(pixels[:, :, ::-1] if self.color == "rgb" else pixels), form, size

    def placement(self, width: int, height: int) -> Placement:
        """Return where an image, as it is to be seen, lies in the picture that is made of it."""
        return Placement.of(
            width, height, self.resize, self.crop, letterbox=self.letterbox is not None
        )

    def normalized(self, pixels: Array) -> Array:
        """Return (height, width, channels) float32: minus the mean, times the scale."""
        channels = pixels.shape[2]
        for name, values in (("mean", self.mean), ("scale", self.scale)):
            if len(values) not in (1, channels):
                raise InputError(
                    f"the recipe's {name} has {len(values)} values, the image {channels} channels"
                )
        centred = pixels.astype(np.float32) - np.asarray(self.mean, np.float32)
        if self.scale != (1.0,):
            centred *= np.asarray(self.scale, np.float32)
        return centred

    def label(self, path: Path, photograph: Form | None = None) -> Array:
        """Return the label image as (height, width) uint8: turned, resized, cropped as the image.

        Args:
            path: Of the label image.
            photograph: How the image is stored.
        """
        pixels = self._geometry(read_label(path, photograph), "nearest", _NO_CLASS)
        return pixels[:, :, 0]

    def boxes(self, boxes: Array, photograph: Form) -> Array:
        """Return (boxes, 5) labels of an image as they are in the picture that the network sees.

        Boxes of the stored picture are turned with it: fractions of it, and its pixels. Pixels of a
        resized picture, and whatever is of a cropped one, can't be of the stored one and stay.

        Args:
            boxes: Rows of [class, x1, y1, x2, y2].
            photograph: How the image is stored.
        """
        corners = boxes[boxes[:, 0] >= 0, 1:]
        if photograph.orientation == 1 or self.crop is not None or not corners.size:
            return boxes
        if corners.max() < FRACTIONS:
            return turn_boxes(boxes, photograph.orientation, 1.0, 1.0)
        size = photograph.width, photograph.height
        beyond = (corners.reshape(-1, 2).max(0) > size).any()
        if self.resize is not None or (photograph.orientation > 4 and beyond):
            return boxes
        return turn_boxes(boxes, photograph.orientation, *size)

    def notes(self, forms: Mapping[Form, int]) -> list[str]:
        """Return a sentence on each way in which images differ from what the recipe expects.

        Args:
            forms: How many images are stored in which form.
        """
        total = sum(forms.values())
        sizes = Counter[tuple[int, int]]()
        for form, count in forms.items():
            sizes[form.upright] += count
        notes = turned_notes(sum(n for form, n in forms.items() if form.orientation != 1), total)
        if len(sizes) > 1:
            (usual, _), *others = sizes.most_common()
            told = ", ".join(f"{w}x{h} ({count})" for (w, h), count in others[:4])
            told += ", ..." if len(others) > 4 else ""
            done = "used them as they are"
            if self.resize is not None:
                done = f"resized all to {self.resize[1]}x{self.resize[0]}"
                done += ", letterboxed" if self.letterbox is not None else ""
            elif self.crop is not None:
                done = "cropped all by the same rows and columns, without a resize"
            notes.append(
                f"{sum(count for _, count in others)} of {total} images are not {usual[0]}x"
                f"{usual[1]} (width x height) as most are, but {told}; the recipe {done}"
            )
        gray = sum(n for form, n in forms.items() if form.channels < 3 and self.color != "gray")
        alpha = sum(n for form, n in forms.items() if form.channels in (2, 4))
        deep = sum(n for form, n in forms.items() if form.bits > 8)
        for count, what in (
            (gray, f"gray; the recipe wants {self.color}, so the channel was repeated"),
            (alpha, "partly transparent; transparency was ignored"),
            (deep, "stored with more than 8 bits a channel; they were reduced to 8"),
        ):
            if count:
                notes.append(f"{count} of {total} images are {what}")
        return notes

    def _geometry(self, pixels: Array, interpolation: str, fill: int | None = None) -> Array:
        if self.resize is not None:
            import cv2

            modes = {
                "nearest": cv2.INTER_NEAREST,
                "bilinear": cv2.INTER_LINEAR,
                "area": cv2.INTER_AREA,
            }
            height, width = room = self.resize
            if self.letterbox is not None:
                height, width = fitted(pixels.shape[0], pixels.shape[1], room)
            pixels = cv2.resize(pixels, (width, height), interpolation=modes[interpolation])
            pixels = pixels.reshape(height, width, -1)
            if (height, width) != room:
                whole = np.full(
                    (*room, pixels.shape[2]), self.letterbox if fill is None else fill, np.uint8
                )
                top, left = (room[0] - height) // 2, (room[1] - width) // 2
                whole[top : top + height, left : left + width] = pixels
                pixels = whole
        if self.crop is not None:
            top, left, height, width = self.crop
            if top + height > pixels.shape[0] or left + width > pixels.shape[1]:
                raise InputError(
                    f"the recipe crops rows {top}..{top + height - 1} and columns "
                    f"{left}..{left + width - 1} from an image of {pixels.shape[0]}x"
                    f"{pixels.shape[1]} (height x width)"
                )
            pixels = pixels[top : top + height, left : left + width]
        return pixels


def turned_notes(turned: int, total: int, labels: str = "") -> list[str]:
    """Return the sentence on images that were turned, if there are any."""
    if not turned:
        return []
    return [f"{turned} of {total} images were turned as their EXIF orientation says{labels}"]
