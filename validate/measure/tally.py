"""What is added up over samples: differences, metrics, answers that differ most; and its parts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from onnxgraft.data.boxes import Found
from onnxgraft.data.preprocess import turned_notes
from onnxgraft.data.samples import Sample
from onnxgraft.graph.tensors import Array, Outputs
from onnxgraft.run.answers import adapted, arranged
from onnxgraft.run.difference import Difference
from onnxgraft.run.engine import Engine
from onnxgraft.run.selections import Chosen
from onnxgraft.run.verdicts import check_pair, other_boxes
from onnxgraft.stages.validate.metrics import Answered, Metric, Processed
from onnxgraft.stages.validate.metrics.detection import Detection, partners

__all__ = ["Answer", "Tally", "class_axis", "labelled_rows"]

# So many samples are shown in the report's gallery.
GALLERY = 8


# Classes of a map or of a picture, or the boxes in it.
Said = NDArray[np.uint8] | NDArray[np.int64] | Found
# What the original and a candidate answer to a sample.
Both = tuple[Answered, Answered]
# Metrics that say nothing of one sample.
_OF_MANY = ("auc",)


@dataclass(frozen=True)
class Answer:
    """What original and candidate say of one sample.

    Attributes:
        apart: The fraction of positions where they differ; of a detector, of boxes that have no
            partner of their class on the other side.
        position: Of the sample in the data.
        expected: Classes of the original, (H, W) or (), or its boxes.
        actual: Of the candidate.
        label: Of the sample, where it has one.
        scores: The metric of this sample alone, of the original and of the candidate.
        size: Height and width of the picture that was fed, where it is one.
    """

    apart: float
    position: int
    expected: Said
    actual: Said
    label: Array | None = None
    scores: tuple[float, float] | None = None
    size: tuple[int, int] | None = None

    @property
    def rank(self) -> tuple[float, float, float, int]:
        """What differs most first, then what lost most, what is worst, and the data's order."""
        before, after = self.scores or (0.0, 0.0)
        return -self.apart, after - before, after, self.position


@dataclass(frozen=True)
class _Look:
    """A sample that may be shown.

    Attributes:
        position: In the data.
        sample: The sample.
        metric: Makes a fresh metric.
    """

    position: int
    sample: Sample
    metric: Callable[[], Metric] | None

    @property
    def label(self) -> Array | None:
        """Of the sample; of several rows, that of the first, which is the one that is shown."""
        return self.sample.labels[0] if self.sample.labels else self.sample.label

    def scores(self, both: Both) -> tuple[float, float] | None:
        """Return the metric of this sample alone, of the original and of a candidate."""
        if self.metric is None or self.label is None or not self.label.size:
            return None
        found = []
        for answered in both:
            metric = self.metric()
            if metric.name in _OF_MANY:
                return None
            for row, label in labelled_rows(self.sample, answered):
                metric.add(row, label)
            found.append(next(iter(metric.values().values())))
        return found[0], found[1]


