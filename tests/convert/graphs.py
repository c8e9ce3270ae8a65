"""Small TensorFlow graphs for tests, and the comparison of what is made of them with TensorFlow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf import text_format

from onnxgraft.graph.model import Model
from onnxgraft.graph.tensors import Array, Feeds, Outputs
from onnxgraft.run.feeds import random_feeds
from onnxgraft.run.session import OnnxRuntime
from onnxgraft.stages.convert import Original
from onnxgraft.stages.convert.tensorflow.running import tensorflow

# Two runtimes that add float32 in different orders: 6e-8 a sum, over the handful of layers here.
CLOSE = 1e-5

Build = Callable[[], Any]


def write(path: Path, build: Build, *, text: bool = False) -> Path:
    """Write the graph that ``build`` makes, as a binary or a text GraphDef."""
    tf = tensorflow()
    with tf.Graph().as_default() as graph:
        build()
    definition = graph.as_graph_def()
    if text:
        path.write_text(text_format.MessageToString(definition))
    else:
        path.write_bytes(definition.SerializeToString())
    return path


def ask_tensorflow(path: Path, names: Sequence[str], feeds: Feeds) -> list[Array]:
    """Return what TensorFlow, its optimizer off, computes for tensors of a binary GraphDef."""
    tf = tensorflow()
    config = tf.compat.v1.ConfigProto()
    config.graph_options.rewrite_options.disable_meta_optimizer = True
    with tf.Graph().as_default() as graph:
        tf.import_graph_def(tf.compat.v1.GraphDef.FromString(path.read_bytes()), name="")
        with tf.compat.v1.Session(graph=graph, config=config) as session:
            return list(session.run(list(names), dict(feeds)))


def run(model: Model, feeds: Feeds) -> Outputs:
    """Return what onnxruntime, without optimizations, computes."""
    with OnnxRuntime(model.to_onnx(), optimize=False) as session:
        return session.infer(feeds)


def assert_close(expected: Outputs, actual: Outputs) -> None:
    """Assert equal names, order and shapes, and values within `CLOSE` of the range."""
    assert list(expected) == list(actual)
    for name, value in expected.items():
        assert value.shape == actual[name].shape
        assert np.abs(value - actual[name]).max() <= CLOSE * np.ptp(value), name


def assert_equal_to_tensorflow(path: Path, **options: Any) -> Model:
    """Convert, and compare with TensorFlow at batch 1 and 2; return the converted model."""
    model, _ = Original.of(path, **options).lower()
    with Original.of(path, **options).run() as reference:
        assert [spec.name for spec in reference.inputs] == [spec.name for spec in model.inputs]
        for batch in (1, 2):
            feeds = random_feeds(reference.inputs, batch, seed=batch)
            assert_close(reference.infer(feeds), run(model, feeds))
    return model


def image(height: int = 8, width: int = 6, channels: int = 3) -> Any:
    """Return the placeholder of an image."""
    tf = tensorflow()
    return tf.compat.v1.placeholder(tf.float32, [None, height, width, channels], "image")


def conv(x: Any, filters: int, name: str, seed: int = 0) -> Any:
    """Return a 3x3 convolution with a bias and a Relu, in the scope ``name``."""
    tf = tensorflow()
    rng = np.random.default_rng(seed)
    with tf.name_scope(name):
        weights = rng.standard_normal((3, 3, int(x.shape[-1]), filters)).astype(np.float32)
        bias = rng.standard_normal(filters).astype(np.float32)
        y = tf.nn.conv2d(x, tf.constant(weights, name="weights"), 1, "SAME", name="Conv2D")
        return tf.nn.relu(tf.nn.bias_add(y, tf.constant(bias), name="BiasAdd"), name="Relu")


def select(kind: str, flag: Any, taken: Any, other: Any, name: str | None = None) -> Any:
    """Return ``taken`` where ``flag``, else ``other``, by the operator ``kind``."""
    ops = tensorflow().raw_ops
    if kind == "Select":
        return ops.Select(condition=flag, x=taken, y=other, name=name)
    return ops.SelectV2(condition=flag, t=taken, e=other, name=name)
