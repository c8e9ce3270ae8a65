"""Subcommands on engines: build, bundle, bench, infer."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from onnxgraft.cli._app import Json, Outcome, say, subcommand
from onnxgraft.cli._options import (
    OnnxFile,
    Out,
    PrecisionName,
    PreprocessFile,
    TargetName,
    Trusted,
    Weights,
    numbers,
    trust_of,
)
from onnxgraft.errors import InputError
from onnxgraft.files import check_folder, check_place, existing_file
from onnxgraft.files.limits import CACHE_BYTES

__all__ = ["bench", "build", "bundle", "infer"]


Shapes = Annotated[str | None, typer.Option(help="Shapes of free inputs: a:0[1,8,8,3].")]
Smallest = Annotated[
    str | None, typer.Option("--min-shapes", help="The smallest of them (TensorRT).")
]
Largest = Annotated[
    str | None, typer.Option("--max-shapes", help="The largest of them (TensorRT).")
]
Batches = Annotated[
    str, typer.Option(help="Of a free batch: tuned for each, run up to the largest (TensorRT).")
]
Workspace = Annotated[
    int | None, typer.Option(metavar="MIB", help="GPU memory for scratch (TensorRT).")
]
Level = Annotated[int | None, typer.Option(min=0, max=5, help="Of optimization (TensorRT).")]
Calibration = Annotated[
    Path | None, typer.Option(help="A calibration cache, for INT8 of a float graph (TensorRT 10).")
]
RangesFile = Annotated[
    Path | None, typer.Option(help="The ranges used: for the passport, and FP16's overflow check.")
]
DataUsed = Annotated[Path | None, typer.Option(help="The data used, for the passport.")]
RecipeFile = Annotated[
    Path | None, typer.Option(help="A recipe, whose pre- and postprocessing infer will use.")
]
Threads = Annotated[int | None, typer.Option(min=1, help="Of the CPU; all if not given.")]


@subcommand
def build(
    model: OnnxFile,
    out: Out,
    target: Annotated[
        TargetName | None, typer.Option(help="TensorRT where it is, else openvino.")
    ] = None,
    precision: Annotated[PrecisionName | None, typer.Option(help="Of the layers.")] = None,
    shapes: Shapes = None,
    min_shapes: Smallest = None,
    max_shapes: Largest = None,
    batches: Batches = "1,16",
    hint: Annotated[
        Literal["latency", "throughput"], typer.Option(help="What to be fast at (OpenVINO).")
    ] = "latency",
    threads: Threads = None,
    workspace: Workspace = None,
    level: Level = None,
    timing_cache: Annotated[Path | None, typer.Option(help="Kept timings (TensorRT).")] = None,
    version_compatible: Annotated[
        bool, typer.Option("--version-compatible", help="Runs in later versions (TensorRT).")
    ] = False,
    calibration: Calibration = None,
    ranges: RangesFile = None,
    data: DataUsed = None,
    recipe: RecipeFile = None,
    layers: Annotated[Path | None, typer.Option(help="Where to list the fused layers.")] = None,
    as_json: Json = False,
) -> Outcome:
    """Build an engine with its passport beside it."""
    from onnxgraft import commands
    from onnxgraft.files import write_json
    from onnxgraft.graph.model import Model
    from onnxgraft.stages import engine

    check_place(out)
    check_place(layers)
    if layers is not None:
        engine.check_layers(target or engine.default_target())
    options = engine.BuildOptions(
        shapes=_shapes("--shapes", shapes),
        smallest=_shapes("--min-shapes", min_shapes),
        largest=_shapes("--max-shapes", max_shapes),
        batches=numbers(batches),
        hint=hint,
        threads=threads,
        workspace=_bytes(workspace),
        level=level,
        timing_cache=timing_cache,
        version_compatible=version_compatible,
        calibration=_read(calibration),
    )
    used = commands.evidence(ranges=ranges or calibration, data=data, recipe=recipe)
    passport = engine.build(
        Model.load(model), out, target or engine.default_target(),
        precision=precision,
        options=options, evidence=used, ranges=_ranges(ranges, precision),
    )  # fmt: skip
    fused: list[Any] = []
    if layers is not None:
        with engine.load(out) as built:
            fused = [asdict(layer) for layer in engine.layers(built)]
        write_json(layers, fused)

    def text(console: Console) -> None:
        with_ = ", ".join(f"{name} {version}" for name, version in passport.versions.items())
        size = out.stat().st_size / 1e6
        say(console, f"{out}: {passport.label} engine for {with_}, {size:.1f} MB")
        _say_float32(console, passport.flags)
        if layers is not None:
            say(console, f"{layers}: {len(fused)} layers")

    return Outcome({"out": str(out), **asdict(passport)}, text)


@subcommand
def bundle(
    model: OnnxFile,
    out: Out,
    precision: Annotated[PrecisionName | None, typer.Option(help="Of the layers.")] = None,
    float_model: Annotated[
        Path | None, typer.Option("--float", help="The float graph, for TensorRT 10 and a cache.")
    ] = None,
    calibration: Calibration = None,
    shapes: Shapes = None,
    min_shapes: Smallest = None,
    max_shapes: Largest = None,
    batches: Batches = "1,16",
    ranges: RangesFile = None,
    data: DataUsed = None,
    recipe: RecipeFile = None,
    as_json: Json = False,
) -> Outcome:
    """Pack what builds a TensorRT engine on another machine, with TensorRT and Python alone."""
    from onnxgraft import commands
    from onnxgraft.graph.model import Model
    from onnxgraft.stages import engine

    check_place(out)
    options = engine.BuildOptions(
        shapes=_shapes("--shapes", shapes),
        smallest=_shapes("--min-shapes", min_shapes),
        largest=_shapes("--max-shapes", max_shapes),
        batches=numbers(batches),
        calibration=_read(calibration),
    )
    packed = engine.bundle(
        Model.load(model), out,
        precision=precision,
        float_model=None if float_model is None else Model.load(float_model),
        options=options,
        evidence=commands.evidence(ranges=ranges or calibration, data=data, recipe=recipe),
        ranges=_ranges(ranges, precision),
    )  # fmt: skip

    def text(console: Console) -> None:
        say(console, f"{out}: {packed.size / 1e6:.1f} MB")
        _say_float32(console, packed.flags)
        say(console, f"on the target: python3 {out.name} -o {out.stem}.engine")
        say(console, f"or, after python3 {out.name} --extract .:")
        for major, line in packed.trtexec.items():
            say(console, f"  TensorRT {major}: {line}")

    return Outcome(asdict(packed), text)


@subcommand
def bench(
    engines: Annotated[list[Path], typer.Argument(help="Engines or ONNX files.")],
    batch: Annotated[str, typer.Option(help="Batches: 1,4,16.")] = "1,4,16,32,64",
    against: Annotated[Path | None, typer.Option(help="The original, as the reference.")] = None,
    weights: Weights = None,
    rounds: Annotated[int, typer.Option(help="How often they take turns.")] = 5,
    runs: Annotated[int, typer.Option(help="Inferences in a turn.")] = 10,
    threads: Threads = None,
    trust: Trusted = [],  # noqa: B006  (typer copies it)
    record: Annotated[
        bool, typer.Option("--record", help="Write the latency into the passports.")
    ] = False,
    as_json: Json = False,
) -> Outcome:
    """Time engines, each in a process of its own, in turn."""
    from onnxgraft import commands

    targets = commands.bench_targets(
        engines,
        against,
        threads=threads,
        trust_engines=trust_of(trust),
        weights=weights,
        trust=trust_of(trust),
    )
    notes: list[str] = []
    rows = commands.bench(targets, batches=numbers(batch), rounds=rounds, runs=runs, notes=notes)
    found = [
        {
            **asdict(row), "images_per_second": row.images_per_second,
            "over_original": ratio.original, "over_fp32": ratio.fp32,
        }
        for row, ratio in zip(rows, commands.speed_ups(rows, targets), strict=True)
    ]  # fmt: skip
    if record:
        commands.record_latency(targets, rows)

    def text(console: Console) -> None:
        say(console, "Milliseconds of a batch; how many times as fast as the original and as FP32")
        console.print(_latency(found))
        for note in notes:
            say(console, f"note: {note}")

    return Outcome({"latency": found, "notes": notes}, text)


@subcommand
def infer(
    engine: Annotated[Path, typer.Argument(help="An engine or an ONNX file.")],
    images: Annotated[list[Path], typer.Argument(help="Image files.")],
    preprocess: PreprocessFile = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="A folder for pictures, or an .npz.")
    ] = None,
    trust: Trusted = [],  # noqa: B006  (typer copies it)
    as_json: Json = False,
) -> Outcome:
    """Run an engine on images; print classes, draw maps and boxes, or write the outputs."""
    from onnxgraft import commands

    if out is not None and out.suffix == ".npz":
        check_place(out)
    elif out is not None and out.parent.is_dir():
        check_folder(out)
    before, after = (None, None) if preprocess is None else commands.read_tables(preprocess)
    answers = commands.infer(engine, images, before, out, postprocess=after, trust=trust_of(trust))

    def text(console: Console) -> None:
        for answer in answers:
            say(console, f"{answer.image}")
            for line in answer.lines():
                say(console, f"  {line}")
        if out is not None and out.suffix == ".npz":
            say(console, f"{out}: the outputs, images along axis 0")

    return Outcome({"answers": [asdict(answer) for answer in answers]}, text)


def _latency(rows: list[dict[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("engine", overflow="fold")
    for name in ("batch", "ms", "p90", "p99", "images/s", "original", "fp32"):
        table.add_column(name, justify="right")
    for row in rows:
        ratios = (row["over_original"], row["over_fp32"])
        table.add_row(
            escape(row["name"]), str(row["batch"]), f"{row['median_ms']:.2f}",
            f"{row['p90_ms']:.2f}", f"{row['p99_ms']:.2f}", f"{row['images_per_second']:.1f}",
            *("" if ratio is None else f"{ratio:.2f}x" for ratio in ratios),
        )  # fmt: skip
    return table


def _shapes(option: str, text: str | None) -> dict[str, tuple[int, ...]]:
    from onnxgraft.graph.tensor_option import parse_tensors

    found = {}
    for entry in parse_tensors(text):
        if entry.shape is None:
            raise InputError(f"{option} {entry.name}: write its shape, {entry.name}[1,3,224,224]")
        found[entry.name] = entry.shape
    return found


def _ranges(file: Path | None, precision: PrecisionName | None) -> Any:
    """Return the ranges to look for FP16's overflow with, if that is to be done."""
    from onnxgraft.data.ranges import Ranges

    return Ranges.load(file) if file is not None and precision == "fp16" else None


def _say_float32(console: Console, flags: dict[str, Any]) -> None:
    """Tell what FP16 does not hold."""
    for name, reason in flags.get("float32", {}).items():
        say(console, f"  in FP32: {name} ({reason})")
    if flags.get("unchecked"):
        say(console, f"  FP16: {flags['unchecked']} tensors have no range, so their overflow "
                     "could not be checked; name the calibrated ones with --ranges")  # fmt: skip


def _bytes(mebibytes: int | None) -> int | None:
    if mebibytes is not None and mebibytes < 1:
        raise InputError(f"--workspace {mebibytes}: a number of MiB from 1 on")
    return None if mebibytes is None else mebibytes << 20


def _read(file: Path | None) -> bytes | None:
    if file is None:
        return None
    return existing_file(file, "the calibration cache", CACHE_BYTES).read_bytes()
