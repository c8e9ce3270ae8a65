"""tf2onnx works on its graph itself, which no other optimizer saw; what fails is left out."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from onnxgraft.errors import ModelError
from onnxgraft.stages.convert import Original
from onnxgraft.stages.convert.tensorflow.running import tensorflow
from tests.convert.graphs import assert_equal_to_tensorflow, conv, image


def network() -> None:
    """Build two convolutions, whose transposes tf2onnx pushes together."""
    conv(conv(image(), 4, "conv1"), 2, "conv2")


@pytest.fixture
def model(pb: Callable[..., Path]) -> Path:
    """Return the network as a frozen graph."""
    return pb(network)


def copied(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Return the list to which each graph comes that tf2onnx copies before a step."""
    from tf2onnx import optimizer
    from tf2onnx.graph import Graph

    found: list[object] = []

    def deepcopy(value: Any) -> Any:
        found.extend([value] * isinstance(value, Graph))
        return copy.deepcopy(value)

    monkeypatch.setattr(optimizer, "copy", SimpleNamespace(deepcopy=deepcopy))
    return found


def test_no_step_copies_the_graph(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = copied(monkeypatch)
    assert_equal_to_tensorflow(model, outputs="conv2/Relu:0")
    assert not found


def test_a_step_that_fails_is_left_out(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tf2onnx.optimizer.transpose_optimizer import TransposeOptimizer

    def fail(self: object, graph: object) -> None:
        raise KeyError("a fault of the step")

    monkeypatch.setattr(TransposeOptimizer, "_optimize", fail)
    found = copied(monkeypatch)
    converted = assert_equal_to_tensorflow(model, outputs="conv2/Relu:0")
    assert found
    assert converted.operators()["Transpose"] > 2


def test_what_fails_twice_is_told(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tf2onnx import tfonnx

    def fail(*words: object, **how: object) -> None:
        raise KeyError("conv1/Conv2D")

    monkeypatch.setattr(tfonnx, "process_tf_graph", fail)
    with pytest.raises(ModelError, match="tf2onnx can't convert Conv2D"):
        Original.of(model, outputs="conv2/Relu:0").lower()


def test_a_division_and_a_factor_behind_a_convolution_of_any_size(pb: Callable[..., Path]) -> None:
    def network() -> None:
        tf = tensorflow()
        free = tf.compat.v1.placeholder(tf.float32, [None, None, None, 3], "free")
        kernel = tf.constant(np.linspace(-1, 1, 54, dtype=np.float32).reshape(3, 3, 3, 2))
        halves = tf.nn.conv2d(free, kernel, 1, "SAME") / tf.constant(2.0)
        tf.identity(halves * tf.constant([3.0, 5.0]), "scaled")

    # TensorFlow's own optimizer, which no graph is given to, ends the process.
    assert_equal_to_tensorflow(pb(network), outputs="scaled:0")


def test_an_input_of_which_the_rank_alone_is_read(pb: Callable[..., Path]) -> None:
    def network() -> None:
        tf = tensorflow()
        other = tf.compat.v1.placeholder(tf.float32, [None, 3], "other")
        rank = tf.raw_ops.Rank(input=other)
        tf.identity(image() * tf.cast(rank, tf.float32), "scaled")

    assert_equal_to_tensorflow(pb(network), outputs="scaled:0")


def test_outputs_of_a_batch_normalization_that_nothing_reads(pb: Callable[..., Path]) -> None:
    def network() -> None:
        tf = tensorflow()
        ones = tf.ones(3)
        made = tf.raw_ops.FusedBatchNormV3(
            x=image(), scale=2 * ones, offset=ones, mean=3 * ones, variance=4 * ones,
            is_training=False,
        )  # fmt: skip
        tf.identity(tf.identity_n(made[:3])[0], "normal")

    assert_equal_to_tensorflow(pb(network), outputs="normal:0")