@dataclass
class Tally:
    """The sums over some of the samples.

    Attributes:
        metrics: Of the original and each candidate.
        differences: Of each candidate, by output.
        broken: Of each candidate: output -> position of the first sample with values that are NaN
            or infinite, its name, and whose they are.
        worst: Of each candidate: output -> its largest difference, and the negative position of the
            first sample that has it.
        gallery: Of each candidate, the samples whose answers differ most.
        other_boxes: Of each candidate: output -> on how many samples it found more or fewer boxes
            than the original; such an output has no differences.
        metric_output: The output that metrics and gallery look at.
        images: How many there were.
        turned: How many of them were turned as their EXIF orientation says.
    """

    metrics: list[Metric | None]
    differences: list[dict[str, Difference]]
    broken: list[dict[str, tuple[int, str, str]]] = field(default_factory=list)
    worst: list[dict[str, tuple[float, int]]] = field(default_factory=list)
    gallery: list[list[Answer]] = field(default_factory=list)
    other_boxes: list[dict[str, int]] = field(default_factory=list)
    metric_output: str = ""
    images: int = 0
    turned: int = 0

    @classmethod
    def empty(
        cls, candidates: int, metric: Callable[[], Metric] | None, metric_output: str = ""
    ) -> Tally:
        """Return the sums over nothing."""
        metrics = [metric() if metric else None for _ in range(candidates + 1)]
        return cls(
            metrics, [{} for _ in range(candidates)], [{} for _ in range(candidates)],
            [{} for _ in range(candidates)], [[] for _ in range(candidates)],
            [{} for _ in range(candidates)], metric_output,
        )  # fmt: skip

    def add(
        self,
        position: int,
        sample: Sample,
        metric_output: str,
        results: Sequence[Outputs],
        first: Outputs | None = None,
        chosen: Chosen | None = None,
        metric: Callable[[], Metric] | None = None,
    ) -> None:
        """Take in what the original and each candidate made of one sample.

        Args:
            position: Of the sample in the data.
            sample: The sample.
            metric_output: The output that metrics and gallery look at.
            results: The original's outputs first.
            first: The original's outputs of the first sample, if that is another one.
            chosen: What indices among the outputs were chosen from.
            metric: Makes a fresh metric, for single samples.
        """
        expected, *others = results
        self.images += len(sample.images)
        self.turned += sample.turned
        size = sample.picture
        answered = {name: Answered(value, expected, size) for name, value in expected.items()}
        detection = self.detector is not None
        look = _Look(position, sample, metric)
        self._score(0, sample, answered[metric_output])
        for index, outputs in enumerate(others):
            actual = arranged(expected, outputs)
            for name, value in expected.items():
                boxes = name == metric_output and detection
                if boxes and name in actual and other_boxes(value, actual[name]):
                    counts = self.other_boxes[index]
                    counts[name] = counts.get(name, 0) + 1
                    other = Answered(actual[name], actual, size)
                    self._score(index + 1, sample, other)
                    self._show_boxes(index, look, (answered[name], other))
                    continue
                difference = self.differences[index].setdefault(name, Difference())
                selected = None
                if chosen is not None and name in actual:
                    selected = chosen.pair(name, actual[name])
                if selected is None or actual[name].shape == value.shape:
                    check_pair(name, value, actual)
                other = Answered(actual[name], actual, size)
                sides = (value, actual[name]) if selected is None else selected
                before = None if first is None or selected is not None else first.get(name)
                if not difference.add(sides[0], sides[1], before):
                    self._note(index, position, sample, name, value)
                least = self.worst[index].get(name, (0.0, 0))[0]
                if difference.max_abs > least:
                    self.worst[index][name] = difference.max_abs, -position
                # Of a detector's output neither axis is of classes alone.
                axis = None if detection else class_axis(value)
                if axis is not None:
                    pair = answered[name].classes(axis), other.classes(axis)
                    classes = value.shape[axis] if value.ndim == 4 else 0
                    difference.add_answers(*pair, classes)
                if name == metric_output:
                    self._score(index + 1, sample, other)
                    both = (answered[name], other)
                    if detection:
                        self._show_boxes(index, look, both)
                    elif axis is not None:
                        self._show_classes(index, look, pair, both)
                    elif (
                        value.dtype.kind in "iu"
                        and value.ndim in (1, 3)
                        and value.shape == actual[name].shape
                    ):
                        difference.add_answers(value, actual[name])
                        pair = value, actual[name]
                        self._show_classes(index, look, pair, both)

    @property
    def task(self) -> Metric | None:
        """The original's metric, without the user's postprocessing."""
        metric = self.metrics[0]
        return metric.metric if isinstance(metric, Processed) else metric

    @property
    def detector(self) -> Detection | None:
        """The original's metric, where it is that of a detector."""
        return self.task if isinstance(self.task, Detection) else None

    def _score(self, index: int, sample: Sample, answered: Answered) -> None:
        metric = self.metrics[index]
        if metric is not None:
            for row, label in labelled_rows(sample, answered):
                metric.add(row, label)

    def notes(self) -> list[str]:
        """Return what is to be said of the samples."""
        with_labels = "" if self.metrics[0] is None else (
            ", and label maps and boxes with them where they are of the stored picture"
        )  # fmt: skip
        return turned_notes(self.turned, self.images, with_labels)

    def _note(self, index: int, position: int, sample: Sample, name: str, value: Array) -> None:
        whose = "candidate" if np.isfinite(value).all() else "original"
        self.broken[index].setdefault(name, (position, sample.name, whose))

    def _show_classes(self, index: int, look: _Look, pair: tuple[Array, Array], both: Both) -> None:
        """Keep classes if they are among those that differ most."""
        expected, actual = pair
        apart = float(np.count_nonzero(expected != actual)) / max(expected.size, 1)
        kind = np.uint8 if max(expected.max(initial=0), actual.max(initial=0)) < 256 else np.int64
        said = expected[0].astype(kind), actual[0].astype(kind)
        # Of a picture that both call the same, it is of interest that both are wrong.
        wrong = said[1].ndim == 0 and look.label is not None and not np.any(said[1] == look.label)
        if apart or wrong:
            self._show(index, apart, said, look, both)

    def _show_boxes(self, index: int, look: _Look, both: Both) -> None:
        """Keep boxes if they are among those that differ most."""
        expected, actual = (self._boxes(answered) for answered in both)
        same = 2 * len(partners(expected, actual))
        every = len(expected.classes) + len(actual.classes)
        if same < every:
            self._show(index, 1 - same / every, (expected, actual), look, both)

    def _boxes(self, answered: Answered) -> Found:
        metric, detector = self.metrics[0], self.detector
        assert detector is not None
        return detector.boxes(
            metric.processed(answered) if isinstance(metric, Processed) else answered
        )

    def _show(
        self, index: int, apart: float, said: tuple[Said, Said], look: _Look, both: Both
    ) -> None:
        shown = self.gallery[index]
        # Those alone that may be shown are scored.
        if len(shown) < GALLERY or -apart <= shown[-1].rank[0]:
            size = look.sample.picture
            answer = Answer(apart, look.position, *said, look.label, look.scores(both), size)
            shown.append(answer)
            shown.sort(key=lambda answer: answer.rank)
            del shown[GALLERY:]

    def merge(self, other: Tally) -> None:
        """Take in the sums over other samples."""
        self.images += other.images
        self.turned += other.turned
        for mine, theirs in zip(self.metrics, other.metrics, strict=True):
            if mine is not None and theirs is not None:
                mine.merge(theirs)
        for found, more in zip(self.differences, other.differences, strict=True):
            for name, difference in more.items():
                found.setdefault(name, Difference()).merge(difference)
        for first, second in zip(self.broken, other.broken, strict=True):
            for name, entry in second.items():
                first[name] = min(first.get(name, entry), entry)
        for largest, more_of in zip(self.worst, other.worst, strict=True):
            for name, at in more_of.items():
                largest[name] = max(largest.get(name, at), at)
        for counts, others in zip(self.other_boxes, other.other_boxes, strict=True):
            for name, count in others.items():
                counts[name] = counts.get(name, 0) + count
        for shown, extra in zip(self.gallery, other.gallery, strict=True):
            shown += extra
            shown.sort(key=lambda answer: answer.rank)
            del shown[GALLERY:]


