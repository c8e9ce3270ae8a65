"""Whether a candidate passes: what it is held against, and what nobody may miss about a pass."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from onnxgraft.run.depth import FOUR_BITS
from onnxgraft.run.difference import Difference
from onnxgraft.run.engine import Engine
from onnxgraft.run.saturation import Ends
from onnxgraft.run.tolerances import (
    LEAST_CONTRAST,
    LEAST_SQNR,
    LOW_OVERLAP,
    LOW_TOP1,
    RESOLUTION,
    TIES,
    USUAL_DROP,
    least_sqnr,
)
from onnxgraft.stages.validate.metrics import METRICS, Metric

__all__ = ["Candidate", "Judgement", "judge"]

# Metrics of which the best class is what counts.
_OF_CLASSES = ("top1", "top5", "auc", "miou")


@dataclass(frozen=True)
class Candidate:
    """An engine to compare with the original.

    Attributes:
        engine: The engine.
        tolerance: Largest difference as a fraction of an output's range; None for engines in INT8,
            which are judged by signal over noise and, where there is one, by the metric.
        drop: What the metric may lose, in its unit; None takes a part of its scale, or of the
            original's value.
        floors: With a tolerance: by output, a difference that is allowed whatever its range is.
        depths: In INT8: by output, how many roundings to 8 bits are on the way to it; None where
            the graph is not known.
        ends: By output with ends, such as that of a softmax, the smallest and largest value.
    """

    engine: Engine
    tolerance: float | None
    drop: float | None = None
    floors: Mapping[str, float] = field(default_factory=dict)
    depths: Mapping[str, int] | None = None
    ends: Mapping[str, Ends] = field(default_factory=dict)

    def least(self, output: str) -> float:
        """Return the signal over noise that an output has to keep, in dB."""
        depth = None if self.depths is None else self.depths.get(output)
        return LEAST_SQNR if depth is None else least_sqnr(depth)


@dataclass
class Judgement:
    """What was found of a candidate.

    Attributes:
        passed: Whether it is within what it was held against.
        verdict: That, in words.
        warnings: What nobody may miss about it, though it passes.
        agreement: With the original, by ``measure``.
        measure: ``mIoU`` between the class maps of both, ``same class`` as a fraction of places, or
            ``SQNR`` in dB.
    """

    passed: bool
    verdict: str
    warnings: list[str] = field(default_factory=list)
    agreement: float | None = None
    measure: str = ""


def judge(
    candidate: Candidate,
    found: Mapping[str, Difference],
    metrics: tuple[Metric | None, Metric | None],
    broken: Mapping[str, tuple[int, str, str]],
    metric_output: str,
) -> Judgement:
    """Return what there is to say of a candidate.

    Args:
        candidate: With what it is held against.
        found: Of each output, the difference from the original's.
        metrics: Of the original and of the candidate, where there is a metric.
        broken: Output -> position and name of the first sample with values that are NaN or
            infinite, and whose they are.
        metric_output: The output that metrics look at.
    """
    result = _verdict(candidate, found, metrics, broken, metric_output)
    difference = found.get(metric_output)
    if difference is not None:
        result.agreement, result.measure = _agreement(difference)
    if result.passed and not result.warnings:
        result.warnings += _untold(found)
    return result


def _untold(found: Mapping[str, Difference]) -> list[str]:
    """Return what samples can't tell of a candidate that passes."""
    told = [
        f"{name} is empty on all samples, so that nothing of it was compared: validate on samples "
        "that fill it"
        for name, difference in found.items()
        if difference.empty and not difference.nonfinite
    ]
    if found and not told and all(difference.still for difference in found.values()):
        told.append(
            "the original's answers to all samples are the same, so that they can't tell a working "
            "network from a constant one: validate on samples with other answers too"
        )
    return told


def _verdict(
    candidate: Candidate,
    found: Mapping[str, Difference],
    metrics: tuple[Metric | None, Metric | None],
    broken: Mapping[str, tuple[int, str, str]],
    metric_output: str,
) -> Judgement:
    if broken:
        count = sum(difference.nonfinite for difference in found.values())
        _, name, output, whose = min(
            (position, name, output, whose) for output, (position, name, whose) in broken.items()
        )
        return Judgement(False, (
            f"{count} values are NaN or infinite; the first are in the {whose}'s {output}, of "
            f"{name}"
        ))  # fmt: skip
    if candidate.tolerance is not None and found:
        return _within_tolerance(candidate, candidate.tolerance, found)
    original, scored = metrics
    if original is not None and scored is not None:
        return _by_metric(candidate, found, original, scored, metric_output)
    return _by_signal(candidate, found)


