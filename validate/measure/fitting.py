"""Whether a metric fits the outputs and the labels: told before the work, by the first answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from onnxgraft.data.box_labels import ImageBoxes
from onnxgraft.data.boxes import form_of
from onnxgraft.data.functions import Function, Given
from onnxgraft.data.labels import Labels, labelled
from onnxgraft.data.postprocess import Postprocess
from onnxgraft.data.samples import Sample, Samples
from onnxgraft.errors import InputError, nearest
from onnxgraft.graph.tensors import Array, Outputs
from onnxgraft.stages.validate.measure.stream import unlabelled
from onnxgraft.stages.validate.measure.tally import labelled_rows
from onnxgraft.stages.validate.metrics import METRICS, Answered, Metric, find_metric, make_metric

__all__ = ["Scoring", "fit_metric"]


@dataclass(frozen=True)
class Scoring:
    """A metric with what it needs.

    Attributes:
        make: Makes a fresh one; can be sent to another process.
        output: The output that it looks at.
        notes: Sentences that the user should read.
    """

    make: Callable[[], Metric]
    output: str
    notes: tuple[str, ...] = ()


def fit_metric(
    given: Given,
    samples: Samples,
    first: Sample,
    outputs: Outputs,
    *,
    classes: str | None = None,
    output: str | None = None,
    how: Postprocess | None = None,
    labels: Labels | None = None,
) -> Scoring:
    """Return a metric that was tried on the answer to one sample.

    Args:
        given: The metric; see `find_metric`.
        samples: All of them.
        first: One of them.
        outputs: What the original answers to it.
        classes: See `make_metric`.
        output: The output that the metric looks at; None takes that of ``how``, or the first.
        how: What ``[postprocess]`` says of the outputs.
        labels: By the images' file names, where they do not come with the samples.

    Raises:
        InputError: There is no such metric or output, a label is missing, or the metric does not
            fit the output or a label.
    """
    name = find_metric(given)  # an unknown name is told
    make_metric(name, classes)
    how = how or Postprocess()
    output = how.output if output is None else output
    if output is not None and output not in outputs:
        raise InputError(f"no output is called {output!r}; {nearest(output, outputs)}")
    if not labels and not samples.labelled:
        raise InputError(
            f"{samples.source}: the metric {name} needs labels, and {unlabelled(samples)}"
        )
    if samples.classes and not labels and how.function is None:
        _check_count(name, samples, outputs[output or next(iter(outputs))])
    if labels:
        first = labelled(first, labels, samples.preprocess)
    notes: tuple[str, ...] = ()
    if name == "map":
        made = outputs if how.function is None else how.applied(outputs)
        chosen = dict(made) if output is None or output not in made else {output: made[output]}
        rows = {key: value[:1] for key, value in chosen.items()} if first.labels else chosen
        form, alone = form_of(rows, how, first.picture)
        looked = output or alone
        how = how.model_copy(update={"form": form or how.form, "output": looked})
        output = looked if how.function is None else output
        if how.score:
            some = f"map counts boxes of a score of {how.score:g} and more, as [postprocess] says; "
            notes = (f"{some}without score it would see the whole curve",)
    make = partial(make_metric, name, classes, how)
    metric = make()
    output = output or next(iter(outputs))
    answered = Answered(outputs[output], outputs, first.picture)
    for row, label in labelled_rows(first, answered):
        metric.add(row, label)
        if labels and name in METRICS:
            for each in _every_class(labels):
                metric.add(row, each)
            break
    return Scoring(make, output, notes)


def _check_count(name: str | Function, samples: Samples, output: Array) -> None:
    """Raise InputError where data number another number of classes than a network has scores."""
    scores = [dim for dim in output.shape[1:] if dim != 1]
    if name in METRICS and len(scores) == 1 and scores[0] != len(samples.classes):
        raise InputError(
            f"{samples.source}: has {len(samples.classes)} classes ({samples.classes[0]}, ...), "
            f"and the network has {scores[0]} scores: name its classes in order with --classes, "
            "or classes in [validate]"
        )


def _every_class(labels: Labels) -> Iterator[Array]:
    """Yield labels in which every class occurs that is in a file of labels."""
    rows = [label.rows if isinstance(label, ImageBoxes) else label for label in labels.values()]
    for number in {int(row) for row in rows if not row.ndim}:
        yield np.asarray(number)
    for kind in {float(kind) for row in rows if row.ndim == 2 for kind in row[:, 0]}:
        yield np.array([[kind, 0.0, 0.0, 1.0, 1.0]])
