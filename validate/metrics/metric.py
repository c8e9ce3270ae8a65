"""What a task metric is: a number over a labelled set, whose parts can be measured apart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol, Self

import numpy as np

from onnxgraft.data.boxes import Found, Size
from onnxgraft.data.postprocess import Postprocess
from onnxgraft.errors import InputError
from onnxgraft.graph.tensors import Array, Outputs

__all__ = ["Answered", "Curve", "Direction", "Metric", "MetricKind", "check_classes"]

# Where a metric is better: with more of it, or with less.
Direction = Literal["up", "down"]


class Answered:
    """One sample's output, and the classes that it says, which are looked for once.

    Attributes:
        output: Of batch 1.
        outputs: All of them by name, where a metric may need several.
        size: Height and width of the picture that was fed, where it is one.
        found: The boxes in it, once a metric has looked for them.
        processed: What the user's postprocessing makes of it, likewise.
    """

    def __init__(
        self, output: Array, outputs: Outputs | None = None, size: Size | None = None
    ) -> None:
        self.output = output
        self.outputs = {"the output": output} if outputs is None else outputs
        self.size = size
        self.found: Found | None = None
        self.processed: Answered | None = None
        self._classes: dict[int, Array] = {}

    def classes(self, axis: int) -> Array:
        """Return the argmax along ``axis``."""
        if axis not in self._classes:
            self._classes[axis] = np.asarray(self.output.argmax(axis))
        return self._classes[axis]


@dataclass(frozen=True)
class Curve:
    """A curve of a metric.

    Attributes:
        kind: ``precision`` over recall; ``found``: recall over the wrong boxes in an image;
            ``score``: F1 over the score from which on boxes are taken.
        name: Of the class; empty for all together.
        points: (x, y).
    """

    kind: str
    name: str
    points: list[tuple[float, float]]


class Metric(Protocol):
    """A number over a labelled set; the first of `values` is the one that a budget is held to.

    Attributes:
        name: As ``--metric`` takes it.
        scale: Its largest value, such as 100 of percents; None where that is not declared.
        direction: Where it is better; None where that is not declared.
    """

    name: str
    scale: float | None
    direction: Direction | None

    def add(self, answered: Answered, label: Array) -> None:
        """Take in one sample: an output of batch 1 and its label."""

    def merge(self, other: Self) -> None:
        """Take in what was measured in another part of the set; the order does not matter."""

    def values(self) -> dict[str, float]:
        """Return the metrics so far: in percent, or as a function of the user's own has them."""

    def per_class(self) -> dict[str, float]:
        """Return the metric of each class, in percent; empty where there are none."""

    def confusion_table(self) -> dict[str, list[int]]:
        """Return how often each labelled class was answered with each; empty without classes."""

    def curves(self) -> list[Curve]:
        """Return curves to be drawn; empty where there are none."""


@dataclass(frozen=True)
class MetricKind:
    """A metric in the table of its family.

    Attributes:
        name: As ``--metric`` takes it.
        summary: What it measures, in a phrase for the docs.
        labels: What it wants for each sample, likewise.
        make: Returns a new one for the classes that ``--classes`` names, or None for none, and for
            what ``[postprocess]`` says of the outputs, likewise.
    """

    name: str
    summary: str
    labels: str
    make: Callable[[str | None, Postprocess | None], Metric]


def check_classes(metric: str, label: Array) -> None:
    """Raise InputError if a label is of numbers that are no classes, such as 2.5."""
    if label.dtype.kind in "biu":
        return
    wrong = label[~np.isfinite(label) | (label != np.trunc(label))]
    if wrong.size:
        raise InputError(
            f"{metric}: a label holds {wrong.flat[0]:g}, which is no class; give whole numbers"
        )
