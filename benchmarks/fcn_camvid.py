"""The street-scene FCN all the way: graph, parity, accuracy and latency, beside the peers.

    python -m benchmarks.fcn_camvid > benchmarks/fcn_camvid.md

needs the network and images that fcn_camvid.toml names, and `pip install onnxslim onnxsim` for
the graph table's peers (a peer that is not installed has a row that says so).
"""

from __future__ import annotations

import importlib
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import onnx
from benchmarks.heading import made_by

from onnxgraft.commands import deploy, read_recipe
from onnxgraft.commands._bench import BenchTarget, measure
from onnxgraft.graph.model import Model
from onnxgraft.graph.operators import counted
from onnxgraft.stages import engine
from onnxgraft.stages.convert import Original

RECIPE = Path(__file__).with_name("fcn_camvid.toml")
COUNTED = ("Transpose", "ReduceMean", "Reshape")


def graph_row(name: str, model: onnx.ModelProto) -> str:
    """Return a row of the graph table."""
    count = Counter(counted(model.graph.node))
    return f"| {name} | {count.total()} | " + " | ".join(str(count[op]) for op in COUNTED) + " |"


def peer_rows(converted: onnx.ModelProto) -> list[str]:
    """Return the rows of the simplifiers, on what tf2onnx alone makes."""
    peers: dict[str, Callable[[Any], onnx.ModelProto]] = {
        "onnxslim": lambda module: module.slim(converted),
        "onnxsim": lambda module: module.simplify(converted)[0],
    }
    rows = []
    for name, simplify in peers.items():
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError:
            rows.append(f"| then {name} | not installed | | | |")
            continue
        rows.append(graph_row(f"then {name} {metadata.version(name)}", simplify(module)))
    return rows


def main() -> None:
    """Measure everything in one run and print it as Markdown."""
    recipe = read_recipe(RECIPE)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        alone = folder / "tf2onnx.onnx"
        subprocess.run(
            [sys.executable, "-m", "tf2onnx.convert", "--graphdef", recipe.model, "--inputs",
             "input:0", "--outputs", recipe.outputs or "", "--opset", str(recipe.opset),
             "--output", alone],
            check=True, capture_output=True,
        )  # fmt: skip
        out = folder / "out"
        report = deploy(recipe, out)
        clean = out / "model.onnx"
        openvino_fp32 = folder / "openvino_fp32"
        engine.build(Model.load(clean), openvino_fp32, "openvino")
        latency = measure(
            [
                BenchTarget("TensorFlow FP32", "original", recipe.original),
                BenchTarget("onnxruntime FP32", "onnx", Original.of(clean)),
                BenchTarget("OpenVINO FP32", "engine", Original.of(openvino_fp32)),
                BenchTarget("onnxruntime INT8", "engine", Original.of(out / "engine.onnxruntime")),
                BenchTarget("OpenVINO INT8", "engine", Original.of(out / "engine.openvino")),
            ],
            rounds=7,
            runs=10,
        )
        converted = onnx.load(alone)
        print("# FCN-16s on CamVid, from a frozen TensorFlow graph to INT8 engines\n")
        print(made_by())
        print("Two cores with AVX512-VNNI, shared with others: compare ratios, not milliseconds.\n")
        print("## Graph\n\n| | nodes | " + " | ".join(COUNTED) + " |\n|---|---|---|---|---|")
        print(graph_row("tf2onnx alone", converted))
        print("\n".join(peer_rows(converted)))
        print(graph_row("onnxgraft convert", onnx.load(clean)))
        print("\n## Largest difference from TensorFlow, on 4 images\n")
        print("| stage | of the output's range |\n|---|---|")
        for stage in report.stages:
            print(f"| {stage.stage} | {stage.relative:.1e} |")
        print(f"\n## Accuracy on {report.samples} images, calibrated on 100\n")
        print("| engine | class mIoU | category mIoU | same class a pixel |\n|---|---|---|---|")
        for row in report.candidates:
            same = row.outputs[0].agreement if row.outputs else None
            values = " | ".join(f"{value:.2f}" for value in row.metrics.values())
            print(f"| {row.name} | {values} | {'' if same is None else f'{100 * same:.2f} %'} |")
        print("\n## Latency, batch 1, each in its own process, in turn (70 runs)\n")
        print("| engine | median ms | p90 | over TensorFlow | over onnxruntime FP32 |")
        print("|---|---|---|---|---|")
        for timed in latency:
            over = [latency[index].median_ms / timed.median_ms for index in (0, 1)]
            print(f"| {timed.name} | {timed.median_ms:.1f} | {timed.p90_ms:.1f} | "
                  f"{over[0]:.2f}x | {over[1]:.2f}x |")  # fmt: skip


if __name__ == "__main__":
    main()
