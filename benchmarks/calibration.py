"""What calibration costs on the street-scene networks, beside the peers: time and peak memory.

    python -m benchmarks.calibration > benchmarks/calibration.md

needs the networks and images that fcn_camvid.toml names, and for ModelOpt's row the Python that
peers.py names. Each row is a process of its own; they take turns, and the table has the median over
the rounds. A peer that is not installed has a row that says so.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.peers import Refused, busy, peak, reader, run

ROOT = Path(__file__).parent.parent
RECIPE = ROOT / "benchmarks/fcn_camvid.toml"
# The outputs, and how many images show that memory does not grow with their number.
NETWORKS = {"fcn_camvid": ("score:0,prob:0", 300), "mobilenet_camvid": ("score:0", 1000)}


def samples_of(model: Any, images: int) -> Any:
    """Return so many samples; those that are there again and again where there are fewer."""
    from onnxgraft.commands import read_recipe
    from onnxgraft.data.samples import open_samples

    recipe = read_recipe(RECIPE)
    folder = Path(recipe.calibrate.data)
    files = sorted(path.resolve() for path in folder.iterdir())
    listed = [str(files[index % len(files)]) for index in range(images)]
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write("\n".join(listed))
        file.flush()
        return open_samples(file.name, model.inputs, recipe.preprocess)


def bare(path: str, images: int) -> None:
    """Decode and infer, with nothing exposed."""
    from onnxgraft.graph.model import Model
    from onnxgraft.run.session import OnnxRuntime

    model = Model.load(path)
    samples = samples_of(model, images)
    with OnnxRuntime(path) as session:
        for sample in samples:
            session.infer(sample.feeds)


def ours(path: str, images: int, **options: Any) -> None:
    """Calibrate with onnxgraft."""
    from onnxgraft.graph.model import Model
    from onnxgraft.stages.quantize import calibrate

    model = Model.load(path)
    calibrate(model, samples_of(model, images), "entropy", **options)


def ours_without_numba(path: str, images: int) -> None:
    """Calibrate with onnxgraft as it is without the extra `fast`."""
    from onnxgraft.data import binning

    vars(binning)["_kernels"] = lambda: None
    ours(path, images)


def onnxruntime(path: str, images: int, method: str) -> None:
    """Calibrate with onnxruntime's own calibrators, one image at a time."""
    import onnxruntime as ort
    from onnxruntime.quantization import CalibrationMethod
    from onnxruntime.quantization.calibrate import CalibrationDataReader, create_calibrator

    from onnxgraft.graph.model import Model

    feeds = (sample.feeds for sample in samples_of(Model.load(path), images))
    ort.set_default_logger_severity(3)
    with tempfile.TemporaryDirectory() as place:
        calibrator = create_calibrator(
            path,
            ["Conv", "ConvTranspose", "MatMul", "Gemm", "Add"],
            augmented_model_path=f"{place}/augmented.onnx",
            calibrate_method=CalibrationMethod[method],
        )
        calibrator.set_execution_providers(["CPUExecutionProvider"])
        calibrator.collect_data(reader(CalibrationDataReader, feeds))
        calibrator.compute_data()


JOBS: dict[str, tuple[str, Callable[[str, int], None]]] = {
    "bare": ("onnxruntime FP32 inference, nothing else", bare),
    "ours": ("**onnxgraft entropy**, for all targets", ours),
    "target": (
        "**onnxgraft entropy**, `--target tensorrt`",
        lambda path, images: ours(path, images, targets=["tensorrt"]),
    ),
    "plain": ("onnxgraft entropy, numba not installed", ours_without_numba),
    "workers": (
        "onnxgraft entropy, `--workers 2` (memory of the parent alone)",
        lambda path, images: ours(path, images, workers=2),
    ),
    "every": (
        "onnxgraft entropy, every tensor (for TensorRT's cache)",
        lambda path, images: ours(path, images, tensors="all"),
    ),
    "ort_minmax": (
        "onnxruntime minmax",
        lambda path, images: onnxruntime(path, images, "MinMax"),
    ),
    "ort_entropy": (
        "onnxruntime entropy",
        lambda path, images: onnxruntime(path, images, "Entropy"),
    ),
}
Cost = tuple[float, float, float]


