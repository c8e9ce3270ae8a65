"""One pass over the samples: original and candidates side by side, in constant memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from onnxgraft.data.samples import Samples
from onnxgraft.errors import InputError, nearest
from onnxgraft.graph.tensors import (
    Array,
)
from onnxgraft.progress import track
from onnxgraft.run.difference import (
    Difference,
)
from onnxgraft.run.engine import (
    Engine,
)
from onnxgraft.stages.validate.measure.spread import Job, Opener, run_here, run_parts
from onnxgraft.stages.validate.measure.tally import Tally
from onnxgraft.stages.validate.metrics import (
    Metric,
)
from onnxgraft.stages.validate.report import CandidateRow, OutputRow

__all__ = ["Candidate", "measure", "rows"]

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


def measure(
    original: Engine,
    candidates: Sequence[Engine],
    samples: Samples,
    metric: Callable[[], Metric] | None = None,
    output: str | None = None,
    *,
    labels: Mapping[str, Array] | None = None,
    workers: int = 1,
    ray: str | None = None,
    openers: Sequence[Opener] = (),
) -> Tally:
    """Run everything on every sample and return the sums, which `rows` makes rows of.

    Args:
        original: The judge.
        candidates: What is compared with it.
        samples: Fed to all of them; layouts are adapted to each.
        metric: Makes a fresh metric; None leaves task metrics out.
        output: The output that the metric looks at; None takes the first.
        labels: By the images' file names, where they do not come with the samples.
        workers: Processes; with ``ray`` actors, 0 for all of the cluster's CPUs.
        ray: Address of a Ray cluster whose machines see the same paths.
        openers: With more than one worker: open the original and each candidate in another process.

    Raises:
        InputError: A label is missing, or outputs do not correspond.
    """
    known = [spec.name for spec in original.outputs]
    judged = output if output is not None else known[0]
    if judged not in known:
        raise InputError(f"no output is called {judged!r}; {nearest(judged, known)}")
    if metric is not None and not labels and not samples.labelled:
        raise InputError(f"{samples.source}: the metric needs labels, and {_unlabelled(samples)}")
    if workers < (0 if ray else 1):
        raise InputError(f"--workers {workers}: at least 1 is needed")
    job = Job(samples, judged, len(candidates), metric, labels or {}, tuple(openers))
    total = Tally.empty(len(candidates), metric)
    if ray is None and workers == 1:
        running = run_here(job, total, [original, *candidates], 0, len(samples))
        for _ in track(running, "validating", len(samples)):
            pass
        return total
    for _, tally in track(run_parts(job, workers, ray), "validating", len(samples)):
        total.merge(tally)
    return total


def _unlabelled(samples: Samples) -> str:
    pairs = [
        pair
        for position in range(len(samples))
        for pair in (samples.files_at(position) if samples.files else ())
    ]
    bare = [path for path, label in pairs if label is None]
    if not bare or len(bare) == len(pairs):
        return "there are none"
    return f"{len(bare)} of {len(pairs)} images have none, the first is {bare[0].name}"


def rows(original: Engine, candidates: Sequence[Candidate], tally: Tally) -> list[CandidateRow]:
    """Return a row each, the original's first: what was measured, and whether it passes."""
    metrics = tally.metrics
    found = [_row(original.name, {}, metrics[0], True, "the original")]
    for index, candidate in enumerate(candidates):
        boxes, scored = tally.other_boxes[index], metrics[index + 1]
        differences = {n: d for n, d in tally.differences[index].items() if n not in boxes}
        broken = tally.broken[index]
        passed, verdict = _judge(candidate, differences, metrics[0], scored, broken)
        for name, count in boxes.items():
            some = "a sample" if count == 1 else f"{count} samples"
            verdict += f"; {name} has other numbers of boxes on {some}, and no differences"
        found.append(_row(candidate.engine.name, differences, scored, passed, verdict))
    return found


def _judge(
    candidate: Candidate,
    found: dict[str, Difference],
    original: Metric | None,
    scored: Metric | None,
    broken: Mapping[str, tuple[int, str, str]],
) -> tuple[bool, str]:
    if broken:
        count = sum(difference.nonfinite for difference in found.values())
        _, name, output, whose = min(
            (position, name, output, whose) for output, (position, name, whose) in broken.items()
        )
        return False, (
            f"{count} values are NaN or infinite; the first are in the {whose}'s {output}, of "
            f"{name}"
        )
    if candidate.tolerance is not None and found:
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
            difference.max_rel,
            difference.mean_rel,
            difference.cosine,
            difference.sqnr,
            difference.psnr,
            difference.agreement,
            difference.nonfinite,
        )
        for output, difference in found.items()
    ]
    values = metric.values() if metric else {}
    return CandidateRow(
        name, outputs, values, metric.per_class() if metric else {}, passed, verdict,
        metric.confusion_table() if metric else {},
    )  # fmt: skip
