"""What a network's outputs look like: scores of classes, a map of them, or boxes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxgraft.data.boxes import BoxForm, form_of
from onnxgraft.data.classes import CLASS_SETS
from onnxgraft.errors import printable
from onnxgraft.graph.tensors import TensorSpec

__all__ = ["Task", "task_of"]


@dataclass
class Task:
    """What an output looks like.

    Attributes:
        keys: Of ``[validate]``, that go with it.
        why: In words.
    """

    keys: dict[str, Any]
    why: str


# Values of an output that boxes are looked for in: for the largest pictures it has some millions.
_MOST = 1 << 26


def task_of(outputs: Sequence[TensorSpec], picture: Sequence[int | str] | None) -> Task | None:
    """Return what outputs look like, or None where they are none of what is known.

    Args:
        outputs: Of the graph.
        picture: Height and width of what is fed; None where that is no picture.
    """
    if picture is not None and (boxes := _boxes(outputs, picture)) is not None:
        return boxes
    for spec in outputs:
        task = _scores(spec) or _map(spec)
        if task is not None:
            return task
    return None


def _scores(spec: TensorSpec) -> Task | None:
    """Return the task of a classifier, where an output is a row of scores."""
    long = [dim for dim in spec.shape[1:] if dim != 1]
    if len(spec.shape) not in (2, 4) or len(long) != 1 or spec.kind != "f":
        return None
    count = f"{long[0]} " if isinstance(long[0], int) else ""
    return Task(
        {"metric": "top1", "output": spec.name},
        f"{printable(spec.name)} looks like {count}scores of classes",
    )


def _boxes(outputs: Sequence[TensorSpec], size: Sequence[int | str]) -> Task | None:
    """Return the task of a detector, where the outputs have the shape of boxes."""
    shapes = {
        spec.name: [1, *(dim for dim in spec.shape[1:] if isinstance(dim, int))]
        for spec in outputs
        if spec.shape and all(isinstance(dim, int) for dim in spec.shape[1:])
    }
    # One value in the place of all: what a file declares may be of any size.
    known = {
        name: np.broadcast_to(np.float64(0.5), shape)
        for name, shape in shapes.items()
        if math.prod(shape) <= _MOST
    }
    usual, sides = BoxForm(), [side for side in size if isinstance(side, int)]
    if len(sides) < 2:
        return None
    form, name = form_of(known, usual, (sides[0], sides[1]))
    if form is None:
        return None
    cells = sum((sides[0] // stride) * (sides[1] // stride) for stride in usual.strides)
    if name is not None and cells not in known[name].shape and 3 * cells not in known[name].shape:
        return None  # rows of anything else
    keys: dict[str, Any] = {"metric": "map"} | ({} if name is None else {"output": name})
    shown = "the outputs look" if name is None else f"{printable(name)} looks"
    return Task(keys, f"{shown} like boxes ({form})")


def _map(spec: TensorSpec) -> Task | None:
    """Return the task of a map of classes, where an output has the shape of one."""
    shape, kind = spec.shape, spec.kind
    count: int | str | None = None
    if len(shape) == 4 and kind == "f":
        _, second, third, last = shape
        channels_first = isinstance(second, int) and (
            not isinstance(last, int) or second < last or isinstance(third, str)
        )
        sides = (third, last) if channels_first else (second, third)
        count = second if channels_first else last
        if any(isinstance(side, int) and side < 2 for side in sides) or count in (0, 1):
            return None
    elif not (len(shape) == 3 and kind in "iu"):
        return None
    keys: dict[str, Any] = {"metric": "miou", "output": spec.name}
    for name, known in CLASS_SETS.items():
        if count == len(known.names):
            keys["classes"] = name
    told = f"{count} classes" if isinstance(count, int) else "classes"
    return Task(keys, f"{printable(spec.name)} looks like a map of {told}")
