"""`infer`: an engine on image files."""

from __future__ import annotations

import io
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onnxgraft.commands._assumed import assumed
from onnxgraft.commands._engine_recipe import agreed, recipe_of, sees_of
from onnxgraft.commands._opening import ModelGiven, Place, engine_at, open_candidate
from onnxgraft.commands._order import IMAGE, MODEL, check_order
from onnxgraft.commands._outputs import check_beside, check_output
from onnxgraft.commands._recipe import PostprocessGiven, PreprocessGiven, given_tables
from onnxgraft.data.casting import check_recipe
from onnxgraft.data.division import image_batch, row_of
from onnxgraft.data.postprocess import Box, Postprocess, see
from onnxgraft.data.preprocess import Preprocess
from onnxgraft.data.samples import image_feed
from onnxgraft.errors import EngineWarning, InputError
from onnxgraft.files import check_folder, existing_file, write_bytes
from onnxgraft.files.trust import Trust, trusts
from onnxgraft.graph.foreign import ARRAYS, ENGINE, PICTURE
from onnxgraft.graph.model import Model
from onnxgraft.graph.tensors import Array, Outputs
from onnxgraft.run.engine import Engine
from onnxgraft.stages.convert import Original, written
from onnxgraft.stages.engine.passport import passport_path

__all__ = ["Answer", "Inferred", "infer"]


@dataclass(frozen=True)
class Answer:
    """What an engine says of one image.

    Attributes:
        image: Its path.
        shapes: Output name -> shape.
        best: The best classes with their scores.
        shares: Class -> its share of the pixels.
        boxes: What was found where.
        picture: Where the picture was written; empty if none was.
    """

    image: str
    shapes: dict[str, tuple[int, ...]]
    best: tuple[tuple[str, float], ...] = ()
    shares: tuple[tuple[str, float], ...] = ()
    boxes: tuple[Box, ...] = ()
    picture: str = ""

    def lines(self) -> list[str]:
        """Return what is printed of it."""
        lines = [f"{name}: {score:.4g}" for name, score in self.best]
        lines += [f"{name}: {100 * share:.1f} % of the pixels" for name, share in self.shares]
        lines += [
            f"{box.label} {box.score:.2f} at " + ", ".join(f"{edge:.3f}" for edge in box.edges)
            for box in self.boxes
        ]
        if not lines:
            lines = [f"{name}: array of {shape}" for name, shape in self.shapes.items()]
        return [*lines, f"picture: {self.picture}"] if self.picture else lines


@dataclass(frozen=True)
class Inferred:
    """What an engine answered.

    Attributes:
        answers: One for each image.
        out: Where pictures or outputs were written; empty if nowhere.
        assumed: What was assumed of the images, where nothing says how they are prepared.
        notes: What else there is to know.
        warnings: What was said of the engine when it was loaded, which Python warns of, too.
    """

    answers: tuple[Answer, ...]
    out: str = ""
    assumed: str = ""
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    passed = True

    def to_json(self) -> dict[str, Any]:
        """Return the answers as plain values."""
        return {
            "assumed": self.assumed,
            "answers": [asdict(answer) for answer in self.answers],
            "notes": list(self.notes),
            "warnings": list(self.warnings),
        }


