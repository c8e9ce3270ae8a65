"""Arrays are used again when nobody holds them, and only then."""

import ctypes

import numpy as np
import pytest

from onnxgraft.graph.tensors import Array
from onnxgraft.stages.engine.buffers import Buffers


def of_foreign_memory(shape: tuple[int, ...], dtype: str) -> Array:
    """Allocate as page-locked memory is: an array over a block that is not numpy's."""
    kind = np.dtype(dtype)
    block = (ctypes.c_byte * (int(np.prod(shape)) * kind.itemsize))()
    return np.ndarray(shape, kind, buffer=memoryview(block))


@pytest.mark.parametrize("allocate", [np.empty, of_foreign_memory])
def test_a_view_keeps_its_array(allocate: object) -> None:
    buffers = Buffers(allocate)  # type: ignore[arg-type]
    first = buffers.take("y", (4, 4), "float32")
    place = first.ctypes.data
    assert buffers.take("y", (4, 4), "float32").ctypes.data != place
    view = first[1:].reshape(-1)[::2]
    del first
    assert buffers.take("y", (4, 4), "float32").ctypes.data != place
    export = memoryview(view)
    del view
    assert buffers.take("y", (4, 4), "float32").ctypes.data != place
    del export
    held = [buffers.take("y", (4, 4), "float32") for _ in range(4)]
    assert place in {array.ctypes.data for array in held}


def test_kinds_are_apart_and_no_more_than_most_are_kept() -> None:
    buffers = Buffers(most=2)
    held = [buffers.take("y", (3,), "float32") for _ in range(5)]
    assert len({array.ctypes.data for array in held}) == 5
    assert buffers.take("y", (4,), "float32").shape == (4,)
    assert buffers.take("y", (3,), "int8").dtype == np.int8
    assert sum(map(len, buffers._kept.values())) == 4
