"""`export cpp`: an engine with a program in C++, a sample, and what the engine answers to it."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Literal

from onnxgraft.commands._outputs import check_beside
from onnxgraft.commands._program_sample import as_stored, ppm, sample, stored
from onnxgraft.commands._served import ServedEngine
from onnxgraft.data.division import image_batch
from onnxgraft.errors import InputError
from onnxgraft.files import atomic_folder, check_folder
from onnxgraft.graph.foreign import PROGRAM
from onnxgraft.graph.tensors import TensorSpec
from onnxgraft.run.feeds import random_feeds
from onnxgraft.stages.engine.cpp import SAMPLE, check_program, program
from onnxgraft.stages.engine.passport import Passport

__all__ = ["export_cpp"]

_MAIN = "main.cpp"


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
        taken, picture, why = sample(engine.preprocess, specs)
        if taken is None or picture is None:
            feeds = random_feeds(specs, 1)
        else:
            color: Literal["gray", "rgb"] = "gray" if picture.ndim == 2 else "rgb"
            made = engine.prepare(*[picture] * image_batch(specs[0]), color=color)
            planes = not as_stored(made, taken.recipe, picture)
            taken, feeds = replace(taken, planes=planes), {specs[0].name: made}
        answers = engine.infer(feeds)
    inputs = {spec.name: f"input.{number}.npy" for number, spec in enumerate(specs)}
    outputs = {spec.name: f"output.{number}.npy" for number, spec in enumerate(passport.outputs)}
    with atomic_folder(out) as folder:
        shutil.copyfile(file, folder / file.name)
        for names, values in ((inputs, feeds), (outputs, answers)):
            for name, place in names.items():
                (folder / place).write_bytes(stored(values[name]))
        if picture is not None:
            (folder / SAMPLE).write_bytes(ppm(picture))
        for name, text in program(passport, file, inputs, outputs, taken).items():
            (folder / name).write_text(text, encoding="utf-8")
        written = tuple(sorted(path.name for path in folder.iterdir()))
    return written, (f"the program feeds stored arrays, and no pictures: {why}",) if why else ()


def _fixed(spec: TensorSpec, passport: Passport) -> TensorSpec:
    """Return an input with the shape that the engine was built for."""
    return replace(spec, shape=tuple(passport.flags.shapes.get(spec.name, spec.shape)))
