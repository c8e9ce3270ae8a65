"""Subcommands that chain stages or compare runs: validate, init, recipe-schema, deploy, diff."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from onnxgraft.cli import _printing as show
from onnxgraft.cli._app import Json, Result, subcommand
from onnxgraft.cli._completion import listed
from onnxgraft.cli._options import (
    DATA,
    OUTPUT,
    RUNNING,
    TARGET,
    CandidateOutputs,
    CandidateWeights,
    Classes,
    CpuName,
    Data,
    Drop,
    Force,
    FreezeBatchnorm,
    HostList,
    HostPython,
    Images,
    Inputs,
    LabelsFile,
    MetricName,
    MetricOutput,
    ModelFile,
    Outputs,
    PostprocessFile,
    PrecisionName,
    PreprocessFile,
    Ray,
    Signature,
    Trusted,
    Values,
    Weights,
    Workers,
    trust_of,
)
from onnxgraft.targets import target_names

__all__ = ["deploy", "diff", "init", "recipe_schema", "validate"]


@subcommand(
    show.report,
    example="onnxgraft validate model.pb model.engine --data images/ --preprocess recipe.toml",
)
def validate(
    original: ModelFile,
    candidate: Annotated[
        Path, typer.Argument(help="ONNX file, engine, recording, or another original.")
    ],
    data: Data,
    weights: Weights = None,
    preprocess: PreprocessFile = None,
    postprocess: PostprocessFile = None,
    inputs: Inputs = None,
    outputs: Outputs = None,
    values: Values = [],  # noqa: B006  (typer copies it)
    signature: Signature = None,
    freeze_batchnorm: FreezeBatchnorm = False,
    trust: Trusted = [],  # noqa: B006  (typer copies it)
    metric: MetricName = None,
    classes: Classes = None,
    metric_output: MetricOutput = None,
    labels: LabelsFile = None,
    drop: Drop = None,
    tolerance: Annotated[
        float | None,
        typer.Option(
            rich_help_panel=DATA,
            help="Largest difference of a float candidate, as a fraction of an output's range.",
        ),
    ] = None,
    images: Images = None,
    bisect: Annotated[
        bool,
        typer.Option(
            "--bisect",
            rich_help_panel=RUNNING,
            help="Find the layer at which the candidate first differs from the original.",
        ),
    ] = False,
    graph: Annotated[
        Path | None,
        typer.Option(
            metavar="GRAPH.onnx",
            rich_help_panel=RUNNING,
            help="ONNX file that the engine was built from, for the limit of INT8 and --bisect.",
        ),
    ] = None,
    candidate_weights: CandidateWeights = None,
    candidate_outputs: CandidateOutputs = None,
    workers: Workers = 1,
    ray: Ray = None,
    save_inputs: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.json",
            rich_help_panel=OUTPUT,
            help="File for the inputs that were used, for polygraphy run --load-inputs.",
        ),
    ] = None,
    save_outputs: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.json",
            rich_help_panel=OUTPUT,
            help="File for both sides' outputs, for polygraphy run --load-outputs.",
        ),
    ] = None,
    hosts: HostList = None,
    host_python: HostPython = "python3",
    report: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", rich_help_panel=OUTPUT, help="Folder for the report."),
    ] = None,
    force: Force = False,
    as_json: Json = False,
) -> Result:
    """Compare a candidate with the original on data, and by a task metric."""
    from onnxgraft import commands

    return commands.validate(
        original, candidate, data, weights=weights, preprocess=preprocess,
        postprocess=postprocess, inputs=inputs, outputs=outputs, values=values,
        signature=signature, freeze_batchnorm=freeze_batchnorm, trust=trust_of(trust),
        metric=metric, classes=classes, metric_output=metric_output, labels=labels, drop=drop,
        tolerance=tolerance, images=images, bisect=bisect, graph=graph,
        candidate_weights=candidate_weights, candidate_outputs=candidate_outputs, workers=workers,
        ray=ray, save_inputs=save_inputs, save_outputs=save_outputs, hosts=hosts,
        host_python=host_python, report=report, force=force,
    )  # fmt: skip


@subcommand(show.begun, example="onnxgraft init model.pb --outputs score:0 -o recipe.toml")
def init(
    model: ModelFile,
    out: Annotated[
        Path,
        typer.Option(
            "-o", "--out", metavar="RECIPE.toml", help="Recipe to write.", rich_help_panel=OUTPUT
        ),
    ] = Path("recipe.toml"),
    weights: Weights = None,
    inputs: Inputs = None,
    outputs: Outputs = None,
    values: Values = [],  # noqa: B006  (typer copies it)
    signature: Signature = None,
    freeze_batchnorm: FreezeBatchnorm = False,
    trust: Trusted = [],  # noqa: B006  (typer copies it)
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="DATA",
            rich_help_panel=DATA,
            help="Calibration data; left to be filled in if not given.",
        ),
    ] = None,
    targets: Annotated[
        str | None,
        typer.Option(
            metavar="TARGETS",
            rich_help_panel=TARGET,
            help="Targets to build for; the CPU targets if not given.",
        ),
    ] = None,
    schema: Annotated[
        bool,
        typer.Option(
            "--schema/--no-schema",
            rich_help_panel=OUTPUT,
            help="Write recipe.schema.json beside the recipe, so that editors complete its keys.",
        ),
    ] = True,
    force: Annotated[
        bool,
        typer.Option("--force", help="Replace files that are there.", rich_help_panel=OUTPUT),
    ] = False,
    as_json: Json = False,
) -> Result:
    """Write a recipe of a model, with what the model tells and a comment for every key."""
    from onnxgraft import commands

    return commands.init(
        model, out, weights=weights, inputs=inputs, outputs=outputs, values=values,
        signature=signature, freeze_batchnorm=freeze_batchnorm, trust=trust_of(trust), data=data,
        targets=targets, schema=schema, force=force,
    )  # fmt: skip


@subcommand(show.schema, example="onnxgraft recipe-schema -o recipe.schema.json")
def recipe_schema(
    out: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--out",
            metavar="FILE.json",
            help="File to write; printed if not given.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    as_json: Json = False,
) -> Result:
    """Print the JSON schema of a recipe, from which editors complete and check it."""
    from onnxgraft import commands

    return commands.recipe_schema(out)


@subcommand(show.deployed, example="onnxgraft deploy recipe.toml -o deployed/")
def deploy(
    recipe: Annotated[Path, typer.Argument(help="Recipe (.toml) or model file.")],
    out: Annotated[
        Path | None,
        typer.Option(
            "-o", "--out", metavar="FOLDER", help="Folder to write.", rich_help_panel=OUTPUT
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="DATA",
            rich_help_panel=DATA,
            help="Calibration data, where a model file is given.",
        ),
    ] = None,
    validate_on: Annotated[
        str | None,
        typer.Option(
            metavar="DATA",
            rich_help_panel=DATA,
            help="Validation data, where a model file is given; a quarter of --data, which is then "
            "not calibrated on, if not given.",
        ),
    ] = None,
    weights: Weights = None,
    preprocess: PreprocessFile = None,
    postprocess: PostprocessFile = None,
    inputs: Inputs = None,
    outputs: Outputs = None,
    metric: MetricName = None,
    labels: LabelsFile = None,
    classes: Classes = None,
    targets: Annotated[
        str | None,
        typer.Option(
            metavar="TARGETS",
            rich_help_panel=TARGET,
            autocompletion=listed(target_names()),
            help="Targets to build for, where a model file is given; the CPU targets that are "
            "installed if not given.",
        ),
    ] = None,
    precision: Annotated[
        PrecisionName | None,
        typer.Option(
            rich_help_panel=TARGET,
            help="Precision of the engines, where a model file is given: int8 (the default) and "
            "fp8 quantize, fp8 for TensorRT alone.",
        ),
    ] = None,
    cpu: CpuName = None,
    images: Images = None,
    trust: Trusted = [],  # noqa: B006  (typer copies it)
    keep_going: Annotated[
        bool,
        typer.Option(
            "--keep-going",
            rich_help_panel=RUNNING,
            help="Continue after a stage that exceeds its tolerance.",
        ),
    ] = False,
    workers: Workers = 1,
    force: Force = False,
    from_stage: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="STAGE",
            rich_help_panel=RUNNING,
            help="Make this stage and all after it again: convert, surgery, calibrate, quantize, "
            "build, validate or bench.",
        ),
    ] = None,
    fresh: Annotated[
        bool,
        typer.Option(
            "--fresh",
            rich_help_panel=RUNNING,
            help="Make every stage again, and not only what has changed since the last run.",
        ),
    ] = False,
    as_json: Json = False,
) -> Result:
    """Take a model all the way: convert, clean, calibrate, quantize, build, validate."""
    from onnxgraft import commands

    return commands.deploy(
        recipe, out, data=data, validate_on=validate_on, weights=weights, preprocess=preprocess,
        postprocess=postprocess, inputs=inputs, outputs=outputs, metric=metric, labels=labels,
        classes=classes, targets=targets, precision=precision, cpu=cpu,
        images=images, trust=trust_of(trust), keep_going=keep_going, workers=workers, force=force,
        from_stage=from_stage, fresh=fresh,
    )  # fmt: skip


def _limit(unit: str, text: str) -> Any:
    return typer.Option(metavar=unit, help=text, rich_help_panel="Allowed")


@subcommand(show.compared, example="onnxgraft diff before/ after/ --metric-drop 0.3 --slower 10")
def diff(
    before: Annotated[Path, typer.Argument(help="Folder of a run, its report.json, or an engine.")],
    after: Annotated[Path, typer.Argument(help="Another, to be held against the first.")],
    metric_drop: Annotated[
        float | None, _limit("POINTS", "How much a metric may lose, in its own unit.")
    ] = None,
    slower: Annotated[
        float | None, _limit("PERCENT", "How much more time an inference may take.")
    ] = None,
    larger: Annotated[float | None, _limit("PERCENT", "How much larger an engine may be.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "-o", "--out", metavar="PAGE.html", help="Web page to write.", rich_help_panel=OUTPUT
        ),
    ] = None,
    force: Force = False,
    as_json: Json = False,
) -> Result:
    """Compare two runs; the exit status is 1 where the second is worse than it may be."""
    from onnxgraft import commands

    return commands.diff(
        before, after, metric_drop=metric_drop, slower=slower, larger=larger, out=out, force=force
    )
