"""`export cpp`: an engine with a program in C++, a sample, and what the engine answers to it."""

from __future__ import annotations

import io
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from onnxgraft.commands._outputs import check_beside
from onnxgraft.commands._served import ServedEngine
from onnxgraft.data.division import image_batch
from onnxgraft.data.placement import inner
from onnxgraft.data.preprocess import Preprocess
from onnxgraft.errors import InputError
from onnxgraft.files import atomic_folder, check_folder
from onnxgraft.graph.foreign import PROGRAM
from onnxgraft.graph.tensors import Array, TensorSpec
from onnxgraft.run.feeds import random_feeds
from onnxgraft.stages.engine.cpp import Taken, check_program, program
from onnxgraft.stages.engine.passport import Passport

__all__ = ["export_cpp"]

_MAIN, _SAMPLE = "main.cpp", "sample.ppm"
# Of a picture where any size will do: height and width.
_ANY = (24, 32)
# The keys of a recipe by which a picture becomes another part of itself, or has another size.
_PLACES = ("central_fraction", "resize", "shorter_side", "crop", "center_crop", "pad")


def export_cpp(
    file: Path, passport: Passport, out: Path, *, force: bool
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Write the folder of a program; return the names of its files, and what to know of them."""
    check_program(passport, (*passport.inputs, *passport.outputs))
    check_folder(out)
    check_beside(out / _MAIN, PROGRAM, force=force)
    if out.is_dir() and any(out.iterdir()) and not (out / _MAIN).exists() and not force:
        raise InputError(f"{out}: has other files in it; name a new folder, or use --force")
    with ServedEngine(file) as engine:
        specs = [_fixed(spec, passport) for spec in engine.inputs]
        taken, picture, why = _sample(engine, specs)
        if taken is None or picture is None:
            feeds = random_feeds(specs, 1)
        else:
            color: Literal["gray", "rgb"] = "gray" if picture.ndim == 2 else "rgb"
            made = engine.prepare(*[picture] * image_batch(specs[0]), color=color)
            planes = not _as_stored(made, taken.recipe, picture)
            taken, feeds = replace(taken, planes=planes), {specs[0].name: made}
        answers = engine.infer(feeds)
    inputs = {spec.name: f"input.{number}.npy" for number, spec in enumerate(specs)}
    outputs = {spec.name: f"output.{number}.npy" for number, spec in enumerate(passport.outputs)}
    with atomic_folder(out) as folder:
        shutil.copyfile(file, folder / file.name)
        for names, values in ((inputs, feeds), (outputs, answers)):
            for name, place in names.items():
                (folder / place).write_bytes(_stored(values[name]))
        if picture is not None:
            kind = b"P5" if picture.ndim == 2 else b"P6"
            size = b"%d %d" % (picture.shape[1], picture.shape[0])
            (folder / _SAMPLE).write_bytes(b"%s\n%s\n255\n%s" % (kind, size, picture.tobytes()))
        for name, text in program(passport, file, inputs, outputs, taken).items():
            (folder / name).write_text(text, encoding="utf-8")
        written = tuple(sorted(path.name for path in folder.iterdir()))
    return written, (f"the program feeds stored arrays, and no pictures: {why}",) if why else ()


def _stored(value: Array) -> bytes:
    """Return an array as a file of NumPy's, little-endian, as the program reads it."""
    file = io.BytesIO()
    np.save(file, np.asarray(value.astype(value.dtype.newbyteorder("<")), order="C"))
    return file.getvalue()


def _fixed(spec: TensorSpec, passport: Passport) -> TensorSpec:
    """Return an input with the shape that the engine was built for."""
    return replace(spec, shape=tuple(passport.flags.shapes.get(spec.name, spec.shape)))


def _sample(
    engine: ServedEngine, specs: list[TensorSpec]
) -> tuple[Taken | None, Array | None, str]:
    """Return a picture in RGB or gray which an engine takes, or why there is none."""
    if len(specs) != 1:
        return None, None, "the engine has several inputs"
    if not engine.preprocess.model_fields_set:
        return None, None, "the passport does not say how they are prepared"
    if engine.preprocess.function is not None:
        return None, None, "a function in Python prepares them"
    if specs[0].dtype not in ("float32", "uint8"):
        return None, None, f"the input {specs[0]} is neither float32 nor uint8"
    recipe = engine.preprocess.sized(specs[0])
    size = _size(recipe, specs[0])
    shape = (_ANY if size is None else size) + (() if recipe.color == "gray" else (3,))
    picture = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    return Taken(recipe, size, planes=False), picture, ""


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


def _as_stored(made: Array, recipe: Preprocess, picture: Array) -> bool:
    """Tell whether what is fed of a picture has its channels last."""
    pixels = picture[:, :, np.newaxis] if picture.ndim == 2 else picture[:, :, ::-1]
    last = recipe.prepared(pixels)
    first = made[0] if made.ndim == 4 else made
    return first.shape == last.shape and np.array_equal(first, last.astype(made.dtype))
