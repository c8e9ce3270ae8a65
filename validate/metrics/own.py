"""A metric of the user's own: a function of an output and a label."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Self

import numpy as np

from onnxgraft.data.functions import Function
from onnxgraft.data.postprocess import Postprocess
from onnxgraft.errors import InputError
from onnxgraft.graph.tensors import Array
from onnxgraft.run.difference import Sum
from onnxgraft.stages.validate.metrics.metric import Answered, Curve, Direction, Metric

__all__ = ["Own", "Processed", "declared"]


class Own:
    """The mean of what a user's function returns for each sample.

    The function may declare what its numbers mean, as attributes: ``function.scale``, its largest
    value (1, or 100 of percents), and ``function.direction``, ``"up"`` or ``"down"``.
    """

    def __init__(self, function: Function) -> None:
        """Begin with nothing.

        Args:
            function: Takes an output of batch 1 and its label, and returns a number or several by
                name.
        """
        self.name = function.title
        self.scale, self.direction = declared(function)
        self._function: Function | None = function
        self._sums: dict[str, Sum] = {}
        self._count = 0

    def __getstate__(self) -> dict[str, Any]:
        """Leave the function behind: only what was measured travels between processes."""
        return {**self.__dict__, "_function": None}

    def add(self, answered: Answered, label: Array) -> None:
        """Take in one sample."""
        assert self._function is not None
        try:
            found = self._function(answered.output, label)
            named = found if isinstance(found, Mapping) else {self.name: found}
            values = {str(name): float(value) for name, value in named.items()}
        except Exception as error:  # it is the user's own
            raise InputError(
                f"the metric {self.name} failed on an output of {answered.output.shape} and a "
                f"label of {label.shape}: {type(error).__name__}: {error}"
            ) from error
        for name, value in values.items():
            if not np.isfinite(value):
                raise InputError(f"the metric {self.name} returned {value} for {name}")
            self._sums.setdefault(name, Sum()).add(value)
        self._count += 1

    def merge(self, other: Self) -> None:
        """Take in another part."""
        for name, total in other._sums.items():
            self._sums.setdefault(name, Sum()).merge(total)
        self._count += other._count

    def values(self) -> dict[str, float]:
        """Return the means so far."""
        return {name: total.value / self._count for name, total in self._sums.items()} or {
            self.name: 0.0
        }

    def per_class(self) -> dict[str, float]:
        """Return nothing."""
        return {}

    def confusion_table(self) -> dict[str, list[int]]:
        """Return nothing."""
        return {}

    def curves(self) -> list[Curve]:
        """Return nothing."""
        return []


class Processed:
    """A metric of what the user's postprocessing makes of the outputs."""

    def __init__(self, metric: Metric, how: Postprocess) -> None:
        """Begin with a new metric; ``how`` has the function."""
        self.metric = metric
        self.name, self.scale, self.direction = metric.name, metric.scale, metric.direction
        self._how: Postprocess | None = how

    def __getstate__(self) -> dict[str, Any]:
        """Leave the function behind: only what was measured travels between processes."""
        return {**self.__dict__, "_how": None}

    def add(self, answered: Answered, label: Array) -> None:
        """Take in one sample."""
        self.metric.add(self.processed(answered), label)

    def processed(self, answered: Answered) -> Answered:
        """Return what the postprocessing makes of an answer; it is called once for each."""
        if answered.processed is None:
            assert self._how is not None
            outputs = self._how.applied(answered.outputs)
            output = self._how.output if self._how.output in outputs else next(iter(outputs))
            answered.processed = Answered(outputs[output], outputs, answered.size)
        return answered.processed

    def merge(self, other: Self) -> None:
        """Take in another part."""
        self.metric.merge(other.metric)

    def values(self) -> dict[str, float]:
        """Return those of the metric."""
        return self.metric.values()

    def per_class(self) -> dict[str, float]:
        """Return those of the metric."""
        return self.metric.per_class()

    def confusion_table(self) -> dict[str, list[int]]:
        """Return that of the metric."""
        return self.metric.confusion_table()

    def curves(self) -> list[Curve]:
        """Return those of the metric."""
        return self.metric.curves()


def declared(function: Function) -> tuple[float | None, Direction | None]:
    """Return the scale and the direction that a function declares; None where it does not."""
    name = function.title
    scale, direction = (getattr(function.call, key, None) for key in ("scale", "direction"))
    number = isinstance(scale, int | float) and not isinstance(scale, bool)
    if scale is not None and not (number and math.isfinite(scale) and scale > 0):
        raise InputError(f"the metric {name}: its scale is {scale!r}; write its largest value: 100")
    if direction not in (None, "up", "down"):
        raise InputError(f'the metric {name}: its direction is {direction!r}; write "up" or "down"')
    return None if scale is None else float(scale), direction
