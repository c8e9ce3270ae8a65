"""One pass over the samples: original and candidates side by side, in constant memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from onnxgraft.data.labels import Labels
from onnxgraft.data.samples import Samples
from onnxgraft.errors import InputError, nearest
from onnxgraft.progress import track
from onnxgraft.run.difference import Difference
from onnxgraft.run.engine import Engine
from onnxgraft.run.selections import Selecting
from onnxgraft.stages.validate.measure.judging import Candidate, Judgement, judge
from onnxgraft.stages.validate.measure.spread import Beside, Job, Opener, run_here, run_parts
from onnxgraft.stages.validate.measure.tally import Tally
from onnxgraft.stages.validate.metrics import Metric
from onnxgraft.stages.validate.report import CandidateRow, OutputRow
from onnxgraft.words import several

__all__ = ["Candidate", "measure", "rows", "unlabelled"]


def measure(
    original: Engine,
    candidates: Sequence[Engine],
    samples: Samples,
    metric: Callable[[], Metric] | None = None,
    output: str | None = None,
    *,
    labels: Labels | None = None,
    workers: int = 1,
    ray: str | None = None,
    openers: Sequence[Opener] = (),
    selector: Callable[[], Selecting] | None = None,
    pictures: Samples | None = None,
) -> Tally:
    """Run everything on every sample and return the sums, which `rows` makes rows of.

    Args:
        original: The reference.
        candidates: What is compared with it.
        samples: Fed to all of them; layouts are adapted to each.
        metric: Makes a fresh metric; None leaves task metrics out.
        output: The output that the metric looks at; None takes the first.
        labels: By the images' file names, where they do not come with the samples.
        workers: Processes; with ``ray`` actors, 0 for all of the cluster's CPUs.
        ray: Address of a Ray cluster whose machines see the same paths.
        openers: With more than one worker: open the original and each candidate in another process.
        selector: Opens the original's graph, where there are indices among its outputs.
        pictures: The same samples as the candidates take them, where the original takes others.

    Raises:
        InputError: A label is missing, or outputs do not correspond.
    """
    known = [spec.name for spec in original.outputs]
    metric_output = output if output is not None else known[0]
    if metric_output not in known:
        raise InputError(f"no output is called {metric_output!r}; {nearest(metric_output, known)}")
    if metric is not None and not labels and not samples.labelled:
        raise InputError(f"{samples.source}: the metric needs labels, and {unlabelled(samples)}")
    if workers < (0 if ray else 1):
        raise InputError(f"--workers {workers}: at least 1 is needed")
    if all(spec.dtype.startswith("float") for spec in original.outputs):
        selector = None
    job = Job(
        samples,
        metric_output,
        len(candidates),
        metric,
        labels or Labels(),
        tuple(openers),
        selector,
        pictures,
    )
    total = Tally.empty(len(candidates), metric, metric_output)
    if ray is None and workers == 1:
        running = run_here(job, total, [original, *candidates], 0, len(samples), Beside(job))
        for _ in track(running, "validating", len(samples)):
            pass
        return total
    for _, tally in track(run_parts(job, workers, ray), "validating", len(samples)):
        total.merge(tally)
    return total


def unlabelled(samples: Samples) -> str:
    """Return which samples have no labels, in words."""
    pairs = [
        pair
        for position in range(len(samples))
        for pair in (samples.files_at(position) if samples.files else ())
    ]
    bare = [paths[0] for paths, label in pairs if label is None]
    if not bare or len(bare) == len(pairs):
        return "there are none"
    return f"{len(bare)} of {len(pairs)} images have none, the first is {bare[0].name}"


def rows(original: Engine, candidates: Sequence[Candidate], tally: Tally) -> list[CandidateRow]:
    """Return a row each, the original's first: what was measured, and whether it passes."""
    metrics = tally.metrics
    whole = Judgement(True, "the original")
    found = [_row(original.name, {}, metrics[0], whole, None)]
    for index, candidate in enumerate(candidates):
        boxes, scored = tally.other_boxes[index], metrics[index + 1]
        differences = {n: d for n, d in tally.differences[index].items() if n not in boxes}
        broken = tally.broken[index]
        judgement = judge(candidate, differences, (metrics[0], scored), broken, tally.metric_output)
        for name, count in boxes.items():
            some = several(count, "sample")
            judgement.verdict += (
                f"; {name} has another number of boxes on {some}, where no difference is measured"
            )
        found.append(_row(candidate.engine.name, differences, scored, judgement, candidate))
    return found


def _row(
    name: str,
    found: dict[str, Difference],
    metric: Metric | None,
    judgement: Judgement,
    candidate: Candidate | None,
) -> CandidateRow:
    in_int8 = candidate is not None and candidate.tolerance is None
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
            least_sqnr=candidate.least(output) if candidate is not None and in_int8 else None,
            contrast=difference.contrast,
            overlap=difference.overlap,
            differing=difference.differing,
        )
        for output, difference in found.items()
    ]
    values = metric.values() if metric else {}
    return CandidateRow(
        name, outputs, values, metric.per_class() if metric else {}, judgement.passed,
        judgement.verdict, metric.confusion_table() if metric else {}, judgement.warnings,
        judgement.agreement, judgement.measure, metric.curves() if metric else [],
        (metric.direction or "") if metric else "up",
    )  # fmt: skip
