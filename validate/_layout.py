"""The same values in the layout, and under the name, that another network has for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from onnxgraft.runtime import Array, Feeds, Outputs, TensorSpec

__all__ = ["adapted", "like"]


class Fed(Protocol):
    """What has inputs: an engine, or a graph."""

    @property
    def inputs(self) -> Sequence[TensorSpec]:
        """Name, type and shape of each."""


def adapted(feeds: Feeds, engine: Fed) -> dict[str, Array]:
    """Return ``feeds`` in the layouts that ``engine`` wants; a single one may have another name."""
    wanted = {spec.name: spec for spec in engine.inputs}
    if set(wanted) != set(feeds) and len(wanted) == len(feeds) == 1:
        feeds = dict(zip(wanted, feeds.values(), strict=True))
    return {
        name: _in_layout(value, wanted[name].accepts) if name in wanted else value
        for name, value in feeds.items()
    }


def like(expected: Outputs, actual: Outputs) -> Outputs:
    """Return ``actual`` in the layouts of ``expected``; a single output may have another name."""
    if set(expected) != set(actual) and len(expected) == len(actual) == 1:
        actual = dict(zip(expected, actual.values(), strict=True))
    return {
        name: _in_layout(value, expected[name].shape.__eq__) if name in expected else value
        for name, value in actual.items()
    }


def _in_layout(value: Array, accepts: Callable[[tuple[int, ...]], object]) -> Array:
    """Return a 4-D array as it is, as NCHW or as NHWC, whichever is accepted."""
    if value.ndim == 4 and not accepts(value.shape):
        for perm in ((0, 3, 1, 2), (0, 2, 3, 1)):
            if accepts(tuple(value.shape[axis] for axis in perm)):
                return np.ascontiguousarray(value.transpose(perm))
    return value
