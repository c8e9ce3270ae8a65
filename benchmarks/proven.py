"""Whether engines compute what their graphs say, on every instruction set that this machine has.

    python -m benchmarks.proven > benchmarks/proven.md

needs the networks and images that fcn_camvid.toml names, those beside them, and the Python that
ONNXGRAFT_NNCF names, for OpenVINO's peer.

Each network is calibrated on 100 images and quantized for each CPU target as `deploy` does without
a budget; each engine is built with its proof, and run over the validation images beside the exact
reference of its graph. OpenVINO is limited by ONEDNN_MAX_CPU_ISA, each limit in a process of its
own; onnxruntime has no such switch. `exact` is `run.exact`; decibels are SQNR over the first output
of all validation images; the metric is that of the network: class mIoU, or mAP at 0.5. The peer is
the runtime's own INT8, calibrated on the same images: NNCF for OpenVINO, quantize_static (minmax,
weights per channel) for onnxruntime. Speed-ups are medians at batch 1 over
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
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.heading import heading
from benchmarks.networks import NETWORKS, Network, Road, chosen
from benchmarks.peers import Refused

from onnxgraft.commands._int8 import QuantizeOptions, int8_graph
from onnxgraft.graph.model import Model
from onnxgraft.graph.quantized import narrowed, precise, with_offset
from onnxgraft.graph.tensors import Array
from onnxgraft.run.difference import Difference
from onnxgraft.run.exact import exact
from onnxgraft.run.session import OnnxRuntime
from onnxgraft.stages import engine, quantize
from onnxgraft.targets import find_target

PAUSE = 0.1
RUNS = 20
# What OpenVINO may be limited to, the strongest first; a limit that is no limit here is left out.
LIMITS = ("", "AVX512_CORE_VNNI", "AVX512_CORE")


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


def peer_of(road: Road, target: str) -> Compiled | OnnxRuntime | None:
    """Return the runtime's own INT8 of the float graph; None where there is none."""
    try:
        path, _ = road.peer("nncf-openvino" if target == "openvino" else "onnxruntime")
    except Refused:
        return None
    return Compiled(path) if target == "openvino" else OnnxRuntime(path)


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
    # The peers' graphs are beside it, under their own names.
    stored = road.folder / f"ours-{target}{'.pairs' if table.pairs else ''}.onnx"
    if not stored.exists():
        options = QuantizeOptions(
            table, improvements=quantize.IMPROVEMENTS, calibration=road.calibration
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
        if (peer := peer_of(road, target)) is not None:
            runs["peer"] = peer
        kept = {
            "float": Kept(float_graph, road.folder / "float"),
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
                road.add(metrics[name], sample, {name: value})
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
    """Return the median time of each, in turns.

    Each has a pause, and runs once, before it is timed: threads of the one before wait busily for a
    while, and take processors from it.
    """
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(RUNS):
        for name, run in runs.items():
            time.sleep(PAUSE)
            run.infer(feeds)
            begun = time.perf_counter()
            run.infer(feeds)
            times[name].append(1e3 * (time.perf_counter() - begun))
    return {name: statistics.median(found) for name, found in times.items()}


def main() -> None:
    """Print the table; with --one, measure a row and print it as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--networks", default=",".join(n.name for n in NETWORKS if n.metric))
    parser.add_argument("--targets", default="openvino,onnxruntime")
    parser.add_argument("--images", type=int, help="of the validation images; all if not given")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--one", action="store_true")
    given = parser.parse_args()
    networks = chosen(given.networks.split(","))
    if given.one:
        road = Road(networks[0], given.folder, given.images)
        row = judge(road, given.targets, road.folder)
        print(json.dumps(row))
        return
    print(heading("What is proven", __doc__))
    print(
        "| network | target, limit | proven | engine against exact | exact against float | "
        "engine against float | metric: float | exact | engine | peer | speed-up: engine | peer | "
        "uint8, 128 | 7 bits | 32-bit sums | built in |"
    )
    print("|" + "---|" * 16)
    notes = []
    with tempfile.TemporaryDirectory() as place:
        folder = given.folder or Path(place)
        for network in networks:
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
        told = done.stderr.strip().splitlines() or [f"ended with {done.returncode}"]
        print(f"{network.name} {target} {limit}: {told[-1]}", file=sys.stderr)
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
