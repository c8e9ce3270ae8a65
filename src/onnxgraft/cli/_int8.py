"""Subcommands on the way to INT8: calibrate, quantize."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from onnxgraft.cli import _printing as show
from onnxgraft.cli._app import Json, Result, subcommand
from onnxgraft.cli._completion import one_of
from onnxgraft.cli._options import (
    DATA,
    OUTPUT,
    QUANTIZATION,
    RUNNING,
    TARGET,
    Classes,
    CpuName,
    FloatName,
    Force,
    Images,
    LabelsFile,
    MethodName,
    MetricOutput,
    OnnxFile,
    Out,
    Overrides,
    PostprocessFile,
    PreprocessFile,
    Ray,
    TargetName,
    Trusted,
    trust_of,
)
from onnxgraft.targets import target_names

__all__ = ["calibrate", "quantize"]

Seed = Annotated[
    int,
    typer.Option(
        rich_help_panel=DATA, help="Seed that chooses samples, and positions within them."
    ),
]
MaybeData = Annotated[
    str | None,
    typer.Option(
        metavar="DATA",
        rich_help_panel=DATA,
        help="Folder of images (by class, too), list (.txt, .csv, .json), or .npz with an array "
        "for each input.",
    ),
]


@subcommand(
    show.calibrated,
    example="onnxgraft calibrate model.onnx --data images/ --preprocess recipe.toml -o ranges.json",
)
def calibrate(
    model: OnnxFile,
    out: Out,
    data: MaybeData = None,
    preprocess: PreprocessFile = None,
    trust: Trusted = [],  # noqa: B006  (typer copies it)
    method: Annotated[
        MethodName,
        typer.Option(
            metavar="METHOD",
            rich_help_panel=QUANTIZATION,
            help="How ranges are chosen: entropy, minmax, percentile, mse; auto tries all.",
        ),
    ] = "auto",
    target: Annotated[
        list[str],
        typer.Option(
            metavar="TARGET",
            rich_help_panel=TARGET,
            autocompletion=one_of(target_names()),
            help="Measure for this target alone, which costs less; may be repeated.",
        ),
    ] = [],  # noqa: B006  (typer copies it)
    images: Images = None,
    seed: Seed = 0,
    workers: Annotated[
        int | None,
        typer.Option(
            rich_help_panel=RUNNING, help="Processes that share the samples; with --ray, actors."
        ),
    ] = None,
    ray: Ray = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Continue a run that was interrupted.", rich_help_panel=RUNNING
        ),
    ] = False,
    skip_bad: Annotated[
        bool,
        typer.Option(
            "--skip-bad", help="Leave out samples that can't be used.", rich_help_panel=DATA
        ),
    ] = False,
    per_channel: Annotated[
        str | None,
        typer.Option(
            metavar="TENSORS",
            rich_help_panel=QUANTIZATION,
            help="Tensors to measure per channel too: a,b.",
        ),
    ] = None,
    validation: Annotated[
        str | None,
        typer.Option(
            metavar="DATA",
            rich_help_panel=DATA,
            help="Validation data: samples that occur in both are reported.",
        ),
    ] = None,
    ranges: Annotated[
        Path | None,
        typer.Option(
            metavar="RANGES.json",
            rich_help_panel=DATA,
            help="Ranges to choose again from their histograms, in place of --data.",
        ),
    ] = None,
    overrides: Overrides = None,
    cache_out: Annotated[
        Path | None,
        typer.Option(
            metavar="CACHE", rich_help_panel=OUTPUT, help="TensorRT calibration cache to write."
        ),
    ] = None,
    trt_version: Annotated[
        str | None,
        typer.Option(
            metavar="VERSION",
            rich_help_panel=OUTPUT,
            help="TensorRT version that will read the cache, such as 10.3.0.",
        ),
    ] = None,
    force: Force = False,
    as_json: Json = False,
) -> Result:
    """Measure the ranges of a float graph's tensors on representative data."""
    from onnxgraft import commands

    return commands.calibrate(
        model, out, data=data, preprocess=preprocess, trust=trust_of(trust), method=method,
        target=target or None, images=images, seed=seed, workers=workers, ray=ray, resume=resume,
        skip_bad=skip_bad,
        per_channel=per_channel, validation=validation, ranges=ranges, overrides=overrides,
        cache_out=cache_out, trt_version=trt_version, force=force,
    )  # fmt: skip


