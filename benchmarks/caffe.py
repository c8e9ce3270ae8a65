"""Caffe networks: the FCN against OpenCV DNN, and the cost of converting a large net.

    python -m benchmarks.caffe > benchmarks/caffe.md

needs the network and images that fcn_camvid.toml names. The large net is VGG-16 in its published
size with random weights, made here. Times and memory are those of the whole command.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.heading import made_by

from onnxgraft import commands

RECIPE = Path(__file__).with_name("fcn_camvid.toml")
RUNS = 5


def command(*arguments: str | Path) -> tuple[float, float]:
    """Run a command; return its seconds and its peak memory in MB."""
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, *map(str, arguments)], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{arguments} failed")
    return time.perf_counter() - start, usage.ru_maxrss / 1000


def timed(*arguments: str | Path) -> tuple[float, float]:
    """Return the median seconds and the largest memory of several runs."""
    runs = [command(*arguments) for _ in range(RUNS)]
    return statistics.median(seconds for seconds, _ in runs), max(memory for _, memory in runs)


def main() -> None:
    """Measure everything in one run and print it as Markdown."""
    recipe = commands.read_recipe(RECIPE)
    prototxt = Path(recipe.model).with_suffix(".prototxt")
    weights = prototxt.with_suffix(".caffemodel")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        fcn = folder / "fcn.onnx"
        rows = []
        start, _ = timed("-c", "pass")
        for name, files in (
            ("FCN-16s", (prototxt, weights)),
            ("VGG-16", (folder / "vgg16.prototxt", folder / "vgg16.caffemodel")),
        ):
            if name == "VGG-16":
                # In a process of its own: a child's peak memory begins with its parent's.
                command("-m", "models.caffe_networks", "vgg16", folder)
            size = files[1].stat().st_size / 1e6
            for verified, options in (("no", ["--no-verify"]), ("yes", [])):
                seconds, memory = timed(
                    "-m", "onnxgraft", "convert", files[0], "--weights", files[1],
                    "-o", folder / "out.onnx", *options,
                )  # fmt: skip
                rows.append(
                    f"| {name} | {size:.1f} | {verified} | {seconds - start:.2f} | {memory:.0f} | "
                    f"{memory / size:.1f} |"
                )
        commands.convert(prototxt, weights=weights, out=fcn)
        report = commands.validate(
            prototxt, fcn, recipe.validation.data, weights=weights, preprocess=recipe.preprocess,
            metric="miou",
        )  # fmt: skip
    print("# Caffe networks\n")
    print(made_by() + "\n")
    print(f"## FCN-16s against OpenCV DNN on {report.samples} images\n")
    print(
        "| | class mIoU | category mIoU | largest difference, of the range | same class a pixel |"
    )
    print("|---|---|---|---|---|")
    for row in report.candidates:
        values = " | ".join(f"{value:.2f}" for value in row.metrics.values())
        output = row.outputs[0] if row.outputs else None
        apart = "" if output is None else f"{output.relative:.1e}"
        same = "" if output is None else f"{100 * (output.agreement or 0):.3f} %"
        print(f"| {row.name} | {values} | {apart} | {same} |")
    print(f"\n## Cost of `onnxgraft convert` (median of {RUNS}, beside the interpreter's start)\n")
    print("| net | weights MB | verified | seconds | peak MB | peak / weights |")
    print("|---|---|---|---|---|---|")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
