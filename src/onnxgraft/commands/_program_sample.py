"""What a program in C++ is fed to try it: a picture that its engine takes as it is, as files."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np

from onnxgraft.data.placement import inner
from onnxgraft.data.preprocess import Preprocess
from onnxgraft.errors import InputError
from onnxgraft.graph.tensors import Array, TensorSpec
from onnxgraft.stages.engine.cpp import Taken

__all__ = ["as_stored", "ppm", "sample", "stored"]

# Of a picture where any size will do: height and width.
_ANY = (24, 32)
# The keys of a recipe by which a picture becomes another part of itself, or has another size.
_BEFORE_A_CROP = ("central_fraction", "resize", "shorter_side")
_PLACES = (*_BEFORE_A_CROP, "crop", "center_crop", "pad")


def stored(value: Array) -> bytes:
    """Return an array as a file of NumPy's, little-endian, as the program reads it."""
    file = io.BytesIO()
    np.save(file, np.asarray(value.astype(value.dtype.newbyteorder("<")), order="C"))
    return file.getvalue()


def ppm(picture: Array) -> bytes:
    """Return a picture in RGB or gray as a file."""
    kind = b"P5" if picture.ndim == 2 else b"P6"
    return b"%s\n%d %d\n255\n%s" % (kind, picture.shape[1], picture.shape[0], picture.tobytes())


def sample(
    preprocess: Preprocess, specs: Sequence[TensorSpec]
) -> tuple[Taken | None, Array | None, str]:
    """Return a picture in RGB or gray which an engine takes, or why there is none.

    Args:
        preprocess: How pictures are prepared for it.
        specs: Its inputs, of fixed shapes.
    """
    if len(specs) != 1:
        return None, None, "the engine has several inputs"
    if not preprocess.model_fields_set:
        return None, None, "the passport does not say how they are prepared"
    if preprocess.function is not None:
        return None, None, "a function in Python prepares them"
    if specs[0].dtype not in ("float32", "uint8"):
        return None, None, f"the input {specs[0]} is neither float32 nor uint8"
    recipe = preprocess.sized(specs[0])
    size = _size(recipe, specs[0])
    shape = (_ANY if size is None else size) + (() if recipe.color == "gray" else (3,))
    picture = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    fixed = recipe.crop is not None and not any(getattr(recipe, key) for key in _BEFORE_A_CROP)
    return Taken(recipe, size, larger=fixed, planes=False), picture, ""


def _size(recipe: Preprocess, spec: TensorSpec) -> tuple[int, int] | None:
    """Return the height and width of pictures that need no resize; None where any will do."""
    fits = recipe.model_copy(update=dict.fromkeys(_PLACES) | {"resize": "input"})
    side: object
    if recipe.shorter_side is not None:
        side = recipe.shorter_side, recipe.shorter_side
    elif recipe.resize is not None:
        side = recipe.resize
    elif recipe.crop is not None:
        side = recipe.crop[0] + recipe.crop[2], recipe.crop[1] + recipe.crop[3]
    elif recipe.center_crop is not None or recipe.pad is not None:
        side = recipe.center_crop or recipe.pad
    else:
        try:
            side = fits.sized(spec).resize
        except InputError:
            return None
    assert isinstance(side, tuple)  # a size that is no longer `input`
    if recipe.central_fraction is None:
        return side[0], side[1]
    part = recipe.central_fraction

    def before(wanted: int) -> int:
        sizes = range(wanted, int(wanted / part) + 3)
        found = [size for size in sizes if inner((size, size), part).height == wanted]
        if not found:
            raise InputError(f"no side of a picture has a middle of {wanted} pixels by {part:g}")
        return found[0]

    return before(side[0]), before(side[1])


def as_stored(made: Array, recipe: Preprocess, picture: Array) -> bool:
    """Tell whether what is fed of a picture has its channels last."""
    pixels = picture[:, :, np.newaxis] if picture.ndim == 2 else picture[:, :, ::-1]
    last = recipe.prepared(pixels)
    first = made[0] if made.ndim == 4 else made
    return first.shape == last.shape and np.array_equal(first, last.astype(made.dtype))
