"""What a path is: an original, an ONNX file, an engine, a recording; opened to be run."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from onnxgraft.errors import InputError, ModelError, NotSupportedError, OnnxgraftError
from onnxgraft.files.trust import trusts
from onnxgraft.graph.foreign import PASSPORT, kind_of
from onnxgraft.graph.model import Model
from onnxgraft.graph.pictures import KEY
from onnxgraft.run.demand import check_model
from onnxgraft.run.engine import Engine
from onnxgraft.run.exact import exact
from onnxgraft.run.session import OnnxRuntime
from onnxgraft.stages import engine as stage
from onnxgraft.stages.convert import Original, told_by, written
from onnxgraft.stages.engine.passport import passport_path, read_passport
from onnxgraft.targets import FORMATS, WEIGHT_TYPES

__all__ = [
    "MODEL_SUFFIXES", "ModelGiven", "Place", "as_model", "engine_at", "graph_beside",
    "graph_of_engine", "is_engine", "open_candidate", "open_reference", "to_run",
]  # fmt: skip

Place = str | os.PathLike[str]
# A path, or a model as Python holds it: see `onnxgraft.stages.convert.written`.
ModelGiven = Any

# What files of frameworks are called; a frozen graph may begin as an engine does.
MODEL_SUFFIXES = frozenset({
    ".caffemodel", ".h5", ".hdf5", ".json", ".keras", ".onnx", ".pb", ".pbtxt", ".prototxt",
    ".pt2", ".tflite",
})  # fmt: skip


def as_model(model: ModelGiven) -> Model:
    """Return an ONNX model: the one that is given, or that of a file or an ``onnx.ModelProto``."""
    if isinstance(model, Model):
        return model
    path = written(model)
    loaded = Model.load(path)
    if not loaded.graph.outputs:
        raise ModelError(
            f"{path}: the graph has no outputs; convert it, and name some in --outputs"
        )
    told = told_by(path, "onnx", loaded)
    if told is not None:
        loaded.metadata[KEY] = told.written()
    return loaded


def to_run(model: ModelGiven) -> Model:
    """Return an ONNX model as `as_model` does, whose tensors are no larger than may be."""
    found = as_model(model)
    check_model(found)
    return found


def open_reference(original: Original) -> tuple[Engine, list[str]]:
    """Return what others are compared with, ready to infer, and a note if it is a stand-in.

    Where nothing runs the original (OpenCV departs from Caffe in some layers), the graph as it was
    converted, before any clean-up, stands in for it, in onnxruntime.
    """
    if is_engine(Path(original.path)):
        return engine_at(original), []
    try:
        return original.run(), []
    except NotSupportedError as error:
        model, _ = original.lower()
        reference = OnnxRuntime(model.to_onnx(), name="converted graph")
        return reference, [f"the converted graph stands in for the original: {error}"]


def open_candidate(candidate: Original) -> Engine:
    """Return a built engine, an ONNX file, a recording or another original, ready to infer.

    A file with a passport beside it is an engine; a ``.json`` holds outputs that `polygraphy run
    --save-outputs` wrote.
    """
    file = Path(candidate.path)
    if is_engine(file):
        return engine_at(candidate)
    if file.suffix == ".onnx":
        model = Model.load(file)
        check_model(model)
        return exact(model, name=file.name)
    if file.suffix == ".json":
        if kind_of(file) == PASSPORT:
            raise InputError(f"{file}: is {PASSPORT}; name the engine itself, {file.stem}")
        from onnxgraft.stages.validate import Recorded

        return Recorded(file)
    return candidate.run()


def engine_at(opened: Original) -> Engine:
    """Return the engine at a path; one without a passport only if it is trusted."""
    file = Path(opened.path)
    return stage.load(file, trust=trusts(opened.trust, file.name, opened.path))


def is_engine(file: Path) -> bool:
    """Tell whether a file is an engine, with a passport or, by how it begins, without."""
    if passport_path(file).is_file():
        return True
    return file.is_file() and file.suffix.lower() not in MODEL_SUFFIXES and stage.is_engine(file)


def graph_beside(path: Path) -> Model | None:
    """Return the ONNX graph that `deploy` left beside an engine."""
    passport = read_passport(path)
    kind = passport.weights or passport.precision
    own = kind in (*FORMATS, *WEIGHT_TYPES)
    file = path.with_name(f"model.{kind}.{passport.target}.onnx" if own else "model.onnx")
    if not file.is_file():
        return None
    model = Model.load(file)
    return model if model.source.sha256 == passport.source.sha256 else None


def graph_of_engine(path: Path, given: Sequence[Place] = ()) -> Model | None:
    """Return the graph that an engine was built from: one that is given, or that is beside it.

    Args:
        path: Of the engine, which has a passport.
        given: ONNX files to look at first.
    """
    wanted = read_passport(path).graph
    for file in given:
        if stage.graph_hash(model := as_model(file)) == wanted:
            return model
    found = graph_beside(path)
    if found is not None:
        return found
    for file in sorted(path.absolute().parent.glob("*.onnx")):
        with contextlib.suppress(OnnxgraftError):
            if stage.graph_hash(model := as_model(file)) == wanted:
                return model
    return None