def infer(
    engine: ModelGiven,
    images: Sequence[Place],
    *,
    preprocess: PreprocessGiven = None,
    postprocess: PostprocessGiven = None,
    out: Place | None = None,
    trust: Trust = False,
    force: bool = False,
) -> Inferred:
    """Run an engine on images; draw maps and boxes, or write the outputs.

    Args:
        engine: An engine or an ONNX file, or an ``onnx.ModelProto``.
        images: Image files; for an engine with several image inputs, one for each of them in their
            order, again and again.
        preprocess: A TOML file with the table ``[preprocess]`` that the network was trained with,
            the table itself, the name of a preset, or a function; None takes the passport's.
        postprocess: A TOML file with a table ``[postprocess]``, the table itself, or a function;
            None takes that of the file ``preprocess``, or the passport's.
        out: A folder for a picture of each image (coloured map or boxes), or an ``.npz`` for the
            outputs, with images along axis 0.
        trust: Load an engine that has no passport, and run the functions that a file or a passport
            names: True, or names.
        force: Replace an existing file of another kind, too.

    Raises:
        InputError: An image can't be read, or does not fit the engine's input.
    """
    for image in images:
        check_order((engine, (ENGINE, MODEL)), (image, (IMAGE,)), "infer {0} {1}")
    engine = written(engine)
    arrays = out is not None and Path(out).suffix == ".npz"
    folder = None if out is None or arrays else Path(out)
    if out is not None and arrays:
        check_output(out, ARRAYS, force=force)
    elif folder is not None and folder.parent.is_dir():
        check_folder(folder)
    before, after = _tables(engine, preprocess, postprocess, trust)
    sees = sees_of(engine) if preprocess is None else None
    pictures = None
    if folder is not None:
        pictures = _pictures(folder, [Path(image) for image in images])
        for place in pictures:
            check_beside(place, PICTURE, force=force)
    found = []
    collected: dict[str, list[Array]] = {}
    opened = Original.of(engine, trust=trust)
    engine_here, warned = _loaded(opened)
    with engine_here as running, tempfile.TemporaryDirectory(prefix="onnxgraft.") as drawn:
        files = [existing_file(image, "the image") for image in images]
        told = ""
        if files:
            metadata = {} if passport_path(engine).is_file() else _metadata(Path(engine))
            before, told = assumed(before, files[0], metadata, running.inputs)
        for number, (file, outputs) in enumerate(_answers(running, files, before)):
            if arrays:
                _collect(collected, file, outputs)
            sized = before.sized(running.inputs[0])
            photograph, size = _photograph(file, sees or sized)
            placed = sized.placement(*size)
            seen = see(outputs, after, photograph, placed, draw=pictures is not None)
            shapes = {name: array.shape for name, array in outputs.items()}
            if seen is None:
                found.append(Answer(str(file), shapes))
                continue
            picture = ""
            if pictures is not None and seen.picture is not None:
                picture = str(pictures[number])
                write_bytes(Path(drawn, str(number)), _png(seen.picture))
            found.append(Answer(str(file), shapes, seen.best, seen.shares, seen.boxes, picture))
        # All of them, or none where an image can't be read.
        for number, answer in enumerate(found):
            if answer.picture:
                _make(Path(answer.picture).parent)
                write_bytes(answer.picture, Path(drawn, str(number)).read_bytes())
    if arrays and out is not None:
        buffer = io.BytesIO()
        stacked: dict[str, Any] = {n: np.concatenate(a) for n, a in collected.items()}
        np.savez_compressed(buffer, **stacked)
        write_bytes(out, buffer.getvalue())
    elif folder is not None and not any(answer.picture for answer in found):
        note = (
            f"{folder}: nothing was written, there is nothing to draw; name an .npz for the outputs"
        )
        return Inferred(tuple(found), "", told, (note,), warned)
    return Inferred(tuple(found), "" if out is None else str(out), told, (), warned)


def _collect(collected: dict[str, list[Array]], file: Path, outputs: Outputs) -> None:
    """Put an image's outputs beside those of the images before it."""
    for name, array in outputs.items():
        before = collected.setdefault(name, [])
        if before and array.shape[1:] != before[0].shape[1:]:
            raise InputError(
                f"{file}: {name} is {array.shape}, and of the images before {before[0].shape}; an "
                ".npz has one array for each output: set resize or crop in [preprocess], or write "
                "a file for each image"
            )
        before.append(array)


def _metadata(path: Path) -> dict[str, str]:
    """Return what an ONNX file carries."""
    return Model.load(path).metadata if path.suffix == ".onnx" else {}


def _loaded(opened: Original) -> tuple[Engine, tuple[str, ...]]:
    """Return an engine, with a passport or trusted, or an ONNX file, running; and its warnings."""
    trusted = trusts(opened.trust, opened.title, opened.path)
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always", EngineWarning)
        running = engine_at(opened) if trusted else open_candidate(opened)
    for warning in heard:
        warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    told = [str(w.message) for w in heard if issubclass(w.category, EngineWarning)]
    return running, tuple(told)


