"""A program in C++ for one engine: of one file, which needs CMake and the runtime alone.

Given an engine's facts, Result is the text of ``main.cpp`` (``common.cpp`` with the constants of
the engine, and with what runs it, ``TARGET.cpp``), and of its ``CMakeLists.txt``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np

from onnxgraft.data.preprocess import Preprocess
from onnxgraft.errors import InputError
from onnxgraft.graph.tensors import TensorSpec
from onnxgraft.run.session import left_out
from onnxgraft.run.tolerances import ENGINE_TOLERANCES, STORED_FP8, STORED_INT8, TIES
from onnxgraft.stages.engine.openvino import config_of
from onnxgraft.stages.engine.passport import Passport

__all__ = ["SAMPLE", "TYPES", "Taken", "check_program", "explained", "program"]

# The picture beside a program.
SAMPLE = "sample.ppm"

# What the program knows, as numpy calls it.
TYPES = ("bool", "float16", "float32", "float64", "int8", "int32", "int64", "uint8")


@dataclass(frozen=True)
class Taken:
    """A picture that an engine takes as it is, without a resize.

    Attributes:
        recipe: Of the picture.
        size: Height and width of it; None where any will do.
        larger: Whether larger ones are taken too: the same part is cut from them.
        planes: Whether the input has a plane for each channel.
    """

    recipe: Preprocess
    size: tuple[int, int] | None
    larger: bool
    planes: bool


def check_program(passport: Passport, specs: Sequence[TensorSpec]) -> None:
    """Raise InputError where there is no program for an engine.

    Args:
        passport: Of the engine.
        specs: Of its inputs and outputs.
    """
    folder = resources.files("onnxgraft.stages.engine.cpp")
    if not folder.joinpath(f"{passport.target}.cpp").is_file():
        known = sorted(
            each.name.removesuffix(".cmake")
            for each in folder.iterdir()
            if each.name.endswith(".cmake")
        )
        raise InputError(
            f"there is no program in C++ for engines of {passport.target}; there is one for "
            f"{' and '.join(known)}"
        )
    if passport.flags.provider:
        raise InputError(
            f"there is no program in C++ for the provider {passport.flags.provider}: what was "
            "never compiled is not shipped; export an engine without --provider"
        )
    for spec in specs:
        if spec.dtype not in TYPES:
            raise InputError(f"the program in C++ knows no {spec.dtype}, which {spec} is of")


def program(
    passport: Passport,
    engine: Path,
    inputs: Mapping[str, str],
    outputs: Mapping[str, str],
    picture: Taken | None,
    tolerance: float | None = None,
) -> dict[str, str]:
    """Return the files of the program, by name.

    Args:
        passport: Of the engine.
        engine: The engine's file.
        inputs: Name -> the file of what is fed.
        outputs: Name -> the file of what is answered.
        picture: What it takes in place of the first input, if that is a picture.
        tolerance: The part of an output's range by which an answer may differ; None is what the
            precision explains.
    """
    tolerance = explained(passport) if tolerance is None else tolerance
    about = [
        f"static const std::string engine_file = {_text(engine.name)};",
        f"static const std::vector<Port> inputs = {_ports(inputs)};",
        f"static const std::vector<Port> outputs = {_ports(outputs)};",
        "// The part of an output's range by which an answer may differ from the stored one; and",
        "// the part of whole numbers that may differ.",
        f"static const double tolerance = {tolerance!r}, ties = {TIES!r};",
        _recipe(picture),
        *_SETTINGS[passport.target](passport, engine),
    ]
    folder = resources.files("onnxgraft.stages.engine.cpp")
    read = {
        name: folder.joinpath(name).read_text("utf-8")
        for name in ("common.cpp", f"{passport.target}.cpp", f"{passport.target}.cmake")
    }
    whole = read["common.cpp"].replace("// CONSTANTS\n", "\n".join((*about, "")))
    whole = whole.replace("// ENGINE\n", read[f"{passport.target}.cpp"])
    build = folder.joinpath("CMakeLists.txt").read_text("utf-8")
    return {"main.cpp": whole, "CMakeLists.txt": build + read[f"{passport.target}.cmake"]}


def explained(passport: Passport) -> float:
    """Return by how much of an output's range the precision explains that answers differ."""
    kinds = {**ENGINE_TOLERANCES, "int8": STORED_INT8, "fp8": STORED_FP8}
    return max(kinds[passport.precision], kinds[passport.floats])


def _onnxruntime(passport: Passport, engine: Path) -> list[str]:
    names = ";".join(left_out(str(engine)))
    return [
        f"static const char left_out[] = {_text(names)};",
        f"static const int threads = {passport.flags.threads or 0};",
    ]


def _openvino(passport: Passport, engine: Path) -> list[str]:
    told = {
        key: str(value).upper() if isinstance(value, bool) else str(value)
        for key, value in config_of(passport.flags).items()
    }
    pairs = ", ".join(f"{{{_text(key)}, {_text(value)}}}" for key, value in told.items())
    return [
        f"static const std::string device = {_text(passport.flags.device or 'CPU')};",
        f"static const std::pair<std::string, std::string> settings[] = {{{pairs}}};",
    ]


def _tensorrt(passport: Passport, engine: Path) -> list[str]:
    core = passport.flags.dla
    return [f"static const int dla_core = {-1 if core is None else core};"]


# By target: each is called as it is.
_SETTINGS = {make.__name__.removeprefix("_"): make for make in (_onnxruntime, _openvino, _tensorrt)}


def _recipe(picture: Taken | None) -> str:
    if picture is None:
        return "static const Recipe recipe = {};"
    recipe, size = picture.recipe, picture.size
    numbers = [0] * 8
    if size is not None:
        plan = recipe.plan(size[1], size[0])
        top, left = plan.cut.top + plan.crop.top, plan.cut.left + plan.crop.left
        numbers = [*size, top, left, plan.crop.height, plan.crop.width, *plan.pad]
    channels = 1 if recipe.color == "gray" else 3
    values = [
        "{"
        + ", ".join(f"{float(np.float32(value))!r}f" for value in given * (channels // len(given)))
        + "}"
        if given != (usual,)
        else "{}"
        for given, usual in ((recipe.mean, 0.0), (recipe.scale, 1.0), (recipe.std, 1.0))
    ]
    words = ["true", str(picture.larger).lower(), *map(str, numbers), str(recipe.pad_value)]
    words += [str(recipe.color == "bgr").lower(), str(picture.planes).lower(), *values]
    return f"static const Recipe recipe = {{{', '.join(words)}}};"


def _ports(files: Mapping[str, str]) -> str:
    return (
        "{" + ", ".join(f"{{{_text(name)}, {_text(file)}}}" for name, file in files.items()) + "}"
    )


def _text(value: str) -> str:
    """Return a literal of C++ for any text."""
    plain = {ord(" "), *map(ord, "!#%&'()*+,-./:;<=>@[]^_{|}~"), *range(48, 58), *range(65, 91)}
    plain |= set(range(97, 123))
    return '"' + "".join(chr(b) if b in plain else f"\\{b:03o}" for b in value.encode()) + '"'
