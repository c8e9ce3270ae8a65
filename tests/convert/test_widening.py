"""Whole numbers of 8 and 16 bits, which wrap around as they do in TensorFlow."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxgraft import commands
from onnxgraft.run.session import OnnxRuntime
from onnxgraft.stages.convert.tensorflow.running import tensorflow

Pb = Callable[..., Path]
tf = tensorflow()

OPERATORS: dict[str, Callable[[Any], Any]] = {
    "sum": lambda x: tf.reduce_sum(x, 1),
    "mean": lambda x: tf.reduce_mean(x, 1),
    "largest": lambda x: tf.reduce_max(x, 1),
    "smallest": lambda x: tf.reduce_min(x, 1),
    "sums so far": lambda x: tf.cumsum(x, 1),
    "where the largest is": lambda x: tf.argmax(x, 1),
    "larger of two": lambda x: tf.maximum(x, x[:, ::-1]),
    "within limits": lambda x: tf.clip_by_value(x, 1, 100),
    "chosen": lambda x: tf.where(x > 2, x, x + x),
    "relu": tf.nn.relu,
}


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16"])
def test_narrow_whole_numbers_are_tensorflow_s(pb: Pb, dtype: str) -> None:
    info = np.iinfo(dtype)
    rng = np.random.default_rng(0)
    x = rng.integers(info.min, info.max, (3, 6), endpoint=True).astype(dtype)
    x[0] = [0, 1, info.max, info.min, 7, 100]
    x[1] = 100
    wanted: dict[str, Any] = {}
    for name, call in OPERATORS.items():
        try:
            wanted[name] = call(tf.constant(x)).numpy()
        except tf.errors.OpError:  # TensorFlow has no kernel for it
            continue
    assert len(wanted) >= 8
    for name, right in wanted.items():

        def build(call: Callable[[Any], Any] = OPERATORS[name]) -> Any:
            held = tf.compat.v1.placeholder(dtype, [None, 6], "x")
            return tf.identity(call(held), name="y")

        done = commands.convert(pb(build))
        assert done.verdicts
        assert done.passed
        with OnnxRuntime(done.model.to_onnx()) as session:
            (found,) = session.infer({session.inputs[0].name: x}).values()
        assert found.dtype == right.dtype, name
        np.testing.assert_array_equal(found, right, err_msg=name)
