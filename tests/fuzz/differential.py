"""Random sound networks through convert, surgery and quantize, held against what they were.

    python -m tests.fuzz.differential KIND COUNT [--seed S | --add] [--processes P]

KIND is ``onnx``, ``tensorflow`` or ``caffe``. Each network is converted and cleaned, and has to
answer as its own framework does: onnxruntime without optimizations, TensorFlow, OpenCV. Then it is
quantized for each target, and what onnxruntime makes of that graph, node by node, has to be what
the exact reference makes of it. What is refused in a sentence, or ends its process in a library, is
counted and is no difference; what is silently different is told by its seed, and becomes a test.
With --add the seeds go on behind those that stand in the table, and the figures are added to it.
"""

from __future__ import annotations

import argparse
import collections
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft import commands
from onnxgraft.data.samples import open_samples
from onnxgraft.errors import InputError, OnnxgraftError
from onnxgraft.graph.model import Model
from onnxgraft.graph.tensors import Array, Feeds, Outputs
from onnxgraft.run import session
from onnxgraft.run.answers import answers
from onnxgraft.run.proof import Reference
from onnxgraft.run.session import OnnxRuntime
from onnxgraft.stages import quantize, surgery
from onnxgraft.targets import TARGETS
from tests.figures import part, put, today, versions
from tests.random_networks.caffe_nets import SHAPE, caffe_net
from tests.random_networks.choices import Seeded
from tests.random_networks.onnx_graphs import onnx_graph
from tests.random_networks.tensorflow_graphs import SHAPE as TENSORFLOW_SHAPE
from tests.random_networks.tensorflow_graphs import tensorflow_graph

__all__ = ["KINDS", "differences"]

OUTCOMES = ("same", "refused", "ended", "different")

# Ten layers, each of which rounds to some 1e-6 of its values' size, and sums and a softmax may
# magnify that; a wrong weight, axis or permutation is off by the values' own size.
TOLERANCE = 1e-4
# What 8 bits keep of a network of ten layers, on the samples that the ranges are from, one at a
# time, as they were measured: in all but one of some thousand networks at least that, and a wrong
# scale, range or zero point keeps nothing. Where it is less, what nearly cancels may be the reason:
# then 8 bits may make so many decibels more noise than half a step in all weights and inputs does.
KEPT_DECIBELS = 10.0
MORE_DECIBELS = 10.0
# What is left where one of few values is another integer than in the exact answer, because a float
# before it was rounded otherwise; with a wrong scale, zero point or axis nothing is.
STEP_DECIBELS = 25.0


@dataclass
class Network:
    """A random network.

    Attributes:
        model: Converted and cleaned.
        feeds: Some samples.
        expected: What its own framework answers, under the model's names.
    """

    model: Model
    feeds: list[Feeds]
    expected: list[Outputs]


def _values(shape: Sequence[int], seed: int) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def of_onnx(seed: int) -> Network:
    """Return a random ONNX graph."""
    before = onnx_graph(Seeded(seed))
    (spec,) = before.inputs
    feeds = [{spec.name: _values((n, *map(int, spec.shape[1:])), n)} for n in (1, 3)]
    with OnnxRuntime(before.to_onnx(), optimize=False) as plain:
        expected = [plain.infer(fed) for fed in feeds]
    return Network(surgery.run(before)[0], feeds, expected)


def of_tensorflow(seed: int) -> Network:
    """Return a random TensorFlow graph."""
    import tensorflow as tf

    data = tensorflow_graph(Seeded(seed))
    feeds = [{"x:0": _values((n, *map(int, TENSORFLOW_SHAPE[1:])), n)} for n in (1, 3)]
    graph = tf.Graph()
    with graph.as_default():
        tf.graph_util.import_graph_def(tf.compat.v1.GraphDef.FromString(data), name="")
        # Its graph optimizer takes max(x, 2 x) for 2 x, where others read them too.
        config = tf.compat.v1.ConfigProto()
        config.graph_options.rewrite_options.disable_meta_optimizer = True
        with tf.compat.v1.Session(graph=graph, config=config) as running:
            try:
                expected = [{"y:0": running.run("y:0", fed)} for fed in feeds]
            except tf.errors.OpError as error:
                raise InputError(f"TensorFlow itself does not run it: {error.message}") from error
    with tempfile.TemporaryDirectory() as place:
        file = Path(place, "net.pb")
        file.write_bytes(data)
        model = commands.convert(file, outputs="y:0", verify=False).model
    return Network(model, feeds, expected)


