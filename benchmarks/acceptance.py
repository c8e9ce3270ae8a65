"""What passes and what fails: destroyed networks, right conversions, and right INT8.

    python -m benchmarks.acceptance > benchmarks/acceptance.md

- A classifier and a segmenter in INT8 are destroyed in 20 ways, and each is validated under every
  metric, functions of a user's own among them, some of which declare what is not so. No pass is
  right but that of the INT8 network as it was made.
- Networks whose outputs saturate, as ONNX and from Keras, go through `surgery` and `convert`. No
  failure is right, nor a pass that is undone. The ONNX ones get faults, too, which are to be found.
- Networks of 2 to 24 layers are trained, quantized for each target, and held to the signal over
  noise that follows from 8 bits and the depth. How far they are above it says whether that is too
  much to ask for.

All networks are made here; those that are not trained have random weights.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import onnx
from benchmarks.heading import made_by
from onnx import ModelProto, NodeProto, helper, numpy_helper

from onnxgraft import commands
from onnxgraft.commands._int8 import QuantizeOptions, int8_graph
from onnxgraft.data.samples import open_samples
from onnxgraft.graph.model import Model
from onnxgraft.graph.operators import is_op
from onnxgraft.graph.tensors import Array
from onnxgraft.run.session import OnnxRuntime
from onnxgraft.stages import quantize, surgery
from onnxgraft.stages.convert.tensorflow.running import tensorflow
from onnxgraft.stages.surgery.running.verify import Verifier
from onnxgraft.stages.validate.report import CandidateRow
from onnxgraft.targets import target_names
from tests.conftest import model_of
from tests.heads import FAULTS, heads, network, shows, spoil

SAMPLES = 60
CLASSES = 5
# Pixels that the segmenter is least sure of have no label, as along the edges of real label maps.
NO_LABEL = 255
UNSURE = 0.2

CLASSIFIER = (
    "net (float[N, 3, 16, 16] x) => (float[N, 5] y) {"
    " c1 = Conv<pads = [1, 1, 1, 1], strides = [2, 2]>(x, w1) r1 = Relu(c1)"
    " c2 = Conv<pads = [1, 1, 1, 1], strides = [2, 2]>(r1, w2) r2 = Relu(c2)"
    " f = Flatten(r2) s = MatMul(f, w3) y = Softmax<axis = 1>(s) }"
)
SEGMENTER = (
    "net (float[N, 3, 16, 16] x) => (float[N, 5, 16, 16] y) {"
    " c1 = Conv<pads = [1, 1, 1, 1]>(x, w1) r1 = Relu(c1)"
    " c2 = Conv<pads = [1, 1, 1, 1]>(r1, w2) r2 = Relu(c2)"
    " y = Conv<pads = [1, 1, 1, 1]>(r2, w3) }"
)

# Functions of a user's own, and what they declare: nothing, what is so, and what is not.
OWN = """
import numpy as np

def same(output, label):
    labels = np.asarray(label)[None]
    return float(np.mean((output.argmax(1) == labels)[labels != 255]))
def accuracy(output, label): return same(output, label)
def error(output, label): return 100 - 100 * same(output, label)
def accuracy_declared(output, label): return same(output, label)
def error_declared(output, label): return 100 - 100 * same(output, label)
def error_called_a_gain(output, label): return 100 - 100 * same(output, label)
def accuracy_called_percent(output, label): return same(output, label)
def always_one(output, label): return 1.0
def loss(output, label): return float(-np.log(np.clip(output, 1e-6, None)).min())

