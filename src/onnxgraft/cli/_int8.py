"""Subcommands on the way to INT8: calibrate, quantize."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

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
    method: Annotated[MethodName, typer.Option(help="How ranges are chosen.")] = "entropy",
    target: Annotated[
        list[str], typer.Option(metavar="TARGET", help="Measure for it alone, which costs less.")
    ] = [],  # noqa: B006  (typer copies it)
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
    from onnxgraft.data.ranges import Ranges, read_overrides
    from onnxgraft.data.samples import open_samples, overlap
    from onnxgraft.graph.model import Model
    from onnxgraft.stages import quantize

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
        chosen = quantize.rechoose(chosen, method)
    else:
        recipe = preprocess_of(preprocess)
        samples = open_samples(str(data), graph.inputs, recipe, images=images, seed=seed)
        others = open_samples(validation, graph.inputs, recipe) if validation else None
        checkpoint = quantize.Checkpoint(f"{out}.partial", resume=resume)
        chosen = quantize.calibrate(
            graph, samples, method, tensors="all" if cache_out else "targets",
            targets=target, per_channel=split(per_channel),
            workers=workers or (0 if ray else 1), ray=ray, skip_bad=skip_bad, checkpoint=checkpoint,
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
                f"{100 * moved[len(moved) // 2][1]:.1f} % (median), that of {moved[0][0]!r} most, "
                f"by {100 * moved[0][1]:.1f} %",
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
    target: Annotated[TargetName, typer.Option(help="Whose form of graph.")],
    out: Annotated[Path | None, typer.Option("-o", "--out", help="What to write.")] = None,
    ranges: Annotated[Path | None, typer.Option(help="What calibrate wrote.")] = None,
    cache: Annotated[Path | None, typer.Option(help="A TensorRT calibration cache.")] = None,
    set_range: Annotated[
        list[str], typer.Option(metavar="T=LOW:HIGH", help="Set a tensor's range.")
    ] = [],  # noqa: B006  (typer copies it)
    overrides: Overrides = None,
    keep_float: Annotated[str | None, typer.Option(help="Layers to leave in float: a,b.")] = None,
    floats: Annotated[
        Literal["fp32", "fp16", "bf16"],
        typer.Option("--float", help="What the layers that are not INT8 run in."),
    ] = "fp32",
    only_float: Annotated[
        bool, typer.Option("--no-int8", help="No INT8 at all: with --float fp16 an FP16 graph.")
    ] = False,
    on_overflow: Annotated[
        Literal["keep", "rescale", "ignore"],
        typer.Option(help="What becomes of tensors that FP16 does not hold."),
    ] = "keep",
    samples: Annotated[str | None, typer.Option(help="Calibration data, for --improve.")] = None,
    improve: Annotated[
        str | None,
        typer.Option(help="Methods: equalize,activations,weights,rounding,bias; all or none."),
    ] = None,
    budget: Annotated[str | None, typer.Option(metavar="METRIC=DROP", help="To stay in.")] = None,
    data: Annotated[str | None, typer.Option(help="Validation data, for --budget.")] = None,
    preprocess: PreprocessFile = None,
    classes: Annotated[str, typer.Option(help="Of miou: camvid or cityscapes.")] = "camvid",
    metric_output: Annotated[str | None, typer.Option(help="The metric's output.")] = None,
    trials: Annotated[int, typer.Option(help="Mixes that --budget may judge.")] = 24,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a search cut short.")
    ] = False,
    images: Images = None,
    seed: Annotated[int, typer.Option(help="Chooses samples and positions.")] = 0,
    placement: Annotated[
        Path | None, typer.Option(help="A TOML file that changes the target's table.")
    ] = None,
    show_placement: Annotated[
        bool, typer.Option("--show-placement", help="Print the target's table and stop.")
    ] = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="Tell why INT8 may not be faster.")
    ] = False,
    as_json: Json = False,
) -> Outcome:
    """Write the INT8 graph that a target wants, or a mix of INT8 and float within a budget."""
    from onnxgraft.commands import QuantizeOptions, quantize_model, read_budget
    from onnxgraft.data.ranges import Ranges, read_overrides
    from onnxgraft.data.samples import open_samples
    from onnxgraft.graph.model import Model
    from onnxgraft.stages import quantize as stage

    table = stage.read_placement(placement, target) if placement else stage.placement(target)
    if show_placement:
        text_of = stage.placement_text(table)
        return Outcome({"placement": text_of}, lambda console: say(console, text_of.rstrip()))
    if out is None:
        raise InputError("name the file to write with -o")
    if (ranges is None) == (cache is None) and not only_float:
        raise InputError(
            "name either the ranges that onnxgraft calibrate wrote with --ranges, or a TensorRT "
            "cache with --cache"
        )
    wanted = read_budget(budget) if budget else None
    if (wanted is None) != (data is None):
        raise InputError("--budget and --data go together: what is lost is measured on data")
    check_place(out)
    by_hand = read_overrides(overrides) if overrides else {}
    graph = Model.load(model)
    unknown: dict[str, str] = {}
    notes: list[str] = []
    known: Ranges | None = None
    if cache is not None:
        mapped = stage.ranges_from_cache(graph, stage.read_cache(cache))
        known, unknown, notes = mapped.ranges, mapped.unknown, list(mapped.ranges.notes)
        notes += [f"{tensor!r} has no range in the cache" for tensor in mapped.missing]
    elif ranges is not None:
        known = Ranges.load(ranges, histograms=samples is not None)
    if known is not None:
        known = known.with_overrides(by_hand, f"{overrides}:")
        known = known.with_overrides(dict(map(range_option, set_range)), "--set-range")
    recipe = preprocess_of(preprocess)
    methods = _methods(improve, samples)
    done = quantize_model(
        graph, known,
        QuantizeOptions(
            table=table,
            int8=not only_float,
            floats=floats,
            keep_float=tuple(split(keep_float)),
            improvements=methods,
            calibration=open_samples(samples, graph.inputs, recipe) if samples else None,
            budget=wanted,
            validation=open_samples(data, graph.inputs, recipe, images=images, seed=seed)
            if data else None,
            classes=classes,
            metric_output=metric_output,
            trials=trials,
            state=f"{out}.search",
            resume=resume,
            on_overflow=on_overflow,
            explain=explain,
            seed=seed,
        ),
    )  # fmt: skip
    done.model.save(out)
    done.forget()
    notes += done.notes

    def text(console: Console) -> None:
        for line in done.lines(str(out)):
            say(console, line)
        for note in notes:
            say(console, f"  note: {note}")
        for tensor, reason in unknown.items():
            say(console, f"  no partner in the model: {tensor} ({reason})")

    result = {"out": str(out), **done.to_json(), "notes": notes, "unknown": unknown}
    return Outcome(result, text, passed=done.passed)


def _methods(improve: str | None, samples: str | None) -> tuple[str, ...]:
    """Return the methods to apply: the usual ones where there are samples and nothing is asked."""
    from onnxgraft.stages.quantize import DEFAULT_IMPROVEMENTS, IMPROVEMENTS

    if improve is None:
        return DEFAULT_IMPROVEMENTS if samples else ()
    methods = {"all": IMPROVEMENTS, "none": ()}.get(improve, tuple(split(improve)))
    if methods and samples is None:
        raise InputError(
            f"--improve {improve} looks at what layers meet: name the calibration data with "
            "--samples"
        )
    return tuple(methods)