def _within_tolerance(
    candidate: Candidate, tolerance: float, found: Mapping[str, Difference]
) -> Judgement:
    """Hold a float candidate by the output that is furthest off what it may be."""
    worst, passed, verdict = -math.inf, True, ""
    for name, difference in found.items():
        if difference.differing is not None:
            share, allowed = difference.differing, max(TIES, tolerance)
            text = f"{100 * share:.2g} % of {name} differ, at most {100 * allowed:.2g} % allowed"
        else:
            span = difference.scale
            floor = max(candidate.floors.get(name, 0.0), _resolution(candidate, name, difference))
            share, allowed = difference.max_abs / span, max(tolerance, floor / span)
            shown = f"{allowed:.0e}" if allowed == tolerance else f"{allowed:.1e}"
            text = f"{share:.1e} of the range, at most {shown} allowed"
        passed = passed and share <= allowed
        ratio = share / allowed if allowed else math.inf if share else 0.0
        if ratio > worst:
            worst, verdict = ratio, text
    return Judgement(passed, verdict)


def _resolution(candidate: Candidate, name: str, difference: Difference) -> float:
    """Return the difference that float32 does not resolve."""
    return RESOLUTION * max([difference.size, *map(abs, candidate.ends.get(name, ()))])


def _by_signal(candidate: Candidate, found: Mapping[str, Difference]) -> Judgement:
    """Hold a candidate in INT8 by the output that keeps least of what it has to."""
    warnings = []
    for name, difference in found.items():
        destroyed = _destroyed(name, difference)
        if destroyed is not None and not _unresolved(candidate, name, difference):
            return Judgement(False, destroyed)
        if _unresolved(candidate, name, difference) and _short(candidate, name, difference) > 0:
            warnings.append(
                f"{name} hardly moves on these samples, so that they can't tell a working network "
                "from a constant one: validate on samples with other answers too"
            )
    shorts = {
        name: _short(candidate, name, difference)
        for name, difference in found.items()
        if not _unresolved(candidate, name, difference)
    }
    if not shorts:
        return Judgement(True, "no output moves by what 8 bits resolve", warnings)
    worst = max(shorts, key=lambda name: shorts[name])
    return Judgement(shorts[worst] <= 0, _kept(candidate, worst, found[worst]), warnings)


def _kept(candidate: Candidate, name: str, difference: Difference) -> str:
    least = candidate.least(name)
    depth = None if candidate.depths is None else candidate.depths.get(name)
    why = (
        "its graph is not known; name it with --graph"
        if depth is None
        else f"weights in 4 bits make as much noise as {depth} roundings to 8 bits"
        if depth >= FOUR_BITS
        else f"{depth} roundings to 8 bits, one after the other"
        if depth > 1
        else "one rounding to 8 bits"
        if depth
        else "nothing before it is in 8 bits"
    )
    same = difference.differing
    if same is not None:
        return (
            f"{name} is the same at {100 * (1 - same):.1f} % of its places, at least "
            f"{100 * LOW_TOP1:.0f} % wanted"
        )
    return (
        f"{name} keeps {difference.sqnr:.1f} dB of the signal, at least {least:.1f} wanted ({why})"
    )


def _short(candidate: Candidate, name: str, difference: Difference) -> float:
    """Return how many dB an output is short of what it has to keep; negative if it keeps more.

    Of whole numbers that are no indices known of, such as counts, either the places that are the
    same suffice, or the numbers.
    """
    short = candidate.least(name) - difference.sqnr
    if difference.differing is None:
        return short
    places = 1 - LOW_TOP1
    share = difference.differing
    return min(short, 10 * math.log10(share / places) if share else -math.inf)


