"""Feeds that are invented where there are no data: seeded, and of the shapes that inputs want."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from onnxgraft.errors import InputError
from onnxgraft.graph.tensors import TensorSpec

__all__ = ["fixed_batches", "random_feeds"]


def random_feeds(
    specs: Sequence[TensorSpec], batch: int, seed: int = 0, *, size: int = 8
) -> dict[str, Any]:
    """Return seeded normal feeds.

    A free first dimension becomes ``batch``, any other ``size`` where there are four or more
    dimensions, as images have, and 8 where there are fewer, as sequences have. Integers are drawn
    from 0 to 9, booleans are False.
    """
    rng = np.random.default_rng(seed)
    feeds: dict[str, Any] = {}
    for spec in specs:
        other = size if len(spec.shape) > 3 else 8
        shape = [
            dim if isinstance(dim, int) else (batch if axis == 0 else other)
            for axis, dim in enumerate(spec.shape)
        ]
        try:
            dtype = np.dtype(spec.dtype)
        except TypeError as error:
            raise InputError(f"the input {spec} can't be fed with random numbers") from error
        if dtype.kind == "f" or dtype.name == "bfloat16":
            feeds[spec.name] = rng.standard_normal(shape).astype(dtype)
        elif dtype.kind in "iu":
            feeds[spec.name] = rng.integers(0, 10, shape).astype(dtype)
        else:
            feeds[spec.name] = np.zeros(shape, dtype)
    return feeds


def fixed_batches(specs: Sequence[TensorSpec]) -> tuple[int, ...]:
    """Return the first dimensions of inputs in their order; none where one of them is free.

    What stands fixed beside a free batch, such as a table of anchors, is no batch.
    """
    first = [spec.shape[0] for spec in specs if spec.shape]
    fixed = tuple(dim for dim in first if isinstance(dim, int))
    return fixed if len(fixed) == len(first) else ()
