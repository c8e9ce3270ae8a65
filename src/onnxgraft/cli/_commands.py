"""The subcommands. There is no logic here: each calls one function and prints what it returns.

The stages are imported inside the functions, so that ``--help`` answers at once.
"""

from __future__ import annotations

from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from onnxgraft.cli._app import Json, Outcome, say, subcommand
from onnxgraft.errors import InputError, NotSupportedError
from onnxgraft.files import check_place

__all__ = ["COMMANDS"]


class Layout(StrEnum):
    """Layouts of inputs and outputs."""

    keep = "keep"
    nchw = "nchw"
    nhwc = "nhwc"


class MethodName(StrEnum):
    """Methods of choosing ranges."""

    entropy = "entropy"
    minmax = "minmax"
    percentile = "percentile"
    mse = "mse"


class TargetName(StrEnum):
    """Targets of quantization and of engines."""

    tensorrt = "tensorrt"
    openvino = "openvino"
    onnxruntime = "onnxruntime"


class PrecisionName(StrEnum):
    """Precisions of engines."""

    fp32 = "fp32"
    fp16 = "fp16"
    int8 = "int8"


ModelFile = Annotated[
    Path, typer.Argument(help="A TensorFlow or Keras model, a prototxt or an ONNX file.")
]
OnnxFile = Annotated[Path, typer.Argument(help="An ONNX file.")]
Out = Annotated[Path, typer.Option("-o", "--out", help="What to write.")]
Weights = Annotated[Path | None, typer.Option(help="A Caffe network's weights.")]
Inputs = Annotated[str | None, typer.Option(help="Where to cut the beginning: a:0,b:0[1,8,8,3].")]
Outputs = Annotated[str | None, typer.Option(help="Where to cut the end: c:0,d:0.")]
Values = Annotated[
    list[str], typer.Option("--set", metavar="NAME=VALUE", help="Set a placeholder.")
]
Signature = Annotated[str | None, typer.Option(help="Of a SavedModel.")]
Trust = Annotated[bool, typer.Option("--trust", help="Load a Keras file that brings code.")]
Data = Annotated[str, typer.Option(help="A folder of images, a list file or an .npz.")]
PreprocessFile = Annotated[
    Path | None, typer.Option("--preprocess", help="A TOML file with a \\[preprocess] table.")
]
Images = Annotated[int | None, typer.Option(help="How many samples; all if not given.")]


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

    found = convert.inspect(model, weights, signature=signature, trust=trust)

    def text(console: Console) -> None:
        say(console, f"{found.path}: {found.framework}, {found.parameters:,} parameters")
        for title, lines in (
            ("inputs", found.inputs),
            ("outputs", found.outputs),
            ("variables left", found.variables),
            ("training flags", found.training),
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
        io_layout=io_layout.value, signature=signature, trust=trust, raw=raw,
        verify=not no_verify, out=out,
    )  # fmt: skip
    nodes = len(done.model.graph.nodes)

    def text(console: Console) -> None:
        for note in done.notes:
            say(console, f"note: {note}")
        before = "" if done.surgery is None else f", {sum(done.surgery.before.values())} before"
        say(console, f"{out}: {nodes} nodes{before}")
        _print_verdicts(console, done.verdicts)

    data = {
        "out": str(out),
        "nodes": nodes,
        "operators": done.model.operators(),
        "inputs": [str(spec) for spec in done.model.inputs],
        "outputs": [str(spec) for spec in done.model.outputs],
        "notes": done.notes,
        "verified": not no_verify,
        "verdicts": [asdict(verdict) for verdict in done.verdicts],
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
    cleaned, done = stage.run(Model.load(model), only=_split(only), skip=_split(skip), verify=True)
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
        _print_verdicts(console, done.verdicts)

    return Outcome({"out": None if out is None else str(out), **data}, text, done.passed)


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

    _not_yet("--workers above 1", workers != 1)
    _not_yet("--ray", ray)
    _not_yet("--cache-out and --trt-version", cache_out or trt_version)
    check_place(out)
    graph = Model.load(model)
    samples = open_samples(data, graph.inputs, _preprocess(preprocess), images=images, seed=seed)
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

    _not_yet("--cache", cache)
    _not_yet("--budget", budget or data)
    if ranges is None:
        raise InputError("name the ranges that onnxgraft calibrate wrote with --ranges")
    check_place(out)
    quantized, done = stage.quantize(
        Model.load(model), Ranges.load(ranges), target.value,
        keep_float=_split(keep_float), set_range=dict(_range(item) for item in set_range),
    )  # fmt: skip
    quantized.save(out)

    def text(console: Console) -> None:
        total = len(done.layers) + len(done.float_layers)
        say(console, f"{out}: {len(done.layers)} of {total} layers in INT8")
        for layer in done.float_layers:
            say(console, f"  in float: {layer.name} ({layer.reason})")

    return Outcome({"out": str(out), **asdict(done)}, text)


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
    trust: Trust = False,
    metric: Annotated[str | None, typer.Option(help="top1 or miou.")] = None,
    classes: Annotated[str, typer.Option(help="Of miou: camvid or cityscapes.")] = "camvid",
    metric_output: Annotated[str | None, typer.Option(help="That the metric looks at.")] = None,
    drop: Annotated[float, typer.Option(help="Points that INT8 may lose.")] = 1.0,
    images: Images = None,
    bisect: Annotated[bool, typer.Option("--bisect", help="Name the guilty layer.")] = False,
    report: Annotated[Path | None, typer.Option(help="A folder for the report.")] = None,
    as_json: Json = False,
) -> Outcome:
    """Compare a candidate with the original on data, and by a task metric."""
    from onnxgraft import pipeline
    from onnxgraft.validate import render

    _not_yet("--bisect", bisect)
    if report is not None:
        check_place(report / "report.html" if report.is_dir() else report)
    found = pipeline.validate(
        original, candidate, data, weights=weights,
        preprocess=_preprocess(preprocess), inputs=inputs, outputs=outputs, values=values,
        signature=signature, trust=trust, metric=metric, classes=classes,
        metric_output=metric_output, drop=drop, images=images,
    )  # fmt: skip
    if report is not None:
        pipeline.write_report(found, report)
    return Outcome(found.to_json(), lambda console: render(found, console), found.passed)


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
        pipeline.bench_targets(engines, against, weights),
        batches=_numbers(batch),
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
    answers = pipeline.infer(engine, images, _preprocess(preprocess), out)

    def text(console: Console) -> None:
        for answer in answers:
            say(console, f"{answer.image}")
            for line in answer.lines():
                say(console, f"  {line}")

    return Outcome({"answers": [asdict(answer) for answer in answers]}, text)


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
    metric: Annotated[str | None, typer.Option(help="top1 or miou.")] = None,
    targets: Annotated[
        str | None, typer.Option(help="Of a model file: openvino,onnxruntime if not given.")
    ] = None,
    images: Images = None,
    as_json: Json = False,
) -> Outcome:
    """Take a model all the way: convert, clean, calibrate, quantize, build, validate."""
    from onnxgraft import pipeline
    from onnxgraft.validate import render

    if recipe.suffix == ".toml":
        asked = {
            "--data": data, "--weights": weights, "--validate-on": validate_on,
            "--preprocess": preprocess, "--inputs": inputs, "--outputs": outputs,
            "--metric": metric, "--targets": targets,
        }  # fmt: skip
        for option, value in asked.items():
            if value is not None:
                raise InputError(f"{option} goes with a model file; write it into {recipe} instead")
        plan = pipeline.read_recipe(recipe, images=images)
    else:
        plan = pipeline.make_recipe(
            recipe, data=data, weights=weights, validate_on=validate_on,
            preprocess=_preprocess(preprocess), inputs=inputs, outputs=outputs, metric=metric,
            targets=_split(targets) or ["openvino", "onnxruntime"], images=images,
        )  # fmt: skip
    folder = out or Path(f"{recipe.stem}.onnxgraft")
    report = pipeline.deploy(plan, folder)

    def text(console: Console) -> None:
        render(report, console)
        say(console, f"\nreport: {report.artifacts['report']}")

    return Outcome(report.to_json(), text, report.passed)


