"""Subcommands on engines: build, bundle, bench, infer, export, serve."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from onnxgraft.cli import _printing as show
from onnxgraft.cli._app import Json, Result, subcommand
from onnxgraft.cli._options import (
    DATA,
    MODEL,
    OUTPUT,
    RUNNING,
    TARGET,
    Batches,
    Calibration,
    CpuName,
    DataUsed,
    Force,
    HostList,
    HostPython,
    Largest,
    OnnxFile,
    Out,
    PostprocessFile,
    PrecisionName,
    PreprocessFile,
    RangesUsed,
    RecipeFile,
    Shapes,
    Smallest,
    TargetOption,
    Threads,
    Trusted,
    Weights,
    trust_of,
)

__all__ = ["bench", "build", "bundle", "export", "infer", "serve"]

LOAD, SERVER = "Many requests at once", "Server"
EngineFile = Annotated[Path, typer.Argument(help="Engine with its passport beside it.")]
Precision = Annotated[
    PrecisionName | None,
    typer.Option(
        metavar="PRECISION",
        rich_help_panel=TARGET,
        help="Precision that the graph must have (fp32, int8 or fp8), or that its float layers run "
        "in (tf32, fp16 or bf16).",
    ),
]


@subcommand(show.built, example="onnxgraft build int8.onnx --target openvino -o model.engine")
def build(
    model: OnnxFile,
    out: Out,
    target: TargetOption = None,
    precision: Precision = None,
    shapes: Shapes = None,
    min_shapes: Smallest = None,
    max_shapes: Largest = None,
    batches: Batches = "1,16",
    hint: Annotated[
        Literal["latency", "throughput"],
        typer.Option(
            metavar="HINT",
            rich_help_panel=TARGET,
            help="What the engine is tuned for: latency or throughput (OpenVINO).",
        ),
    ] = "latency",
    device: Annotated[
        str | None,
        typer.Option(
            metavar="DEVICE",
            rich_help_panel=TARGET,
            help="Device that the engine is for: CPU, GPU, GPU.1, NPU; AUTO or AUTO:GPU,CPU for "
            "the one that OpenVINO chooses when it is built; HETERO:GPU,CPU (OpenVINO).",
        ),
    ] = None,
    provider: Annotated[
        str | None,
        typer.Option(
            metavar="PROVIDER",
            rich_help_panel=TARGET,
            help="Execution provider that runs the engine: cpu, cuda, tensorrt, openvino, dml or "
            "qnn, with a device behind it as in cuda:1 or openvino:GPU (onnxruntime).",
        ),
    ] = None,
    threads: Threads = None,
    workspace: Annotated[
        int | None,
        typer.Option(
            metavar="MIB",
            rich_help_panel=TARGET,
            help="GPU memory for scratch space, in MiB (TensorRT).",
        ),
    ] = None,
    level: Annotated[
        int | None,
        typer.Option(
            min=0, max=5, rich_help_panel=TARGET, help="Builder optimization level (TensorRT)."
        ),
    ] = None,
    timing_cache: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            rich_help_panel=TARGET,
            help="File in which layer timings are kept from build to build (TensorRT).",
        ),
    ] = None,
    version_compatible: Annotated[
        bool,
        typer.Option(
            "--version-compatible",
            rich_help_panel=TARGET,
            help="Build an engine that runs in later versions of the library (TensorRT).",
        ),
    ] = False,
    calibration: Calibration = None,
    ranges: RangesUsed = None,
    data: DataUsed = None,
    recipe: RecipeFile = None,
    trust: Trusted = [],  # noqa: B006  (typer copies it)
    cpu: CpuName = None,
    bake: Annotated[
        str | None,
        typer.Option(
            metavar="PARTS",
            rich_help_panel=DATA,
            help="Parts of the recipe that the engine does itself, with commas between them: "
            "preprocess, so that it takes pictures in RGB, and postprocess, so that it gives "
            "classes or boxes.",
        ),
    ] = None,
    picture: Annotated[
        str | None,
        typer.Option(
            metavar="HEIGHTxWIDTH",
            rich_help_panel=DATA,
            help="Size of all pictures, where what --bake has to do depends on it.",
        ),
    ] = None,
    prove: Annotated[
        bool,
        typer.Option(
            "--prove/--no-prove",
            rich_help_panel=RUNNING,
            help="Run the engine, if it can run here, beside the exact answers of its graph.",
        ),
    ] = True,
    layers: Annotated[
        Path | None,
        typer.Option(
            metavar="LAYERS.json",
            rich_help_panel=OUTPUT,
            help="File for the list of layers as the library fused them.",
        ),
    ] = None,
    force: Force = False,
    as_json: Json = False,
) -> Result:
    """Build an engine, with its passport beside it."""
    from onnxgraft import commands

    return commands.build(
        model, out, target=target, precision=precision, shapes=shapes, min_shapes=min_shapes,
        max_shapes=max_shapes, batches=batches, hint=hint, device=device, provider=provider,
        threads=threads, workspace=workspace, level=level, timing_cache=timing_cache,
        version_compatible=version_compatible,
        calibration=calibration, ranges=ranges, data=data, recipe=recipe,
        trust=trust_of(trust), cpu=cpu, bake=bake, picture=picture, prove=prove, layers=layers,
        force=force,
    )  # fmt: skip


@subcommand(show.bundled, example="onnxgraft bundle int8.onnx -o model.pyz")
def bundle(
    model: OnnxFile,
    out: Out,
    precision: Precision = None,
    float_model: Annotated[
        Path | None,
        typer.Option(
            "--float",
            metavar="MODEL.onnx",
            rich_help_panel=MODEL,
            help="Float graph, for TensorRT 10 and a calibration cache.",
        ),
    ] = None,
    calibration: Calibration = None,
    shapes: Shapes = None,
    min_shapes: Smallest = None,
    max_shapes: Largest = None,
    batches: Batches = "1,16",
    ranges: RangesUsed = None,
    data: DataUsed = None,
    recipe: RecipeFile = None,
    dla: Annotated[
        int | None,
        typer.Option(
            metavar="CORE",
            rich_help_panel=TARGET,
            help="Core of the DLA of a Jetson or DRIVE that runs what it can, in INT8 with "
            "--calibration and else in FP16 (TensorRT 10).",
        ),
    ] = None,
    program: Annotated[
        bool,
        typer.Option(
            "--program/--no-program",
            rich_help_panel=OUTPUT,
            help="Pack a program in C++ too, with a sample and what the graph answers to it.",
        ),
    ] = True,
    force: Force = False,
    as_json: Json = False,
) -> Result:
    """Pack all that building a TensorRT engine needs on a machine with TensorRT and Python."""
    from onnxgraft import commands

    return commands.bundle(
        model, out, precision=precision, float_model=float_model, calibration=calibration,
        shapes=shapes, min_shapes=min_shapes, max_shapes=max_shapes, batches=batches,
        ranges=ranges, data=data, recipe=recipe, dla=dla, program=program,
        force=force,
    )  # fmt: skip


@subcommand(show.benched, example="onnxgraft bench model.engine --against model.pb --batch 1,4")
def bench(
    engines: Annotated[list[Path], typer.Argument(help="Engines or ONNX files.")],
    batch: Annotated[
        str | None,
        typer.Option(
            metavar="SIZES",
            help="Batch sizes: 1,4,16,32,64 if not given. Under load, how many waiting requests "
            "are joined, at most: 1 if not given.",
            rich_help_panel=RUNNING,
        ),
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option(
            metavar="ORIGINAL", help="Original to compare the speed with.", rich_help_panel=MODEL
        ),
    ] = None,
    weights: Weights = None,
    rounds: Annotated[
        int, typer.Option(help="Turns that each engine takes.", rich_help_panel=RUNNING)
    ] = 5,
    runs: Annotated[int, typer.Option(help="Inferences in a turn.", rich_help_panel=RUNNING)] = 10,
    threads: Threads = None,
    trust: Trusted = [],  # noqa: B006  (typer copies it)
    record: Annotated[
        bool,
        typer.Option(
            "--record", help="Write the latency into the passports.", rich_help_panel=OUTPUT
        ),
    ] = False,
    layers: Annotated[
        bool,
        typer.Option(
            "--layers",
            help="Count the time of each layer, and say what keeps INT8 from being faster.",
            rich_help_panel=RUNNING,
        ),
    ] = False,
    graph: Annotated[
        list[Path],
        typer.Option(
            metavar="GRAPH.onnx",
            help="ONNX file that an engine was built from, where it is not beside it; repeatable.",
            rich_help_panel=MODEL,
        ),
    ] = [],  # noqa: B006  (typer copies it)
    clients: Annotated[
        str | None,
        typer.Option(
            metavar="COUNTS",
            rich_help_panel=LOAD,
            help="Requests under way at once: 1,2,4,8; each client asks again when answered.",
        ),
    ] = None,
    rate: Annotated[
        str | None,
        typer.Option(
            metavar="RATES",
            rich_help_panel=LOAD,
            help="Requests a second that come, answered or not: 50,100,200.",
        ),
    ] = None,
    arrivals: Annotated[
        Literal["poisson", "fixed"],
        typer.Option(
            metavar="HOW",
            rich_help_panel=LOAD,
            help="How requests come: poisson, each for itself, or fixed, evenly.",
        ),
    ] = "poisson",
    duration: Annotated[
        float,
        typer.Option(
            metavar="SECONDS", rich_help_panel=LOAD, help="Seconds for each load, over all rounds."
        ),
    ] = 10.0,
    instances: Annotated[
        int | None,
        typer.Option(
            min=1, rich_help_panel=LOAD, help="Processes that share the requests; 1 if not given."
        ),
    ] = None,
    streams: Annotated[
        int | None,
        typer.Option(
            min=1,
            rich_help_panel=LOAD,
            help="Inferences that an instance runs at once; as many as clients if not given.",
        ),
    ] = None,
    pin: Annotated[
        bool,
        typer.Option("--pin", rich_help_panel=LOAD, help="Give each instance cores of its own."),
    ] = False,
    p99: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            rich_help_panel=LOAD,
            help="Look for the settings that answer most requests, 99 % of them within this time "
            "(20ms), and write them into the passport.",
        ),
    ] = None,
    hosts: HostList = None,
    host_python: HostPython = "python3",
    report: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", rich_help_panel=OUTPUT, help="Folder for a report on the hosts."
        ),
    ] = None,
    force: Force = False,
    as_json: Json = False,
) -> Result:
    """Measure the latency of engines, each in a process of its own, or many requests at once."""
    from onnxgraft import commands

    return commands.bench(
        engines, batch=batch, against=against, weights=weights, rounds=rounds, runs=runs,
        threads=threads, trust=trust_of(trust), record=record, layers=layers, graph=graph,
        clients=clients, rate=rate, arrivals=arrivals, duration=duration, instances=instances,
        streams=streams, pin=pin, p99=p99, hosts=hosts, host_python=host_python, report=report,
        force=force,
    )  # fmt: skip


@subcommand(show.inferred, example="onnxgraft infer model.engine photo.jpg -o pictures/")
def infer(
    engine: Annotated[Path, typer.Argument(help="Engine or ONNX file.")],
    images: Annotated[
        list[Path],
        typer.Argument(help="Image files; for several image inputs, one for each in turn."),
    ],
    preprocess: PreprocessFile = None,
    postprocess: PostprocessFile = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--out",
            metavar="OUT",
            rich_help_panel=OUTPUT,
            help="Folder for pictures, or an .npz for the outputs.",
        ),
    ] = None,
    trust: Trusted = [],  # noqa: B006  (typer copies it)
    force: Force = False,
    as_json: Json = False,
) -> Result:
    """Run an engine on images; print classes, draw maps and boxes, or write the outputs."""
    from onnxgraft import commands

    return commands.infer(
        engine, images, preprocess=preprocess, postprocess=postprocess, out=out,
        trust=trust_of(trust), force=force,
    )  # fmt: skip


@subcommand(show.exported, example="onnxgraft export triton model.engine -o repository")
def export(
    form: Annotated[
        Literal["cpp", "triton"],
        typer.Argument(metavar="FORM", help="What to write: triton, or cpp, a program in C++."),
    ],
    engine: EngineFile,
    out: Annotated[
        Path,
        typer.Option(
            "-o",
            "--out",
            metavar="FOLDER",
            rich_help_panel=OUTPUT,
            help="Model repository, in which other models may be, or the program's folder.",
        ),
    ],
    name: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            rich_help_panel=OUTPUT,
            help="Name of the model; that of the network's file if not given.",
        ),
    ] = None,
    max_batch: Annotated[
        int | None,
        typer.Option(
            min=1,
            rich_help_panel=RUNNING,
            help="Most requests that are joined. If not given, what bench --p99 found, or 16; "
            "TensorRT takes what the engine was built for, and with OpenVINO clients make batches.",
        ),
    ] = None,
    instances: Annotated[
        int | None,
        typer.Option(
            min=1,
            rich_help_panel=RUNNING,
            help="Instances that run side by side; what bench --p99 found, or 1, if not given.",
        ),
    ] = None,
    queue_delay: Annotated[
        int,
        typer.Option(
            min=0,
            metavar="US",
            rich_help_panel=RUNNING,
            help="Microseconds that a request may wait for others.",
        ),
    ] = 0,
    threads: Threads = None,
    graph: Annotated[
        list[Path],
        typer.Option(
            metavar="GRAPH.onnx",
            rich_help_panel=MODEL,
            help="ONNX file that an OpenVINO engine was built from, where it is not beside it; "
            "repeatable.",
        ),
    ] = [],  # noqa: B006  (typer copies it)
    force: Force = False,
    as_json: Json = False,
) -> Result:
    """Write an engine as a model of a Triton repository, or with a program in C++ that runs it."""
    from onnxgraft import commands

    return commands.export(
        form, engine, out, name=name, max_batch=max_batch, instances=instances,
        queue_delay=queue_delay, threads=threads, graph=graph, force=force,
    )  # fmt: skip


@subcommand(show.served, example="onnxgraft serve model.engine --port 8000")
def serve(
    engine: EngineFile,
    host: Annotated[
        str,
        typer.Option(metavar="HOST", rich_help_panel=SERVER, help="Address to listen on."),
    ] = "127.0.0.1",
    port: Annotated[
        int,
        typer.Option(
            min=0, max=65535, rich_help_panel=SERVER, help="Port; 0 takes one that is free."
        ),
    ] = 8000,
    name: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            rich_help_panel=SERVER,
            help="Name of the model in requests; that of the file if not given.",
        ),
    ] = None,
    preprocess: PreprocessFile = None,
    postprocess: PostprocessFile = None,
    threads: Threads = None,
    max_request: Annotated[
        int,
        typer.Option(min=1, metavar="MIB", rich_help_panel=SERVER, help="Most MiB of a request."),
    ] = 64,
    trust: Trusted = [],  # noqa: B006  (typer copies it)
    as_json: Json = False,
) -> Result:
    """Answer requests over HTTP (KServe v2), with metrics and a page to try pictures on."""
    from onnxgraft import commands

    return commands.serve(
        engine, host=host, port=port, name=name, preprocess=preprocess, postprocess=postprocess,
        threads=threads, max_request=max_request, trust=trust_of(trust),
    )  # fmt: skip
