"""Sizes of tensors, and what is free."""

from __future__ import annotations

import numpy as np

from onnxgraft.stages.validate.divergence.memory import available_memory, tensor_sizes
from tests.conftest import model_of


def test_sizes_follow_from_what_is_fed() -> None:
    model = model_of("""
        chain (float[N, 3, h, w] x) => (float16[N, 3, h, w] z)
        { y = Relu(x)  z = Cast<to = 10>(y) }
    """)
    feeds = {"x": np.zeros((2, 3, 5, 7), np.float32)}
    values = 2 * 3 * 5 * 7
    assert tensor_sizes(model, feeds) == {"x": 4 * values, "y": 4 * values, "z": 2 * values}


def test_some_memory_is_free() -> None:
    assert available_memory() > 0