def of_caffe(seed: int) -> Network:
    """Return a random Caffe net."""
    import cv2

    text, blobs = caffe_net(Seeded(seed))
    feeds = [{"data": _values(SHAPE, n)} for n in (1, 3)]
    net = cv2.dnn.readNetFromCaffe(
        np.frombuffer(text.encode(), np.uint8), np.frombuffer(blobs, np.uint8)
    )
    net.setPreferableBackend(cv2.dnn.DNN_BACKEND_OPENCV)
    net.enableFusion(False)  # it moves a factor into a Power whose power is not 1
    with tempfile.TemporaryDirectory() as place:
        files = Path(place, "net.prototxt"), Path(place, "net.caffemodel")
        files[0].write_text(text)
        files[1].write_bytes(blobs)
        model = commands.convert(files[0], weights=files[1], verify=False).model
    expected = []
    for fed in feeds:
        net.setInput(fed["data"], "data")
        names = [spec.name for spec in model.outputs]
        found = net.forward(names)
        shapes = [
            [len(fed["data"]), *(side for side in spec.shape[1:] if isinstance(side, int))]
            for spec in model.outputs
        ]
        # A net's last InnerProduct is (N, C) in one and (N, C, 1, 1) in the other.
        expected.append({
            name: value.reshape(shape) if value.size == np.prod(shape) else value
            for name, value, shape in zip(names, found, shapes, strict=True)
        })  # fmt: skip
    return Network(model, feeds, expected)


KINDS: dict[str, Callable[[int], Network]] = {
    "onnx": of_onnx, "tensorflow": of_tensorflow, "caffe": of_caffe,
}  # fmt: skip


def differences(kind: str, seed: int) -> list[str]:
    """Return what is different of a random network after it was converted, cleaned or quantized.

    Raises:
        OnnxgraftError: It is refused in a sentence.
    """
    network = KINDS[kind](seed)
    told = []
    with OnnxRuntime(network.model.to_onnx(), optimize=False) as plain:
        for fed, right in zip(network.feeds, network.expected, strict=True):
            found = answers(plain, fed, right)
            for name, value in right.items():
                told += _apart(value, found[name], f"{name}: converted and cleaned")
    return told or [*_quantized(network)]


def _apart(right: Array, found: Array, what: str) -> list[str]:
    if found.shape != right.shape:
        return [f"{what}: {found.shape} in place of {right.shape}"]
    if not np.isfinite(right).all():
        return []  # it is not sound
    apart = float(np.abs(found.astype(np.float64) - right).max(initial=0.0))
    limit = TOLERANCE * max(1.0, float(np.abs(right).max(initial=0.0)))
    return [f"{what}: {apart:.3g} away, {limit:.3g} allowed"] if apart > limit else []


def _quantized(network: Network) -> Iterator[str]:
    """Yield what is different in INT8, for each target."""
    model = network.model
    (spec,) = model.inputs
    own = [{spec.name: next(iter(fed.values()))} for fed in network.feeds]
    samples = open_samples(own[-1], model.inputs)
    try:
        ranges = quantize.calibrate(model, samples, method="minmax")
    except InputError as error:
        if "no layer that could run in INT8" in str(error):
            return
        raise
    singles = [{spec.name: own[-1][spec.name][n : n + 1]} for n in range(len(samples))]
    with OnnxRuntime(model.to_onnx(), optimize=False) as before:
        counted = [answers(before, fed) for fed in singles]
    for target in TARGETS:
        graph, report = quantize.quantize(model, ranges, quantize.placement(target.name))
        if not report.layers:
            continue
        reference = Reference(graph, own)
        with OnnxRuntime(graph.to_onnx(), optimize=False) as plain:
            for proof in reference.hold(plain):
                if not proof.passed and proof.decibels < STEP_DECIBELS:
                    yield f"{proof.output}: INT8 for {target.name}: {proof.reason}"
            found = [answers(plain, fed) for fed in singles]
        for name in counted[0]:
            right = np.stack([answer[name].astype(np.float64) for answer in counted])
            if not np.isfinite(right).all():
                continue  # it is not sound
            noise = float(np.square(np.stack([answer[name] for answer in found]) - right).mean())
            if not noise:
                continue  # where nothing but zeros was right, too
            kept = 10 * np.log10(float(np.square(right).mean()) / max(noise, TOLERANCE**2))
            # Not by "<" and ">": what is no number is told.
            if not kept >= KEPT_DECIBELS and not noise <= _explained(model, singles, name):
                yield f"{name}: INT8 for {target.name} keeps {kept:.1f} dB"


