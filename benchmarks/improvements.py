"""Whether the methods that make INT8 lose less make a network worse: 30 networks, every target.

    python -m benchmarks.improvements [NETWORK ...] [--folder DIR] > benchmarks/improvements.md

needs the networks and images that fcn_camvid.toml names, and those beside them.

Signal over noise of the INT8 graph in the exact reference, the mean over channels and samples, on
validation samples that nothing was chosen by: with the ranges that `auto` chooses alone, and with
the usual methods, each of which stays only where calibration samples that it was not fitted to gain
by it. *Worse* is less by more than 0.1 dB. The trained networks are whole; those of random weights
are backbones for images of 96x96 with two seeds, and encoders.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from benchmarks.heading import heading
from benchmarks.networks import NETWORKS, Network, Road

from models.keras_networks import BACKBONES
from onnxgraft.commands._int8 import QuantizeOptions, int8_graph
from onnxgraft.graph.model import Model
from onnxgraft.graph.tensors import Outputs
from onnxgraft.run.exact import exact
from onnxgraft.stages import quantize
from onnxgraft.stages.quantize.improve.whole import noise_of
from onnxgraft.targets import TARGETS

CALIBRATION, VALIDATION = 32, 24
WORSE = 0.1
_SMALL = {"crop": None, "resize": (96, 96), "color": "rgb", "scale": (1 / 127.5,), "mean": (127.5,)}
TRAINED = [network for network in NETWORKS if network.file]
ENCODERS = [network for network in NETWORKS if network.tokens] + [
    Network("text_encoder.64.1", tokens=(64, 1000), transformer=True)
]
RANDOM = [
    Network(f"{name}.96.{seed}", preprocess=_SMALL) for name in sorted(BACKBONES) for seed in (0, 1)
]


def measure(network: Network, folder: Path) -> list[tuple[float, float]]:
    """Print a row for each target; return what each has without and with the methods, in dB."""
    road = Road(network, folder, VALIDATION, CALIBRATION)
    with exact(road.model, name="float") as session:
        expected = [session.infer(sample.feeds) for sample in road.validation]
    found = []
    for aim in TARGETS:
        form = quantize.placement(aim.name, aim.cpu())
        chosen = quantize.settle(road.model, road.ranges, road.calibration, form)
        alone, _ = quantize.quantize(road.model, chosen, form)
        options = QuantizeOptions(
            form, improvements=quantize.IMPROVEMENTS, calibration=road.calibration
        )
        done = int8_graph(road.model, chosen, options)
        before, after = (signal(road, graph, expected) for graph in (alone, done.model))
        back = [note.split()[0] for note in done.notes if " was taken back: " in note]
        print(
            f"| {network.name} | {aim.title} | {decibels(before)} | {decibels(after)} | "
            f"{', '.join(done.improved)} | {', '.join(back)} |",
            flush=True,
        )
        found.append((before, after))
    return found


def signal(road: Road, graph: Model, expected: list[Outputs]) -> float:
    """Return the signal over noise of a graph on the validation samples, in dB."""
    with exact(graph) as session:
        answers = [session.infer(sample.feeds) for sample in road.validation]
        return -float(np.mean([noise_of(r, a) for r, a in zip(expected, answers, strict=True)]))


def decibels(value: float) -> str:
    """Return it with one place; what rounds to zero has no sign."""
    return f"{round(value, 1) + 0.0:.1f} dB"


def main() -> None:
    """Measure everything and print it as Markdown."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help="all if not given")
    parser.add_argument("--folder", type=Path, help="keeps the networks for another run")
    given = parser.parse_args()
    print(heading("What the improvements are worth", __doc__, *given.networks))
    print(f"Calibrated on {CALIBRATION} samples, {VALIDATION} of validation.\n")
    print("| network | form of | without | with | methods that stayed | taken back |")
    print("|---|---|---|---|---|---|")
    found = []
    with tempfile.TemporaryDirectory() as place:
        known = {network.name: network for network in (*RANDOM, *ENCODERS, *TRAINED)}
        networks = [known[name] for name in given.networks or known]
        for network in networks:
            found += measure(network, given.folder or Path(place))
    gains = [after - before for before, after in found]
    worse = sum(gain < -WORSE for gain in gains)
    print(
        f"\n{len(networks)} networks, {len(gains)} graphs: {worse} worse by more than {WORSE} dB; "
        f"the gain is {decibels(float(np.median(gains)))} in the median, "
        f"{decibels(min(gains))} to {decibels(max(gains))}."
    )


if __name__ == "__main__":
    main()