COMMANDS = (
    inspect, convert, surgery, calibrate, quantize, build, validate, bench, infer, deploy,
)  # fmt: skip


def _not_yet(option: str, used: object) -> None:
    if used:
        raise NotSupportedError(f"{option} can't be used yet")


def _split(text: str | None) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()] if text else []


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in _split(text)]
    except ValueError as error:
        raise InputError(f"{text!r} is not a list of whole numbers such as 1,4,16") from error


def _range(item: str) -> tuple[str, tuple[float, float]]:
    """Read ``T=LOW:HIGH``, or ``T=AMAX`` for a range from -AMAX to AMAX."""
    name, sign, text = item.rpartition("=")
    low, colon, high = text.partition(":")
    try:
        if not (name and sign):
            raise ValueError
        bounds = (float(low), float(high)) if colon else (-float(low), float(low))
    except ValueError as error:
        raise InputError(f"--set-range {item}: write T=LOW:HIGH or T=AMAX") from error
    if not bounds[0] < bounds[1]:
        raise InputError(f"--set-range {item}: the range is empty")
    return name, bounds


def _preprocess(path: Path | None) -> Any:
    from onnxgraft.pipeline import read_preprocess

    return None if path is None else read_preprocess(path)


def _print_verdicts(console: Console, verdicts: list[Any]) -> None:
    """Print the worst comparison of each output."""
    worst: dict[str, Any] = {}
    for verdict in sorted(verdicts, key=lambda v: v.max_abs / v.tolerance):
        worst[verdict.output] = verdict
    for verdict in worst.values():
        mark = "[green]pass[/]" if verdict.passed else "[red]FAIL[/]"
        console.print(mark, end=" ")
        say(console, f"{verdict.output}: differs by at most {verdict.max_abs:.1e}, "
                     f"{verdict.tolerance:.1e} allowed")  # fmt: skip
