"""Deploying elsewhere: one archive that builds the engine on the machine that will run it.

An engine belongs to one GPU and one version of TensorRT, a calibration to neither. So what
travels is the graph, or the float graph with its calibration cache, and a script; the target
needs TensorRT and Python, and no data.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from onnxgraft.errors import InputError, OnnxgraftError
from onnxgraft.files import existing_file, write_bytes
from onnxgraft.graph.model import Model
from onnxgraft.stages.engine.options import BuildOptions
from onnxgraft.stages.engine.passport import Flags, Passport, passport_json
from onnxgraft.stages.engine.tensorrt import builder, settings
from onnxgraft.stages.engine.tensorrt.dla import OnGpu, on_gpu
from onnxgraft.targets import tensorrt_calibrator

__all__ = ["Bundle", "pack", "unpacked"]

_MANIFEST = "onnxgraft.bundle/1"
# See `pack`.
Program = Callable[[Model, Passport, Mapping[str, Sequence[int]]], Mapping[str, bytes]]
# Whatever a zip archive can't be without; always the same, so that equal contents are equal bytes.
_DATE = (1980, 1, 1, 0, 0, 0)

_PACKAGES = (
    "onnxgraft", "onnxgraft/stages", "onnxgraft/stages/engine", "onnxgraft/stages/engine/tensorrt",
    "onnxgraft/targets",
)  # fmt: skip


@dataclass(frozen=True)
class Bundle:
    """What was packed.

    Attributes:
        path: Of the archive.
        size: In bytes.
        members: The names of the files in it.
        trtexec: For each major version of TensorRT, the line that does the same.
        flags: As in the passport.
        dla: The core of the DLA that it is for; None for the GPU alone.
        on_gpu: The nodes that a DLA does not take, by NVIDIA's documentation.
        notes: Sentences that the user should read.
    """

    path: str
    size: int
    members: tuple[str, ...]
    trtexec: dict[int, str]
    flags: Flags
    dla: int | None = None
    on_gpu: tuple[OnGpu, ...] = ()
    notes: tuple[str, ...] = ()

    passed = True

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return {**asdict(self), "flags": self.flags.to_json()}


def pack(
    model: Model,
    path: str | os.PathLike[str],
    passport: Passport,
    *,
    float_model: Model | None = None,
    options: BuildOptions | None = None,
    dla: int | None = None,
    program: Program | None = None,
) -> Bundle:
    """Pack what the target needs into one archive, which Python runs.

    Args:
        model: The graph in which the precision stands: with QuantizeLinear, or float.
        path: Of the archive, usually ending in ``.pyz``.
        passport: What the engine's passport shall say; the target fills in what it builds with.
        float_model: For TensorRT 10, which makes INT8 of this and ``options.calibration``.
        options: How the target builds.
        dla: The core of the DLA that runs what it can of ``model``, a float graph, in INT8 with
            ``options.calibration`` and else in FP16.
        program: Makes the files of a program for the engine, of the graph, the passport and the
            usual shapes of inputs; a note says why where there can be none.

    Raises:
        InputError: Of float graph and calibration cache there is only one, or a DLA is to run more
            than one shape.
    """
    options = options or BuildOptions()
    if dla is not None:
        return _pack_for_dla(model, path, passport, options, dla, program)
    if (float_model is None) != (options.calibration is None):
        raise InputError("TensorRT 10 needs both the float graph and the calibration cache")
    explicit = settings(model, replace(options, calibration=None))
    files = {"model.onnx": model.to_onnx().SerializeToString(deterministic=True)}
    lines = {major: _line("model.onnx", path, explicit, major) for major in (10, 11)}
    if float_model is not None and options.calibration is not None:
        files["float.onnx"] = float_model.to_onnx().SerializeToString(deterministic=True)
        files["calibration.cache"] = options.calibration
        implicit = settings(float_model, options)
        lines[10] = _line("float.onnx", path, implicit, 10)
    told = {"capability": list(explicit.capability)}
    notes = _add_program(files, program, model, passport, explicit)
    members, size = _written(path, files, explicit, passport, told)
    return Bundle(os.fspath(path), size, members, lines, passport.flags, notes=notes)


def _pack_for_dla(
    model: Model,
    path: str | os.PathLike[str],
    passport: Passport,
    options: BuildOptions,
    core: int,
    program: Program | None,
) -> Bundle:
    """Pack a float graph, with its cache if there is one, for TensorRT 10 and a DLA."""
    how = replace(settings(model, options), dla=core)
    for name, shapes in how.profiles[0].items() if how.profiles else ():
        if len(how.profiles) > 1 or len(set(shapes)) > 1:
            raise InputError(
                f"--dla: a DLA runs one shape, and {name} may have several; give one batch with "
                "--batches 1, or the shape with --shapes"
            )
    files = {"model.onnx": model.to_onnx().SerializeToString(deterministic=True)}
    if options.calibration is not None:
        files["calibration.cache"] = options.calibration
    found = on_gpu(model, _usual(how), int8=options.calibration is not None)
    lines = {10: _line("model.onnx", path, how, 10)}
    on_it = replace(passport, flags=replace(passport.flags, dla=core))
    notes = _add_program(files, program, model, on_it, how)
    members, size = _written(path, files, how, passport, {"dla": core})
    return Bundle(os.fspath(path), size, members, lines, passport.flags, core, found, notes)


def _usual(how: builder.Settings) -> dict[str, tuple[int, ...]]:
    """Return the shapes that the first profile is tuned for."""
    return {name: shapes[1] for name, shapes in (how.profiles or [{}])[0].items()}


def _add_program(
    files: dict[str, bytes],
    program: Program | None,
    model: Model,
    passport: Passport,
    how: builder.Settings,
) -> tuple[str, ...]:
    """Add the files of a program, or return why there are none."""
    try:
        files |= {} if program is None else program(model, passport, _usual(how))
    except OnnxgraftError as error:
        return (f"there is no program in C++ in it: {error}",)
    return ()


def _written(
    path: str | os.PathLike[str],
    files: dict[str, bytes],
    how: builder.Settings,
    passport: Passport,
    told: dict[str, Any],
) -> tuple[tuple[str, ...], int]:
    """Write the archive; return the names of the files in it, and its size in bytes."""
    if passport.recipe:
        files["recipe.json"] = json.dumps(passport.recipe, indent=2).encode()
    manifest = {
        "format": _MANIFEST,
        "sha256": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
        "profiles": builder.plain(how.profiles),
        **told,
        "passport": passport_json(passport),
    }
    folder = Path(__file__).parent
    # The package's name, so that the script is the same here and there; the packages are empty.
    code = {
        "__main__.py": (folder / "bundle_main.py").read_bytes(),
        **{f"{package}/__init__.py": b"" for package in _PACKAGES},
        "onnxgraft/stages/engine/tensorrt/builder.py": Path(builder.__file__).read_bytes(),
        "onnxgraft/targets/tensorrt_calibrator.py": Path(tensorrt_calibrator.__file__).read_bytes(),
        "manifest.json": json.dumps(manifest, indent=2).encode(),
    }
    archive = io.BytesIO()
    archive.write(b"#!/usr/bin/env python3\n")
    with zipfile.ZipFile(archive, "a", zipfile.ZIP_DEFLATED, compresslevel=1) as packed:
        for name, data in {**code, **files}.items():
            packed.writestr(zipfile.ZipInfo(name, _DATE), data, zipfile.ZIP_DEFLATED)
    write_bytes(path, archive.getvalue())
    return (*code, *files), len(archive.getvalue())


def unpacked(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, int]]:
    """Return the manifest of a bundle, and the bytes of each file in it that is no code.

    Raises:
        InputError: It is no bundle, or is damaged.
    """
    from onnxgraft.stages.engine.tensorrt import bundle_main

    try:
        manifest, files = bundle_main.read(existing_file(path, "the bundle"))
    except ValueError as error:
        raise InputError(f"{os.fspath(path)}: {error}") from error
    return manifest, {name: len(data) for name, data in files.items()}


def _line(graph: str, path: str | os.PathLike[str], how: builder.Settings, major: int) -> str:
    return builder.trtexec(graph, f"{Path(path).stem}.engine", how, major)
