"""FP16 graphs with the ranges of a calibration: what would overflow is kept, rescaled or left.

    keep       stays in float32 between two Casts
    rescale    is multiplied by a power of two that the layers around it take back exactly, where
               nothing but what commutes with a factor is between; kept where not
    ignore     is only named

How the graph is written, and what is looked for, is in `onnxgraft.graph.half`.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import numpy as np

from onnxgraft.data.ranges import Ranges
from onnxgraft.errors import InputError, nearest
from onnxgraft.graph import half
from onnxgraft.graph.half import HEADROOM, LARGEST, Finding, HalfReport
from onnxgraft.graph.inference import infer
from onnxgraft.graph.model import Model
from onnxgraft.stages.quantize.improve.equalize import scale_groups

__all__ = ["ON_OVERFLOW", "OnOverflow", "to_half"]

OnOverflow = Literal["keep", "rescale", "ignore"]
ON_OVERFLOW: tuple[OnOverflow, ...] = get_args(OnOverflow)


def to_half(
    model: Model,
    ranges: Ranges | None = None,
    *,
    on_overflow: OnOverflow = "keep",
    keep: tuple[str, ...] = (),
    headroom: float = HEADROOM,
) -> tuple[Model, HalfReport]:
    """Return the graph with float16 in place of float32, and what was found.

    Inputs and outputs keep their types.

    Args:
        model: A float graph, or one of `quantize`.
        ranges: Of the float graph, by the names of its tensors; what they do not have is told as
            unchecked.
        on_overflow: What is done about tensors that FP16 does not hold.
        keep: Nodes that stay in float32.
        headroom: By how many times a tensor has to stay below 65504.

    Raises:
        InputError: A node is unknown.
        NotSupportedError: The graph has subgraphs.
    """
    if on_overflow not in ON_OVERFLOW:
        raise InputError(f"--on-overflow {on_overflow}: {nearest(on_overflow, ON_OVERFLOW)}")
    sizes = {} if ranges is None else ranges.sizes()
    rescaled: dict[str, Finding | None] = {}
    if on_overflow == "rescale":
        model = half.typed(model)
        rescaled = _rescale(model, sizes, headroom)
    made, report = half.to_half(
        model, sizes, keep=keep, headroom=headroom, rescaled=rescaled,
        ignore=on_overflow == "ignore",
    )  # fmt: skip
    report.findings[:0] = [found for found in rescaled.values() if found is not None]
    return made, report


def _rescale(model: Model, sizes: dict[str, float], headroom: float) -> dict[str, Finding | None]:
    """Make groups of tensors smaller by a power of two, and ``sizes`` with them.

    Return their names, with a finding for those that FP16 does not hold as they were.
    """
    graph = model.graph
    done: dict[str, Finding | None] = {}
    shapes = {name: k.shape for name, k in infer(graph).items() if k.shape is not None}
    for group in scale_groups(graph, shapes):
        names = [tensor.name for tensor in group.tensors]
        largest = max((sizes.get(name, 0.0) for name in names), default=0.0)
        if largest * headroom <= LARGEST:
            continue
        power = math.ceil(math.log2(largest * headroom / LARGEST))
        group.divide(graph, np.full(group.channels, 2.0**power), shapes)
        for name in names:
            lacks = half.shortfall(sizes.get(name, 0.0), headroom)
            done[name] = lacks and Finding(name, *lacks, f"rescaled by 2^-{power}")
            if name in sizes:
                sizes[name] *= 2.0**-power
    return done
