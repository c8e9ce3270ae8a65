"""Whether engines compute what their graphs say, on every instruction set that this machine has.

    python -m benchmarks.proven > benchmarks/proven.md

needs the networks and images that fcn_camvid.toml names, and those beside them, and NNCF for
OpenVINO's peer. Each network is calibrated on 100 images and quantized for each CPU target as
`deploy` does without a budget; each engine is built with its proof, and run over the validation
images beside the exact reference of its graph. OpenVINO is limited by ONEDNN_MAX_CPU_ISA, each
limit in a process of its own; onnxruntime has no such switch. `exact` is `run.exact`; decibels are
SQNR over the first output of all validation images; the metric is that of the network: class mIoU,
or mAP at 0.5. The peer is the runtime's own INT8, calibrated on the same images: NNCF for OpenVINO,
quantize_static (minmax, weights per channel) for onnxruntime. Speed-ups are medians at batch 1 over
that of onnxruntime FP32, all in one process, in turns. Other forms of the same graph everywhere are
timed in the same turns; 1.10x is a tenth faster than the graph as it was quantized.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.quantization import quantize_statically

from onnxgraft import commands
from onnxgraft.commands._int8 import QuantizeOptions, int8_graph
from onnxgraft.data.preprocess import Preprocess
from onnxgraft.data.ranges import Ranges
from onnxgraft.data.samples import open_samples
from onnxgraft.graph.model import Model
from onnxgraft.graph.quantized import narrowed, precise, with_offset
from onnxgraft.graph.tensors import Array
from onnxgraft.run.difference import Difference
from onnxgraft.run.exact import exact
from onnxgraft.run.session import OnnxRuntime
from onnxgraft.stages import engine, quantize
from onnxgraft.stages.validate import make_metric
from onnxgraft.stages.validate.metrics import Answered, Metric
from onnxgraft.stages.validate.report import versions
from onnxgraft.targets import find_target
from onnxgraft.targets.cpu import this_cpu

RECIPE = Path(__file__).with_name("fcn_camvid.toml")
CALIBRATION, RUNS = 100, 20
# What OpenVINO may be limited to, the strongest first; a limit that is no limit here is left out.
LIMITS = ("", "AVX512_CORE_VNNI", "AVX512_CORE")


@dataclass(frozen=True)
class Network:
    """A network and how it is judged.

    Attributes:
        name: Of its folder.
        file: In it.
        preprocess: In place of the recipe's, where it is another.
        metric: ``miou``, or ``map`` of the boxes that an output stands for.
    """

    name: str
    file: str
    metric: str
    preprocess: dict[str, Any]


NETWORKS = (
    Network("fcn_camvid", "fcn_camvid.pb", "miou", {}),
    Network("mobilenet_camvid", "mobilenet_camvid.pb", "miou", {}),
    Network("segformer_camvid", "segformer_camvid.onnx", "miou", {}),
    Network(
        "yolo_camvid", "yolo_camvid.onnx", "map",
        {"color": "rgb", "scale": (1 / 255,), "mean": (0.0,)},
    ),
)  # fmt: skip


def boxes(output: Array) -> Array:
    """Return the rows [x1, y1, x2, y2, score, class] that a detector's output stands for.

    Scores over 0.01, and of boxes of one class that overlap by half the best, by falling score.
    """
    rows = output.reshape(-1, output.shape[-1]).astype(np.float64)
    centre, size, scores = rows[:, :2], rows[:, 2:4], rows[:, 4:5] * rows[:, 5:]
    corners = np.concatenate([centre - size / 2, centre + size / 2], 1)
    found = []
    for index in range(scores.shape[1]):
        order = np.argsort(-scores[:, index], kind="stable")
        left = order[scores[order, index] > 0.01]
        while len(left):
            best, left = left[0], left[1:]
            found.append([*corners[best], scores[best, index], index])
            low = np.maximum(corners[best, :2], corners[left, :2])
            high = np.minimum(corners[best, 2:], corners[left, 2:])
            shared = np.clip(high - low, 0, None).prod(1)
            area = (corners[:, 2:] - corners[:, :2]).prod(1)
            left = left[shared <= 0.5 * (area[best] + area[left] - shared)]
    return np.array(found, np.float32).reshape(1, -1, 6)


def file_of(network: Network) -> Path:
    """Return where a network is, below the folder of all."""
    return Path(network.name, network.file)


class Road:
    """One network on its way: float graph, data, and what the float graph answers."""

    def __init__(self, network: Network, folder: Path, images: int | None) -> None:
        """Convert, clean and calibrate; or take what an earlier process left in the folder."""
        recipe = commands.read_recipe(RECIPE)
        models = Path(recipe.model).parent.parent
        self.network = network
        file, ranges = folder / f"{network.name}.onnx", folder / f"{network.name}.json"
        preprocess = Preprocess.model_validate({
            **recipe.preprocess.model_dump(), **network.preprocess
        })  # fmt: skip
        if not file.exists():
            outputs = "score:0" if file_of(network).suffix == ".pb" else None
            whole = commands.convert(models / file_of(network), outputs=outputs, verify=False).model
            commands.surgery(whole, file, verify=False)
        self.model = Model.load(file)
        calibration = open_samples(
            recipe.calibrate.data, self.model.inputs, preprocess, images=CALIBRATION
        )
        if not ranges.exists():
            quantize.calibrate(self.model, calibration).save(ranges)
        self.ranges = Ranges.load(ranges)
        self.calibration = calibration
        self.validation = open_samples(
            recipe.validation.data, self.model.inputs, preprocess, images=images
        )
        self.labels: dict[str, Array] = {}
        if network.metric == "map":
            stored = json.loads(
                Path(recipe.validation.data).with_name("val_boxes.json").read_text()
            )
            self.labels = {name: np.array(rows, np.float32) for name, rows in stored.items()}

    def metric(self) -> Metric:
        """Return a new metric."""
        return make_metric(self.network.metric, "camvid")

    def add(self, metric: Metric, name: str, output: Array, label: Array | None) -> None:
        """Take one answer into a metric."""
        if self.network.metric == "map":
            metric.add(Answered(boxes(output)), self.labels[Path(name).name])
        elif label is not None:
            metric.add(Answered(output), label)


class Compiled:
    """An OpenVINO model in a file, to be run like an engine."""

    def __init__(self, path: Path) -> None:
        """Compile it as `engine` does: float layers in float32."""
        import openvino

        self._compiled = openvino.Core().compile_model(
            path, "CPU", {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
        )

    def infer(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Return the outputs by their places."""
        return {
            str(place): value for place, value in enumerate(self._compiled(dict(feeds)).values())
        }


