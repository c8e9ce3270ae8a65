"""What FP8 costs in accuracy beside INT8 and FP16, in the forms for TensorRT.

    python -m benchmarks.fp8 [NETWORK ...] --folder DIR > benchmarks/fp8.md
    python -m benchmarks.fp8 [NETWORK ...] --folder DIR --engines >> benchmarks/fp8.md

needs the networks and images that fcn_camvid.toml names, and those beside them. The first makes
the graphs, and needs no GPU: TensorRT builds them where it is installed. The second takes them from
the folder, perhaps on another machine, and runs their engines on a GPU.

Every graph is judged on the same validation samples by the exact reference: FP8's numbers are
rounded as ONNX says, and their products added up exactly, which a GPU does with fewer bits. FP16 is
as onnxruntime computes the FP16 graph on a CPU. Losses are in points, with the standard error that
the choice of the samples has. *Alone*: by the largest values seen, with weights rounded to the
nearest. *Builds*: TensorRT's parser and builder take the graph; its size is that of the engine, and
says nothing of speed.
"""

from __future__ import annotations

import argparse
import importlib.util
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from benchmarks.heading import heading, made_by, this_gpu
from benchmarks.networks import Road, chosen
from benchmarks.quantization import Table, busy_seconds

from onnxgraft.commands._int8 import QuantizeOptions, int8_graph
from onnxgraft.errors import OnnxgraftError
from onnxgraft.graph.model import Model
from onnxgraft.run.exact import exact
from onnxgraft.stages import engine, quantize
from onnxgraft.stages.engine import BuildOptions
from onnxgraft.stages.quantize.improve.whole import noise_of
from onnxgraft.targets import FORMATS

USUAL = ("fcn_camvid", "mobilenet_camvid")
IMAGES = 50
# What an engine is timed with, if nothing else is said, and how often.
BATCHES = (1, 16)
RUNS = 100
# So many samples an engine's answers and those of its graph's exact reference are compared on.
BESIDE = 2
_ON_A_GPU = f"""
The engines of the same graphs. Their answers are judged as above, and held against the exact
reference of their own graph on {BESIDE} samples. Times are between two events around the engine,
data on the GPU, the median of {RUNS} runs.
""".strip()


def built(model: Model, folder: Path) -> str:
    """Return what TensorRT makes of a graph: the size of the engine, or why there is none."""
    if importlib.util.find_spec("tensorrt") is None:
        return "TensorRT is not installed"
    try:
        passport = engine.build(
            model, folder / "engine", "tensorrt", options=BuildOptions(batches=(1,)), prove=False
        )
    except OnnxgraftError as error:
        return str(error)
    size = (folder / "engine").stat().st_size / 1e6
    return f"{size:.1f} MB, TensorRT {passport.versions['tensorrt']}"


def compare(road: Road) -> None:
    """Print the rows of a network, what was decided, and what TensorRT builds."""
    print(
        f"Calibrated on {len(road.calibration)} images, validated on {len(road.validation)}.\n",
        flush=True,
    )
    table, told, engines = Table(road), list[str](), list[str]()
    calibrated, ranges = busy_seconds(
        partial(quantize.calibrate, road.model, road.calibration, tensors="all")
    )
    half, _ = quantize.to_half(road.model, quantize.rechoose(ranges, "minmax"))
    half.save(kept(road, "fp16"))
    table.row("FP16", half, 0)
    for kind in FORMATS:
        form = quantize.placement("tensorrt", kind=kind)
        plain, _ = quantize.quantize(road.model, quantize.rechoose(ranges, "minmax"), form)
        table.row(f"{kind.upper()} alone", plain, calibrated)
        settled, best = busy_seconds(
            partial(quantize.settle, road.model, ranges, road.calibration, form)
        )
        options = QuantizeOptions(
            form, improvements=quantize.IMPROVEMENTS, calibration=road.calibration,
            floats="fp16",
        )  # fmt: skip
        improved, done = busy_seconds(partial(int8_graph, road.model, best, options))
        title = f"**{kind.upper()}, the rest in FP16**"
        table.row(title, done.model, calibrated + settled + improved)
        done.model.save(kept(road, kind))
        inside = len(done.report.layers)
        told.append(
            f"\n{kind.upper()}: {inside} of {inside + len(done.report.float_layers)} layers.\n"
        )
        told += [f"- {note}" for note in (best.choice, *done.notes)]
        told += [f"- in float: {layer.name}, {layer}" for layer in done.report.float_layers]
        engines.append(f"| {kind.upper()}, the rest in FP16 | {built(done.model, road.folder)} |")
    engines.insert(0, f"| FP16 | {built(half, road.folder)} |")
    print("\n".join(told))
    print("\n".join(["\n| graph | builds |\n|---|---|", *engines]), flush=True)


