"""`auto`: the method that chooses all ranges is the one with which the whole network loses least.

Each method chooses from what three quarters of the samples showed; the network then runs on samples
of the fourth, in the form of the target. The best one chooses from all samples.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Literal

from onnxgraft.data.ranges import BY_HAND, Ranges
from onnxgraft.data.samples import Samples
from onnxgraft.graph.model import Model
from onnxgraft.progress import track
from onnxgraft.stages.quantize.improve.whole import Judge, held_out
from onnxgraft.stages.quantize.measure.calibrate import rechoose
from onnxgraft.stages.quantize.measure.thresholds import METHODS, Method
from onnxgraft.stages.quantize.place.placement import Placement, placement
from onnxgraft.stages.quantize.place.ready import ready

__all__ = ["AUTO", "Choice", "most_chosen", "settle", "whole_ranges"]

AUTO: Literal["auto"] = "auto"
# A method by name, or the best one.
Choice = Method | Literal["auto"]


def settle(
    model: Model,
    ranges: Ranges,
    samples: Samples,
    target: str | Placement,
) -> Ranges:
    """Return the ranges by the method with which the network loses least, and why.

    Args:
        model: The float graph that ``ranges`` was measured on.
        ranges: With histograms.
        samples: Of which they were measured, in the same order.
        target: In whose form the network is judged.
    """
    table = placement(target) if isinstance(target, str) else target
    model = ready(model)
    # How far they move is not asked here.
    early = replace(ranges, histograms=ranges.early or ranges.histograms, early={})
    judge = Judge(model, held_out(samples, ranges.skipped)[1], table)
    best, least, found = METHODS[-1], None, dict[str, float]()
    # Those that are hardly ever the best come last: they are not run on all samples.
    for method in track(reversed(METHODS), "trying ranges", len(METHODS)):
        noise = judge.noise(model, rechoose(early, method), than=least)
        found[method] = noise.mean
        if least is not None and len(noise.samples) < len(least.samples):
            # What it would be on all samples, by the difference on those that it ran on.
            found[method] += least.mean - least.beside(noise).mean
        if least is None or found[method] < least.mean:
            best, least = method, noise
    chosen = rechoose(ranges, best)
    reason = f"best for the whole network in the form for {table.name}"
    tensors = {
        name: value if value.origin == BY_HAND or value.reason else replace(value, reason=reason)
        for name, value in chosen.tensors.items()
    }
    tried: dict[str, float] = {method: round(-found[method], 2) for method in METHODS}
    return replace(chosen, tensors=tensors, method=AUTO, chosen_for=table.name, tried=tried)


def whole_ranges(ranges: Ranges) -> tuple[Ranges, str]:
    """Return ranges that hold all that was seen, for FP8, and a note on it; none set by hand.

    Its steps are a part of each number, so that a narrower range spares small values nothing: what
    `auto` cut off for integers is not cut off. A method that the user named stays.
    """
    if ranges.method != AUTO:
        return ranges, ""
    tensors = {
        name: value
        if value.origin == BY_HAND
        else replace(value, low=value.minimum, high=value.maximum, origin="minmax", reason="")
        for name, value in ranges.tensors.items()
    }
    changed = [name for name, value in tensors.items() if value.amax != ranges.tensors[name].amax]
    note = (
        f"{len(changed)} ranges hold all that was seen, because FP8 gains nothing from a narrower "
        f"one; they were chosen for {ranges.chosen_for or 'integers'}. With --samples the methods "
        "are tried in FP8"
    )
    return replace(ranges, tensors=tensors), note if changed else ""


def most_chosen(ranges: Ranges) -> Method:
    """Return the method by which most of the ranges were chosen."""
    counted = Counter(value.origin for value in ranges.tensors.values())
    return max(METHODS, key=lambda method: counted[method])
