"""Engines of the CPU, on two real networks: each library beside itself without onnxgraft.

    python -m benchmarks.engines [--rounds N] > benchmarks/engines.md

needs the networks and images that fcn_camvid.toml names. Each row runs in a process of its own,
all in turn, each with as many threads as there are cores; ratios are of medians. *alone* is the
library's own Python interface on the same graph, as its documentation shows it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.heading import made_by

from onnxgraft.commands import read_recipe
from onnxgraft.data.samples import open_samples
from onnxgraft.errors import InputError
from onnxgraft.graph.model import Model
from onnxgraft.run.feeds import random_feeds
from onnxgraft.stages import engine, quantize, surgery
from onnxgraft.stages.convert import Original

RECIPE = Path(__file__).with_name("fcn_camvid.toml")
IMAGES = 40
BASE = "onnxruntime FP32"


def serve(kind: str, path: str) -> None:
    """Hold one engine; answer each line, a number of runs, with their milliseconds."""
    model_path = Path(path)
    if kind == "ours":
        built = engine.load(model_path)
        feeds = random_feeds(built.inputs, 1)
        run = lambda: built.infer(feeds)  # noqa: E731
    elif kind == "onnxruntime":
        import onnxruntime

        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        feeds = random_feeds(Model.load(path).inputs, 1)
        run = lambda: session.run(None, feeds)  # noqa: E731
    else:
        import openvino

        hint = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": kind.split()[1]}
        compiled = openvino.Core().compile_model(path, "CPU", hint)
        feeds = random_feeds(Model.load(path).inputs, 1)
        run = lambda: compiled(feeds)  # noqa: E731
    for _ in range(5):
        run()
    print("ready", flush=True)
    for line in sys.stdin:
        times = []
        for _ in range(int(line)):
            start = time.perf_counter()
            run()
            times.append(1000 * (time.perf_counter() - start))
        print(json.dumps(times), flush=True)


def timed(rows: dict[str, tuple[str, Path]], rounds: int, runs: int) -> dict[str, list[float]]:
    """Time every row in turn; return the median of each round."""
    workers = {}
    medians: dict[str, list[float]] = {name: [] for name in rows}
    try:
        for name, (kind, path) in rows.items():
            workers[name] = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.engines", "--serve", kind, str(path)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            )  # fmt: skip
            ask(workers[name], None)
        for _ in range(rounds):
            for name, worker in workers.items():
                medians[name].append(float(np.median(json.loads(ask(worker, runs)))))
    finally:
        for worker in workers.values():
            worker.kill()
            worker.wait()
    return medians


def ask(worker: Any, runs: int | None) -> str:
    """Send a number of runs, if there is one, and return the answer."""
    if runs is not None:
        worker.stdin.write(f"{runs}\n")
        worker.stdin.flush()
    line: str = worker.stdout.readline()
    if not line:
        raise SystemExit("a process ended")
    return line


def throughput(path: Path, seconds: float = 6.0) -> float:
    """Return images a second when as many threads as there are cores ask one engine."""
    import threading

    count = 0
    lock = threading.Lock()
    with engine.load(path) as built:
        feeds = random_feeds(built.inputs, 1)
        built.infer(feeds)
        end = time.perf_counter() + seconds

        def work() -> None:
            nonlocal count
            while time.perf_counter() < end:
                built.infer(feeds)
                with lock:
                    count += 1

        threads = [threading.Thread(target=work) for _ in range(2 * (os.cpu_count() or 1))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return count / seconds


def prepare(name: str, graph: Model, folder: Path) -> dict[str, tuple[str, Path]]:
    """Quantize and build everything for one network; return the rows to time."""
    recipe = read_recipe(RECIPE)
    samples = open_samples(recipe.calibrate.data, graph.inputs, recipe.preprocess, images=IMAGES)
    ranges = quantize.calibrate(graph, samples)
    graphs = {"float": graph}
    for target in ("openvino", "onnxruntime"):
        graphs[target], _ = quantize.quantize(graph, ranges, target)
    files = {key: folder / f"{name}.{key}.onnx" for key in graphs}
    for key, model in graphs.items():
        model.save(files[key])
    rows: dict[str, tuple[str, Path]] = {}

    def ours(title: str, key: str, target: str, precision: Any) -> None:
        path = folder / f"{name}.{title.replace(' ', '_')}"
        engine.build(graphs[key], path, target, precision=precision)
        rows[title] = ("ours", path)

    ours(BASE, "float", "onnxruntime", "fp32")
    rows[f"{BASE}, alone"] = ("onnxruntime", files["float"])
    ours("onnxruntime INT8", "onnxruntime", "onnxruntime", "int8")
    rows["onnxruntime INT8, alone"] = ("onnxruntime", files["onnxruntime"])
    ours("OpenVINO FP32", "float", "openvino", "fp32")
    rows["OpenVINO FP32, alone"] = ("openvino f32", files["float"])
    ours("OpenVINO INT8", "openvino", "openvino", "int8")
    rows["OpenVINO INT8, alone"] = ("openvino f32", files["openvino"])
    try:
        ours("OpenVINO BF16", "float", "openvino", "bf16")
        rows["OpenVINO BF16, alone"] = ("openvino bf16", files["float"])
        ours("OpenVINO INT8 and BF16", "openvino", "openvino", "bf16")
    except InputError as error:
        print(f"\nNo BF16: {error}")
    return rows


def main() -> None:
    """Measure everything and print it as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(*options.serve)
        return
    shared = Path(read_recipe(RECIPE).model).parent.parent
    networks = {
        "fcn_camvid": (shared / "fcn_camvid/fcn_camvid.pb", "score:0"),
        "mobilenet_camvid": (shared / "mobilenet_camvid/mobilenet_camvid.pb", "score:0"),
    }
    print("# Engines of the CPU, batch 1\n")
    print(made_by())
    load = os.getloadavg()[0]
    print(
        f"{os.cpu_count()} cores, load {load:.1f} before the run: ratios count, not milliseconds."
    )
    print(f"{options.rounds} rounds of {options.runs} runs; the ratio's range is over the rounds.")
    with tempfile.TemporaryDirectory() as place:
        for name, (path, outputs) in networks.items():
            graph, _ = surgery.run(Original.of(path, outputs=outputs).lower()[0])
            rows = prepare(name, graph, Path(place))
            medians = timed(rows, options.rounds, options.runs)
            print(f"\n## {name}\n")
            print(f"| engine | median ms | over {BASE} | in the rounds | over it alone |")
            print("|---|---|---|---|---|")
            for title, values in medians.items():
                if title.endswith(", alone"):
                    continue
                ratios = np.array(medians[BASE]) / np.array(values)
                alone = medians.get(f"{title}, alone")
                own = "" if alone is None else f"{np.median(np.array(alone) / values):.2f}x"
                print(f"| {title} | {np.median(values):.1f} | {np.median(ratios):.2f}x | "
                      f"{ratios.min():.2f} to {ratios.max():.2f} | {own} |")  # fmt: skip
            print("\n| OpenVINO FP32, asked by several threads | images/s |\n|---|---|")
            for hint in ("latency", "throughput"):
                file = Path(place) / f"{name}.{hint}"
                engine.build(graph, file, "openvino", options=engine.BuildOptions(hint=hint))
                print(f"| built for {hint} | {throughput(file):.1f} |")


if __name__ == "__main__":
    main()