@subcommand(
    show.quantized,
    example="onnxgraft quantize model.onnx --ranges ranges.json --target openvino -o int8.onnx",
)
def quantize(
    model: OnnxFile,
    target: TargetName = None,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", metavar="FILE", help="File to write.", rich_help_panel=OUTPUT),
    ] = None,
    ranges: Annotated[
        Path | None,
        typer.Option(
            metavar="RANGES.json",
            rich_help_panel=QUANTIZATION,
            help="Ranges that onnxgraft calibrate wrote.",
        ),
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(
            metavar="CACHE",
            rich_help_panel=QUANTIZATION,
            help="TensorRT calibration cache, in place of --ranges.",
        ),
    ] = None,
    from_qdq: Annotated[
        bool,
        typer.Option(
            "--from-qdq",
            rich_help_panel=QUANTIZATION,
            help="Take scales and stored weights of a graph that is quantized already, in place "
            "of --ranges.",
        ),
    ] = False,
    set_range: Annotated[
        list[str],
        typer.Option(
            metavar="T=LOW:HIGH", help="Set a tensor's range.", rich_help_panel=QUANTIZATION
        ),
    ] = [],  # noqa: B006  (typer copies it)
    overrides: Overrides = None,
    keep_float: Annotated[
        str | None,
        typer.Option(
            metavar="LAYERS", help="Layers to leave in float: a,b.", rich_help_panel=QUANTIZATION
        ),
    ] = None,
    precision: Annotated[
        Literal["int8", "fp8"],
        typer.Option(
            rich_help_panel=QUANTIZATION,
            help="What layers are quantized to; fp8 (E4M3) is for TensorRT on GPUs of compute "
            "capability 8.9 and later.",
        ),
    ] = "int8",
    floats: FloatName = "fp32",
    int8: Annotated[
        bool,
        typer.Option(
            "--int8/--no-int8",
            rich_help_panel=QUANTIZATION,
            help="Quantize layers; --no-int8 with --float fp16 writes an FP16 graph.",
        ),
    ] = True,
    weights: Annotated[
        Literal["int8", "int4"] | None,
        typer.Option(
            rich_help_panel=QUANTIZATION,
            help="Store the weights of MatMul and Gemm as these integers and leave activations in "
            "float; needs no --ranges.",
        ),
    ] = None,
    block: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            rich_help_panel=QUANTIZATION,
            help="With --weights, how many weights share a scale: 16, 32, 64, 128 or 256.",
        ),
    ] = None,
    on_overflow: Annotated[
        Literal["keep", "rescale", "ignore"],
        typer.Option(
            rich_help_panel=QUANTIZATION,
            help="What to do with tensors that overflow in FP16: keep them in FP32, rescale, or "
            "ignore.",
        ),
    ] = "keep",
    samples: Annotated[
        str | None,
        typer.Option(
            metavar="DATA",
            rich_help_panel=DATA,
            help="Calibration data, which --improve and the rounding of --weights work on.",
        ),
    ] = None,
    improve: Annotated[
        str | None,
        typer.Option(
            metavar="METHODS",
            rich_help_panel=QUANTIZATION,
            help="Methods that reduce the loss, with commas between them: equalize, smooth, "
            "activations, weights, rounding, bias; or all, or none.",
        ),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            metavar="METRIC=DROP",
            rich_help_panel=QUANTIZATION,
            help="Largest loss allowed; layers go back to float until it is met.",
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="DATA",
            rich_help_panel=DATA,
            help="Validation data, which --budget is measured on.",
        ),
    ] = None,
    preprocess: PreprocessFile = None,
    postprocess: PostprocessFile = None,
    trust: Trusted = [],  # noqa: B006  (typer copies it)
    labels: LabelsFile = None,
    classes: Classes = None,
    metric_output: MetricOutput = None,
    trials: Annotated[
        int,
        typer.Option(
            rich_help_panel=RUNNING, help="Mixes of INT8 and float that --budget may try."
        ),
    ] = 24,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            rich_help_panel=RUNNING,
            help="Refuse to begin a search anew: what is in OUT.search has to be of the same one, "
            "from which it is taken over anyway.",
        ),
    ] = False,
    fresh: Annotated[
        bool,
        typer.Option("--fresh", help="Begin a search anew.", rich_help_panel=RUNNING),
    ] = False,
    images: Images = None,
    seed: Seed = 0,
    placement: Annotated[
        Path | None,
        typer.Option(
            metavar="TABLE.toml",
            rich_help_panel=TARGET,
            help="TOML file that changes where the target wants Q and DQ.",
        ),
    ] = None,
    show_placement: Annotated[
        bool,
        typer.Option(
            "--show-placement",
            rich_help_panel=TARGET,
            help="Print the target's placement table and stop.",
        ),
    ] = False,
    explain: Annotated[
        bool,
        typer.Option("--explain", rich_help_panel=OUTPUT, help="Say why INT8 may not be faster."),
    ] = False,
    cpu: CpuName = None,
    cache_out: Annotated[
        Path | None,
        typer.Option(
            metavar="CACHE",
            rich_help_panel=OUTPUT,
            help="With --from-qdq, TensorRT calibration cache to write.",
        ),
    ] = None,
    trt_version: Annotated[
        str | None,
        typer.Option(
            metavar="VERSION",
            rich_help_panel=OUTPUT,
            help="TensorRT version that will read the cache, such as 10.3.0.",
        ),
    ] = None,
    force: Force = False,
    as_json: Json = False,
) -> Result:
    """Write the quantized graph that a target wants, a mix within a budget, or stored weights."""
    from onnxgraft import commands
    from onnxgraft.errors import InputError

    if out is None and not show_placement:
        raise InputError("name the file to write with -o")
    chosen: Any = floats
    return commands.quantize(
        model, target, out, ranges=ranges, cache=cache, from_qdq=from_qdq,
        set_range=set_range, overrides=overrides,
        keep_float=keep_float, precision=precision, floats=chosen, int8=int8, weights=weights,
        block=block, on_overflow=on_overflow, samples=samples,
        improve=improve, budget=budget, data=data, preprocess=preprocess,
        postprocess=postprocess, trust=trust_of(trust), labels=labels, classes=classes,
        metric_output=metric_output,
        trials=trials, resume=resume, fresh=fresh, images=images, seed=seed, placement=placement,
        show_placement=show_placement, explain=explain, cpu=cpu, cache_out=cache_out,
        trt_version=trt_version, force=force,
    )  # fmt: skip
