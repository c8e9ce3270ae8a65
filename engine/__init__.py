"""Model -> Engine: what is deployed, with its passport beside it.

One file a target: what a target can't do, and how its versions differ, is written there alone.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Literal, get_args

from onnxgraft.engine.passport import Passport, read_passport, write_passport
from onnxgraft.errors import InputError, NotSupportedError, nearest
from onnxgraft.files import existing_file, sha256
from onnxgraft.model import Model
from onnxgraft.runtime import Engine, TensorSpec

__all__ = ["TARGETS", "Passport", "Precision", "Target", "build", "load", "read_passport"]

Target = Literal["tensorrt", "openvino", "onnxruntime"]
TARGETS: tuple[Target, ...] = get_args(Target)
Precision = Literal["fp32", "fp16", "int8"]

Shape = Sequence[int]


def build(
    model: Model,
    path: str | os.PathLike[str],
    target: str,
    *,
    precision: Precision | None = None,
    shapes: Mapping[str, Shape] | None = None,
) -> Passport:
    """Build an engine for ``target`` and write it to ``path`` with its passport.

    Args:
        model: A float graph, or one that `quantize` made for this target.
        path: Of the engine; the passport is ``path`` with ``.json`` appended.
        target: One of `TARGETS`.
        precision: What the graph is expected to be; None takes it as it is.
        shapes: For inputs with free dimensions, the shape to optimize for.

    Raises:
        InputError: The precision is not the graph's, or the target refuses the graph.
        MissingDependencyError: The target's library is not installed.
    """
    backend = _backend(target)
    actual = _precision(model)
    if precision == "fp16":
        raise NotSupportedError("FP16 engines can't be built yet; fp32 and int8 can")
    if precision is not None and precision != actual:
        cure = "quantize it first" if precision == "int8" else "build from the float graph"
        raise InputError(f"{model.file}: the graph is {actual}, not {precision}; {cure}")
    inputs = _with_shapes(model, target, shapes or {})
    versions: dict[str, str] = backend.build(model, Path(path), shapes or {})
    passport = Passport(
        target=target,
        precision=actual,
        engine=sha256(path),
        source=model.source,
        inputs=inputs,
        outputs=model.outputs,
        versions=versions,
    )
    write_passport(path, passport)
    return passport


def load(path: str | os.PathLike[str]) -> Engine:
    """Return the engine at ``path``, ready to infer.

    Loading an engine runs native code: only a file that its own passport describes is loaded.

    Raises:
        InputError: There is no passport, or the file is not the one that it describes.
    """
    file = existing_file(path, "the engine")
    passport = read_passport(file)
    if sha256(file) != passport.engine:
        raise InputError(f"{file}: is not the file that its passport describes; build it again")
    engine: Engine = _backend(passport.target).load(file, passport)
    return engine


def _backend(target: str) -> ModuleType:
    if target not in TARGETS:
        raise InputError(f"no target is called {target!r}; {nearest(target, TARGETS)}")
    return importlib.import_module(f"onnxgraft.engine.{target}")


def _with_shapes(model: Model, target: str, shapes: Mapping[str, Shape]) -> tuple[TensorSpec, ...]:
    """Return the inputs as the engine will have them; ``shapes`` are checked against them."""
    known = {spec.name: spec for spec in model.inputs}
    for name, shape in shapes.items():
        if name not in known:
            raise InputError(f"--shapes {name}: no input is called so; {nearest(name, known)}")
        if not known[name].accepts(tuple(shape)):
            raise InputError(f"--shapes {list(shape)} does not fit the input {known[name]}")
    if shapes and target == "onnxruntime":
        raise InputError("--shapes makes no difference to onnxruntime; leave it out")
    return tuple(
        replace(spec, shape=tuple(shapes.get(spec.name, spec.shape))) for spec in model.inputs
    )


def _precision(model: Model) -> Precision:
    quantized = any(node.op == "QuantizeLinear" for node in model.graph.nodes)
    return "int8" if quantized else "fp32"
