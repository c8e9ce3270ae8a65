"""What INT8 costs in accuracy and gains in latency, beside what other tools make of the same graph.

    python -m benchmarks.quantization [NETWORK ...] > benchmarks/quantization.md

needs the networks and images that fcn_camvid.toml names, those beside them, and the Pythons that
peers.py names; what is not installed has a row that says so.

Everyone starts from the same float graph, converted and cleaned, and calibrates on the same
samples. The judge of every graph is the exact reference, on validation samples by which nothing was
chosen; losses are in points, with the standard error that the choice of the images has (jackknife
over ten parts of them, of the difference). Networks of random weights have no metric. *Signal over
noise* is that of each channel of the outputs, the mean over channels and samples. *Layers alone*:
Conv, Gemm and MatMul, and nothing else. *Made in*: processor time, of which another's work on the
machine takes little; the peers get their images decoded, ours begin with the files.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
from benchmarks.heading import heading
from benchmarks.networks import CALIBRATION, NETWORKS, Road, chosen
from benchmarks.peers import PEERS, Refused, busy

from onnxgraft.commands._bench import BenchTarget, measure
from onnxgraft.commands._int8 import QuantizeOptions, int8_graph
from onnxgraft.data.samples import Sample
from onnxgraft.errors import InputError, OnnxgraftError
from onnxgraft.graph.model import Model
from onnxgraft.graph.operators import is_op
from onnxgraft.graph.tensors import Outputs
from onnxgraft.run.engine import Engine
from onnxgraft.run.exact import exact
from onnxgraft.stages import engine, quantize
from onnxgraft.stages.convert import Original
from onnxgraft.stages.quantize.improve.whole import noise_of
from onnxgraft.targets import TARGETS, Precision, find_target

T = TypeVar("T")
FLOAT = "float"
# What is timed of the peers, in both engines of the CPU: a graph of each.
TIMED = ("onnxruntime", "modelopt-entropy", "nncf", "neural-compressor")
# Whose form NNCF's graphs are in.
NNCF_FORM = "openvino"
# Of a metric's values so many are shown.
VALUES = 2
PARTS_OF_IT = ("accuracy", "latency")
# Parts of the validation samples, in their order: neighbours are often frames of one film.
PARTS = 10


class Scores:
    """A metric over all validation samples, and over all but one part of them, for each part."""

    def __init__(self, road: Road) -> None:
        self._road, self._count = road, 0
        self._parts = [road.metric() for _ in range(PARTS)]

    def add(self, sample: Sample, found: Outputs) -> None:
        """Take in the answers to the next sample."""
        self._road.add(
            self._parts[self._count * PARTS // len(self._road.validation)], sample, found
        )
        self._count += 1

    def values(self, without: int | None = None) -> dict[str, float]:
        """Return the first values of the metric, without a part of the samples or with all."""
        whole = self._road.metric()
        if whole is None:
            return {}
        for number, part in enumerate(self._parts):
            if number != without and part is not None:
                whole.merge(part)
        return dict(list(whole.values().items())[:VALUES])

    def lost(self, name: str, before: Scores) -> str:
        """Return what a value is less than ``before``, and the standard error of that."""
        loss = before.values()[name] - self.values()[name]
        each = [before.values(part)[name] - self.values(part)[name] for part in range(PARTS)]
        error = np.sqrt((PARTS - 1) / PARTS * np.square(each - np.mean(each)).sum())
        return f"{loss:.2f} ± {error:.2f}"


class Table:
    """Judges graphs, and prints a row of each as it comes.

    Attributes:
        road: Of the network.
    """

    def __init__(self, road: Road) -> None:
        """Run the float graph, and print the head and its row."""
        self.road = road
        self._before = Scores(road)
        with exact(road.model, name="float") as session:
            self._expected = []
            for sample in road.validation:
                found = {name: v.copy() for name, v in session.infer(sample.feeds).items()}
                self._before.add(sample, found)
                self._expected.append(found)
        self._values = self._before.values()
        columns = ["", *(c for name in self._values for c in (name, "lost"))]
        print("| " + " | ".join([*columns, "signal over noise", "made in"]) + " |")
        print("|" + "---|" * (len(columns) + 2))
        self._print(FLOAT, [c for v in self._values.values() for c in (f"{v:.2f}", "")])

    def row(self, title: str, model: Model, seconds: float) -> None:
        """Judge a graph."""
        with exact(model) as session:
            self.judge(title, session, seconds)

    def judge(self, title: str, session: Engine, seconds: float) -> None:
        """Judge what runs a graph."""
        scores, noises = Scores(self.road), []
        for sample, right in zip(self.road.validation, self._expected, strict=True):
            found = session.infer(sample.feeds)
            if found.keys() != right.keys():  # some tools have names of their own
                found = dict(zip(right, found.values(), strict=True))
            noises.append(noise_of(right, found))
            scores.add(sample, found)
        cells = [
            c
            for name, value in scores.values().items()
            for c in (f"{value:.2f}", scores.lost(name, self._before))
        ]
        self._print(title, cells, f"{-np.mean(noises):.1f} dB", f"{seconds:.0f} s")

    def refused(self, title: str, why: str) -> None:
        """Say why there is no graph."""
        self._print(title, [why.replace("|", "/")])

    def _print(self, title: str, cells: list[str], noise: str = "", seconds: str = "") -> None:
        empty = [""] * (2 * len(self._values) - len(cells))
        print("| " + " | ".join([title, *cells, *empty, noise, seconds]) + " |", flush=True)


@dataclass(frozen=True)
class Timed:
    """A graph to be timed in an engine."""

    title: str
    model: Model
    target: str
    precision: Precision | None = None
    ours: bool = False


def peers(table: Table) -> None:
    """Print the rows of the peers."""
    for name, peer in PEERS.items():
        if peer.suffix == ".onnx":
            try:
                file, cost = table.road.peer(name)
                title = f"{peer.title} ({cost.version})"
                table.row(title, Model.load(file), cost.processor)
            except (Refused, OnnxgraftError) as error:
                table.refused(peer.title, str(error))


def ours(table: Table) -> None:
    """Print our rows, and what was decided; keep the graphs."""
    road, told = table.road, []
    calibrated, ranges = busy_seconds(lambda: quantize.calibrate(road.model, road.calibration))
    for method in quantize.METHODS:
        graph, _ = quantize.quantize(road.model, quantize.rechoose(ranges, method), "tensorrt")
        table.row(f"ours, TensorRT's form, {method} alone", graph, calibrated)
    for aim in TARGETS:
        form = quantize.placement(aim.name, aim.cpu())
        settled, chosen = busy_seconds(
            partial(quantize.settle, road.model, ranges, road.calibration, form)
        )
        options = QuantizeOptions(
            form, improvements=quantize.IMPROVEMENTS, calibration=road.calibration
        )
        improved, done = busy_seconds(partial(int8_graph, road.model, chosen, options))
        done.model.save(_ours(road, aim.name))
        table.row(f"**ours, {aim.title}'s form**", done.model, calibrated + settled + improved)
        inside = len(done.report.layers)
        told.append(
            f"\n{aim.title}'s form: {inside} of {inside + len(done.report.float_layers)} layers in "
            f"INT8. Calibrating took {calibrated:.0f} s of processor time, choosing the method "
            f"{settled:.0f} s, the improvements {improved:.0f} s: "
            f"{(settled + improved) / calibrated:.1f} times calibration's own time.\n"
        )
        told += [f"- {note}" for note in (chosen.choice, *done.notes)]
        if road.network.transformer and aim.name == NNCF_FORM:
            like = replace(options, keep_float=of_softmax(road))
            took, done = busy_seconds(partial(int8_graph, road.model, chosen, like))
            table.row(
                f"ours, {aim.title}'s form, the {len(like.keep_float)} products of a Softmax in "
                "float, as NNCF leaves them", done.model, calibrated + settled + took,
            )  # fmt: skip
    print("\n".join(told))


def of_softmax(road: Road) -> tuple[str, ...]:
    """Return the names of the MatMuls that a Softmax feeds: of attention, with the values."""
    return tuple(
        node.name
        for node in road.model.graph.nodes
        if is_op(node, "MatMul") and node.inputs[0].inputs and is_op(node.i(), "Softmax")
    )


def _ours(road: Road, target: str) -> Path:
    return road.folder / f"ours-{target}.onnx"


def busy_seconds(make: Callable[[], T]) -> tuple[float, T]:
    """Return the processor seconds that something took, and what it made."""
    began = busy()
    made = make()
    return busy() - began, made


def timed(road: Road) -> Iterator[Timed]:
    """Yield the graphs to be timed: the float one, those of some peers, and ours."""
    for target in ("onnxruntime", "openvino"):
        yield Timed(FLOAT, road.model, target)
    yield Timed("float in BF16", road.model, "openvino", "bf16")
    for name in TIMED:
        with suppress(Refused, OnnxgraftError):
            model = Model.load(road.made(name))
            for target in ("onnxruntime", "openvino"):
                yield Timed(PEERS[name].title, model, target)
    for aim in (aim for aim in TARGETS if aim.on_cpu):
        model = Model.load(_ours(road, aim.name))
        yield Timed("**ours**", model, aim.name, ours=True)
        if "bf16" in aim.floats:
            yield Timed("**ours**, the rest in BF16", model, aim.name, "bf16", ours=True)


def latency(road: Road, rounds: int) -> None:
    """Print the latency of graphs in engines, each in a process of its own, in turn."""
    targets, notes = [], []
    for number, graph in enumerate(timed(road)):
        path = road.folder / f"{number}.engine"
        samples = (sample.feeds for sample in road.calibration)
        try:
            engine.build(
                graph.model, path, graph.target, precision=graph.precision, samples=samples,
                prove=graph.ours,
            )  # fmt: skip
        except InputError as error:
            notes.append(f"{graph.title} in {graph.target}: {error}")
            continue
        name = f"{graph.title} | {find_target(graph.target).title}"
        targets.append(BenchTarget(name, "engine", Original.of(path)))
    times = {row.name: row.median_ms for row in measure(targets, rounds=rounds, notes=notes)}
    print("\n| graph | engine | median ms | times as fast as float in it |\n|---|---|---|---|")
    for name, median in times.items():
        alone = times[f"{FLOAT} | {name.rpartition(' | ')[2]}"]
        print(f"| {name} | {median:.1f} | {alone / median:.2f}x |")
    print("".join(f"\nNot timed: {note}\n" for note in notes), flush=True)


def accuracy(road: Road) -> None:
    """Print what graphs lose in the exact reference."""
    print(f"Calibrated on {len(road.calibration)} samples, validated on {len(road.validation)}.\n")
    table = Table(road)
    peers(table)
    ours(table)


def main() -> None:
    """Measure everything and print it as Markdown."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("networks", nargs="*", metavar="NETWORK")
    parser.add_argument("--images", type=int, default=CALIBRATION, help="to calibrate on")
    parser.add_argument("--validation", type=int, help="images to validate on; all if not given")
    parser.add_argument("--rounds", type=int, default=7, help="of the latency")
    parser.add_argument(
        "--parts", nargs="+", choices=PARTS_OF_IT, default=PARTS_OF_IT,
        help="latency alone wants the folder of an earlier run, and a quiet machine",
    )  # fmt: skip
    parser.add_argument("--folder", type=Path, help="keeps the graphs for another run")
    given = parser.parse_args()
    print(heading("Quantization", __doc__, *given.networks))
    print(f"{os.cpu_count()} cores, shared with others: of latencies, ratios count.", flush=True)
    with tempfile.TemporaryDirectory() as place:
        for network in chosen(given.networks or [network.name for network in NETWORKS]):
            road = Road(network, given.folder or Path(place), given.validation, given.images)
            print(f"\n## {network.name}\n")
            if "accuracy" in given.parts:
                accuracy(road)
            if "latency" in given.parts:
                latency(road, given.rounds)


if __name__ == "__main__":
    main()
