"""Image files, decoded: every fault of one is a sentence."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from onnxgraft.data.image_header import stored_form
from onnxgraft.errors import InputError
from onnxgraft.files.limits import IMAGE_BYTES, IMAGE_PIXELS
from onnxgraft.graph.tensors import Array

__all__ = ["IMAGE_SUFFIXES", "read_image"]

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})
# Of an image file, so much is looked at for its size.
_HEADER = 1 << 20


def read_image(path: Path, *, gray: bool = False) -> Array:
    """Decode an image file to (height, width, 3) uint8 in BGR order, or (height, width, 1).

    Raises:
        InputError: The file is no image, or a damaged or an enormous one.
    """
    import cv2

    os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(IMAGE_PIXELS.most))
    flag = cv2.IMREAD_GRAYSCALE if gray else cv2.IMREAD_COLOR
    try:
        if not path.is_file():
            raise InputError(f"{path}: is not a file")
        IMAGE_BYTES.check(path.stat().st_size, f"{path}: the image")
        data = np.fromfile(path, np.uint8)
        form = stored_form(data[:_HEADER].tobytes())
        if form is not None:
            IMAGE_PIXELS.check(form.width * form.height, f"{path}: the image")
        # imdecode asserts on an empty buffer, and returns None for what it can't read.
        pixels = cv2.imdecode(data, flag) if data.size else None
    except (OSError, cv2.error) as error:
        raise InputError(f"{path}: the image can't be read ({error})") from error
    if pixels is None:
        raise InputError(f"{path}: not an image that can be decoded; remove or replace it")
    return np.asarray(pixels.reshape(pixels.shape[0], pixels.shape[1], -1))
