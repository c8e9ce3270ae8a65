"""The recipe of a deployment: one TOML file with the model, the data and the targets."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PositiveInt,
    PrivateAttr,
    ValidationError,
)

from onnxgraft.data.classes import find_classes
from onnxgraft.data.functions import Function, Given, is_function_path
from onnxgraft.data.postprocess import Postprocess
from onnxgraft.data.preprocess import Preprocess
from onnxgraft.data.presets import PRESETS
from onnxgraft.data.samples import Data, Samples
from onnxgraft.data.streams import is_data, title_of
from onnxgraft.errors import InputError, nearest
from onnxgraft.files import existing_file, read_toml
from onnxgraft.files.limits import SETTINGS_BYTES
from onnxgraft.files.trust import Trust
from onnxgraft.stages.convert import IoLayout, Original
from onnxgraft.stages.quantize import DEFAULT_IMPROVEMENTS, Choice, Improvement
from onnxgraft.targets import TARGETS, Floats, WeightType, find_target

__all__ = [
    "BenchSection",
    "CalibrateSection",
    "PostprocessGiven",
    "PreprocessGiven",
    "QuantizeSection",
    "Recipe",
    "ValidateSection",
    "agreed",
    "class_names",
    "given_tables",
    "joined",
    "make_recipe",
    "read_recipe",
    "read_tables",
]


def _known(name: str) -> str:
    try:
        return find_target(name).name
    except InputError as error:
        raise ValueError(str(error)) from error


# A TOML file or the table itself, a function, and of preprocessing the name of a preset.
PreprocessGiven = str | os.PathLike[str] | Preprocess | Callable[..., Any] | None
PostprocessGiven = str | os.PathLike[str] | Postprocess | Callable[..., Any] | None
TargetName = Annotated[str, AfterValidator(_known)]
DEFAULT_TARGETS = tuple(target.name for target in TARGETS if target.default)


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid")


class CalibrateSection(_Section):
    """What the network is calibrated on.

    Attributes:
        data: A folder, a list file or an ``.npz``.
        method: How ranges are chosen; ``auto`` takes the method that is best for the network.
        images: How many samples; None takes all.
        seed: Chooses which.
    """

    data: str
    method: Choice = "auto"
    images: int | None = None
    seed: int = 0
    _given: Data = PrivateAttr(None)

    @property
    def source(self) -> Data:
        """The data: what Python gave, or where they are."""
        return self.data if self._given is None else self._given


class QuantizeSection(_Section):
    """How the graphs in integers are made.

    Attributes:
        weights: ``int8`` or ``int4`` stores the weights of MatMul and Gemm so, rounded on the
            calibration data, and leaves activations in float; None makes INT8 graphs.
        block: Of ``weights``, how many along the input axis share a scale; None takes the target's.
        improve: Methods of `onnxgraft.stages.quantize.improve`, on the calibration data.
        budget: ``METRIC=DROP`` to stay in, on the validation data; None keeps everything in INT8.
        trials: How many mixes a search within the budget may try.
        float: What each target's float layers run in, where not ``fp32``: ``fp16`` for tensorrt,
            ``bf16`` for openvino.
    """

    weights: WeightType | None = None
    block: int | None = None
    improve: tuple[Improvement, ...] = DEFAULT_IMPROVEMENTS
    budget: str | None = None
    trials: PositiveInt = 24
    float: dict[TargetName, Floats] = Field(default_factory=dict)


class ValidateSection(_Section):
    """What the engines are validated on.

    Attributes:
        data: A folder, a list file or an ``.npz``; with labels if there is a metric. None, as where
            it is that of ``[calibrate]``, keeps a quarter of the calibration data for it.
        metric: One of `validate.METRICS` or ``FILE.py:FUNCTION``, whose file is run; None compares
            outputs alone.
        classes: Of ``miou`` and ``map``: ``camvid``, ``cityscapes`` or a file; None takes those of
            ``[postprocess]``, or counts them by the output's channels, and numbers them.
        output: The output that the metric looks at; None takes that of ``[postprocess]``, or the
            first.
        labels: A file or folder of labels by image, where they do not stand beside the images.
        drop: What the metric may lose in INT8, in its unit; None takes 1 % of its scale, or of the
            original's value.
        images: How many samples; None takes all.
    """

    data: str | None = None
    metric: str | Function | None = None
    classes: str | None = None
    output: str | None = None
    labels: str | None = None
    drop: float | None = None
    images: int | None = None
    _given: Data = PrivateAttr(None)

    @property
    def source(self) -> Data:
        """The data: what Python gave, or where they are; None where there are none of their own."""
        return self.data if self._given is None else self._given


class BenchSection(_Section):
    """How latency is measured.

    Attributes:
        batches: Images in one inference.
        rounds: How often the engines take turns.
        runs: Inferences in a turn.
    """

    batches: tuple[PositiveInt, ...] = (1,)
    rounds: PositiveInt = 5
    runs: PositiveInt = 10


class Recipe(_Section):
    """A whole deployment; the fields are the parameters of the commands that it chains."""

    model: str
    weights: str | None = None
    inputs: str | None = None
    outputs: str | None = None
    set: tuple[str, ...] = ()
    signature: str | None = None
    freeze_batchnorm: bool = False
    opset: int | None = None
    io_layout: IoLayout = "keep"
    targets: tuple[TargetName, ...] = DEFAULT_TARGETS
    cpu: str | None = None
    keep_float: tuple[str, ...] = ()
    preprocess: Preprocess = Field(default_factory=Preprocess)
    postprocess: Postprocess = Field(default_factory=Postprocess)
    calibrate: CalibrateSection
    quantize: QuantizeSection = Field(default_factory=QuantizeSection)
    validation: ValidateSection = Field(alias="validate", default_factory=ValidateSection)
    bench: BenchSection = Field(default_factory=BenchSection)
    _file: Path | None = PrivateAttr(None)
    # No field: what is trusted is named on the command line, and not by a file.
    _trust: Trust = PrivateAttr(False)

    @property
    def file(self) -> Path | None:
        """The file that it was read from, if there is one."""
        return self._file

    @property
    def original(self) -> Original:
        """The model, and how it is opened."""
        return Original.of(
            self.model,
            weights=self.weights,
            inputs=self.inputs,
            outputs=self.outputs,
            values=self.set,
            signature=self.signature,
            freeze_batchnorm=self.freeze_batchnorm,
            trust=self._trust,
        )


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
    document = _toml(file)
    try:
        recipe = Recipe.model_validate(document)
    except ValidationError as error:
        raise InputError(f"{file}: {_sentence(error)}") from error
    recipe._file, recipe._trust = file, trust
    recipe.preprocess, recipe.postprocess = _run_functions(
        file, trust, recipe.preprocess, recipe.postprocess.named(file.parent)
    )
    section = recipe.validation
    paths: list[tuple[_Section, str]] = [
        (recipe, "model"), (recipe, "weights"), (recipe.calibrate, "data"), (section, "data"),
        (section, "labels"),
    ]  # fmt: skip
    if isinstance(section.metric, str) and is_function_path(section.metric):
        named = Function(section.metric).located(file.parent)
        section.metric = named.loaded(trust, f"{file}: [validate] metric")
    budget = recipe.quantize.budget or ""
    if is_function_path(budget):
        named = Function(budget.rpartition("=")[0]).located(file.parent)
        named.loaded(trust, f"{file}: [quantize] budget")
        paths.append((recipe.quantize, "budget"))
    if section.classes is not None and Path(section.classes).suffix:
        paths.append((section, "classes"))
    for holder, name in paths:
        if getattr(holder, name) is not None:
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
            "cpu": cpu,
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
        named = function.located(file.parent)
        if trust is None:
            return {"function": named}
        return {"function": named.loaded(trust, f"{file}: [{table}] function")}

    return (
        before.model_copy(update=loaded(before.function, "preprocess")),
        after.model_copy(update=loaded(after.function, "postprocess")),
    )


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


def agreed(before: Preprocess, after: Postprocess) -> tuple[Preprocess, Postprocess]:
    """Return the two tables with a letterbox in both, and the names of classes read.

    Raises:
        InputError: One says that there is a letterbox, and the other that there is none.
    """
    if after.letterbox and before.letterbox is None:
        if before.resize is None:
            raise InputError(
                "[postprocess] letterbox says how the image is resized: set resize = [height, "
                "width] in [preprocess]"
            )
        before = Preprocess.model_validate({**before.model_dump(), "letterbox": True})
    if after.letterbox is False and before.letterbox is not None:
        raise InputError("letterbox is set in [preprocess], and false in [postprocess]")
    return before, after.named()


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
    try:
        plain = not {"preprocess", "postprocess"} & set(document)
        known = {field.alias or name for name, field in Recipe.model_fields.items()}
        for key in document:
            if not plain and key not in known:
                raise InputError(
                    f"{file}: no part of a recipe is called {key!r}; {nearest(key, known)}"
                )
        return _run_functions(
            file, trust,
            Preprocess.model_validate(document if plain else document.get("preprocess", {})),
            Postprocess.model_validate(document.get("postprocess", {})).named(file.parent),
        )  # fmt: skip
    except ValidationError as error:
        raise InputError(f"{file}: {_sentence(error)}") from error


def _toml(file: Path) -> dict[str, object]:
    try:
        return read_toml(file)
    except ValueError as error:
        raise InputError(f"{file}: not a TOML file ({error})") from error


def _sentence(error: ValidationError) -> str:
    problems = [
        f"{'.'.join(map(str, e['loc'])) or 'the recipe'}: {e['msg'].lower()}"
        for e in error.errors(include_url=False)
    ]
    return "; ".join(problems[:3])