def labelled_rows(sample: Sample, answered: Answered) -> Iterator[tuple[Answered, Array]]:
    """Yield what was answered to each row of a sample that has a label, with the label."""
    batch = answered.output.shape[:1]
    for number, (output, label) in enumerate(sample.rows(answered.output)):
        if label is None:
            continue
        if output is answered.output:
            yield answered, label
        else:
            rows = {
                name: value[number : number + 1]
                for name, value in answered.outputs.items()
                if value.shape[:1] == batch
            }
            yield Answered(output, rows, answered.size), label


def infer_all(engines: Sequence[Engine], sample: Sample, other: Sample) -> list[Outputs]:
    """Return what each engine makes of a sample, in its own layouts.

    Args:
        engines: The original first.
        sample: As the original takes it.
        other: As the candidates do.
    """
    fed = [sample, *[other] * (len(engines) - 1)]
    return [
        engine.infer(adapted(each.feeds, engine)) for engine, each in zip(engines, fed, strict=True)
    ]


def class_axis(value: Array) -> int | None:
    """Return the axis of class scores of a float output: of a 4-D one the shorter of 1 and 3.

    A single score is of no class.
    """
    if value.dtype.kind != "f" or value.ndim not in (2, 4):
        return None
    axis = 1 if value.ndim == 4 and value.shape[1] < value.shape[3] else -1
    return axis if value.shape[axis] > 1 else None