accuracy_declared.scale, accuracy_declared.direction = 1, "up"
error_declared.scale, error_declared.direction = 100, "down"
error_called_a_gain.scale, error_called_a_gain.direction = 100, "up"
accuracy_called_percent.scale, accuracy_called_percent.direction = 100, "up"
always_one.scale, always_one.direction = 1, "up"
loss.direction = "down"
"""
OWN_NAMES = (
    "accuracy", "error", "accuracy_declared", "error_declared", "error_called_a_gain",
    "accuracy_called_percent", "always_one", "loss",
)  # fmt: skip


@dataclass
class Task:
    """A network, its INT8 graph, and labelled samples that it is sure of.

    Attributes:
        name: What it does.
        folder: Where ``net.onnx``, ``data.npz`` and ``own.py`` are.
        int8: The INT8 graph.
        answers: What the network says of the samples.
        metrics: By what is printed, the options of a validation.
    """

    name: str
    folder: Path
    int8: ModelProto
    answers: Array
    metrics: dict[str, dict[str, object]]

    def judge(self, proto: ModelProto, options: Mapping[str, object]) -> CandidateRow:
        """Return what validation says of a candidate."""
        file = self.folder / "candidate.onnx"
        onnx.save(proto, file)
        found = commands.validate(
            self.folder / "net.onnx", file, self.folder / "data.npz", **options  # type: ignore[arg-type]
        )  # fmt: skip
        return found.candidates[1]


def task(name: str, text: str, folder: Path, metrics: Mapping[str, dict[str, object]]) -> Task:
    """Make a network and its data: of many samples those, or the pixels, that it is sure of."""
    folder.mkdir()
    rng = np.random.default_rng(7)
    last = (16 * 16, CLASSES) if "MatMul" in text else (CLASSES, 16, 3, 3)
    shapes = {"w1": (16, 3, 3, 3), "w2": (16, 16, 3, 3), "w3": last}
    weights = {
        key: rng.standard_normal(shape).astype(np.float32) / np.float32(np.sqrt(fan))
        for (key, shape), fan in zip(shapes.items(), (14, 72, 40), strict=True)
    }
    model = model_of(text, weights)
    model.save(folder / "net.onnx")
    x = rng.standard_normal((8 * SAMPLES, 3, 16, 16)).astype(np.float32)
    # What is in an image is the same at neighbouring places.
    x += 2 * rng.standard_normal((8 * SAMPLES, 3, 1, 1)).astype(np.float32)
    with OnnxRuntime(model.to_onnx()) as session:
        y = session.infer({"x": x})["y"]
    best, labels = np.sort(y, 1), y.argmax(1)
    margin = best[:, -1] - best[:, -2]
    if y.ndim == 2:
        order = np.argsort(-margin)
        places = [order[labels[order] == kind][: SAMPLES // CLASSES] for kind in range(CLASSES)]
        kept = np.concatenate(places)
    else:
        kept = np.arange(SAMPLES)
        labels = np.where(margin > np.quantile(margin, UNSURE), labels, NO_LABEL)
    # A twentieth of the labels are others than what the network says: none is perfect.
    wrong = (rng.random(labels.shape) < 0.05) & (labels != NO_LABEL)
    labels = np.where(wrong, (labels + 1) % CLASSES, labels)
    np.savez(folder / "data.npz", x=x[kept], labels=labels[kept])
    (folder / "own.py").write_text(OWN)
    options = {
        "none": {}, **metrics,
        **{f"own: {own}": {"metric": f"{folder}/own.py:{own}"} for own in OWN_NAMES},
        "accuracy, --drop 1000": {"metric": f"{folder}/own.py:accuracy", "drop": 1000.0},
    }  # fmt: skip
    model = Model.load(folder / "net.onnx")
    ranges = quantize.calibrate(model, open_samples(folder / "data.npz", model.inputs), "minmax")
    int8, _ = quantize.quantize(model, ranges, "openvino")
    return Task(name, folder, int8.to_onnx(), y[kept], options)


def behind(proto: ModelProto, *nodes: NodeProto, **constants: Array) -> ModelProto:
    """Return a graph with nodes that make ``y`` of what was its output, ``inner``."""
    made = ModelProto()
    made.CopyFrom(proto)
    for node in made.graph.node:
        node.output[:] = ["inner" if name == "y" else name for name in node.output]
        node.input[:] = ["inner" if name == "y" else name for name in node.input]
    made.graph.node.extend(nodes)
    return _with(made, constants)


def before(proto: ModelProto, *nodes: NodeProto, **constants: Array) -> ModelProto:
    """Return a graph with nodes that make ``fed``, which it reads, of its input ``x``."""
    made = ModelProto()
    made.CopyFrom(proto)
    for node in made.graph.node:
        node.input[:] = ["fed" if name == "x" else name for name in node.input]
    rest = list(made.graph.node)
    del made.graph.node[:]
    made.graph.node.extend([*nodes, *rest])
    return _with(made, constants)


def _with(proto: ModelProto, constants: Mapping[str, Array]) -> ModelProto:
    for name, value in constants.items():
        proto.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    return proto


def weights_of(proto: ModelProto) -> list[onnx.TensorProto]:
    """Return the INT8 weights of the layers, in order."""
    found = [
        entry
        for entry in proto.graph.initializer
        if len(entry.dims) > 1 and entry.data_type == onnx.TensorProto.INT8
    ]
    return sorted(found, key=lambda entry: entry.name)


def inside(proto: ModelProto, change: Callable[[Array], Array], *layers: int) -> ModelProto:
    """Return a graph with other weights in some layers."""
    made = ModelProto()
    made.CopyFrom(proto)
    found = weights_of(made)
    assert len(found) == 3
    for layer in layers:
        value = change(numpy_helper.to_array(found[layer]))
        found[layer].CopyFrom(numpy_helper.from_array(value.astype(np.int8), found[layer].name))
    return made


def rescaled(proto: ModelProto, factor: float) -> ModelProto:
    """Return a graph in which the range of an activation in the middle is another."""
    made = ModelProto()
    made.CopyFrom(proto)
    names = [node.input[1] for node in made.graph.node if is_op(node, "QuantizeLinear")]
    (entry,) = (entry for entry in made.graph.initializer if entry.name == names[1])
    value = numpy_helper.to_array(entry) * np.float32(factor)
    entry.CopyFrom(numpy_helper.from_array(value, entry.name))
    return made


def destroyed(task: Task) -> dict[str, ModelProto]:
    """Return the 20 ways to destroy an INT8 graph."""
    rng = np.random.default_rng(3)
    net, axis = task.int8, 1
    ones = np.ones((1, CLASSES, *[1] * (task.answers.ndim - 2)), np.float32)
    node = helper.make_node

    def says(value: Array) -> ModelProto:
        return behind(
            net, node("Mul", ["inner", "zero"], ["nothing"]), node("Add", ["nothing", "v"], ["y"]),
            zero=np.float32(0), v=np.asarray(value, np.float32),
        )  # fmt: skip

    def gathers(order: Array) -> ModelProto:
        return behind(net, node("Gather", ["inner", "order"], ["y"], axis=axis), order=order)

    def shuffles(value: Array) -> Array:
        return np.asarray(rng.permutation(value.ravel()).reshape(value.shape))

    one = np.zeros_like(ones)
    one[:, 2] = 1
    pixels = rng.permutation(16)
    return {
        "zeros": says(0 * ones),
        "the same for each class": says(ones / CLASSES),
        "one class, always": says(one),
        "the mean of the answers, always": says(task.answers.mean(0, keepdims=True)),
        "the answer to the first sample, always": says(task.answers[:1]),
        "noise": behind(net, node("RandomNormalLike", ["inner"], ["y"], seed=1.0)),
        "negated": behind(net, node("Neg", ["inner"], ["y"])),
        "1 - answer": behind(net, node("Sub", ["one", "inner"], ["y"]), one=np.float32(1)),
        "classes shuffled": gathers(np.array([3, 0, 4, 1, 2])),
        "classes moved by one": gathers(np.roll(np.arange(CLASSES), 1)),
        "the input is negated": before(net, node("Neg", ["x"], ["fed"])),
        "the input is zeros": before(
            net, node("Mul", ["x", "zero"], ["fed"]), zero=np.float32(0)
        ),
        "the channels of the input are moved, and its rows and columns shuffled": before(
            net, node("Gather", ["x", "moved"], ["a"], axis=1),
            node("Gather", ["a", "pixels"], ["b"], axis=2),
            node("Gather", ["b", "pixels"], ["fed"], axis=3),
            moved=np.array([1, 2, 0]), pixels=pixels,
        ),
        "weights of the first layer are 0": inside(net, lambda value: 0 * value, 0),
        "weights of the last layer are 0": inside(net, lambda value: 0 * value, 2),
        "weights of a layer are shuffled": inside(net, shuffles, 1),
        "all weights are shuffled": inside(net, shuffles, 0, 1, 2),
        "all weights are random": inside(
            net, lambda value: rng.integers(-127, 128, value.shape), 0, 1, 2
        ),
        "an activation's range is 1000 times too large": rescaled(net, 1000),
        "an activation's range is 1000 times too small": rescaled(net, 1e-3),
    }  # fmt: skip


def tasks(folder: Path) -> list[Task]:
    """Return the classifier and the segmenter."""
    return [
        task(
            "classifier", CLASSIFIER, folder / "classifier",
            {name: {"metric": name} for name in ("top1", "top5", "auc")},
        ),
        task("segmenter", SEGMENTER, folder / "segmenter", {"miou": {"metric": "miou"}}),
    ]  # fmt: skip


def print_destroyed(folder: Path) -> None:
    """Validate what is destroyed under every metric, and print what passed."""
    print("## Destroyed networks\n")
    both = tasks(folder)
    passed: Counter[tuple[str, str]] = Counter()
    rows, failed = [], []
    for one in both:
        for metric, options in one.metrics.items():
            row = one.judge(one.int8, options)
            if not row.passed or row.warnings:
                failed.append(f"{one.name}, {metric}: {row.verdict} {row.warnings}")
        for way, proto in destroyed(one).items():
            found = {metric: one.judge(proto, options) for metric, options in one.metrics.items()}
            for metric, row in found.items():
                passed[one.name, metric] += row.passed
            count = sum(row.passed for row in found.values())
            rows.append((way, one.name, count, len(found), found["none"]))
    verdicts = sum(row[3] for row in rows)
    print(f"Passed: {passed.total()} of {verdicts} verdicts on destroyed networks.")
    healthy = sum(len(one.metrics) for one in both)
    print(
        f"INT8 networks as they were made: {healthy - len(failed)} of {healthy} verdicts are passes"
    )
    print("without a warning.\n")
    for line in failed:
        print(f"Not so: {line}\n")
    print("| way | classifier: passed | agreement | segmenter: passed | agreement |")
    print("|---|---|---|---|---|")
    for way in dict.fromkeys(row[0] for row in rows):
        cells = [
            f"{count} of {total} | {found.agrees}" for name, _, count, total, found in rows
            if name == way
        ]  # fmt: skip
        print(f"| {way} | {' | '.join(cells)} |")
    print("\n| metric | classifier: passed | segmenter: passed |\n|---|---|---|")
    ways = len(rows) // len(both)
    for metric in dict.fromkeys(metric for one in both for metric in one.metrics):
        cells = [
            f"{passed[one.name, metric]} of {ways}" if metric in one.metrics else ""
            for one in both
        ]  # fmt: skip
        print(f"| {metric} | {' | '.join(cells)} |")


KERAS_HEADS = (
    "sigmoid", "softmax", "tanh", "hard_sigmoid", "relu6", "softsign", "log_softmax",
)  # fmt: skip
KERAS = 28


def keras_networks(folder: Path) -> Iterator[tuple[str, Path]]:
    """Write Keras networks that end in what saturates, with gains from 1 to 1000."""
    tensorflow()
    import keras

    for seed in range(KERAS):
        keras.utils.set_random_seed(seed)
        rng = np.random.default_rng(seed)
        kind, gain = KERAS_HEADS[seed % len(KERAS_HEADS)], float(10 ** rng.uniform(0, 3))
        layers = keras.layers
        x = given = keras.Input((16, 16, 3))
        for _ in range(2):
            x = layers.Conv2D(16, 3, padding="same", use_bias=False)(x)
            x = layers.BatchNormalization(
                moving_mean_initializer="random_normal",
                moving_variance_initializer=keras.initializers.RandomUniform(0.5, 2),
            )(x)  # fmt: skip
            x = layers.ReLU()(x)
        if rng.random() < 0.5:
            x = layers.GlobalAveragePooling2D()(x)
        x = layers.Dense(
            4, kernel_initializer=keras.initializers.RandomNormal(stddev=gain / 4),
            bias_initializer=keras.initializers.RandomNormal(stddev=gain * rng.choice([0.1, 3])),
        )(x)  # fmt: skip
        path = folder / f"{seed}_{kind}.keras"
        keras.Model(given, layers.Activation(kind)(x)).save(path)
        yield f"{kind}, gain {gain:.0f}", path


def print_heads(folder: Path) -> None:
    """Convert, clean and compare networks that saturate, and print what was called wrong."""
    print("\n## Right conversions of networks whose outputs saturate\n")
    rows: dict[str, list[str]] = {}
    found = planted = still = 0
    for head in heads():
        path = network(head, folder / "net.onnx")
        model = Model.load(path)
        cleaned, report = surgery.run(model, verify=True)
        cleaned.save(folder / "clean.onnx")
        rng = np.random.default_rng(head.seed)
        np.savez(folder / "data.npz", x=rng.standard_normal((8, 3, 16, 16)).astype(np.float32))
        done = commands.convert(path)
        held = commands.validate(path, folder / "clean.onnx", folder / "data.npz")
        undone = [entry.name for entry in report.passes if entry.rolled_back]
        _note(rows, f"ONNX, {head.kind}", str(head), undone, done, held.candidates[1])
        for fault in FAULTS:
            wrong, _ = surgery.run(Model.load(path))
            spoil(wrong, fault)
            if not shows(model, wrong):
                continue
            verifier = Verifier(model)
            verifier.begin()
            planted += 1
            seen = verifier.check(wrong) is not None
            found += seen
            still += not seen and bool(verifier.still)
    for name, path in keras_networks(folder):
        done = commands.convert(path, folder / "net.onnx")
        undone = [
            entry.name
            for entry in (done.surgery.passes if done.surgery else [])
            if entry.rolled_back
        ]
        rng = np.random.default_rng(0)
        (spec,) = done.model.inputs
        np.savez(
            folder / "data.npz",
            **{spec.name: rng.standard_normal((8, 16, 16, 3)).astype(np.float32)},
        )
        held = commands.validate(path, folder / "net.onnx", folder / "data.npz")
        _note(rows, f"Keras, {name.split(',')[0]}", name, undone, done, held.candidates[1])
    wrong_ones = [line for lines in rows.values() for line in lines if line]
    total = sum(map(len, rows.values()))
    print(f"Called wrong: {len(wrong_ones)} of {total}, by `surgery --verify`, `convert` and")
    print("`validate` together.\n")
    for line in wrong_ones:
        print(f"- {line}")
    print("| network | tried | called wrong |\n|---|---|---|")
    for kind, lines in rows.items():
        print(f"| {kind} | {len(lines)} | {sum(map(bool, lines))} |")
    print(
        f"\nOf {planted} faults in the ONNX ones that show in the output of some sample, surgery's"
    )
    print(
        f"comparison finds {found}. Not found, but with a note that the output hardly moves on any"
    )
    print(f"sample that was tried: {still}.")


def _note(
    rows: dict[str, list[str]],
    kind: str,
    name: str,
    undone: list[str],
    done: commands.Converted,
    row: CandidateRow,
) -> None:
    said = [f"{name}: surgery undid {entry}" for entry in undone]
    said += [f"{name}: convert: {verdict}" for verdict in done.verdicts if not verdict.passed]
    said += [] if done.verdicts else [f"{name}: convert compared nothing"]
    said += [] if row.passed else [f"{name}: validate: {row.verdict}"]
    rows.setdefault(kind, []).append("; ".join(said))


DEPTHS = (2, 4, 8, 16, 24)
IMAGES, SIZE = 1024, 16
# How ranges are chosen, and what else is done to lose less.
WAYS: tuple[tuple[quantize.Method, tuple[str, ...]], ...] = (
    ("minmax", ()),
    ("entropy", quantize.IMPROVEMENTS),
)


def textures(rng: np.random.Generator, count: int) -> tuple[Array, Array]:
    """Return images of regions with a texture each, and noise; and whose texture is where."""
    kinds = np.random.default_rng(0).standard_normal((CLASSES, SIZE, SIZE, 3))
    labels = rng.integers(0, CLASSES, (count, 2, 2)).repeat(SIZE // 2, 1).repeat(SIZE // 2, 2)
    place = np.arange(SIZE)
    images = kinds[labels, place[:, None] % 4, place % 4]
    images += 0.5 * rng.standard_normal(images.shape)
    return images.astype(np.float32), labels


def trained(depth: int, pooled: bool, path: Path) -> Path:
    """Train a network of so many layers to tell textures apart, and write it as Keras does.

    Deeper ones than 8 have sums around every layer.
    """
    tf = tensorflow()
    import keras

    tf.config.experimental.enable_op_determinism()
    keras.utils.set_random_seed(depth)
    layers = keras.layers
    x = given = keras.Input((SIZE, SIZE, 3))
    for layer in range(depth - 1):
        made = layers.Conv2D(16, 3, padding="same", use_bias=False)(x)
        made = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(made))
        x = layers.Add()([made, x]) if layer and depth > 8 else made
    images, labels = textures(np.random.default_rng(depth), IMAGES)
    if pooled:  # whose texture fills most of the image
        x = layers.GlobalAveragePooling2D()(x)
        labels = np.array([np.bincount(row.ravel()).argmax() for row in labels])
    model = keras.Model(given, layers.Dense(CLASSES)(x))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(3e-3), loss, metrics=["accuracy"])
    model.fit(images, labels, batch_size=32, epochs=4, verbose=0)
    model.save(path)
    return path


def print_signal(folder: Path) -> None:
    """Quantize trained networks, and print what their outputs keep over what they have to."""
    print("\n## Right INT8: the signal over noise that outputs keep, in dB\n")
    print("Small networks are trained to tell textures apart. Once their ranges hold every value")
    print("that was seen, so that there is nothing but rounding; once they are those of `deploy`,")
    print("which may cut values off.\n")
    print("| layers | answers | target | wanted | all values | | as deployed | | same class |")
    print("|---|---|---|---|---|---|---|---|---|")
    over: dict[str, list[float]] = {"minmax": [], "entropy": []}
    for depth, pooled in product(DEPTHS, (False, True)):
        original = trained(depth, pooled, folder / "net.keras")
        clean = commands.convert(original, folder / "net.onnx").model
        (spec,) = clean.inputs
        for seed, name in enumerate(("calib", "data")):
            images, _ = textures(np.random.default_rng(100 + seed), 32)
            np.savez(folder / f"{name}.npz", **{spec.name: images})
        samples = open_samples(folder / "calib.npz", clean.inputs)
        ranges = {method: quantize.calibrate(clean, samples, method) for method, _ in WAYS}
        for target in target_names():
            cells, output = [], None
            for method, improvements in WAYS:
                options = QuantizeOptions(
                    table=quantize.placement(target), improvements=improvements, calibration=samples
                )
                int8_graph(clean, ranges[method], options).model.save(folder / "int8.onnx")
                row = commands.validate(
                    folder / "net.onnx", folder / "int8.onnx", folder / "data.npz"
                ).candidates[1]
                (output,) = row.outputs
                assert output.least_sqnr is not None
                over[method].append(output.sqnr - output.least_sqnr)
                cells += [f"{output.sqnr:.1f}", "pass" if row.passed else "FAIL"]
            assert output is not None
            print(
                f"| {depth} | {'one class' if pooled else 'a map'} | {target} | "
                f"{output.least_sqnr:.1f} | {' | '.join(cells)} | "
                f"{100 * (output.agreement or 0):.1f} % |",
                flush=True,
            )
    for (method, _), what in zip(WAYS, ("ranges of all values", "those of `deploy`"), strict=True):
        low, half, most = np.quantile(over[method], [0, 0.5, 1])
        below = sum(value < 0 for value in over[method])
        print(f"\nOver what is wanted, with {what}: {low:.1f} dB at least, {half:.1f} in the")
        print(f"median, {most:.1f} at most; {below} of {len(over[method])} below.")
    short = [held for held, deployed in zip(*over.values(), strict=True) if deployed < 0]
    kept = sum(value >= 0 for value in short)
    print(
        f"\nOf the {len(short)} that fall short as deployed, {kept} keep what is wanted with",
        end=" ",
    )
    print("ranges of\nall values.")


def cpu() -> str:
    """Return the processor's name and the number of cores."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return f"{names[0] if names else 'unknown processor'}, {len(os.sched_getaffinity(0))} cores"


def main() -> None:
    """Try everything, and print what was found as Markdown."""
    start = time.perf_counter()
    print("# What passes and what fails\n")
    print(made_by())
    print(f"{cpu()}.\n")
    for part in (print_destroyed, print_heads, print_signal):
        with tempfile.TemporaryDirectory() as place:
            part(Path(place))
    print(f"\nAll of it took {(time.perf_counter() - start) / 60:.1f} minutes.")


if __name__ == "__main__":
    main()
