"""Each rewrite is run beside what it rewrote, on the same samples."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from onnxgraft.compare import FLOAT_TOLERANCE, Verdict, judge
from onnxgraft.errors import InputError
from onnxgraft.model import Model
from onnxgraft.reference import OnnxRuntime, random_feeds
from onnxgraft.runtime import Array, Outputs, TensorSpec

__all__ = ["MOST_BYTES", "MOST_SECONDS", "Verifier"]

# Beyond these surgery does not verify by itself: the weights in bytes, and the time in seconds
# that the runs of one surgery take.
MOST_BYTES = 1 << 30
MOST_SECONDS = 60.0

# Free dimensions other than the batch, tried until the original runs: a network that halves its
# image five times needs more than 8 rows.
_SIZES = (8, 64, 224)


class Verifier:
    """The outputs of a model on seeded samples, to hold those of its rewrites against.

    A rewrite is run once at each batch size; what it is held against has been run before it.

    Attributes:
        runs: How many times onnxruntime ran a graph.
        seconds: How long building and running took.
    """

    def __init__(self, model: Model) -> None:
        """Run the model that everything is held against.

        Raises:
            ModelError: onnxruntime can't run the model.
            InputError: An input can't be fed with random numbers.
        """
        self.runs = 0
        self.seconds = 0.0
        start = time.perf_counter()
        specs = model.inputs
        free = any(spec.shape and isinstance(spec.shape[0], str) for spec in specs)
        self._batches = (1, 2) if free else (1,)
        symbols = {dim for spec in specs for dim in spec.shape[1:] if isinstance(dim, str)}
        error: InputError | None = None
        for size in _SIZES if symbols else _SIZES[:1]:
            self._feeds = [_feeds(specs, batch, size) for batch in self._batches]
            try:
                self._first = self._now = self._run(model)
                break
            except InputError as failure:
                error = failure
        else:
            assert error is not None
            raise error
        self.seconds = time.perf_counter() - start
        self._next = self._now

    def check(self, rewritten: Model) -> str | None:
        """Return what is wrong with a rewrite of the model that was accepted last, or None."""
        start = time.perf_counter()
        try:
            self._next = self._run(rewritten)
        except InputError as error:
            return f"onnxruntime no longer runs the graph: {error}"
        finally:
            self.seconds += time.perf_counter() - start
        for verdict in _verdicts(self._now, self._next):
            if not verdict.passed:
                return (
                    f"{verdict.output} moved by {verdict.max_abs:.1e}, "
                    f"{verdict.tolerance:.1e} is float noise"
                )
        return None

    def accept(self) -> None:
        """Hold what comes after against the rewrite that was checked last."""
        self._now = self._next

    def verdicts(self) -> list[Verdict]:
        """Compare what was accepted last with the model that it all began with."""
        return _verdicts(self._first, self._now)

    def _run(self, model: Model) -> list[Outputs]:
        light, weights = model.without_weights()
        with OnnxRuntime(light, name="surgery", weights=weights) as session:
            found = []
            for feeds in self._feeds:
                known = {spec.name for spec in session.inputs}
                found.append(session.infer({n: v for n, v in feeds.items() if n in known}))
                self.runs += 1
            return found


def _feeds(specs: Sequence[TensorSpec], batch: int, size: int) -> dict[str, Array]:
    """Return random feeds; a dimension of one name has one size wherever it stands."""
    first = {s.shape[0] for s in specs if s.shape and isinstance(s.shape[0], str)}
    sized = [
        replace(
            spec,
            shape=tuple(
                dim if isinstance(dim, int)
                else batch if axis == 0 or (dim in first and dim != "?") else size
                for axis, dim in enumerate(spec.shape)
            ),
        )
        for spec in specs
    ]  # fmt: skip
    return random_feeds(sized, batch)


def _verdicts(expected: list[Outputs], actual: list[Outputs]) -> list[Verdict]:
    found = []
    for before, after in zip(expected, actual, strict=True):
        try:
            found += judge(*_finite(before, after), FLOAT_TOLERANCE)
        except InputError:
            found += [
                Verdict(name, passed=False, max_abs=np.inf, mean_abs=np.inf, tolerance=0.0)
                for name, value in before.items()
                if name not in after or after[name].shape != value.shape
            ]
    return found


def _finite(before: Outputs, after: Outputs) -> tuple[Outputs, Outputs]:
    """Replace NaN and infinities by 0 where both have the same ones."""
    left, right = dict(before), dict(after)
    for name, value in before.items():
        other = after.get(name)
        if other is None or value.dtype.kind != "f" or other.shape != value.shape:
            continue
        same = ~np.isfinite(value) & ((value == other) | (np.isnan(value) & np.isnan(other)))
        if same.any():
            left[name], right[name] = np.where(same, 0, value), np.where(same, 0, other)
    return left, right
