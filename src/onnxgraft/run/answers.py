"""What a network answers on another's feeds, told under the other's names and in its layouts.

Two networks that compute the same may call their inputs otherwise, may want them in another order
of axes, and one of them may have a training flag that the other was freed of. `answers` is the one
place that knows.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Protocol

import numpy as np

from onnxgraft.graph.tensors import Array, Feeds, Outputs, TensorSpec
from onnxgraft.graph.training import inference, is_flag, is_training_flag
from onnxgraft.run.engine import Engine

__all__ = ["adapted", "answers", "arranged", "partners"]


_FLOATS = {name: np.dtype(name) for name in ("float16", "float32", "float64")}


class Fed(Protocol):
    """What has inputs: an engine, or a graph."""

    @property
    def inputs(self) -> Sequence[TensorSpec]:
        """Name, type and shape of each."""


def answers(engine: Engine, feeds: Feeds, expected: Outputs | None = None) -> Outputs:
    """Return what ``engine`` makes of another network's ``feeds``.

    Args:
        engine: Is fed under its own names and in its own layouts, see `adapted`.
        feeds: Of the network that it is compared with.
        expected: That network's outputs: the answers come under their names and in their layouts.

    Raises:
        InputError: An input is missing, or has no counterpart, or fits in no layout.
    """
    found = engine.infer(adapted(feeds, engine))
    return found if expected is None else arranged(expected, found)


def adapted(feeds: Feeds, engine: Fed) -> dict[str, Array]:
    """Return ``feeds`` in the layouts, and under the names, that ``engine`` wants.

    Floats are rounded to those that it takes. Training flags are no data: one that the engine does
    not have is left out, and one that is not fed is set to inference.
    """
    wanted = {spec.name: spec for spec in engine.inputs}
    given = {
        name: _as_floats(_in_layout(value, wanted[name].accepts), wanted[name].dtype)
        if name in wanted
        else value
        for name, value in _renamed(feeds, wanted).items()
        if name in wanted or not (is_training_flag(name) and np.size(value) == 1)
    }
    flags = [spec for spec in engine.inputs if spec.name not in given and is_flag(spec)]
    return given | {spec.name: inference(spec) for spec in flags}


def arranged(expected: Outputs, actual: Outputs) -> Outputs:
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


def _as_floats(value: Array, dtype: str) -> Array:
    """Return floats as an input takes them, and others as they are."""
    known = _FLOATS.get(dtype)
    if known is None or value.dtype not in _FLOATS.values():
        return value
    with np.errstate(over="ignore"):  # what FP16 does not have is infinite in it
        return value.astype(known)


def _in_layout(value: Array, accepts: Callable[[tuple[int, ...]], object]) -> Array:
    """Return a 4-D array as it is, as NCHW or as NHWC, whichever is accepted."""
    if value.ndim == 4 and not accepts(value.shape):
        for perm in ((0, 3, 1, 2), (0, 2, 3, 1)):
            if accepts(tuple(value.shape[axis] for axis in perm)):
                return np.ascontiguousarray(value.transpose(perm))
    return value
