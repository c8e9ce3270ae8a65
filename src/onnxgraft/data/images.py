"""Image files, decoded: every fault of one is a sentence."""

from __future__ import annotations

import contextlib
import importlib
import io
from collections.abc import Callable

import numpy as np

from onnxgraft.data.image_header import Form, jpeg_scans, stored_form
from onnxgraft.data.orientation import is_upright, turn
from onnxgraft.errors import InputError, MissingDependencyError
from onnxgraft.files.limits import IMAGE_BYTES, IMAGE_PIXELS, JPEG_SCANS
from onnxgraft.files.remote import File, Remote, contents
from onnxgraft.graph.tensors import Array

__all__ = ["IMAGE_SUFFIXES", "decoded", "read_image", "read_label", "read_picture"]

_OPENCV = "opencv-python-headless"

# Takes what errors call the image, its bytes, how it is stored, and whether it is to be gray.
Decoder = Callable[[str, Array, Form, bool], Array | None]

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})


def read_image(path: File, *, gray: bool = False) -> Array:
    """Decode an image file to (height, width, 3) uint8 in BGR order, or (height, width, 1).

    It is turned as its EXIF orientation says.

    Raises:
        InputError: The file is no image, or a damaged or an enormous one.
    """
    return read_picture(path, gray=gray)[0]


def read_picture(path: File, *, gray: bool = False) -> tuple[Array, Form]:
    """Return what `read_image` does, and how it is stored."""
    return decoded(_bytes_of(path), str(path), gray=gray)


def _bytes_of(path: File) -> Array:
    """Return the bytes of an image file."""
    if isinstance(path, Remote):
        return np.frombuffer(contents(path, IMAGE_BYTES, "the image"), np.uint8)
    try:
        if not path.is_file():
            raise InputError(f"{path}: is not a file")
        IMAGE_BYTES.check(path.stat().st_size, f"{path}: the image")
        return np.fromfile(path, np.uint8)
    except OSError as error:
        raise InputError(f"{path}: the image can't be read ({error.strerror or error})") from error


def decoded(data: Array, name: str, *, gray: bool = False) -> tuple[Array, Form]:
    """Return what `read_picture` does, of the bytes of a file.

    Args:
        data: uint8.
        name: What errors call it.
        gray: Return gray levels.
    """
    return _decoded(data, name, gray, _decoder())


def _decoded(data: Array, name: str, gray: bool, decode: Decoder) -> tuple[Array, Form]:
    try:
        IMAGE_BYTES.check(data.size, f"{name}: the image")
        form = stored_form(data.data)
        if form is not None:
            IMAGE_PIXELS.check(form.width * form.height, f"{name}: the image")
            JPEG_SCANS.check(jpeg_scans(data.data), f"{name}: the image")
        # Of other kinds nobody knows how large they are, and their decoders are less well tried.
        pixels = None if form is None else decode(name, data, form, gray)
    except OSError as error:
        raise InputError(f"{name}: the image can't be read ({error})") from error
    if form is None or pixels is None:
        raise InputError(
            f"{name}: not an image that can be decoded; remove it, or replace it with a BMP, JPEG, "
            "PNG, PPM, TIFF or WebP"
        )
    whole = np.asarray(pixels.reshape(pixels.shape[0], pixels.shape[1], -1))
    # OpenCV turns TIFF files whatever it is asked.
    if _is_tiff(data):
        return whole, form
    return turn(whole, form.orientation), form


def _is_tiff(data: Array) -> bool:
    return data[:2].tobytes() in (b"II", b"MM")


def _decoder() -> Decoder:
    """Return what decodes image files: OpenCV, or where that is not installed Pillow.

    It returns None for what it can't read.
    """
    for package, decode in (("cv2", _by_opencv), ("PIL", _by_pillow)):
        with contextlib.suppress(ModuleNotFoundError):
            importlib.import_module(package)
            return decode
    raise MissingDependencyError(
        f"Reading image files needs OpenCV or Pillow: pip install {_OPENCV}"
    )


