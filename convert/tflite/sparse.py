"""Constants that TFLite stores sparse, written out dense.

A sparse constant lists its dimensions in the order in which they are traversed, those of its blocks
last. Each is dense, with a size, or compressed as the rows of a CSR matrix are: the entries of the
one before it own the ``indices[segments[i] : segments[i + 1]]``. What is not listed is 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from onnxgraft.graph.tensors import Array

__all__ = ["dense"]

# In the schema: DimensionType.SPARSE_CSR.
_COMPRESSED = 1


def dense(values: Array, shape: Sequence[int], sparsity: Any) -> Array:
    """Return a sparse constant as TensorFlow's DENSIFY writes it out.

    Args:
        values: Those that are stored, in order.
        shape: Of the result.
        sparsity: TensorFlow's SparsityParametersT.

    Raises:
        ValueError: The parts do not fit each other.
    """
    order = [int(axis) for axis in sparsity.traversalOrder]
    blocks = [] if sparsity.blockMap is None else [int(axis) for axis in sparsity.blockMap]
    rank = len(shape)
    if sorted(order) != list(range(rank + len(blocks))) or len(sparsity.dimMetadata) != len(order):
        raise ValueError("its traversal order does not list its dimensions")
    owners = np.zeros(1, np.int64)
    places: list[Array] = []
    sizes: dict[int, int] = {}
    for axis, level in zip(order, sparsity.dimMetadata, strict=True):
        if level.format == _COMPRESSED:
            segments, indices = _vector(level.arraySegments), _vector(level.arrayIndices)
            begins, counts = segments[owners], segments[owners + 1] - segments[owners]
            if counts.min(initial=0) < 0:
                raise ValueError("its segments do not ascend")
            _check(int(counts.sum()), shape)
            steps = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
            owners = np.repeat(begins, counts) + steps
            places = [np.repeat(place, counts) for place in places]
            place = indices[owners]
        else:
            size = sizes[axis] = int(level.denseSize)
            _check(len(owners) * size, shape)
            places = [np.repeat(place, size) for place in places]
            place = np.tile(np.arange(size), len(owners))
            owners = np.repeat(owners * size, size) + place
        places.append(place)
    if len(owners) != len(values):
        raise ValueError(f"{len(values)} values are stored for {len(owners)} places")
    at = dict(zip(order, places, strict=True))
    index = [at[axis] for axis in range(rank)]
    for block, axis in enumerate(blocks):
        index[axis] = index[axis] * sizes[rank + block] + at[rank + block]
    result = np.zeros(shape, values.dtype)
    try:
        result[tuple(index)] = values
    except IndexError as error:
        raise ValueError(str(error)) from error
    return result


def _check(count: int, shape: Sequence[int]) -> None:
    if not 0 <= count <= math.prod(shape):
        raise ValueError(f"it lists {count} places of {math.prod(shape)}")


def _vector(held: Any) -> Array:
    return np.asarray(held.values, np.int64)
