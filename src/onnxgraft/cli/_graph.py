"""Subcommands on graphs: inspect, convert, surgery."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from onnxgraft.cli._app import Json, Outcome, say, subcommand
from onnxgraft.cli._options import (
    FreezeBatchnorm,
    Inputs,
    Layout,
    ModelFile,
    Out,
    Outputs,
    Signature,
    Trust,
    Values,
    Weights,
    print_verdicts,
    split,
)
from onnxgraft.errors import InputError
from onnxgraft.files import check_place

__all__ = ["convert", "inspect", "surgery"]


@subcommand
def inspect(
    model: ModelFile,
    weights: Weights = None,
    signature: Signature = None,
    trust: Trust = False,
    as_json: Json = False,
) -> Outcome:
    """Print what a model file holds: inputs, outputs, operators, training leftovers."""
    from onnxgraft import convert

    found = convert.inspect(model, weights=weights, signature=signature, trust=trust)

    def text(console: Console) -> None:
        say(console, f"{found.path}: {found.framework}, {found.parameters:,} parameters")
        for title, lines in (
            ("inputs", found.inputs),
            ("outputs", found.outputs),
            ("variables left", found.variables),
            ("left of training", found.training),
            ("dynamic shapes", found.dynamic),
            ("layout", found.layout),
            ("operators in the way", found.unsupported),
            ("layers", found.layers),
            ("notes", found.notes),
        ):
            if lines:
                console.print(f"[bold]{title}[/]")
                for line in lines:
                    say(console, f"  {line}")
        operators = ", ".join(f"{count} {op}" for op, count in found.operators.items())
        total = sum(found.operators.values())
        console.print(f"[bold]{total} nodes[/]\n  {operators}", highlight=False)

    return Outcome(asdict(found), text)


@subcommand
def convert(
    model: ModelFile,
    out: Out,
    weights: Weights = None,
    inputs: Inputs = None,
    outputs: Outputs = None,
    values: Values = [],  # noqa: B006  (typer copies it)
    io_layout: Annotated[Layout, typer.Option(help="Of 4-D inputs and outputs.")] = Layout.keep,
    opset: Annotated[int, typer.Option(help="Of the ONNX graph.")] = 17,
    signature: Signature = None,
    freeze_batchnorm: FreezeBatchnorm = False,
    trust: Trust = False,
    raw: Annotated[bool, typer.Option("--raw", help="Stop before the clean-up.")] = False,
    no_verify: Annotated[bool, typer.Option("--no-verify", help="Do not compare.")] = False,
    as_json: Json = False,
) -> Outcome:
    """Convert a model to a clean ONNX graph and compare it with the original."""
    from onnxgraft import pipeline

    check_place(out)
    done = pipeline.convert(
        model, weights=weights, inputs=inputs, outputs=outputs, values=values, opset=opset,
        io_layout=io_layout.value, signature=signature, freeze_batchnorm=freeze_batchnorm,
        trust=trust, raw=raw, verify=not no_verify, out=out,
    )  # fmt: skip
    nodes = len(done.model.graph.nodes)

    def text(console: Console) -> None:
        for note in done.notes:
            say(console, f"note: {note}")
        before = "" if done.surgery is None else f", {sum(done.surgery.before.values())} before"
        say(console, f"{out}: {nodes} nodes{before}")
        for kind, specs in (("input", done.model.inputs), ("output", done.model.outputs)):
            for spec in specs:
                say(console, f"  {kind} {spec}")
        print_verdicts(console, done.verdicts)
        if done.parting is not None:
            say(console, f"{done.parting}")

    data = {
        "out": str(out),
        "nodes": nodes,
        "operators": done.model.operators(),
        "inputs": [str(spec) for spec in done.model.inputs],
        "outputs": [str(spec) for spec in done.model.outputs],
        "notes": done.notes,
        "verified": not no_verify,
        "verdicts": [asdict(verdict) for verdict in done.verdicts],
        "parting": None if done.parting is None else asdict(done.parting),
    }
    return Outcome(data, text, done.passed)


@subcommand
def surgery(
    model: Annotated[Path | None, typer.Argument(help="An ONNX file.")] = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="What to write.")] = None,
    list_passes: Annotated[bool, typer.Option("--list", help="List the passes.")] = False,
    only: Annotated[str | None, typer.Option(help="Passes to run: a,b.")] = None,
    skip: Annotated[str | None, typer.Option(help="Passes to leave out: a,b.")] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Say why, node by node.")] = False,
    report: Annotated[Path | None, typer.Option(help="Where to write it as JSON.")] = None,
    as_json: Json = False,
) -> Outcome:
    """Clean an ONNX graph and compare its outputs before and after."""
    from onnxgraft import surgery as stage
    from onnxgraft.files import write_json
    from onnxgraft.model import Model

    if list_passes:
        summaries = {item.name: item.summary for item in stage.PASSES}

        def names(console: Console) -> None:
            for name, summary in summaries.items():
                console.print(f"[bold]{name}[/]  {summary}", highlight=False)

        return Outcome({"passes": summaries}, names)
    if model is None or (out is None and not explain):
        raise InputError("name an ONNX file, and what to write with -o; or use --list or --explain")
    for place in (out, report):
        check_place(place)
    cleaned, done = stage.run(Model.load(model), only=split(only), skip=split(skip), verify=True)
    if out is not None:
        cleaned.save(out)
    data = asdict(done)
    if report is not None:
        write_json(report, data)

    def text(console: Console) -> None:
        before, after = sum(done.before.values()), sum(done.after.values())
        say(console, f"{out or model}: {before} nodes became {after}")
        for item in done.passes:
            if item.done or (explain and item.refused):
                console.print(f"[bold]{item.name}[/]: {len(item.done)} rewrites")
            for mark, findings in (("done", item.done), ("refused", item.refused)):
                for finding in findings if explain else []:
                    line = f"  {mark}: {finding.node}: {finding.sentence}"
                    say(console, line)
        print_verdicts(console, done.verdicts)

    return Outcome({"out": None if out is None else str(out), **data}, text, done.passed)
