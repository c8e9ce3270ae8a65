"""The recipe of a deployment: one TOML file with the model, the data and the targets."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from onnxgraft.commands._engine_recipe import agreed
from onnxgraft.commands._recipe_build import in_keys
from onnxgraft.commands._recipe_errors import at_key, not_valid, unknown_key, where
from onnxgraft.commands._recipe_tables import DEFAULT_TARGETS, Recipe
from onnxgraft.data.classes import find_classes
from onnxgraft.data.functions import Function, Given, is_function_path
from onnxgraft.data.postprocess import Postprocess
from onnxgraft.data.preprocess import Preprocess
from onnxgraft.data.presets import PRESETS
from onnxgraft.data.samples import Data, Samples
from onnxgraft.data.streams import is_data, title_of
from onnxgraft.errors import InputError
from onnxgraft.files import existing_file, read_toml
from onnxgraft.files.limits import SETTINGS_BYTES
from onnxgraft.files.remote import is_url
from onnxgraft.files.toml import Place
from onnxgraft.files.trust import Trust
from onnxgraft.graph.model import Model
from onnxgraft.stages import engine
from onnxgraft.targets import Precision

__all__ = [
    "DEFAULT_TARGETS",
    "PostprocessGiven",
    "PreprocessGiven",
    "Recipe",
    "check_build",
    "check_files",
    "class_names",
    "given_tables",
    "joined",
    "make_recipe",
    "read_recipe",
    "read_tables",
]


# A TOML file or the table itself, a function, and of preprocessing the name of a preset.
PreprocessGiven = str | os.PathLike[str] | Preprocess | Callable[..., Any] | None
PostprocessGiven = str | os.PathLike[str] | Postprocess | Callable[..., Any] | None


def read_recipe(
    path: str | os.PathLike[str], *, images: int | None = None, trust: Trust = False
) -> Recipe:
    """Read a recipe; paths in it are relative to its folder.

    Args:
        path: A TOML file.
        images: Shortens calibration and validation to so many samples.
        trust: Of what the model brings, see `Original`, and of the functions that the recipe names.

    Raises:
        InputError: It is not TOML, or a field is unknown, missing or wrong, or a function is not
            trusted.
    """
    file = existing_file(path, "the recipe", SETTINGS_BYTES)
    recipe = _validated(file, _toml(file), Recipe)
    recipe._file, recipe._trust = file, trust
    recipe.preprocess, recipe.postprocess = _run_functions(
        file, trust, recipe.preprocess, recipe.postprocess.named(file.parent)
    )
    section = recipe.validation
    paths: list[tuple[BaseModel, str]] = [
        *recipe.build.timing_caches(),
        (recipe, "model"), (recipe, "weights"), (recipe.calibrate, "data"), (section, "data"),
        (section, "labels"),
    ]  # fmt: skip
    if isinstance(section.metric, str) and is_function_path(section.metric):
        section.metric = _loaded(file, trust, ("validate", "metric"), Function(section.metric))
    budget = recipe.quantize.budget or ""
    if is_function_path(budget):
        _loaded(file, trust, ("quantize", "budget"), Function(budget.rpartition("=")[0]))
        paths.append((recipe.quantize, "budget"))
    if section.classes is not None and Path(section.classes).suffix:
        paths.append((section, "classes"))
    for holder, name in paths:
        if getattr(holder, name) is not None and not is_url(getattr(holder, name)):
            setattr(holder, name, os.path.normpath(file.parent / getattr(holder, name)))
    if images is not None:
        recipe.calibrate.images = recipe.validation.images = images
    return recipe


def make_recipe(
    model: str | os.PathLike[str],
    *,
    data: Data,
    weights: str | os.PathLike[str] | None = None,
    validate_on: Data = None,
    preprocess: Preprocess | None = None,
    postprocess: Postprocess | None = None,
    inputs: str | None = None,
    outputs: str | None = None,
    metric: Given | None = None,
    labels: str | os.PathLike[str] | None = None,
    classes: str | None = None,
    targets: Sequence[str] = DEFAULT_TARGETS,
    precision: Precision | None = None,
    cpu: str | None = None,
    images: int | None = None,
    trust: Trust = False,
) -> Recipe:
    """Return the recipe of a model without one; what is not given has its default.

    Raises:
        InputError: There is no data, or a value is unknown.
    """
    if data is None:
        raise InputError(f"{os.fspath(model)}: name representative data with --data, or a recipe")
    try:
        recipe = Recipe.model_validate({
            "model": os.fspath(model),
            "weights": None if weights is None else os.fspath(weights),
            "inputs": inputs,
            "outputs": outputs,
            "targets": tuple(targets),
            "build": {"cpu": cpu} | ({} if precision is None else {"precision": precision}),
            "preprocess": preprocess or Preprocess(),
            "postprocess": postprocess or Postprocess(),
            "calibrate": {"data": _named(data), "images": images},
            "validate": {
                "data": None if validate_on is None else _named(validate_on),
                "metric": metric,
                "labels": None if labels is None else os.fspath(labels),
                "classes": classes,
                "images": images,
            },
        })
    except ValidationError as error:
        raise InputError(f"{os.fspath(model)}: {_sentence(error)}") from error
    recipe._trust = trust
    recipe.calibrate._given = data if is_data(data) else None
    recipe.validation._given = validate_on if is_data(validate_on) else None
    return recipe


def _named(data: Data) -> str:
    """Return a path, or what messages call data that Python gave."""
    if not is_data(data):
        return os.fspath(data)
    return data.source if isinstance(data, Samples) else title_of(data)


def _run_functions(
    file: Path, trust: Trust | None, before: Preprocess, after: Postprocess
) -> tuple[Preprocess, Postprocess]:
    """Return the two tables of a file with their functions loaded, or hashed where trust is None.

    Raises:
        InputError: A function is not trusted, or can't be loaded.
    """

    def loaded(function: Function | None, table: str) -> dict[str, Function]:
        if function is None:
            return {}
        return {"function": _loaded(file, trust, (table, "function"), function)}

    return (
        before.model_copy(update=loaded(before.function, "preprocess")),
        after.model_copy(update=loaded(after.function, "postprocess")),
    )


def _loaded(file: Path, trust: Trust | None, place: Place, function: Function) -> Function:
    """Return a function that a recipe names, loaded, or only hashed where trust is None."""
    try:
        named = function.located(file.parent)
    except InputError as error:
        raise at_key(file, place, str(error)) from error
    return named if trust is None else named.loaded(trust, where(file, place))


def check_files(recipe: Recipe) -> None:
    """Raise InputError, with the line, if a file or folder that the recipe names is not there."""
    if recipe.file is None:
        return
    section = recipe.validation
    named = {
        ("model",): recipe.model, ("weights",): recipe.weights,
        ("calibrate", "data"): recipe.calibrate.data, ("validate", "data"): section.data,
        ("validate", "labels"): section.labels,
    }  # fmt: skip
    for place, path in named.items():
        # A checkpoint of TensorFlow is named by how its files begin.
        there = not path or is_url(path) or os.path.exists(path)
        if not there and not glob.glob(f"{glob.escape(path or '')}.*"):
            raise at_key(
                recipe.file, place, f"there is no {path}; paths begin at the recipe's folder"
            )


def check_build(recipe: Recipe, graph: Model) -> None:
    """Raise InputError, with the line, where ``[build]`` does not fit the inputs of a graph."""
    for target in recipe.targets:
        try:
            engine.check(graph, target, recipe.build.options(target))
        except InputError as error:
            told = in_keys(str(error))
            if recipe.file is None:
                raise InputError(f"[build.{target}] of a recipe: {told}") from error
            raise at_key(recipe.file, ("build", target), told) from error


def joined(recipe: Recipe) -> Recipe:
    """Return the recipe with what one table says and another one needs in both."""
    before, after = agreed(recipe.preprocess, recipe.postprocess)
    section = recipe.validation
    found = {"classes": section.classes or after.classes, "output": section.output or after.output}
    return recipe.model_copy(
        update={
            "preprocess": before, "postprocess": after,
            "validation": section.model_copy(update=found),
        }
    )  # fmt: skip


def given_tables(
    preprocess: PreprocessGiven, postprocess: PostprocessGiven, trust: Trust = False
) -> tuple[Preprocess | None, Postprocess | None]:
    """Return the two tables, each None where it is not given.

    Args:
        preprocess: A TOML file with either or both, the table itself, the name of a preset, or a
            function: a callable or ``FILE.py:FUNCTION``, whose file is run.
        postprocess: Likewise; None takes that of the file ``preprocess``.
        trust: Of the functions that a file names.
    """
    before: Preprocess | None = None
    after: Postprocess | None = None
    if isinstance(preprocess, Preprocess):
        before = preprocess
    elif isinstance(preprocess, str | os.PathLike) and os.fspath(preprocess) in PRESETS:
        before = Preprocess(preset=os.fspath(preprocess))
    elif (function := _function(preprocess)) is not None:
        before = Preprocess(function=function)
    elif isinstance(preprocess, str | os.PathLike):
        before, after = read_tables(preprocess, trust)
    if isinstance(postprocess, Postprocess):
        after = postprocess
    elif (function := _function(postprocess)) is not None:
        after = Postprocess(function=function)
    elif isinstance(postprocess, str | os.PathLike):
        after = read_tables(postprocess, trust)[1]
    if before is None or after is None:
        return before, None if after is None else after.named()
    return agreed(before, after)


def class_names(classes: str | None, how: Postprocess | None) -> tuple[str, ...]:
    """Return the names of the classes that are named, in the network's order."""
    if classes is not None:
        return find_classes(classes).names
    return () if how is None else how.labels()


