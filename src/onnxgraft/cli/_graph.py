"""Subcommands on graphs: inspect, convert, surgery, view."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from onnxgraft.cli import _printing as show
from onnxgraft.cli._app import Json, Result, subcommand
from onnxgraft.cli._completion import one_of
from onnxgraft.cli._options import (
    MODEL,
    OUTPUT,
    RUNNING,
    Force,
    FreezeBatchnorm,
    Inputs,
    Layout,
    ModelFile,
    Opset,
    Out,
    Outputs,
    Signature,
    Trusted,
    Values,
    Weights,
    trust_of,
)
from onnxgraft.targets import TARGETS

__all__ = ["convert", "inspect", "surgery", "view"]

PASSES = "Passes"


@subcommand(show.inspection, example="onnxgraft inspect model.pb")
def inspect(
    model: Annotated[Path, typer.Argument(help="Model file, engine, passport, ranges, or bundle.")],
    weights: Weights = None,
    signature: Signature = None,
    trust: Trusted = [],  # noqa: B006  (typer copies it)
    as_json: Json = False,
) -> Result:
    """Print what a file holds: a model's inputs, outputs and operators; what an engine is."""
    from onnxgraft import commands

    return commands.inspect(model, weights=weights, signature=signature, trust=trust_of(trust))


@subcommand(show.converted, example="onnxgraft convert model.pb --outputs score:0 -o model.onnx")
def convert(
    model: ModelFile,
    out: Out,
    weights: Weights = None,
    inputs: Inputs = None,
    outputs: Outputs = None,
    values: Values = [],  # noqa: B006  (typer copies it)
    io_layout: Annotated[
        Layout, typer.Option(help="Layout of 4-D inputs and outputs.", rich_help_panel=MODEL)
    ] = "keep",
    opset: Opset = None,
    signature: Signature = None,
    freeze_batchnorm: FreezeBatchnorm = False,
    trust: Trusted = [],  # noqa: B006  (typer copies it)
    raw: Annotated[
        bool,
        typer.Option("--raw", help="Stop before the clean-up.", rich_help_panel=RUNNING),
    ] = False,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify/--no-verify",
            help="Compare the result with the original.",
            rich_help_panel=RUNNING,
        ),
    ] = True,
    force: Force = False,
    as_json: Json = False,
) -> Result:
    """Convert a model to a clean ONNX graph and compare it with the original."""
    from onnxgraft import commands

    return commands.convert(
        model, out, weights=weights, inputs=inputs, outputs=outputs, values=values,
        io_layout=io_layout, opset=opset, signature=signature, freeze_batchnorm=freeze_batchnorm,
        trust=trust_of(trust), raw=raw, verify=verify, force=force,
    )  # fmt: skip


@subcommand(show.operated, example="onnxgraft surgery model.onnx -o clean.onnx --explain")
def surgery(
    model: Annotated[Path | None, typer.Argument(help="ONNX file.")] = None,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", metavar="FILE", help="File to write.", rich_help_panel=OUTPUT),
    ] = None,
    list_passes: Annotated[
        bool, typer.Option("--list", help="List the passes.", rich_help_panel=PASSES)
    ] = False,
    only: Annotated[
        str | None,
        typer.Option(metavar="PASSES", help="Passes to run: a,b.", rich_help_panel=PASSES),
    ] = None,
    skip: Annotated[
        str | None,
        typer.Option(metavar="PASSES", help="Passes to leave out: a,b.", rich_help_panel=PASSES),
    ] = None,
    extra: Annotated[
        str | None,
        typer.Option(
            metavar="PASSES", help="Optional passes to run too: a,b.", rich_help_panel=PASSES
        ),
    ] = None,
    inputs: Inputs = None,
    outputs: Outputs = None,
    target: Annotated[
        str | None,
        typer.Option(
            "--for",
            metavar="TARGET",
            autocompletion=one_of(target.name for target in TARGETS if target.lowering),
            rich_help_panel=PASSES,
            help="Write what this target lacks in other operators: "
            f"{', '.join(target.name for target in TARGETS if target.lowering)}.",
        ),
    ] = None,
    plugin: Annotated[
        list[str],
        typer.Option(
            metavar="OP=PLUGIN",
            rich_help_panel=PASSES,
            help="TensorRT plugin that stands for a custom operator: OP=NAME:VERSION.",
        ),
    ] = [],  # noqa: B006  (typer copies it)
    verify: Annotated[
        bool | None,
        typer.Option(
            "--verify/--no-verify",
            rich_help_panel=RUNNING,
            help="Compare the cleaned graph with the original one; if neither is given, for models "
            "of up to 1 GB and for up to 60 s.",
        ),
    ] = None,
    explain: Annotated[
        bool,
        typer.Option(
            "--explain",
            rich_help_panel=OUTPUT,
            help="Print what each pass did and refused, node by node.",
        ),
    ] = False,
    report: Annotated[
        Path | None,
        typer.Option(
            metavar="REPORT.json",
            rich_help_panel=OUTPUT,
            help="File for a report of what was done, as JSON.",
        ),
    ] = None,
    force: Force = False,
    as_json: Json = False,
) -> Result:
    """Clean an ONNX graph, and verify that it computes the same as before."""
    from onnxgraft import commands

    return commands.surgery(
        model, out, list_passes=list_passes, only=only, skip=skip, extra=extra, inputs=inputs,
        outputs=outputs, target=target, plugin=plugin, verify=verify, explain=explain,
        report=report, force=force,
    )  # fmt: skip


@subcommand(show.viewed, example="onnxgraft view model.pb -o graph.html")
def view(
    model: Annotated[Path, typer.Argument(help="Model file, engine, or folder that deploy wrote.")],
    weights: Weights = None,
    inputs: Inputs = None,
    outputs: Outputs = None,
    signature: Signature = None,
    trust: Trusted = [],  # noqa: B006  (typer copies it)
    ranges: Annotated[
        Path | None,
        typer.Option(
            metavar="RANGES.json",
            rich_help_panel=MODEL,
            help="Ranges of the model's tensors, which calibrate wrote.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--out",
            metavar="FILE.html",
            rich_help_panel=OUTPUT,
            help="Page to write; NAME.html here if it is not given.",
        ),
    ] = None,
    open: Annotated[
        bool | None,
        typer.Option(
            "--open/--no-open",
            rich_help_panel=OUTPUT,
            help="Show the page in the browser; if neither is given, where this is a terminal.",
        ),
    ] = None,
    force: Force = False,
    as_json: Json = False,
) -> Result:
    """Write a page that lets one walk through a model's graphs, before and after."""
    from onnxgraft import commands

    return commands.view(
        model, weights=weights, inputs=inputs, outputs=outputs, signature=signature,
        trust=trust_of(trust), ranges=ranges, out=out, open=open, force=force,
    )  # fmt: skip
