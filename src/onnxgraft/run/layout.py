"""The same values in the layout, and under the name, that another network has for them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Protocol

import numpy as np

from onnxgraft.graph.tensors import (
    Array,
    Feeds,
    Outputs,
    TensorSpec,
)

__all__ = ["adapted", "like", "partners"]


class Fed(Protocol):
    """What has inputs: an engine, or a graph."""

    @property
    def inputs(self) -> Sequence[TensorSpec]:
        """Name, type and shape of each."""


def adapted(feeds: Feeds, engine: Fed) -> dict[str, Array]:
    """Return ``feeds`` in the layouts, and under the names, that ``engine`` wants."""
    wanted = {spec.name: spec for spec in engine.inputs}
    return {
        name: _in_layout(value, wanted[name].accepts) if name in wanted else value
        for name, value in _renamed(feeds, wanted).items()
    }


def like(expected: Outputs, actual: Outputs) -> Outputs:
    """Return ``actual`` in the layouts, and under the names, of ``expected``."""
    return {
        name: _in_layout(value, expected[name].shape.__eq__) if name in expected else value
        for name, value in _renamed(actual, expected).items()
    }


def partners(wanted: Collection[str], there: Collection[str]) -> dict[str, str]:
    """Return which of the names ``there`` stands for each of ``wanted``, where that can be told.

    Its own; or the same without the output's number, which TensorFlow alone has; or, where there is
    only one on each side, that.

    >>> partners(["score"], ["prob:0", "score:0"])
    {'score': 'score:0'}
    """
    if len(wanted) == len(there) == 1:
        return dict(zip(wanted, there, strict=True))
    free = {name.removesuffix(":0"): name for name in there if name not in wanted}
    found = {name: name if name in there else free.get(name.removesuffix(":0")) for name in wanted}
    return {mine: theirs for mine, theirs in found.items() if theirs is not None}


def _renamed(values: Mapping[str, Array], wanted: Collection[str]) -> Mapping[str, Array]:
    """Return ``values`` under the names of ``wanted`` that they stand for, or under their own."""
    names = {theirs: mine for mine, theirs in partners(wanted, values).items()}
    return {names.get(name, name): value for name, value in values.items()}


def _in_layout(value: Array, accepts: Callable[[tuple[int, ...]], object]) -> Array:
    """Return a 4-D array as it is, as NCHW or as NHWC, whichever is accepted."""
    if value.ndim == 4 and not accepts(value.shape):
        for perm in ((0, 3, 1, 2), (0, 2, 3, 1)):
            if accepts(tuple(value.shape[axis] for axis in perm)):
                return np.ascontiguousarray(value.transpose(perm))
    return value
