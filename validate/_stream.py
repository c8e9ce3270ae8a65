"""One pass over the samples: original and candidates side by side, in constant memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from onnxgraft.compare import Difference, check_pair
from onnxgraft.errors import InputError, nearest
from onnxgraft.progress import track
from onnxgraft.report import CandidateRow, OutputRow
from onnxgraft.runtime import Array, Engine
from onnxgraft.samples import Samples
from onnxgraft.validate._layout import adapted, like
from onnxgraft.validate._metrics import Metric

__all__ = ["Candidate", "validate"]

# INT8 answers are judged by what they are used for where a metric is there, else by direction:
# 0.99 is an angle of 8 degrees between the two outputs.
LEAST_COSINE = 0.99


@dataclass(frozen=True)
class Candidate:
    """An engine to compare with the original.

    Attributes:
        engine: The engine.
        tolerance: Largest difference as a fraction of an output's range; None for engines of
            lower precision, which are judged by metric or cosine.
        drop: Points that the metric may lose.
    """

    engine: Engine
    tolerance: float | None
    drop: float = 1.0


def validate(
    original: Engine,
    candidates: Sequence[Candidate],
    samples: Samples,
    metric: Callable[[], Metric] | None = None,
    output: str | None = None,
) -> list[CandidateRow]:
    """Run everything on every sample and return a row each, the original's first.

    Args:
        original: The judge.
        candidates: What is compared with it.
        samples: Fed to all of them; layouts are adapted to each.
        metric: Makes a fresh metric; None leaves task metrics out.
        output: The output that the metric looks at; None takes the first.

    Raises:
        InputError: A label is missing, or outputs do not correspond.
    """
    known = [spec.name for spec in original.outputs]
    judged = output if output is not None else known[0]
    if judged not in known:
        raise InputError(f"no output is called {judged!r}; {nearest(judged, known)}")
    if metric is not None and not samples.labelled:
        raise InputError(f"{samples.source}: the metric needs labels, and there are none")
    engines = [original, *(candidate.engine for candidate in candidates)]
    metrics = [metric() if metric else None for _ in engines]
    differences: list[dict[str, Difference]] = [{} for _ in candidates]
    for sample in track(samples, "validating", len(samples)):
        expected = original.infer(adapted(sample.feeds, original))
        _score(metrics[0], expected[judged], sample.label)
        for index, candidate in enumerate(candidates):
            actual = candidate.engine.infer(adapted(sample.feeds, candidate.engine))
            actual = like(expected, actual)
            for name, value in expected.items():
                check_pair(name, value, actual)
                difference = differences[index].setdefault(name, Difference(_class_axis(value)))
                difference.add(value, actual[name])
            _score(metrics[index + 1], actual[judged], sample.label)
    rows = [_row(original.name, {}, metrics[0], True, "the original")]
    for candidate, found, scored in zip(candidates, differences, metrics[1:], strict=True):
        passed, verdict = _judge(candidate, found, metrics[0], scored)
        rows.append(_row(candidate.engine.name, found, scored, passed, verdict))
    return rows


def _class_axis(value: Array) -> int | None:
    """Return the axis of class scores of a float output: of a 4-D one the shorter of 1 and 3."""
    if value.dtype.kind != "f" or value.ndim not in (2, 4):
        return None
    return 1 if value.ndim == 4 and value.shape[1] < value.shape[3] else -1


def _score(metric: Metric | None, output: Array, label: Array | None) -> None:
    if metric is not None and label is not None:
        metric.add(output, label)


def _judge(
    candidate: Candidate,
    found: dict[str, Difference],
    original: Metric | None,
    scored: Metric | None,
) -> tuple[bool, str]:
    broken = sum(difference.nonfinite for difference in found.values())
    if broken:
        return False, f"{broken} values are NaN or infinite"
    if candidate.tolerance is not None:
        worst = max(difference.relative for difference in found.values())
        return (
            worst <= candidate.tolerance,
            f"{worst:.1e} of the range, at most {candidate.tolerance:.0e} allowed",
        )
    if original is not None and scored is not None:
        name, before = next(iter(original.values().items()))
        drop = before - scored.values()[name]
        return (
            drop <= candidate.drop,
            f"{name} {0.0 - drop:+.2f} points, {0.0 - candidate.drop:+.2f} allowed",
        )
    least = min(difference.cosine for difference in found.values())
    return least >= LEAST_COSINE, f"cosine {least:.4f}, at least {LEAST_COSINE} wanted"


def _row(
    name: str,
    found: dict[str, Difference],
    metric: Metric | None,
    passed: bool,
    verdict: str,
) -> CandidateRow:
    outputs = [
        OutputRow(
            output,
            difference.max_abs,
            difference.mean_abs,
            difference.relative,
            difference.cosine,
            difference.sqnr,
            difference.agreement,
            difference.nonfinite,
        )
        for output, difference in found.items()
    ]
    values = metric.values() if metric else {}
    return CandidateRow(
        name, outputs, values, metric.per_class() if metric else {}, passed, verdict
    )
