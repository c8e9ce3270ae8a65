"""Subcommands on engines: build, bench, infer."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from onnxgraft.cli._app import Json, Outcome, say, subcommand
from onnxgraft.cli._options import (
    OnnxFile,
    Out,
    PrecisionName,
    PreprocessFile,
    TargetName,
    Weights,
    numbers,
    preprocess_of,
)
from onnxgraft.errors import InputError
from onnxgraft.files import check_place

__all__ = ["bench", "build", "infer"]


@subcommand
def build(
    model: OnnxFile,
    out: Out,
    target: Annotated[TargetName, typer.Option(help="Whose engine.")],
    precision: Annotated[PrecisionName | None, typer.Option(help="What the graph is.")] = None,
    shapes: Annotated[str | None, typer.Option(help="Shapes of free inputs: a:0[1,8,8,3].")] = None,
    as_json: Json = False,
) -> Outcome:
    """Build an engine with its passport beside it."""
    from onnxgraft import engine
    from onnxgraft.model import Model
    from onnxgraft.tensor_option import parse_tensors

    check_place(out)
    given = parse_tensors(shapes)
    for option in given:
        if option.shape is None:
            raise InputError(f"--shapes {option.name}: write its shape, {option.name}[1,3,224,224]")
    passport = engine.build(
        Model.load(model), out, target.value,
        precision=None if precision is None else precision.value,
        shapes={option.name: option.shape for option in given if option.shape is not None},
    )  # fmt: skip

    def text(console: Console) -> None:
        with_ = ", ".join(f"{name} {version}" for name, version in passport.versions.items())
        size = out.stat().st_size / 1e6
        say(console, f"{out}: {passport.precision} engine for {with_}, {size:.1f} MB")

    return Outcome({"out": str(out), **asdict(passport)}, text)


@subcommand
def bench(
    engines: Annotated[list[Path], typer.Argument(help="Engines or ONNX files.")],
    batch: Annotated[str, typer.Option(help="Batches: 1,4,16.")] = "1",
    against: Annotated[Path | None, typer.Option(help="The original, as the reference.")] = None,
    weights: Weights = None,
    rounds: Annotated[int, typer.Option(help="How often they take turns.")] = 5,
    runs: Annotated[int, typer.Option(help="Inferences in a turn.")] = 10,
    as_json: Json = False,
) -> Outcome:
    """Time engines, each in a process of its own, in turn."""
    from onnxgraft import pipeline
    from onnxgraft.report import Report
    from onnxgraft.validate import render

    rows = pipeline.bench(
        pipeline.bench_targets(engines, against, weights=weights),
        batches=numbers(batch),
        rounds=rounds,
        runs=runs,
    )
    report = Report(title="latency", source=str(against or ""), latency=rows)
    data = {"latency": [{**asdict(r), "images_per_second": r.images_per_second} for r in rows]}
    return Outcome(data, lambda console: render(report, console))


@subcommand
def infer(
    engine: Annotated[Path, typer.Argument(help="An engine or an ONNX file.")],
    images: Annotated[list[Path], typer.Argument(help="Image files.")],
    preprocess: PreprocessFile = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="An .npz to write.")] = None,
    as_json: Json = False,
) -> Outcome:
    """Run an engine on images; print the best classes and write the outputs."""
    from onnxgraft import pipeline

    check_place(out)
    answers = pipeline.infer(engine, images, preprocess_of(preprocess), out)

    def text(console: Console) -> None:
        for answer in answers:
            say(console, f"{answer.image}")
            for line in answer.lines():
                say(console, f"  {line}")

    return Outcome({"answers": [asdict(answer) for answer in answers]}, text)
