"""Sizes of tensors, and what is free."""

from __future__ import annotations

import numpy as np

from onnxgraft.stages.validate.divergence.memory import available_memory, tensor_sizes
from tests.conftest import model_of


def test_sizes_follow_from_what_is_fed() -> None:
    proto = model_of("""
        chain (float[N, 3, h, w] x) => (float16[N, 3, h, w] z)
        { y = Relu(x)  z = Cast<to = 10>(y) }
    """).to_onnx()
    feeds = {"x": np.zeros((2, 3, 5, 7), np.float32)}
    assert tensor_sizes(proto, feeds) == {"y": 2 * 3 * 5 * 7 * 4, "z": 2 * 3 * 5 * 7 * 2}


def test_some_memory_is_free() -> None:
    assert available_memory() > 0
