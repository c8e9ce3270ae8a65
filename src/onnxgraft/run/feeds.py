"""Feeds that are invented where there are no data: seeded, and of the shapes that inputs want."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxgraft.errors import InputError
from onnxgraft.graph.tensors import Outputs, TensorSpec
from onnxgraft.run.saturation import Ends, liveliness

__all__ = ["MANNERS", "PLAIN", "Manner", "all_move", "fixed_batches", "lively", "random_feeds"]


@dataclass(frozen=True)
class Manner:
    """How floats are drawn: ``scale * (n + shift * m)`` of normal n by value and m by sample.

    Attributes:
        scale: Of all values.
        shift: How far samples are apart from each other.
        draw: Which of several draws.
    """

    scale: float = 1.0
    shift: float = 0.0
    draw: int = 0


PLAIN = Manner()
# What is tried where plain normal numbers leave an output at one of its ends.
MANNERS = tuple(
    Manner(scale, shift, draw)
    for draw in range(3)
    for scale, shift in (
        (1, 0), (4, 0), (16, 0), (64, 0), (256, 0), (1 / 4, 0), (1 / 16, 0), (1 / 256, 0), (1, 1),
        (16, 1), (1 / 16, 1),
    )
)  # fmt: skip
# Of an output that plain numbers leave at an end, so many of them are taken.
_MOST = 4
# An output moves enough where a tenth of its values, or of its range, is between its ends.
_LIVELY = 1.0


def random_feeds(
    specs: Sequence[TensorSpec],
    batch: int,
    seed: int = 0,
    *,
    size: int = 8,
    manner: Manner = PLAIN,
) -> dict[str, Any]:
    """Return seeded normal feeds.

    A free first dimension becomes ``batch``, any other ``size`` where there are four or more
    dimensions, as images have, and 8 where there are fewer, as sequences have. Integers are drawn
    from 0 to 9, booleans are False.
    """
    rng = np.random.default_rng([seed, manner.draw] if manner.draw else seed)
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
            value = rng.standard_normal(shape)
            if manner.shift:
                value += manner.shift * rng.standard_normal([*shape[:1], *[1] * len(shape[1:])])
            feeds[spec.name] = (manner.scale * value).astype(dtype)
        elif dtype.kind in "iu":
            feeds[spec.name] = rng.integers(0, 10, shape).astype(dtype)
        else:
            feeds[spec.name] = np.zeros(shape, dtype)
    return feeds


def all_move(runs: Sequence[Outputs], ends: Mapping[str, Ends] | None = None) -> bool:
    """Tell whether every float output moves enough in what a network made of some feeds."""
    return all(
        liveliness([outputs[name] for outputs in runs], (ends or {}).get(name)) >= _LIVELY
        for name, value in runs[0].items()
        if value.dtype.kind == "f"
    )


def lively(
    seen: Mapping[Manner, Sequence[Outputs]], ends: Mapping[str, Ends] | None = None
) -> tuple[list[Manner], list[str]]:
    """Return the manners in which the float outputs move, and the outputs that move in none.

    An output that a softmax, a sigmoid or a Clip holds at an end shows nothing of what the network
    before it computes. So for each output that does so on plain feeds, the manners are taken in
    which it moves most; plain feeds are always among them.

    Args:
        seen: What the network made of feeds in each manner, `PLAIN` among them.
        ends: Of the outputs that have some, where they are known.
    """
    chosen, still = [PLAIN], []
    for name, value in seen[PLAIN][0].items():
        if value.dtype.kind != "f":
            continue
        limits = None if ends is None else ends.get(name)
        scores = {
            manner: liveliness([outputs[name] for outputs in runs], limits)
            for manner, runs in seen.items()
            if manner == PLAIN or all(np.isfinite(outputs[name]).all() for outputs in runs)
        }
        if scores[PLAIN] >= _LIVELY:
            continue
        best = sorted(scores, key=lambda manner: -scores[manner])[:_MOST]
        if scores[best[0]] < _LIVELY / 100:
            still.append(name)
        chosen += [manner for manner in best if scores[manner] > scores[PLAIN]]
    return list(dict.fromkeys(chosen)), still


def fixed_batches(specs: Sequence[TensorSpec]) -> tuple[int, ...]:
    """Return the first dimensions of inputs in their order; none where one of them is free.

    What stands fixed beside a free batch, such as a table of anchors, is no batch.
    """
    first = [spec.shape[0] for spec in specs if spec.shape]
    fixed = tuple(dim for dim in first if isinstance(dim, int))
    return fixed if len(fixed) == len(first) else ()
