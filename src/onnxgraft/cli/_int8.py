"""Subcommands on the way to INT8: calibrate, quantize."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from onnxgraft.cli._app import Json, Outcome, say, subcommand
from onnxgraft.cli._options import (
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


Overrides = Annotated[
    Path | None, typer.Option(help='A TOML file of ranges by hand: "tensor" = [low, high].')
]


@subcommand
def calibrate(
    model: OnnxFile,
    out: Out,
    data: Annotated[
        str | None, typer.Option(help="A folder of images, a list file or an .npz.")
    ] = None,
    preprocess: PreprocessFile = None,
    method: Annotated[MethodName, typer.Option(help="How ranges are chosen.")] = MethodName.entropy,
    images: Images = None,
    seed: Annotated[int, typer.Option(help="Chooses which samples.")] = 0,
    workers: Annotated[int | None, typer.Option(help="Processes; with --ray actors.")] = None,
    ray: Annotated[str | None, typer.Option(help="Address of a Ray cluster.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a run cut short.")] = False,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave out samples that can't be used.")
    ] = False,
    per_channel: Annotated[
        str | None, typer.Option(help="Tensors to measure per channel too: a,b.")
    ] = None,
    validation: Annotated[
        str | None, typer.Option(help="Data of validation: tell what occurs in both.")
    ] = None,
    ranges: Annotated[
        Path | None, typer.Option(help="In place of --data: choose again from its histograms.")
    ] = None,
    overrides: Overrides = None,
    cache_out: Annotated[Path | None, typer.Option(help="A TensorRT cache to write.")] = None,
    trt_version: Annotated[
        str | None, typer.Option(help="The TensorRT that will read the cache, such as 10.3.0.")
    ] = None,
    as_json: Json = False,
) -> Outcome:
    """Measure the ranges of a float graph's tensors on representative data."""
    from onnxgraft import quantize
    from onnxgraft.model import Model
    from onnxgraft.ranges import Ranges, read_overrides
    from onnxgraft.samples import open_samples, overlap

    if (data is None) == (ranges is None):
        raise InputError(
            "name either the data with --data, or ranges to choose again with --ranges"
        )
    if (cache_out is None) != (trt_version is None):
        raise InputError("--cache-out and --trt-version go together: a cache is for one TensorRT")
    if trt_version is not None:
        quantize.header_version(trt_version)
    check_place(out)
    check_place(cache_out)
    by_hand = read_overrides(overrides) if overrides else {}
    graph = Model.load(model)
    checkpoint = None
    if ranges is not None:
        chosen = Ranges.load(ranges, histograms=True)
        if chosen.model != quantize.fingerprint(graph):
            raise InputError(f"{ranges}: was measured on another graph than {model}")
        chosen = quantize.rechoose(chosen, method.value)
    else:
        recipe = preprocess_of(preprocess)
        samples = open_samples(str(data), graph.inputs, recipe, images=images, seed=seed)
        others = open_samples(validation, graph.inputs, recipe) if validation else None
        checkpoint = quantize.Checkpoint(f"{out}.partial", resume=resume)
        chosen = quantize.calibrate(
            graph, samples, method.value, tensors="all" if cache_out else "targets",
            per_channel=split(per_channel), workers=workers or (0 if ray else 1), ray=ray,
            skip_bad=skip_bad, checkpoint=checkpoint,
        )  # fmt: skip
        if others is not None:
            both = overlap(chosen.samples, others)
            if both:
                chosen.notes.append(
                    f"{len(both)} of {chosen.images} samples are in {validation} too, such as "
                    f"{both[0]}; accuracy measured there is too good"
                )
    chosen = chosen.with_overrides(by_hand, f"{overrides}:")
    chosen.save(out)
    notes = list(chosen.notes)
    if cache_out is not None and trt_version is not None:
        notes += quantize.write_cache(cache_out, graph, chosen, trt_version)
    if checkpoint is not None:
        checkpoint.clear()
    moved = sorted(chosen.moved.items(), key=lambda item: -item[1])

    def text(console: Console) -> None:
        count = len(chosen.tensors)
        say(console, f"{out}: {chosen.method} ranges of {count} tensors, {chosen.images} samples")
        if moved:
            say(
                console,
                f"  over the last quarter of the data the ranges moved by "
                f"{100 * moved[len(moved) // 2][1]:.2g} % (median), that of {moved[0][0]!r} most, "
                f"by {100 * moved[0][1]:.2g} %",
            )
        for note in notes:
            say(console, f"  note: {note}")
        if cache_out is not None:
            say(console, f"{cache_out}: a cache for TensorRT {trt_version}")

    tensors = {name: asdict(value) for name, value in chosen.tensors.items()}
    result = {
        "out": str(out),
        "images": chosen.images,
        "skipped": chosen.skipped,
        "notes": notes,
        "moved": chosen.moved,
        "tensors": tensors,
    }
    return Outcome(result, text)


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
    overrides: Overrides = None,
    keep_float: Annotated[str | None, typer.Option(help="Layers to leave in float: a,b.")] = None,
    budget: Annotated[str | None, typer.Option(metavar="METRIC=DROP", help="To stay in.")] = None,
    data: Annotated[str | None, typer.Option(help="For --budget.")] = None,
    as_json: Json = False,
) -> Outcome:
    """Write the INT8 graph that a target wants."""
    from onnxgraft import quantize as stage
    from onnxgraft.model import Model
    from onnxgraft.ranges import Ranges, read_overrides

    not_yet("--budget", budget or data)
    if (ranges is None) == (cache is None):
        raise InputError(
            "name either the ranges that onnxgraft calibrate wrote with --ranges, or a TensorRT "
            "cache with --cache"
        )
    check_place(out)
    by_hand = read_overrides(overrides) if overrides else {}
    graph = Model.load(model)
    unknown: dict[str, str] = {}
    notes: list[str] = []
    if cache is not None:
        mapped = stage.ranges_from_cache(graph, stage.read_cache(cache))
        known, unknown, notes = mapped.ranges, mapped.unknown, list(mapped.ranges.notes)
        notes += [f"{name!r} has no range in the cache" for name in mapped.missing]
    else:
        known = Ranges.load(str(ranges))
    known = known.with_overrides(by_hand, f"{overrides}:")
    quantized, done = stage.quantize(
        graph, known, target.value,
        keep_float=split(keep_float), set_range=dict(range_option(item) for item in set_range),
    )  # fmt: skip
    quantized.save(out)

    def text(console: Console) -> None:
        total = len(done.layers) + len(done.float_layers)
        say(console, f"{out}: {len(done.layers)} of {total} layers in INT8")
        for layer in done.float_layers:
            say(console, f"  in float: {layer.name} ({layer.reason})")
        for note in notes:
            say(console, f"  note: {note}")
        for name, reason in unknown.items():
            say(console, f"  no partner in the model: {name} ({reason})")

    return Outcome({"out": str(out), **asdict(done), "notes": notes, "unknown": unknown}, text)
