"""Where an image lies in the picture that is made of it: a scale and a shift for each axis."""

from __future__ import annotations

from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from onnxgraft.graph.tensors import Array

__all__ = ["Placement", "fitted"]


class Placement(NamedTuple):
    """From pixels (x, y) of an image to those of a picture: ``scale * (x, y) + shift``.

    Edges of pixels are meant: an image of 10 columns reaches from 0 to 10.

    Attributes:
        scale: Of x and of y.
        shift: In pixels of the picture.
    """

    scale: tuple[float, float] = (1.0, 1.0)
    shift: tuple[float, float] = (0.0, 0.0)

    @classmethod
    def of(
        cls,
        width: int,
        height: int,
        resize: tuple[int, int] | None,
        crop: tuple[int, int, int, int] | None,
        *,
        letterbox: bool,
    ) -> Self:
        """Return where an image of ``width`` by ``height`` lies after a resize and a crop.

        Args:
            width: Of the image, in pixels.
            height: Likewise.
            resize: (height, width).
            crop: (top, left, height, width) after that.
            letterbox: Whether the resize keeps the proportions, and the image is in the middle.
        """
        left = top = 0
        inside = (height, width)
        if resize is not None:
            inside = fitted(height, width, resize) if letterbox else resize
            top, left = ((whole - part) // 2 for whole, part in zip(resize, inside, strict=True))
        if crop is not None:
            top, left = top - crop[0], left - crop[1]
        return cls((inside[1] / width, inside[0] / height), (float(left), float(top)))

    def forth(self, edges: Array) -> NDArray[np.float64]:
        """Return (boxes, 4) left, top, right, bottom of the image in pixels of the picture."""
        return np.asarray(edges * np.tile(self.scale, 2) + np.tile(self.shift, 2), np.float64)

    def back(self, edges: Array) -> NDArray[np.float64]:
        """Return (boxes, 4) corners in the picture in pixels of the image."""
        return np.asarray((edges - np.tile(self.shift, 2)) / np.tile(self.scale, 2), np.float64)


def fitted(height: int, width: int, room: tuple[int, int]) -> tuple[int, int]:
    """Return the largest (height, width) of the image's proportions that ``room`` holds."""
    scale = min(room[0] / height, room[1] / width)
    return max(round(height * scale), 1), max(round(width * scale), 1)