def _by_opencv(name: str, data: Array, form: Form, gray: bool) -> Array | None:
    import cv2

    flag = cv2.IMREAD_GRAYSCALE if gray else cv2.IMREAD_COLOR
    try:
        return cv2.imdecode(data, flag | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as error:
        raise OSError(str(error)) from error


def _by_pillow(name: str, data: Array, form: Form, gray: bool) -> Array | None:
    """Return the pixels that OpenCV decodes, by Pillow; what that does otherwise is refused."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(data.data)) as opened:
            IMAGE_PIXELS.check(opened.width * opened.height, f"{name}: the image")
            if gray:
                opened.draft("L", opened.size)  # a JPEG file has its gray levels as they are
            plain = opened.mode in (("1", "L") if gray else ("1", "L", "LA", "P", "RGB", "RGBA"))
            turned = form.orientation != 1 and _is_tiff(data)
            # Up to which white is, it spreads over all levels, and OpenCV only what is text.
            spread = opened.format == "PPM" and opened.mode != "1" and form.otherwise
            if not plain or turned or spread or form.bits > 8:
                raise MissingDependencyError(
                    f"{name}: reading an image of this kind{' in gray' if gray else ''} needs "
                    f"OpenCV: pip install {_OPENCV}"
                )
            pixels = np.asarray(opened.convert("L" if gray else "RGB"))
    except UnidentifiedImageError:
        return None
    except (SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise OSError(str(error)) from error
    return pixels if gray else np.ascontiguousarray(pixels[:, :, ::-1])


def read_label(path: File, photograph: Form | None = None) -> Array:
    """Read a label image, whose pixels are numbers of classes, as (height, width, 1) uint8.

    The numbers are gray levels as they are stored, of 1 to 16 bits, or those of colours in a PNG's
    palette; what stores them otherwise is refused. They are turned as the photograph is. An image
    that has an orientation of its own is turned by that; one that is high where the stored
    photograph is wide, as the turned one is, was made of that and stays.

    Args:
        path: Of the label image.
        photograph: How that is stored.

    Raises:
        InputError: It can't be read, is a picture in colours, has a class above 255, or does not
            store classes as gray levels.
        MissingDependencyError: A palette is read by Pillow, which is not installed.
    """
    pixels, form = _decoded(_bytes_of(path), str(path), True, _classes)
    if photograph is None or form.orientation != 1:
        return pixels
    if is_upright(pixels.shape[1], pixels.shape[0], photograph):
        return pixels
    return turn(pixels, photograph.orientation)


def _classes(name: str, data: Array, form: Form, gray: bool) -> Array | None:
    """Return the numbers that an image stores; a decoder gives the colours that they stand for."""
    if form.palette:
        return _of_palette(name, data)
    decode = _decoder()
    if form.otherwise:
        raise InputError(
            f"{name}: is {form.otherwise}, and decoders do not give numbers of classes as that "
            "stores them; save it as a PNG, in gray or with a palette"
        )
    if form.channels > 1:
        colors = decode(name, data, form, False)
        if colors is not None and (colors != colors[:, :, :1]).any():
            raise InputError(
                f"{name}: is a picture in colours, and each pixel of a label image is the number "
                "of a class; save it in gray, or as a PNG with a palette"
            )
        return None if colors is None else colors[:, :, 0]
    if form.bits > 8:
        return _deep(name, data, form)
    levels = decode(name, data, form, gray)
    if levels is None or form.bits == 8:
        return levels
    step = 255 // ((1 << form.bits) - 1)  # levels of 1, 2 and 4 bits are spread over 0 to 255
    return np.asarray(levels // step, np.uint8)


def _of_palette(name: str, data: Array) -> Array | None:
    """Return the numbers of colours in a palette; OpenCV gives the colours alone."""
    try:
        from PIL import Image, UnidentifiedImageError
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"{name}: reading a label image with a palette needs Pillow: pip install pillow"
        ) from error
    try:
        with Image.open(io.BytesIO(data.data)) as opened:
            IMAGE_PIXELS.check(opened.width * opened.height, f"{name}: the image")
            return np.asarray(opened)
    except UnidentifiedImageError:
        return None
    except (SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise OSError(str(error)) from error


def _deep(name: str, data: Array, form: Form) -> Array | None:
    """Return numbers of more than 8 bits, which are classes up to 255 all the same."""
    try:
        import cv2
    except ModuleNotFoundError:
        return _by_pillow(name, data, form, True)  # which says what is needed
    try:
        numbers = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise OSError(str(error)) from error
    if numbers is None:
        return None
    if numbers.ndim != 2 or numbers.dtype.kind != "u" or numbers.max() > 255:
        raise InputError(
            f"{name}: has {form.bits} bits a pixel and values up to {numbers.max():.6g}; the pixels"
            " of a label image are classes from 0 to 255"
        )
    return np.asarray(numbers, np.uint8)
