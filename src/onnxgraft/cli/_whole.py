"""Subcommands that chain stages: validate, deploy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from onnxgraft.cli._app import Json, Outcome, say, subcommand
from onnxgraft.cli._options import (
    Data,
    FreezeBatchnorm,
    Images,
    Inputs,
    ModelFile,
    Outputs,
    PreprocessFile,
    Signature,
    Trusted,
    Values,
    Weights,
    preprocess_of,
    split,
    trust_of,
)
from onnxgraft.errors import InputError
from onnxgraft.files import check_folder, check_place

__all__ = ["deploy", "validate"]

MetricName = Annotated[
    str | None, typer.Option(help="top1, top5, miou, auc, map, or FILE.py:FUNCTION.")
]


@subcommand
def validate(
    original: ModelFile,
    candidate: Annotated[Path, typer.Argument(help="An ONNX file, an engine or an original.")],
    data: Data,
    weights: Weights = None,
    preprocess: PreprocessFile = None,
    inputs: Inputs = None,
    outputs: Outputs = None,
    values: Values = [],  # noqa: B006  (typer copies it)
    signature: Signature = None,
    freeze_batchnorm: FreezeBatchnorm = False,
    trust: Trusted = [],  # noqa: B006  (typer copies it)
    metric: MetricName = None,
    classes: Annotated[
        str, typer.Option(help="Of miou: camvid, cityscapes or a file with names and categories.")
    ] = "camvid",
    metric_output: Annotated[str | None, typer.Option(help="That the metric looks at.")] = None,
    labels: Annotated[
        Path | None, typer.Option(help="A file of labels by image, where none stand beside them.")
    ] = None,
    drop: Annotated[float, typer.Option(help="Points that INT8 may lose.")] = 1.0,
    tolerance: Annotated[
        float | None,
        typer.Option(help="Of float candidates, as a fraction of an output's range."),
    ] = None,
    images: Images = None,
    bisect: Annotated[bool, typer.Option("--bisect", help="Name the guilty layer.")] = False,
    graph: Annotated[
        Path | None, typer.Option(help="The ONNX file that the engine was built from.")
    ] = None,
    candidate_weights: Annotated[
        Path | None, typer.Option(help="Weights of a candidate that is a Caffe network too.")
    ] = None,
    candidate_outputs: Annotated[
        str | None, typer.Option(help="Where to cut a candidate that is a framework's model.")
    ] = None,
    workers: Annotated[int, typer.Option(help="Processes that share the samples.")] = 1,
    ray: Annotated[str | None, typer.Option(help="Address of a Ray cluster.")] = None,
    save_inputs: Annotated[
        Path | None, typer.Option(help="For polygraphy run --load-inputs.")
    ] = None,
    save_outputs: Annotated[
        Path | None, typer.Option(help="For polygraphy run --load-outputs.")
    ] = None,
    report: Annotated[Path | None, typer.Option(help="A folder for the report.")] = None,
    as_json: Json = False,
) -> Outcome:
    """Compare a candidate with the original on data, and by a task metric."""
    from onnxgraft import commands
    from onnxgraft.stages.validate import render

    if report is not None:
        check_folder(report)
    for place in (save_inputs, save_outputs):
        check_place(place)
    if candidate.suffix == ".prototxt" and original.suffix != ".prototxt":
        # There is one network that --weights can be meant for.
        weights, candidate_weights = None, candidate_weights or weights
    found = commands.validate(
        original, candidate, data, weights=weights,
        preprocess=preprocess_of(preprocess), inputs=inputs, outputs=outputs, values=values,
        signature=signature, freeze_batchnorm=freeze_batchnorm, trust=trust_of(trust),
        candidate_how={
            "weights": candidate_weights, "outputs": candidate_outputs, "trust": trust_of(trust),
        },
        metric=metric, classes=classes, metric_output=metric_output, labels=labels, drop=drop,
        tolerance=tolerance, images=images, bisect=bisect, graph=graph, workers=workers, ray=ray,
        save_inputs=save_inputs, save_outputs=save_outputs,
    )  # fmt: skip
    if report is not None:
        commands.write_report(found, report)
    return Outcome(found.to_json(), lambda console: render(found, console), found.passed)


@subcommand
def deploy(
    recipe: Annotated[Path, typer.Argument(help="A recipe (.toml) or a model file.")],
    out: Annotated[Path | None, typer.Option("-o", "--out", help="A folder.")] = None,
    data: Annotated[str | None, typer.Option(help="Of a model file: to calibrate on.")] = None,
    validate_on: Annotated[str | None, typer.Option(help="Of a model file: to judge on.")] = None,
    weights: Weights = None,
    preprocess: PreprocessFile = None,
    inputs: Inputs = None,
    outputs: Outputs = None,
    metric: MetricName = None,
    targets: Annotated[
        str | None, typer.Option(help="Of a model file: openvino,onnxruntime if not given.")
    ] = None,
    images: Images = None,
    trust: Trusted = [],  # noqa: B006  (typer copies it)
    keep_going: Annotated[
        bool, typer.Option("--keep-going", help="Go on after a stage that breaks its tolerance.")
    ] = False,
    workers: Annotated[int, typer.Option(help="Processes that share the samples.")] = 1,
    as_json: Json = False,
) -> Outcome:
    """Take a model all the way: convert, clean, calibrate, quantize, build, validate."""
    from onnxgraft import commands
    from onnxgraft.stages.validate import render

    if recipe.suffix == ".toml":
        asked = {
            "--data": data, "--weights": weights, "--validate-on": validate_on,
            "--preprocess": preprocess, "--inputs": inputs, "--outputs": outputs,
            "--metric": metric, "--targets": targets,
        }  # fmt: skip
        for option, value in asked.items():
            if value is not None:
                raise InputError(f"{option} goes with a model file; write it into {recipe} instead")
        plan = commands.read_recipe(recipe, images=images, trust=trust_of(trust))
    else:
        plan = commands.make_recipe(
            recipe, data=data, weights=weights, validate_on=validate_on,
            preprocess=preprocess_of(preprocess), inputs=inputs, outputs=outputs, metric=metric,
            targets=split(targets) or ["openvino", "onnxruntime"], images=images,
            trust=trust_of(trust),
        )  # fmt: skip
    folder = out or Path(f"{recipe.stem}.onnxgraft")
    report = commands.deploy(plan, folder, keep_going=keep_going, workers=workers)

    def text(console: Console) -> None:
        render(report, console)
        console.print()
        say(console, f"report: {report.artifacts['report']}")

    return Outcome(report.to_json(), text, report.passed)