def nncf_peer(road: Road, folder: Path) -> Compiled | None:
    """Return OpenVINO's own INT8 of the float graph; None where NNCF is not installed."""
    path = folder / f"{road.network.name}.nncf.xml"
    if not path.exists():
        try:
            import nncf
        except ImportError:
            return None
        import openvino

        feeds = [dict(sample.feeds) for sample in road.calibration]
        quantized = nncf.quantize(
            openvino.convert_model(road.model.file), nncf.Dataset(feeds), subset_size=len(feeds)
        )
        openvino.save_model(quantized, path, compress_to_fp16=False)
    return Compiled(path)


def onnxruntime_peer(road: Road, folder: Path) -> OnnxRuntime:
    """Return onnxruntime's own INT8 of the float graph."""
    path = folder / f"{road.network.name}.peer.onnx"
    if not path.exists():
        quantize_statically(road.model, road.calibration, path, symmetric=False)
    return OnnxRuntime(path)


class Kept:
    """What a network answers first, kept in a folder from row to row where there is one."""

    def __init__(self, run: Any, folder: Path | None = None) -> None:
        """Ask ``run`` for what is not in ``folder``."""
        self._run, self._folder = run, folder
        if folder is not None:
            folder.mkdir(exist_ok=True)

    def answer(self, position: int, feeds: Mapping[str, Array]) -> Array:
        """Return the first output for the sample at ``position``."""
        file = None if self._folder is None else self._folder / f"{position}.npy"
        if file is not None and file.exists():
            return np.asarray(np.load(file))
        found = np.array(next(iter(self._run.infer(feeds).values())))
        if file is not None:
            np.save(file, found)
        return found


def judge(road: Road, target: str, folder: Path) -> dict[str, Any]:
    """Quantize, build with proof, and measure; everything that a row of the table says."""
    aim = find_target(target)
    table = quantize.placement(target, aim.cpu())
    stored = folder / f"{road.network.name}.{target}{'.pairs' if table.pairs else ''}.onnx"
    if not stored.exists():
        options = QuantizeOptions(
            table, improvements=quantize.DEFAULT_IMPROVEMENTS, calibration=road.calibration
        )
        int8_graph(road.model, road.ranges, options).model.save(stored)
    graph = Model.load(stored)
    path = folder / "engine"
    begun = time.perf_counter()
    passport = engine.build(
        graph, path, target, samples=(sample.feeds for sample in road.calibration)
    )
    seconds = time.perf_counter() - begun
    with ExitStack() as stack:
        float_graph = stack.enter_context(OnnxRuntime(road.model.to_onnx()))
        runs: dict[str, Any] = {"engine": stack.enter_context(engine.load(path))}
        peer = nncf_peer(road, folder) if target == "openvino" else onnxruntime_peer(road, folder)
        if peer is not None:
            runs["peer"] = peer
        kept = {
            "float": Kept(float_graph, folder / road.network.name),
            "exact": Kept(stack.enter_context(exact(graph)), stored.with_suffix(".exact")),
            **{name: Kept(run) for name, run in runs.items()},
        }
        metrics = {name: road.metric() for name in kept}
        pairs = {
            pair: Difference()
            for pair in (("float", "exact"), ("float", "engine"), ("exact", "engine"))
        }
        for position, sample in enumerate(road.validation):
            found = {name: run.answer(position, sample.feeds) for name, run in kept.items()}
            for name, value in found.items():
                road.add(metrics[name], sample.name, value, sample.label)
            for (one, other), difference in pairs.items():
                difference.add(found[one], found[other])
        for name, form in (("offset", with_offset), ("narrow", narrowed), ("precise", precise)):
            other_form = form(graph) if name in aim.forms else None
            if other_form is not None:
                engine.build(other_form, folder / name, target, prove=False)
                runs[name] = stack.enter_context(engine.load(folder / name))
        engine.build(graph, folder / "as-is", target, prove=False)
        runs["as it is"] = stack.enter_context(engine.load(folder / "as-is"))
        runs["float"] = float_graph
        times = milliseconds(runs, next(iter(road.validation)).feeds)
    return {
        "network": road.network.name,
        "target": target,
        "cpu": str(passport.cpu),
        "limit": os.environ.get(aim.limit, "") if aim.limit else "",
        "proven": passport.proven,
        "notes": list(passport.notes),
        "seconds": seconds,
        "metrics": {name: next(iter(m.values().values())) for name, m in metrics.items()},
        "decibels": {f"{one} {other}": d.sqnr for (one, other), d in pairs.items()},
        "speedups": {name: times["float"] / value for name, value in times.items()},
        "forms": {
            name: times["as it is"] / times[name]
            for name in ("offset", "narrow", "precise")
            if name in times
        },
    }


