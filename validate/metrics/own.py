"""A metric of the user's own: a function of an output and a label."""

from __future__ import annotations

import importlib.util
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any, Self

import numpy as np

from onnxgraft.errors import InputError, nearest
from onnxgraft.files import existing_file
from onnxgraft.graph.tensors import Array
from onnxgraft.run.difference import Sum
from onnxgraft.stages.validate.metrics.metric import Answered, Curve, Direction

__all__ = ["Own", "declared", "own_function"]


class Own:
    """The mean of what a user's function returns for each sample.

    The function may declare what its numbers mean, as attributes: ``function.scale``, its largest
    value (1, or 100 of percents), and ``function.direction``, ``"up"`` or ``"down"``.
    """

    def __init__(self, function: Callable[[Array, Array], Any], name: str) -> None:
        """Begin with nothing.

        Args:
            function: Takes an output of batch 1 and its label, and returns a number or several by
                name.
            name: Of a single number.
        """
        self.name = name
        self.scale, self.direction = declared(function, name)
        self._function = function
        self._sums: dict[str, Sum] = {}
        self._count = 0

    def __getstate__(self) -> dict[str, Any]:
        """Leave the function behind: only what was measured travels between processes."""
        return {**self.__dict__, "_function": None}

    def add(self, answered: Answered, label: Array) -> None:
        """Take in one sample."""
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


def declared(function: object, name: str) -> tuple[float | None, Direction | None]:
    """Return the scale and the direction that a function declares; None where it does not."""
    scale, direction = (getattr(function, key, None) for key in ("scale", "direction"))
    number = isinstance(scale, int | float) and not isinstance(scale, bool)
    if scale is not None and not (number and math.isfinite(scale) and scale > 0):
        raise InputError(f"the metric {name}: its scale is {scale!r}; write its largest value: 100")
    if direction not in (None, "up", "down"):
        raise InputError(f'the metric {name}: its direction is {direction!r}; write "up" or "down"')
    return None if scale is None else float(scale), direction


def own_function(name: str) -> Callable[..., Any]:
    """Return the function ``FILE.py:FUNCTION`` of the user's own; the file is run.

    Raises:
        InputError: The file is not there or can't be run, or has no such function.
    """
    path, _, function = name.rpartition(":")
    file = existing_file(path, "the metric's file")
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # it is the user's own
        raise InputError(f"{file}: can't be run ({type(error).__name__}: {error})") from error
    found = getattr(module, function, None)
    if not callable(found):
        known = [key for key, value in vars(module).items() if inspect.isfunction(value)]
        raise InputError(f"{file}: has no function {function!r}; {nearest(function, known)}")
    return found  # type: ignore[no-any-return]