def measured(job: str, path: str, images: int) -> Cost:
    """Return the seconds, processor seconds and peak megabytes of a job in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.calibration", "--job", job, path, str(images)],
        capture_output=True, text=True, check=True, cwd=ROOT,
    )  # fmt: skip
    seconds, processor, megabytes = json.loads(done.stdout.splitlines()[-1])
    return seconds, processor, megabytes


def modelopt(path: str, images: int, folder: Path) -> Cost:
    """Return the same of ModelOpt, which calibrates and quantizes in one call, without decoding."""
    from onnxgraft.graph.model import Model

    model, data = Model.load(path), folder / "modelopt.npz"
    batch = [next(iter(sample.feeds.values())) for sample in samples_of(model, images)]
    np.savez(data, **{model.inputs[0].name: np.concatenate(batch)})
    cost = run("modelopt-entropy", Path(path), data, folder / "modelopt.onnx")
    return cost.seconds, cost.processor, cost.megabytes


def row(what: str, images: int, cost: Cost, bare: Cost | None = None) -> str:
    """Return a row of the table; times where they are held against those of ``bare``."""
    seconds, processor, megabytes = cost
    if bare is None:
        return f"| {what} | {images} | | | | | {megabytes:.0f} |"
    return (
        f"| {what} | {images} | {seconds:.1f} | {seconds / bare[0]:.2f}x | {processor:.1f} | "
        f"{processor / bare[1]:.2f}x | {megabytes:.0f} |"
    )


def table(path: str, images: int, many: int, rounds: int, folder: Path) -> None:
    """Print the rows of a network."""
    found: dict[str, list[Cost]] = {}
    for _ in range(rounds):
        for job in ("bare", "target", "ours", "plain", "workers", "every", "ort_minmax"):
            found.setdefault(job, []).append(measured(job, path, images))
    print("| | images | seconds | over bare | processor s | over bare | peak MB |")
    print("|---|---|---|---|---|---|---|")
    costs = {
        job: (statistics.median(run[0] for run in runs), statistics.median(run[1] for run in runs),
              max(run[2] for run in runs))
        for job, runs in found.items()
    }  # fmt: skip
    for job, cost in costs.items():
        print(row(JOBS[job][0], images, cost, costs["bare"]))
    for job in ("target", "ours"):
        print(row(JOBS[job][0], many, measured(job, path, many)))
    few = max(2, images // 20)
    entropy = "onnxruntime entropy (keeps every tensor of every image)"
    print(row(entropy, few, measured("ort_entropy", path, few)))
    try:
        cost = modelopt(path, images, folder)
    except Refused as error:
        print(f"| ModelOpt entropy | {error} | | | | | |", flush=True)
    else:
        told = "ModelOpt entropy, images decoded beforehand, with its quantization"
        print(row(told, images, cost, costs["bare"]), flush=True)


def main() -> None:
    """Run everything, or with ``--job`` one job."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--job", nargs=3)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    if options.job:
        job, path, images = options.job
        start = time.perf_counter()
        JOBS[job][1](path, int(images))
        print(json.dumps([time.perf_counter() - start, busy(), peak()]))
        return
    from benchmarks.heading import made_by

    from onnxgraft import commands

    shared = Path(commands.read_recipe(RECIPE).model).parent.parent
    print("# Calibration\n")
    print(made_by())
    print("Two cores, shared with others: compare ratios, and those of processor time rather than")
    print("those of seconds. Each row is a process of its own, with its imports, reading the model")
    print(f"and decoding; the median of {options.rounds} rounds.")
    with tempfile.TemporaryDirectory() as place:
        for name, (outputs, many) in NETWORKS.items():
            done = commands.convert(
                str(shared / name / f"{name}.pb"), outputs=outputs, verify=False
            )
            path = f"{place}/{name}.onnx"
            done.model.save(path)
            print(f"\n## {name}\n", flush=True)
            table(path, options.images, many, options.rounds, Path(place))


if __name__ == "__main__":
    main()
