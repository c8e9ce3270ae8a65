"""TensorFlow: keras.applications through onnxgraft and plain tf2onnx, and what conversion costs.

    python -m benchmarks.tensorflow > benchmarks/tensorflow.md

Networks have no trained weights; the statistics of their batch normalizations are those of a batch
of noise, so that folding them matters. Times and memory are those of whole commands, each in a
process of its own, the two taking turns. Each ONNX file is held against Keras' own answers.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from benchmarks.caffe import command
from benchmarks.heading import made_by

from onnxgraft.graph.operators import counted
from onnxgraft.run.session import OnnxRuntime
from onnxgraft.stages.convert.tensorflow.running import tensorflow

NETWORKS = (
    "MobileNet", "MobileNetV2", "MobileNetV3Small", "EfficientNetB0", "EfficientNetV2B0",
    "ResNet50", "ResNet50V2", "DenseNet121", "InceptionV3", "Xception", "NASNetMobile",
    "ConvNeXtTiny", "VGG16",
)  # fmt: skip
RUNS = 3
# Of the range of the expected output; as `onnxgraft convert` has it.
TOLERANCE = 1e-4


def make(name: str, folder: str) -> None:
    """Write a network as ``.keras`` and as a SavedModel, and its answers to a batch of two."""
    tensorflow()
    import keras

    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    size = 299 if name in ("InceptionV3", "Xception") else 224
    model = getattr(keras.applications, name)(weights=None, input_shape=(size, size, 3))
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0  # one batch in training mode leaves its statistics
    model(rng.standard_normal((8, *model.input_shape[1:])).astype(np.float32), training=True)
    model.save(f"{folder}/{name}.keras")
    model.export(f"{folder}/{name}", verbose=False)
    images = rng.standard_normal((2, *model.input_shape[1:])).astype(np.float32)
    answers = np.asarray(model(images, training=False))
    np.savez(f"{folder}/{name}.npz", images=images, answers=answers)


def make_graph(path: str, *channels: str) -> None:
    """Write a frozen chain of convolutions."""
    tf = tensorflow()
    rng = np.random.default_rng(0)
    with tf.Graph().as_default() as graph:
        x = tf.compat.v1.placeholder(tf.float32, [None, 64, 64, 3], "x")
        for index, count in enumerate(map(int, channels)):
            shape = (3, 3, int(x.shape[-1]), count)
            weights = rng.standard_normal(shape) * np.sqrt(2 / np.prod(shape[:3]))
            x = tf.nn.conv2d(x, weights.astype(np.float32), 1 + index % 2, "SAME")
            x = tf.nn.relu(tf.nn.bias_add(x, np.zeros(count, np.float32)))
        tf.reduce_mean(x, [1, 2], name="y")
    Path(path).write_bytes(graph.as_graph_def().SerializeToString())


def cells(path: Path, expected: Any) -> str:
    """Return the cells of a conversion: how far off, nodes and Transposes."""
    try:
        proto = onnx.load(path)
        with OnnxRuntime(proto) as session:
            (answers,) = session.infer({session.inputs[0].name: expected["images"]}).values()
    except Exception as error:
        return f"no: {type(error).__name__} | | | "
    apart = np.abs(answers - expected["answers"]).max() / np.ptp(expected["answers"])
    count = Counter(counted(proto.graph.node))
    told = "yes" if apart <= TOLERANCE else "**no**"
    return f"{told} ({apart:.0e}) | {sum(count.values())} | {count['Transpose']} | "


def applications(folder: Path) -> list[str]:
    """Return the rows of the table of architectures."""
    rows = []
    for name in NETWORKS:
        command("-m", "benchmarks.tensorflow", "make", name, folder)
        expected = np.load(folder / f"{name}.npz")
        plain, ours = folder / "plain.onnx", folder / "ours.onnx"
        peer = command("-m", "tf2onnx.convert", "--saved-model", folder / name, "--output", plain)
        mine = command("-m", "onnxgraft", "convert", folder / f"{name}.keras", "-o", ours)
        rows.append(
            f"| {name} | {cells(plain, expected)}{peer[0]:.0f} | "
            f"{cells(ours, expected)}{mine[0]:.0f} |"
        )
        print(rows[-1], file=sys.stderr, flush=True)
    return rows


def costs(folder: Path) -> list[str]:
    """Return the rows of the table of seconds and memory."""
    small, large = folder / "small.pb", folder / "large.pb"
    # In processes of their own: a child's peak memory begins with that of its parent.
    for path, channels in ((small, "8 16 16"), (large, "64 128 512 1024 1024 1024")):
        command("-m", "benchmarks.tensorflow", "graph", path, *channels.split())
    out = folder / "out.onnx"
    imports = ("-c", "import tensorflow, tf2onnx")
    commands = [("import of TensorFlow and tf2onnx", imports, None)]
    for graph in (small, large):
        plain = ("-m", "tf2onnx.convert", "--graphdef", graph, "--inputs", "x:0",
                 "--outputs", "y:0", "--output", out)  # fmt: skip
        ours = ("-m", "onnxgraft", "convert", graph, "-o", out)
        size = f"{graph.stat().st_size / 1e6:.2g} MB"
        commands += [
            (f"tf2onnx, {size}", plain, graph),
            (f"onnxgraft, {size}, compared with TensorFlow", ours, graph),
            (f"onnxgraft, {size}, not compared", (*ours, "--no-verify"), graph),
        ]
    runs = [[command(*arguments) for _, arguments, _ in commands] for _ in range(RUNS)]
    seconds = [statistics.median(run[index][0] for run in runs) for index in range(len(commands))]
    memory = [max(run[index][1] for run in runs) for index in range(len(commands))]
    rows = []
    for index, (name, _, graph) in enumerate(commands):
        times = ""
        if graph == large:  # beside the same command on the small graph
            times = f"{(memory[index] - memory[index - 3]) / (large.stat().st_size / 1e6):.1f}"
        rows.append(
            f"| {name} | {seconds[index]:.1f} | {seconds[index] / seconds[0]:.2f} | "
            f"{memory[index]:.0f} | {times} |"
        )
    return rows


def main() -> None:
    """Measure everything in one run and print it as Markdown."""
    os.environ["PYTHONWARNINGS"] = "ignore"
    with tempfile.TemporaryDirectory() as place:
        cost = costs(Path(place))
        rows = applications(Path(place))
    print("# TensorFlow\n")
    print(made_by() + "\n")
    print("## keras.applications, 224 or 299 pixels, without trained weights\n")
    print("Right: within 1e-4 of the range of Keras' answers (largest difference).\n")
    print(
        "| | tf2onnx: right | nodes | Transposes | s | onnxgraft: right | nodes | Transposes | s |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    print("\n".join(rows))
    print(f"\n## Cost of converting a frozen graph (median of {RUNS} runs in turn)\n")
    print("| | seconds | of the import's | peak MB | peak beside the small graph's, of the file |")
    print("|---|---|---|---|---|")
    print("\n".join(cost))


if __name__ == "__main__":
    jobs: dict[str, Callable[..., None]] = {"make": make, "graph": make_graph}
    if sys.argv[1:]:
        jobs[sys.argv[1]](*sys.argv[2:])
    else:
        main()