def _tables(
    engine: Place, preprocess: PreprocessGiven, postprocess: PostprocessGiven, trust: Trust
) -> tuple[Preprocess, Postprocess]:
    """Return the tables that are given, and for what is not given those of the passport."""
    before, after = given_tables(preprocess, postprocess, trust)
    known = recipe_of(engine, trust, before is None, after is None)
    return agreed(before or known[0], after or known[1])


def _answers(
    engine: Engine, files: Sequence[Path], recipe: Preprocess
) -> Iterator[tuple[Path, Outputs]]:
    """Yield each image file with what the engine says of it, in a batch of 1.

    Of an engine with several inputs it is the file of the first. An engine that takes so many
    images at once gets the last one again until it has them.

    Raises:
        InputError: There are not as many images as inputs, or an image does not fit its input, or
            an output has no row for each image.
    """
    inputs = engine.inputs
    _check_inputs(engine, len(files), recipe)
    for spec in inputs:
        check_recipe(recipe, spec)
    batch, count = image_batch(inputs[0]), len(inputs)
    firsts = files[::count]
    for begin in range(0, len(firsts), batch):
        some = range(begin, min(begin + batch, len(firsts)))
        again = [*some, *[some[-1]] * (batch - len(some))]
        feeds = {
            spec.name: image_feed([files[at * count + place] for at in again], spec, recipe)[0]
            for place, spec in enumerate(inputs)
        }
        outputs = engine.infer(feeds)
        for row, at in enumerate(some):
            told = {
                name: row_of(engine.name, inputs[0], name, value, row)
                for name, value in outputs.items()
            }
            yield firsts[at], told


def _check_inputs(engine: Engine, images: int, recipe: Preprocess) -> None:
    """Raise InputError unless an engine takes images alone, and each input gets as many."""
    inputs = engine.inputs
    names = ", ".join(map(str, inputs))
    if not inputs:
        raise InputError(f"{engine.name}: has no input, and no image can be fed")
    pictures = recipe.function is not None or all(len(spec.shape) in (3, 4) for spec in inputs)
    if len(inputs) > 1 and not pictures:
        raise InputError(
            f"{engine.name}: takes more than images: {names}; feed arrays in Python, with "
            "onnxgraft.ServedEngine"
        )
    if len({image_batch(spec) for spec in inputs}) > 1:
        raise InputError(f"{engine.name}: its inputs take different numbers of images: {names}")
    if images % len(inputs):
        raise InputError(
            f"{engine.name}: has {len(inputs)} image inputs ({names}), and {images} images were "
            "given; give one for each input, in this order, again and again"
        )


def _photograph(file: Path, recipe: Preprocess) -> tuple[Array, tuple[int, int]]:
    """Return (height, width, 3) uint8 BGR: what the network saw, before means and scales.

    Beside it stand width and height of the image itself.
    """
    plain = recipe.model_copy(
        update={"color": "bgr", "mean": (0.0,), "scale": (1.0,), "std": (1.0,), "function": None}
    )
    picture, _, size = plain.picture(file)
    return np.rint(picture).astype(np.uint8), size


def _pictures(folder: Path, images: Sequence[Path]) -> list[Path]:
    """Return where the picture of each image goes.

    Raises:
        InputError: That is where one of the images is.
    """
    places: list[Path] = []
    for image in images:
        place, number = folder / f"{image.stem}.png", 1
        while place in places:  # of another folder, with the same name
            number += 1
            place = folder / f"{image.stem}-{number}.png"
        places.append(place)
    theirs = {image.resolve() for image in images}
    for place in places:
        if place.resolve() in theirs:
            raise InputError(f"{place}: is one of the images; name another folder with -o")
    return places


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: can't be made ({error.strerror})") from error


def _png(picture: Array) -> bytes:
    import cv2

    return bytes(cv2.imencode(".png", picture)[1])
