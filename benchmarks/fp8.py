"""What FP8 costs in accuracy beside INT8 and FP16, in the forms for TensorRT.

    python -m benchmarks.fp8 [NETWORK ...] > benchmarks/fp8.md

needs the networks and images that fcn_camvid.toml names, and those beside them. TensorRT builds the
graphs where it is installed; no GPU is needed.

Every graph is judged on the same validation images by the exact reference: FP8's numbers are
rounded as ONNX says, and their products added up exactly, which a GPU does with fewer bits. FP16 is
as onnxruntime computes the FP16 graph on a CPU. Losses are in points, with the standard error that
the choice of the images has. *Alone*: by the largest values seen, with weights rounded to the
nearest. *Builds*: TensorRT's parser and builder take the graph; its size is that of the engine, and
says nothing of speed. **No engine was run: there was no GPU at hand.** So there are no times here.
"""

from __future__ import annotations

import argparse
import importlib.util
import tempfile
from functools import partial
from pathlib import Path

from benchmarks.heading import heading
from benchmarks.networks import Road, chosen
from benchmarks.quantization import Table, busy_seconds

from onnxgraft.commands._int8 import QuantizeOptions, int8_graph
from onnxgraft.errors import OnnxgraftError
from onnxgraft.graph.model import Model
from onnxgraft.stages import engine, quantize
from onnxgraft.stages.engine import BuildOptions
from onnxgraft.targets import FORMATS

USUAL = ("fcn_camvid", "mobilenet_camvid")
IMAGES = 50


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
    table.row("FP16", half, 0)
    for kind in FORMATS:
        form = quantize.placement("tensorrt", kind=kind)
        plain, _ = quantize.quantize(road.model, quantize.rechoose(ranges, "minmax"), form)
        table.row(f"{kind.upper()} alone", plain, calibrated)
        settled, best = busy_seconds(
            partial(quantize.settle, road.model, ranges, road.calibration, form)
        )
        options = QuantizeOptions(
            form, improvements=quantize.DEFAULT_IMPROVEMENTS, calibration=road.calibration,
            floats="fp16",
        )  # fmt: skip
        improved, done = busy_seconds(partial(int8_graph, road.model, best, options))
        title = f"**{kind.upper()}, the rest in FP16**"
        table.row(title, done.model, calibrated + settled + improved)
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


def main() -> None:
    """Measure everything and print it as Markdown."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("networks", nargs="*", metavar="NETWORK")
    parser.add_argument("--images", type=int, default=IMAGES, help="to calibrate on")
    parser.add_argument("--validation", type=int, help="images to validate on; all if not given")
    given = parser.parse_args()
    words = ["--images", str(given.images)]
    words += [] if given.validation is None else ["--validation", str(given.validation)]
    print(heading("FP8 beside INT8 and FP16", __doc__, *given.networks, *words), flush=True)
    with tempfile.TemporaryDirectory() as place:
        for network in chosen(given.networks or USUAL):
            print(f"\n## {network.name}\n")
            print(f"By `python -m benchmarks.fp8 {network.name} {' '.join(words)}`.\n")
            compare(Road(network, Path(place), given.validation, given.images))


if __name__ == "__main__":
    main()
