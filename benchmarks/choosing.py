"""What the whole network's choice of ranges and improvements gives, and what the search costs.

    python -m benchmarks.choosing [NETWORK ...] > benchmarks/choosing.md

needs the networks and images that fcn_camvid.toml names. In TensorRT's form; accuracy is that of
the exact reference on the validation images, which nothing was chosen by.
"""

from __future__ import annotations

import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from benchmarks.proven import NETWORKS, Network, Road

from onnxgraft.graph.model import Model
from onnxgraft.run.exact import exact
from onnxgraft.stages import quantize
from onnxgraft.stages.quantize.improve.whole import noise_of
from onnxgraft.stages.validate.report import versions

TARGET = "tensorrt"


def judged(road: Road, graphs: dict[str, Model]) -> None:
    """Print the metrics of graphs, the float one first, and the signal over noise of the others."""
    sessions = {name: exact(graph) for name, graph in graphs.items()}
    metrics = {name: road.metric() for name in graphs}
    noises: dict[str, list[float]] = {name: [] for name in graphs}
    for sample in road.validation:
        found = {name: session.infer(sample.feeds) for name, session in sessions.items()}
        for name, made in found.items():
            road.add(metrics[name], sample.name, next(iter(made.values())), sample.label)
            noises[name].append(noise_of(found["float"], made))
    kinds = list(metrics["float"].values())
    print(f"| | {' | '.join(kinds)} | signal over noise |\n|---|{'---|' * len(kinds)}---|")
    for name, metric in metrics.items():
        values = " | ".join(f"{value:.2f}" for value in metric.values().values())
        told = "" if name == "float" else f"{-np.mean(noises[name]):.1f} dB"
        print(f"| {name} | {values} | {told} |")
    for session in sessions.values():
        session.close()


def rows(network: Network, folder: Path) -> None:
    """Print everything about one network."""
    print(f"\n## {network.name}\n")
    road = Road(network, folder, None)
    times = [time.perf_counter()]
    ranges = quantize.calibrate(road.model, road.calibration)
    times.append(time.perf_counter())
    chosen = quantize.settle(road.model, ranges, road.calibration, TARGET)
    times.append(time.perf_counter())
    done = quantize.improve(road.model, chosen, TARGET, road.calibration)
    times.append(time.perf_counter())
    calibrating, settling, improving = np.diff(times)
    print(*(f"- {note}" for note in (chosen.choice, *done.notes)), sep="\n")
    print(
        f"\nCalibrating took {calibrating:.0f} s, choosing the method {settling:.0f} s, the "
        f"improvements {improving:.0f} s: {(settling + improving) / calibrating:.1f} times "
        "calibration's own time.\n"
    )
    judged(road, {
        "float": road.model,
        **{
            method: quantize.quantize(road.model, quantize.rechoose(ranges, method), TARGET)[0]
            for method in quantize.METHODS
        },
        "auto and the usual improvements": quantize.quantize(
            done.model, done.ranges, TARGET, improved=done.improved
        )[0],
    })  # fmt: skip


def main() -> None:
    """Print the tables as Markdown."""
    names = sys.argv[1:] or [network.name for network in NETWORKS]
    print("# The whole network's choice of ranges and improvements\n")
    command = " ".join(("python -m benchmarks.choosing", *names))
    print(f"Made by `{command}` on {datetime.now(UTC):%Y-%m-%d}, with")
    print(", ".join(f"{name} {version}" for name, version in versions().items()) + ".")
    with tempfile.TemporaryDirectory() as folder:
        for network in NETWORKS:
            if network.name in names:
                rows(network, Path(folder))
                sys.stdout.flush()


if __name__ == "__main__":
    main()
