"""LeNet-5 on scikit-learn's handwritten digits, trained and frozen as TensorFlow 1 code would.

    python models/lenet5.py FOLDER

writes ``lenet5.pb`` (the frozen graph), ``calib.npz`` (100 training digits) and ``test.npz`` (360
digits with labels) into FOLDER, in a few seconds. The graph has what makes such exports hard to
convert: NHWC layout with a flatten before the dense layer, batch normalization in primitive
operations under an ``is_training`` select, and a Shape/Slice/ConcatV2/Reshape chain around the
softmax. ``lenet5.toml`` beside this file is the recipe that deploys it.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import numpy as np
import tensorflow.compat.v1 as tf
from sklearn.datasets import load_digits

SIZE = 32
CLASSES = 10
TEST_DIGITS = 360
CALIBRATION_DIGITS = 100
BATCH = 64


def digits() -> tuple[Any, Any]:
    """Return images (1797, 32, 32, 1) float32 in 0..255 and labels (1797,), in seeded order."""
    data = load_digits()
    # 8x8 of 0..16, each pixel four by four.
    images = np.kron(data.images, np.ones((1, SIZE // 8, SIZE // 8))) * (255 / 16)
    order = np.random.default_rng(0).permutation(len(images))
    return images[order, :, :, np.newaxis].astype(np.float32), data.target[order]


def _variable(name: str, shape: tuple[int, ...], spread: float | None = None) -> Any:
    fan_in = int(np.prod(shape[:-1]))
    spread = np.sqrt(2 / fan_in) if spread is None else spread
    initializer = tf.random_normal_initializer(0.0, spread, seed=1)
    return tf.get_variable(name, shape, initializer=initializer, use_resource=False)


def _batch_norm(x: Any, is_training: Any, updates: list[Any]) -> Any:
    """Batch normalization as tf.layers wrote it, with a Select between the two statistics."""
    channels = x.shape[-1]
    constant = tf.constant_initializer
    gamma = tf.get_variable("gamma", [channels], initializer=constant(1.0), use_resource=False)
    beta = tf.get_variable("beta", [channels], initializer=constant(0.0), use_resource=False)
    stored = {"trainable": False, "use_resource": False}
    mean = tf.get_variable("moving_mean", [channels], initializer=constant(0.0), **stored)
    var = tf.get_variable("moving_variance", [channels], initializer=constant(1.0), **stored)
    batch_mean, batch_var = tf.nn.moments(x, [0, 1, 2])
    updates.append(tf.assign_sub(mean, 0.1 * (mean - batch_mean)))
    updates.append(tf.assign_sub(var, 0.1 * (var - batch_var)))
    picked_mean = tf.raw_ops.Select(condition=is_training, x=batch_mean, y=mean)
    picked_var = tf.raw_ops.Select(condition=is_training, x=batch_var, y=var)
    return tf.nn.batch_normalization(x, picked_mean, picked_var, beta, gamma, 1e-3)


def _conv(x: Any, name: str, size: int, filters: int, is_training: Any, updates: list[Any]) -> Any:
    with tf.variable_scope(name):
        weights = _variable("weights", (size, size, int(x.shape[-1]), filters))
        x = tf.nn.conv2d(x, weights, strides=1, padding="VALID")
        x = tf.nn.relu(_batch_norm(x, is_training, updates))
        return tf.nn.max_pool2d(x, 2, 2, "VALID")


def _dense(x: Any, name: str, units: int) -> Any:
    with tf.variable_scope(name):
        weights = _variable("weights", (int(x.shape[-1]), units))
        bias = tf.get_variable("bias", [units], initializer=tf.zeros_initializer(),
                               use_resource=False)  # fmt: skip
        return tf.nn.bias_add(tf.matmul(x, weights, name="MatMul"), bias, name="BiasAdd")


def network() -> tuple[Any, Any, Any, list[Any]]:
    """Build the graph; return the input, the training flag, the logits and the updates."""
    image = tf.placeholder(tf.float32, [None, SIZE, SIZE, 1], name="input")
    is_training = tf.placeholder_with_default(False, [], name="is_training")
    updates: list[Any] = []
    x = _conv(image * (1 / 255), "conv1", 5, 32, is_training, updates)  # (N, 14, 14, 32)
    x = _conv(x, "conv2", 3, 64, is_training, updates)  # (N, 6, 6, 64)
    x = tf.reshape(x, [-1, 6 * 6 * 64], name="flatten")
    x = tf.nn.relu(_dense(x, "fc1", 1024))
    logits = _dense(x, "fc2", CLASSES)
    # tf.nn.softmax of TensorFlow 1 flattened its operand so.
    shape = tf.shape(logits)
    classes = tf.slice(shape, [1], [1])
    flat = tf.reshape(logits, tf.concat([[-1], classes], 0))
    tf.reshape(tf.nn.softmax(flat), shape, name="prob")
    return image, is_training, logits, updates


def train_and_freeze(images: Any, labels: Any, epochs: int) -> bytes:
    """Train on ``images`` and return the serialized frozen graph."""
    with tf.Graph().as_default() as graph:
        tf.set_random_seed(0)
        image, is_training, logits, updates = network()
        label = tf.placeholder(tf.int64, [None])
        loss = tf.reduce_mean(
            tf.nn.sparse_softmax_cross_entropy_with_logits(labels=label, logits=logits)
        )
        step = tf.train.AdamOptimizer(1e-3).minimize(loss)
        order = np.random.default_rng(1)
        with tf.Session() as session:
            session.run(tf.global_variables_initializer())
            for _ in range(epochs):
                for rows in np.array_split(order.permutation(len(images)), len(images) // BATCH):
                    feed = {image: images[rows], label: labels[rows], is_training: True}
                    session.run([step, updates], feed)
            frozen = tf.graph_util.convert_variables_to_constants(
                session, graph.as_graph_def(), ["fc2/BiasAdd", "prob"]
            )
    return bytes(frozen.SerializeToString())


def main() -> None:
    """Train, freeze and write the graph and the digits."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--epochs", type=int, default=5)
    options = parser.parse_args()
    tf.logging.set_verbosity(tf.logging.ERROR)
    images, labels = digits()
    train = len(images) - TEST_DIGITS
    options.folder.mkdir(parents=True, exist_ok=True)
    graph = train_and_freeze(images[:train], labels[:train], options.epochs)
    (options.folder / "lenet5.pb").write_bytes(graph)
    np.savez_compressed(options.folder / "calib.npz", input=images[:CALIBRATION_DIGITS])
    np.savez_compressed(options.folder / "test.npz", input=images[train:], labels=labels[train:])
    print(f"{options.folder}/lenet5.pb: LeNet-5 trained on {train} digits, {len(graph)} bytes")


if __name__ == "__main__":
    main()
