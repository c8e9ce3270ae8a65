"""`deploy`: the whole road, from a recipe or from a model file."""

from __future__ import annotations

from pathlib import Path

from onnxgraft.commands._arguments import Names, names
from onnxgraft.commands._defaults import deployed_targets
from onnxgraft.commands._deployment import run_recipe
from onnxgraft.commands._opening import ModelGiven, Place
from onnxgraft.commands._order import DATA, IMAGE, MODEL, check_order
from onnxgraft.commands._outputs import check_deployed
from onnxgraft.commands._recipe import (
    PostprocessGiven,
    PreprocessGiven,
    Recipe,
    check_files,
    given_tables,
    joined,
    make_recipe,
    read_recipe,
)
from onnxgraft.data.functions import Given
from onnxgraft.data.samples import Data
from onnxgraft.errors import InputError
from onnxgraft.files.trust import Trust
from onnxgraft.stages.convert import written
from onnxgraft.stages.validate import find_metric
from onnxgraft.stages.validate.report import Report
from onnxgraft.targets import Precision

__all__ = ["deploy"]


def deploy(
    recipe: ModelGiven | Recipe,
    out: Place | None = None,
    *,
    data: Data = None,
    validate_on: Data = None,
    weights: Place | None = None,
    preprocess: PreprocessGiven = None,
    postprocess: PostprocessGiven = None,
    inputs: str | None = None,
    outputs: str | None = None,
    metric: Given | None = None,
    labels: Place | None = None,
    classes: str | None = None,
    targets: Names = None,
    precision: Precision | None = None,
    cpu: str | None = None,
    images: int | None = None,
    trust: Trust = False,
    keep_going: bool = False,
    workers: int = 1,
    force: bool = False,
    from_stage: str | None = None,
    fresh: bool = False,
) -> Report:
    """Take a model all the way: convert, clean, calibrate, quantize, build, validate.

    Args:
        recipe: A recipe (``.toml``) or a model file; or the recipe itself, or a model as `convert`
            takes it.
        out: A folder, made if it is not there; None takes ``NAME.onnxgraft``. It holds
            ``model.onnx``, ``ranges.json``, for each target ``model.int8.TARGET.onnx`` (or
            another precision) and an engine with its passport, and the report as ``report.html``,
            ``report.json`` and ``junit.xml``.
        data: Of a model file: the data to calibrate on; a path, samples, or arrays, an iterable, a
            dataset, a loader, or a function that returns one: see `open_samples`.
        validate_on: Of a model file: the data to validate on; None keeps a quarter of ``data`` for
            it, which is not calibrated on.
        weights: Of a prototxt: the weights.
        preprocess: Of a model file: a TOML file with a ``[preprocess]`` table, or the recipe; or
            the name of a preset, or a function.
        postprocess: Of a model file: a TOML file with a ``[postprocess]`` table, or the table, or a
            function; None takes that of the file ``preprocess``.
        inputs: Of a model file: where to cut its beginning.
        outputs: Of a model file: where to cut its end.
        metric: Of a model file: the task metric, or a function of an output and its label.
        labels: Of a model file: a file or folder of labels by image.
        classes: Of a model file: those of the metric, a file or ``camvid`` or ``cityscapes``.
        targets: Of a model file: what to build for; None takes the CPU targets that are
            installed.
        precision: Of a model file: what the engines are built in; ``int8``, which None takes, and
            ``fp8`` quantize.
        cpu: The processor that the engines are for; None is this machine's.
        images: How many samples to calibrate and to validate on; None takes all.
        trust: Load a Keras file or a .pt2 that brings code, and run the functions that a recipe
            names: True, or the names of what may.
        keep_going: Go on after a stage that exceeds its tolerance; otherwise nothing after it is
            made, and the report says where the two begin to differ.
        workers: Processes that share the validation samples.
        force: Replace an existing file of another kind, too.
        from_stage: Make this stage and all after it again: ``convert``, ``surgery``, ``calibrate``,
            ``quantize``, ``build``, ``validate`` or ``bench``. Otherwise a stage is taken over
            from an earlier run into the same folder where nothing that it reads has changed.
        fresh: Make every stage again.

    Returns:
        The report; ``passed`` says whether everything is within its tolerance.

    Raises:
        InputError: The recipe or a file in it can't be used.
    """
    given = {
        "--data": data, "--weights": weights, "--validate-on": validate_on,
        "--preprocess": preprocess, "--postprocess": postprocess, "--inputs": inputs,
        "--outputs": outputs, "--metric": metric, "--labels": labels, "--classes": classes,
        "--targets": targets, "--precision": precision, "--cpu": cpu,
    }  # fmt: skip
    check_order((recipe, (MODEL,)), (data, (DATA, IMAGE)), "deploy {0} --data {1}")
    recipe = recipe if isinstance(recipe, Recipe) else written(recipe)
    whole = isinstance(recipe, Recipe) or Path(recipe).suffix == ".toml"
    for option, value in given.items():
        if whole and value is not None:
            raise InputError(f"{option} goes with a model file; write it into {recipe} instead")
    if isinstance(recipe, Recipe):
        plan, name = recipe, Path(recipe.model).stem
    elif whole:
        plan, name = read_recipe(recipe, images=images, trust=trust), Path(recipe).stem
        check_files(plan)
    else:
        before, after = given_tables(preprocess, postprocess, trust)
        plan, name = make_recipe(
            recipe, data=data, weights=weights, validate_on=validate_on,
            preprocess=before, postprocess=after, inputs=inputs, outputs=outputs,
            metric=None if metric is None else find_metric(metric), labels=labels, classes=classes,
            targets=names(targets) or deployed_targets(), precision=precision, cpu=cpu,
            images=images, trust=trust,
        ), Path(recipe).stem  # fmt: skip
    folder = Path(f"{name}.onnxgraft") if out is None else Path(out)
    data = (plan.calibrate.data, plan.validation.data, plan.validation.labels)
    read = [plan.file, plan.model, plan.weights, *data]
    check_deployed(folder, [f for f in read if isinstance(f, str | Path)], force=force)
    return run_recipe(
        joined(plan), folder, keep_going=keep_going, workers=workers, begin=from_stage, fresh=fresh
    )