def _function(given: object) -> Function | None:
    """Return a function that is given as itself, as a callable or by its file; else None."""
    if isinstance(given, Function):
        return given
    if isinstance(given, str | os.PathLike):
        return Function.load(given) if is_function_path(given) else None
    return Function.of(given) if callable(given) else None


def read_tables(
    path: str | os.PathLike[str], trust: Trust | None = None
) -> tuple[Preprocess, Postprocess]:
    """Read the tables ``[preprocess]`` and ``[postprocess]`` of a recipe, whatever else is in it.

    Args:
        path: A TOML file.
        trust: Of the functions that it names; None names and hashes them, and runs none.

    Raises:
        InputError: It is not TOML, or a field is unknown or wrong, or a function is not trusted.
    """
    file = existing_file(path, "the recipe", SETTINGS_BYTES)
    document = _toml(file)
    if not {"preprocess", "postprocess"} & set(document):
        before = _validated(file, document, Preprocess, table=("preprocess",))
        return _run_functions(file, trust, before, Postprocess())
    known = {field.alias or name for name, field in Recipe.model_fields.items()}
    for key in document:
        if key not in known:
            raise unknown_key(file, key)
    before = _validated(file, document, Preprocess, at=("preprocess",))
    after = _validated(file, document, Postprocess, at=("postprocess",))
    return _run_functions(file, trust, before, after.named(file.parent))


def _toml(file: Path) -> dict[str, object]:
    try:
        return read_toml(file)
    except ValueError as error:
        raise InputError(f"{file}: not a TOML file ({error})") from error


Table = TypeVar("Table", bound=BaseModel)


def _validated(
    file: Path,
    document: Mapping[str, Any],
    kind: type[Table],
    *,
    at: tuple[str, ...] = (),
    table: tuple[str, ...] = (),
) -> Table:
    """Return a document, or the table of it at ``at``, as what it is; see `not_valid`."""
    try:
        return kind.model_validate(document.get(at[0], {}) if at else document)
    except ValidationError as error:
        raise not_valid(file, document, error, at=at, table=table) from error


def _sentence(error: ValidationError) -> str:
    """Return what is wrong with values that come from no file."""
    problems = [
        f"{'.'.join(map(str, e['loc'])) or 'the recipe'}: {e['msg'].removeprefix('Value error, ')}"
        for e in error.errors(include_url=False)
    ]
    return "; ".join(problems[:3])