def milliseconds(runs: Mapping[str, Any], feeds: Mapping[str, Array]) -> dict[str, float]:
    """Return the median time of each, in turns."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(RUNS):
        for name, run in runs.items():
            begun = time.perf_counter()
            run.infer(feeds)
            times[name].append(1e3 * (time.perf_counter() - begun))
    return {name: statistics.median(found) for name, found in times.items()}


def main() -> None:
    """Print the table; with --one, measure a row and print it as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--networks", default=",".join(n.name for n in NETWORKS))
    parser.add_argument("--targets", default="openvino,onnxruntime")
    parser.add_argument("--images", type=int, help="of the validation images; all if not given")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--one", action="store_true")
    given = parser.parse_args()
    chosen = [n for n in NETWORKS if n.name in given.networks.split(",")]
    if given.one:
        row = judge(Road(chosen[0], given.folder, given.images), given.targets, given.folder)
        print(json.dumps(row))
        return
    print("# What is proven\n")
    print(
        f"{time.strftime('%Y-%m-%d')}, {this_cpu()}; "
        + ", ".join(f"{k} {v}" for k, v in versions().items())
    )
    print("\n" + (__doc__ or "").split("\n\n", 2)[2].strip() + "\n")
    print(
        "| network | target, limit | proven | engine against exact | exact against float | "
        "engine against float | metric: float | exact | engine | peer | speed-up: engine | peer | "
        "uint8, 128 | 7 bits | 32-bit sums | built in |"
    )
    print("|" + "---|" * 16)
    notes = []
    with tempfile.TemporaryDirectory() as place:
        folder = given.folder or Path(place)
        for network in chosen:
            seen = set()
            for target in given.targets.split(","):
                for limit in LIMITS if find_target(target).limit else ("",):
                    row = _row(network, target, limit, folder, given.images)
                    if row is None or (target, row["cpu"].split(" (")[-1]) in seen:
                        continue
                    seen.add((target, row["cpu"].split(" (")[-1]))
                    _print(row)
                    notes += [
                        f"{row['network']}, {row['target']} {row['limit']}: {note}"
                        for note in row["notes"]
                    ]
    print("\n## What was built in another form\n")
    print("\n".join(f"- {note}" for note in notes) or "Nothing.")


def _row(
    network: Network, target: str, limit: str, folder: Path, images: int | None
) -> dict[str, Any] | None:
    """Measure one row in a process of its own."""
    environment = {**os.environ}
    if limit:
        environment[find_target(target).limit] = limit
    command = [sys.executable, "-m", "benchmarks.proven", "--one", "--networks", network.name,
               "--targets", target, "--folder", str(folder)]  # fmt: skip
    command += ["--images", str(images)] if images is not None else []
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        print(f"{network.name} {target} {limit}: {done.stderr.strip().splitlines()[-1]}",
              file=sys.stderr)  # fmt: skip
        return None
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _print(row: dict[str, Any]) -> None:
    metrics, decibels = row["metrics"], row["decibels"]
    print(
        f"| {row['network']} | {row['target']} {row['limit']} | "
        f"{'yes' if row['proven'] else 'NO'} | {decibels['exact engine']:.1f} dB | "
        f"{decibels['float exact']:.1f} dB | {decibels['float engine']:.1f} dB | "
        f"{metrics['float']:.2f} | {metrics['exact']:.2f} | {metrics['engine']:.2f} | "
        f"{_number(metrics.get('peer'))} | {row['speedups']['engine']:.2f}x | "
        f"{_number(row['speedups'].get('peer'))} | {_number(row['forms'].get('offset'))} | "
        f"{_number(row['forms'].get('narrow'))} | {_number(row['forms'].get('precise'))} | "
        f"{row['seconds']:.0f} s |", flush=True,
    )  # fmt: skip


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


if __name__ == "__main__":
    main()
