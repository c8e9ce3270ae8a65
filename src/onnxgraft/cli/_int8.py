"""Subcommands on the way to INT8: calibrate, quantize."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from onnxgraft.cli._app import Json, Outcome, say, subcommand
from onnxgraft.cli._options import (
    Data,
    Images,
    MethodName,
    OnnxFile,
    Out,
    PreprocessFile,
    TargetName,
    not_yet,
    preprocess_of,
    range_option,
    split,
)
from onnxgraft.errors import InputError
from onnxgraft.files import check_place

__all__ = ["calibrate", "quantize"]


@subcommand
def calibrate(
    model: OnnxFile,
    data: Data,
    out: Out,
    preprocess: PreprocessFile = None,
    method: Annotated[MethodName, typer.Option(help="How ranges are chosen.")] = MethodName.entropy,
    images: Images = None,
    seed: Annotated[int, typer.Option(help="Chooses which samples.")] = 0,
    workers: Annotated[int, typer.Option(help="Processes.")] = 1,
    ray: Annotated[str | None, typer.Option(help="Address of a Ray cluster.")] = None,
    cache_out: Annotated[Path | None, typer.Option(help="A TensorRT cache to write.")] = None,
    trt_version: Annotated[str | None, typer.Option(help="Of the cache's header.")] = None,
    as_json: Json = False,
) -> Outcome:
    """Measure the ranges of a float graph's tensors on representative data."""
    from onnxgraft import quantize
    from onnxgraft.model import Model
    from onnxgraft.samples import open_samples

    not_yet("--workers above 1", workers != 1)
    not_yet("--ray", ray)
    not_yet("--cache-out and --trt-version", cache_out or trt_version)
    check_place(out)
    graph = Model.load(model)
    samples = open_samples(data, graph.inputs, preprocess_of(preprocess), images=images, seed=seed)
    ranges = quantize.calibrate(graph, samples, method.value)
    ranges.save(out)

    def text(console: Console) -> None:
        say(
            console,
            f"{out}: {method} ranges of {len(ranges.tensors)} tensors, {ranges.images} samples",
        )

    tensors = {name: asdict(value) for name, value in ranges.tensors.items()}
    return Outcome({"out": str(out), "images": ranges.images, "tensors": tensors}, text)


@subcommand
def quantize(
    model: OnnxFile,
    out: Out,
    target: Annotated[TargetName, typer.Option(help="Whose form of INT8 graph.")],
    ranges: Annotated[Path | None, typer.Option(help="What calibrate wrote.")] = None,
    cache: Annotated[Path | None, typer.Option(help="A TensorRT calibration cache.")] = None,
    set_range: Annotated[
        list[str], typer.Option(metavar="T=LOW:HIGH", help="Set a tensor's range.")
    ] = [],  # noqa: B006  (typer copies it)
    keep_float: Annotated[str | None, typer.Option(help="Layers to leave in float: a,b.")] = None,
    budget: Annotated[str | None, typer.Option(metavar="METRIC=DROP", help="To stay in.")] = None,
    data: Annotated[str | None, typer.Option(help="For --budget.")] = None,
    as_json: Json = False,
) -> Outcome:
    """Write the INT8 graph that a target wants."""
    from onnxgraft import quantize as stage
    from onnxgraft.model import Model
    from onnxgraft.ranges import Ranges

    not_yet("--cache", cache)
    not_yet("--budget", budget or data)
    if ranges is None:
        raise InputError("name the ranges that onnxgraft calibrate wrote with --ranges")
    check_place(out)
    quantized, done = stage.quantize(
        Model.load(model), Ranges.load(ranges), target.value,
        keep_float=split(keep_float), set_range=dict(range_option(item) for item in set_range),
    )  # fmt: skip
    quantized.save(out)

    def text(console: Console) -> None:
        total = len(done.layers) + len(done.float_layers)
        say(console, f"{out}: {len(done.layers)} of {total} layers in INT8")
        for layer in done.float_layers:
            say(console, f"  in float: {layer.name} ({layer.reason})")

    return Outcome({"out": str(out), **asdict(done)}, text)
