"""Subcommands on graphs: inspect, convert, surgery."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

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
    Trusted,
    Values,
    Weights,
    print_verdicts,
    split,
    trust_of,
)
from onnxgraft.errors import InputError
from onnxgraft.files import check_place

__all__ = ["convert", "inspect", "surgery"]


@subcommand
def inspect(
    model: ModelFile,
    weights: Weights = None,
    signature: Signature = None,
    trust: Trusted = [],  # noqa: B006  (typer copies it)
    as_json: Json = False,
) -> Outcome:
    """Print what a model file holds: inputs, outputs, operators, training leftovers."""
    from onnxgraft.stages import convert

    found = convert.inspect(model, weights=weights, signature=signature, trust=trust_of(trust))

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
    io_layout: Annotated[Layout, typer.Option(help="Of 4-D inputs and outputs.")] = "keep",
    opset: Annotated[int, typer.Option(help="Of the ONNX graph.")] = 17,
    signature: Signature = None,
    freeze_batchnorm: FreezeBatchnorm = False,
    trust: Trusted = [],  # noqa: B006  (typer copies it)
    raw: Annotated[bool, typer.Option("--raw", help="Stop before the clean-up.")] = False,
    no_verify: Annotated[bool, typer.Option("--no-verify", help="Do not compare.")] = False,
    as_json: Json = False,
) -> Outcome:
    """Convert a model to a clean ONNX graph and compare it with the original."""
    from onnxgraft import commands

    check_place(out)
    done = commands.convert(
        model, weights=weights, inputs=inputs, outputs=outputs, values=values, opset=opset,
        io_layout=io_layout, signature=signature, freeze_batchnorm=freeze_batchnorm,
        trust=trust_of(trust), raw=raw, verify=not no_verify, out=out,
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
    extra: Annotated[str | None, typer.Option(help="Optional passes to run too: a,b.")] = None,
    inputs: Inputs = None,
    outputs: Outputs = None,
    target: Annotated[
        str | None, typer.Option("--for", help="tensorrt: write what it lacks otherwise.")
    ] = None,
    plugin: Annotated[
        list[str],
        typer.Option(metavar="OP=PLUGIN", help="A custom operator's plugin: OP=NAME:VERSION."),
    ] = [],  # noqa: B006  (typer copies it)
    verify: Annotated[
        bool | None,
        typer.Option(
            "--verify/--no-verify",
            help="Run what the passes made beside what they got; if not said, up to 1 GB and 60 s.",
        ),
    ] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Say why, node by node.")] = False,
    report: Annotated[Path | None, typer.Option(help="Where to write it as JSON.")] = None,
    as_json: Json = False,
) -> Outcome:
    """Clean an ONNX graph; what the passes made is compared with what they were given."""
    from onnxgraft.files import write_json
    from onnxgraft.graph.model import Model
    from onnxgraft.graph.tensor_option import parse_tensors
    from onnxgraft.stages import surgery as stage

    if list_passes:
        summaries = {item.name: item.summary for item in stage.PASSES}

        def names(console: Console) -> None:
            for item in stage.PASSES:
                say(console, f"{item.name}: {item.summary}{_condition(item)}")

        return Outcome({"passes": summaries}, names)
    if model is None or (out is None and not explain):
        raise InputError("name an ONNX file, and what to write with -o; or use --list or --explain")
    plugins = dict(_plugin(item) for item in plugin)
    if plugins and target != "tensorrt":
        raise InputError("--plugin names plugins of TensorRT; say --for tensorrt too")
    for place in (out, report):
        check_place(place)
    loaded = Model.load(model)
    if inputs or outputs:
        loaded = stage.extract(loaded, parse_tensors(inputs), parse_tensors(outputs))
    cleaned, done = stage.run(
        loaded, only=split(only), skip=split(skip), extra=split(extra), target=target,
        plugins=plugins, verify=verify,
    )  # fmt: skip
    if out is not None:
        cleaned.save(out)
    data = asdict(done)
    if report is not None:
        write_json(report, data)

    def text(console: Console) -> None:
        before, after = sum(done.before.values()), sum(done.after.values())
        say(console, f"{out or model}: {before} nodes became {after}")
        for item in done.passes:
            if item.done or item.rolled_back or (explain and item.refused):
                say(console, f"{item.name}: {len(item.done)} rewrites, {-item.removed:+d} nodes")
            for mark, findings in (("done", item.done), ("refused", item.refused)):
                for finding in findings if explain else []:
                    line = f"  {mark}: {finding.node}: {finding.sentence}"
                    say(console, line)
        for note in done.notes:
            say(console, f"note: {note}")
        print_verdicts(console, done.verdicts)

    return Outcome({"out": None if out is None else str(out), **data}, text, done.passed)


def _condition(item: Any) -> str:
    """Say when a pass runs that does not always run."""
    if item.targets:
        return f" (--for {' or '.join(item.targets)})"
    return f" (--extra {item.name})" if item.optional else ""


def _plugin(item: str) -> tuple[str, Any]:
    """Read ``OP=NAME``, ``OP=NAME:VERSION`` or ``OP=NAME:VERSION:NAMESPACE``."""
    from onnxgraft.stages.surgery import Plugin

    op, sign, text = item.partition("=")
    parts = text.split(":")
    if not (op and sign and parts[0]) or len(parts) > 3:
        raise InputError(f"--plugin {item}: write OP=NAME, OP=NAME:VERSION or OP=NAME:VERSION:NS")
    return op, Plugin(*parts)