def _explained(model: Model, feeds: list[Feeds], output: str) -> float:
    """Return the noise that rounding to 8 bits may make of an output, as a power."""
    rng = np.random.default_rng(0)

    def rounded(value: Array) -> Array:
        step = np.abs(value).max(initial=0.0) / 127
        return value + (step * rng.uniform(-0.5, 0.5, value.shape)).astype(value.dtype)

    noise = 0.0
    with OnnxRuntime(model.to_onnx(), optimize=False) as plain:
        right = [answers(plain, fed)[output].astype(np.float64) for fed in feeds]
    for _ in range(8):
        other = model.copy()
        for tensor in other.graph.tensors().values():
            if isinstance(tensor, gs.Constant) and tensor.values.dtype == np.float32:
                tensor.values = rounded(tensor.values)
        with OnnxRuntime(other.to_onnx(), optimize=False) as run:
            for fed, value in zip(feeds, right, strict=True):
                near = {name: rounded(given) for name, given in fed.items()}
                noise += float(np.square(answers(run, near)[output] - value).mean())
    return noise / (8 * len(feeds)) * 10 ** (MORE_DECIBELS / 10)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep libraries' words from the screen."""
    kept = os.dup(2)
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)


def _tried(kind: str, seed: int) -> tuple[str, list[str]]:
    """Return what came of a network, in a word, and lines that say more."""
    try:
        with _quiet():
            found = differences(kind, seed)
    except OnnxgraftError as error:
        return "refused", [str(error)]
    except Exception as error:  # whatever it is, it is a fault
        found = [f"{type(error).__name__}: {error}"[:300]]
    return ("different" if found else "same"), found[:2]


def _work(kind: str, seeds: range, core: int, told: Connection) -> None:
    """Try networks in a process on one core, and tell of each: its seed, and what came of it."""
    mine = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {mine[core % len(mine)]})
    opened = session._opened

    def alone(ort: Any, source: str | bytes, options: Any, *more: Any) -> Any:
        options.intra_op_num_threads = 1  # onnxruntime pins its threads to all cores
        return opened(ort, source, options, *more)

    session._opened = alone
    for seed in seeds:
        told.send(seed)
        told.send(_tried(kind, seed))


def _all(kind: str, seeds: range, processes: int) -> Iterator[tuple[int, str, list[str]]]:
    """Yield what came of each network; one that ends its process has ended in a library."""
    context = get_context("spawn")
    running: dict[Connection, tuple[range, int]] = {}

    def begin(part: range, core: int) -> None:
        receiver, sender = context.Pipe(duplex=False)
        context.Process(target=_work, args=(kind, part, core, sender), daemon=True).start()
        sender.close()
        running[receiver] = part, core

    for core in range(processes):
        begin(seeds[core::processes], core)
    while running:
        for receiver in cast("list[Connection]", wait([*running])):
            part, core = running[receiver]
            try:
                seed = receiver.recv()
                yield seed, *receiver.recv()
                running[receiver] = part[part.index(seed) + 1 :], core
            except EOFError:
                del running[receiver]
                if part:
                    yield part[0], "ended", ["a library ended the process"]
                    begin(part[1:], core)


def main() -> int:
    """Try networks; return 1 where one was different."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("kind", choices=[*KINDS])
    parser.add_argument("count", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--add", action="store_true", help="to the figures that stand there")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    given = parser.parse_args()
    began = time.monotonic()
    outcomes: collections.Counter[str] = collections.Counter()
    first = given.seed + _before(given.kind, given.add)[0]
    seeds = range(first, first + given.count)
    for seed, outcome, lines in _all(given.kind, seeds, given.processes):
        outcomes[outcome] += 1
        for line in lines:
            print(f"{outcome} {seed}: {line}", flush=True)
    counts = [given.count, *(outcomes[what] for what in OUTCOMES), round(time.monotonic() - began)]
    # Another run may have added its own meanwhile.
    before = _before(given.kind, given.add)
    figures = [old + new for old, new in zip(before, counts, strict=True)]
    row = f"| {given.kind} | {' | '.join(f'{number:,}' for number in figures)} | {today()} |"
    print(row)
    if given.count >= 1000:
        _put(given.kind, row)
    return 1 if outcomes["different"] else 0


def _rows() -> dict[str, str]:
    """Return the rows of the page, by the kind of network."""
    return {line.split("|")[1].strip(): line for line in part("differential").splitlines()[4:]}


def _before(kind: str, add: bool) -> list[int]:
    """Return the numbers of a row to add to: those tried, of each outcome, and the seconds."""
    if not add or kind not in _rows():
        return [0] * 6
    return [int(cell.replace(",", "")) for cell in _rows()[kind].split("|")[2:8]]


def _put(kind: str, row: str) -> None:
    """Write a row of the page."""
    rows = {**_rows(), kind: row}
    put("differential", [
        f"The last of them on {versions('onnx', 'onnxruntime', 'tensorflow')}", "",
        "| networks | tried | same | refused | ended in a library | different | seconds | on |",
        "|---|---|---|---|---|---|---|---|", *(rows[k] for k in KINDS if k in rows),
    ])  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
