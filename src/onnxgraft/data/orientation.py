"""Turning what a camera stored as its EXIF orientation says: pictures, and boxes in them.

Orientations 5 to 8 exchange rows and columns first; then rows, columns or both are reversed (EXIF
2.32, 4.6.5.1, tag 274).
"""

from __future__ import annotations

import numpy as np

from onnxgraft.data.image_header import Form
from onnxgraft.graph.tensors import Array

__all__ = ["is_upright", "turn", "turn_boxes"]

# Orientation -> whether the order of rows, and of columns, is reversed.
_REVERSED = {
    1: (False, False), 2: (False, True), 3: (True, True), 4: (True, False),
    5: (False, False), 6: (False, True), 7: (True, True), 8: (True, False),
}  # fmt: skip


def turn(pixels: Array, orientation: int) -> Array:
    """Return (height, width, ...) pixels as they are to be seen."""
    if orientation == 1:
        return pixels
    rows, columns = _REVERSED[orientation]
    if orientation > 4:
        pixels = pixels.swapaxes(0, 1)
    return np.ascontiguousarray(pixels[:: -1 if rows else 1, :: -1 if columns else 1])


def turn_boxes(boxes: Array, orientation: int, width: float, height: float) -> Array:
    """Return (boxes, 5) rows of [class, x1, y1, x2, y2] in the picture as it is to be seen.

    Args:
        boxes: In the picture as it is stored.
        orientation: Of the picture.
        width: Of the stored picture, in the unit of the boxes.
        height: Likewise.
    """
    rows, columns = _REVERSED[orientation]
    corners = boxes[:, 1:].reshape(-1, 2, 2)
    if orientation > 4:
        corners, width, height = corners[:, :, ::-1], height, width
    x, y = corners[:, :, 0], corners[:, :, 1]
    turned = np.stack([width - x if columns else x, height - y if rows else y], 2)
    turned = np.concatenate([turned.min(1), turned.max(1)], 1)
    return np.concatenate([boxes[:, :1], turned], 1)


def is_upright(width: float, height: float, photograph: Form) -> bool:
    """Tell whether what is so wide and high is of a turned photograph, not of the stored one.

    That shows where turning makes a wide picture a high one, or the other way round.
    """
    upright_width, upright_height = photograph.upright
    return photograph.orientation > 4 and (width - height) * (upright_width - upright_height) > 0