def kept(road: Road, precision: str) -> Path:
    """Return where a graph is kept."""
    return road.folder / f"in-{precision}.onnx"


def run_engines(road: Road, batches: Sequence[int]) -> None:
    """Print how far the engines of the graphs are from the float graph, and how long they take."""
    table, times = Table(road), list[str]()
    base: Sequence[float] = ()
    for precision in ("fp16", *FORMATS):
        title, path = precision.upper(), road.folder / f"{precision}.engine"
        model = Model.load(kept(road, precision))
        try:
            options = BuildOptions(batches=batches)
            seconds, _ = busy_seconds(
                partial(engine.build, model, path, "tensorrt", options=options, prove=False)
            )
        except OnnxgraftError as error:
            table.refused(title, str(error).replace("\n", " "))
            continue
        with engine.load(path) as built, exact(model) as reference:
            table.judge(title, built, seconds)
            found = [
                -noise_of(reference.infer(sample.feeds), built.infer(sample.feeds))
                for sample in road.validation.head(BESIDE)
            ]
            shapes = {spec.name: spec.shape[1:] for spec in model.inputs}
            alone = [
                1000 * float(np.median(built.compute(  # type: ignore[attr-defined]
                    {name: (batch, *shape) for name, shape in shapes.items()}, RUNS
                )))
                for batch in batches
            ]  # fmt: skip
        base = base or alone
        cells = [f"{ms:.3f} | {one / ms:.2f}x" for ms, one in zip(alone, base, strict=True)]
        times.append(f"| {title} | {np.mean(found):.1f} dB | {' | '.join(cells)} |")
    heads = " | ".join(f"batch {batch}, ms | over FP16" for batch in batches)
    print(f"\n| engine | beside its graph's exact reference | {heads} |")
    print("|" + "---|" * (2 + 2 * len(batches)))
    print("\n".join(times), flush=True)


def main() -> None:
    """Measure everything and print it as Markdown."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("networks", nargs="*", metavar="NETWORK")
    parser.add_argument("--images", type=int, default=IMAGES, help="to calibrate on")
    parser.add_argument("--validation", type=int, help="samples to validate on; all if not given")
    parser.add_argument("--folder", type=Path, help="keeps the graphs for --engines")
    parser.add_argument("--engines", action="store_true", help="run them on a GPU")
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES, help="timed there")
    given = parser.parse_args()
    words = ["--images", str(given.images)]
    words += [] if given.validation is None else ["--validation", str(given.validation)]
    measure: Callable[[Road], None] = compare
    if given.engines:
        words += ["--engines", "--batches", *map(str, given.batches)]
        where = this_gpu()
        measure = partial(run_engines, batches=given.batches)
        if given.folder is None:
            raise SystemExit("--engines wants the --folder of an earlier run")
        print(f"## On a GPU\n\n{made_by(*given.networks, *words, where=where)}\n\n{_ON_A_GPU}")
    else:
        print(heading("FP8 beside INT8 and FP16", __doc__, *given.networks, *words), flush=True)
    with tempfile.TemporaryDirectory() as place:
        for network in chosen(given.networks or USUAL):
            print(f"\n##{'#' * given.engines} {network.name}\n")
            print(f"By `python -m benchmarks.fp8 {network.name} {' '.join(words)}`.\n")
            measure(Road(network, given.folder or Path(place), given.validation, given.images))


if __name__ == "__main__":
    main()