def _destroyed(name: str, difference: Difference) -> str | None:
    """Return why an output has nothing to do with the original's, if it has not.

    A metric may not notice: it may be of another output, or the same whatever it is given.
    """
    told = difference.contrast
    if told is None:
        kept = difference.sqnr
        if kept >= LEAST_CONTRAST or difference.differing == 0:
            return None
        return f"{name} keeps {kept:.1f} dB of the signal: it is not what the original computes"
    if told >= LEAST_CONTRAST:
        return None
    return (
        f"{name} is not what the original computes: it is as far from the original's answers as "
        f"those to other samples are ({told:.1f} dB, at least {LEAST_CONTRAST:.0f} wanted)"
    )


def _unresolved(candidate: Candidate, name: str, difference: Difference) -> bool:
    """Tell whether an output with ends is off by no more than rounding it to 8 bits would be."""
    limits = candidate.ends.get(name)
    if limits is None:
        return False
    return difference.rms <= (limits[1] - limits[0]) / 255 / math.sqrt(12)


def _by_metric(
    candidate: Candidate,
    found: Mapping[str, Difference],
    original: Metric,
    scored: Metric,
    metric_output: str,
) -> Judgement:
    """Hold a candidate in INT8 by the metric; outputs have to be the original's all the same."""
    name, before = next(iter(original.values().items()))
    after = scored.values()[name]
    passed, verdict = _metric_verdict(candidate, original, name, before, after)
    result = Judgement(passed, verdict)
    for output, difference in found.items():
        destroyed = _destroyed(output, difference)
        if destroyed is not None and not _unresolved(candidate, output, difference):
            result.passed = False
            result.verdict += f"; {destroyed}"
    if not result.passed:
        return result
    for output, difference in found.items():
        if _unresolved(candidate, output, difference):
            continue
        if candidate.depths is not None and _short(candidate, output, difference) > 0:
            result.warnings.append(
                f"the metric holds, but {_kept(candidate, output, difference)}: more is lost than "
                "8 bits explain"
            )
    seen = found.get(metric_output)
    low = None if seen is None else _low(seen)
    classes = original.name in _OF_CLASSES
    if low and seen is not None and (classes or _short(candidate, metric_output, seen) > 0):
        result.warnings.append(
            f"the metric holds, but {low}: the two often answer otherwise, so the metric may hold "
            "by chance; look at the samples that differ"
        )
    return result


def _metric_verdict(
    candidate: Candidate, metric: Metric, name: str, before: float, after: float
) -> tuple[bool, str]:
    """Return whether a metric lost no more than it may, and the sentence."""
    change = after - before
    loss = {"up": -change, "down": change, None: abs(change)}[metric.direction]
    if candidate.drop is not None:
        allowed, why = candidate.drop, ""
    elif metric.scale is not None:
        allowed, why = USUAL_DROP * metric.scale, ""
    else:
        allowed, why = USUAL_DROP * abs(before), f", {100 * USUAL_DROP:.0f} % of the original's"
    if metric.name in METRICS:
        return loss <= allowed, f"{name} {0.0 + change:+.2f} points, {0.0 - allowed:+.2f} allowed"
    way = {"up": "it may fall by", "down": "it may rise by", None: "it may move by"}
    said = f"{name} {before:.4g} -> {after:.4g}, {way[metric.direction]} {allowed:.3g}{why}"
    missing = [
        f'{metric.name}.{key} = {example}'
        for key, value, example in (
            ("direction", metric.direction, '"up" or "down"'),
            ("scale", metric.scale if candidate.drop is None else 1, "its largest value"),
        )
        if value is None
    ]  # fmt: skip
    if missing:
        said += f" (not declared: {', '.join(missing)}; see docs/validate.md)"
    return loss <= allowed, said


def _agreement(difference: Difference) -> tuple[float, str]:
    """Return how far a candidate agrees with the original, and by what that is measured."""
    if difference.overlap is not None:
        return difference.overlap, "mIoU"
    if difference.agreement is not None:
        return difference.agreement, "same class"
    return difference.sqnr, "SQNR"


def _low(difference: Difference) -> str | None:
    """Return the agreement in words, if it is low."""
    value, measure = _agreement(difference)
    if measure == "mIoU" and value < LOW_OVERLAP:
        return f"the classes of the two overlap by {100 * value:.1f} % (mIoU)"
    if measure == "same class" and value < LOW_TOP1:
        return f"the two say the same class in {100 * value:.1f} % of the places"
    return None
