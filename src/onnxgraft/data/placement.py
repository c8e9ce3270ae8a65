"""Where an image lies in the picture that is made of it: cut, resized, set in a frame, padded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from onnxgraft.graph.tensors import Array

__all__ = ["Box", "Placement", "Plan", "centred", "fitted", "inner", "shortened"]

Size = tuple[int, int]


class Box(NamedTuple):
    """A part of a picture, in pixels."""

    top: int
    left: int
    height: int
    width: int

    @classmethod
    def whole(cls, size: Size) -> Self:
        """Return all of a picture."""
        return cls(0, 0, *size)

    def of(self, pixels: Array) -> Array:
        """Return the part of an array of pixels."""
        return pixels[self.top : self.top + self.height, self.left : self.left + self.width]


@dataclass(frozen=True)
class Plan:
    """What becomes of an image of one size, step by step.

    Attributes:
        cut: The part of the image that is used.
        size: What that is resized to.
        room: The frame in which it is set then.
        at: Top and left of where it lies there.
        crop: The part of the frame that is kept.
        pad: What that is filled up to, below and on the right.
    """

    cut: Box
    size: Size
    room: Size
    at: Size
    crop: Box
    pad: Size

    def make(
        self, pixels: Array, resize: Callable[[Array, Size], Array], frame: float, below: float
    ) -> Array:
        """Return the picture of (height, width, channels) pixels.

        Args:
            pixels: Of the image.
            resize: Returns pixels in another size.
            frame: Fills the frame.
            below: Fills what is padded.
        """
        pixels = self.cut.of(pixels)
        if pixels.shape[:2] != self.size:
            pixels = resize(pixels, self.size)
        pixels = _set_in(pixels, self.room, self.at, frame)
        return _set_in(self.crop.of(pixels), self.pad, (0, 0), below)

    @property
    def placement(self) -> Placement:
        """Where the image lies in the picture."""
        scale = self.size[1] / self.cut.width, self.size[0] / self.cut.height
        top = self.at[0] - self.crop.top - self.cut.top * scale[1]
        left = self.at[1] - self.crop.left - self.cut.left * scale[0]
        return Placement(scale, (float(left), float(top)))


def _set_in(pixels: Array, room: Size, at: Size, value: float) -> Array:
    if pixels.shape[:2] == room:
        return pixels
    whole = np.full((*room, pixels.shape[2]), value, pixels.dtype)
    whole[at[0] : at[0] + pixels.shape[0], at[1] : at[1] + pixels.shape[1]] = pixels
    return whole


class Placement(NamedTuple):
    """From pixels (x, y) of an image to those of a picture: ``scale * (x, y) + shift``.

    Edges of pixels are meant: an image of 10 columns reaches from 0 to 10.

    Attributes:
        scale: Of x and of y.
        shift: In pixels of the picture.
    """

    scale: tuple[float, float] = (1.0, 1.0)
    shift: tuple[float, float] = (0.0, 0.0)

    def forth(self, edges: Array) -> NDArray[np.float64]:
        """Return (boxes, 4) left, top, right, bottom of the image in pixels of the picture."""
        return np.asarray(edges * np.tile(self.scale, 2) + np.tile(self.shift, 2), np.float64)

    def back(self, edges: Array) -> NDArray[np.float64]:
        """Return (boxes, 4) corners in the picture in pixels of the image."""
        return np.asarray((edges - np.tile(self.shift, 2)) / np.tile(self.scale, 2), np.float64)


def fitted(height: int, width: int, room: Size) -> Size:
    """Return the largest (height, width) of the image's proportions that ``room`` holds."""
    scale = min(room[0] / height, room[1] / width)
    return max(round(height * scale), 1), max(round(width * scale), 1)


def shortened(height: int, width: int, side: int) -> Size:
    """Return the (height, width) of the image's proportions whose shorter side is ``side``.

    The longer one is cut to a whole number, as torchvision's ``Resize`` does.
    """
    if height <= width:
        return side, int(side * width / height)
    return int(side * height / width), side


def centred(size: Size, part: Size) -> Box:
    """Return the middle of a picture; half a pixel is rounded to even, as torchvision does."""
    top, left = (round((whole - some) / 2) for whole, some in zip(size, part, strict=True))
    return Box(top, left, *part)


def inner(size: Size, fraction: float) -> Box:
    """Return the middle of a picture: a part of each side, as ``tf.image.central_crop`` cuts it."""
    top, left = (int((side - side * fraction) / 2) for side in size)
    return Box(top, left, size[0] - 2 * top, size[1] - 2 * left)
