"""A Keras classifier with own data, preprocessing and metric, deployed and served by 8 threads."""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import keras
import numpy as np

import onnxgraft

OUT = Path(sys.argv[1] if len(sys.argv) > 1 else "out")


def pictures(count, seed):
    """Yield pictures of 0 to 255 with two bright rows, and which they are."""
    rng = np.random.default_rng(seed)
    for label in rng.integers(10, size=count):
        picture = rng.integers(0, 100, (20, 20, 1)).astype(np.uint8)
        picture[2 * label : 2 * label + 2] += 150
        yield picture, label


def prepare(picture):  # what training does to a picture is done to it everywhere
    return np.asarray(picture, np.float32) / 127.5 - 1


def error_rate(output, label):
    return 100.0 * (output.argmax() != label)


error_rate.scale, error_rate.direction = 100, "down"

x, y = map(np.array, zip(*pictures(1000, seed=0), strict=True))
net = keras.Sequential([keras.Input((20, 20, 1)), keras.layers.Conv2D(8, 3, activation="relu"),
                        keras.layers.Flatten(), keras.layers.Dense(10, name="scores")])  # fmt: skip
net.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
net.fit(prepare(x), y, epochs=3, verbose=0)

report = onnxgraft.deploy(
    net, OUT, data=lambda: pictures(64, seed=1), validate_on=lambda: pictures(100, seed=2),
    preprocess=prepare, metric=error_rate, targets="onnxruntime",
)  # fmt: skip
print(f"deployed: {report.passed}")

asked = list(pictures(200, seed=3))
with onnxgraft.ServedEngine(OUT / "engine.onnxruntime") as engine, ThreadPoolExecutor(8) as pool:
    answers = pool.map(lambda entry: engine.infer(prepare(entry[0]))["scores"], asked)
    right = sum(answer.argmax() == label for answer, (_, label) in zip(answers, asked, strict=True))
print(f"served: {right} of {len(asked)} right")
