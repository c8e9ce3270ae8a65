"""What passes made of a model is run beside what they were given, on the same samples."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx

from onnxgraft.errors import InputError
from onnxgraft.graph.model import Model
from onnxgraft.graph.onnx_file import fed
from onnxgraft.graph.tensors import Array, Outputs, TensorSpec
from onnxgraft.run.feeds import random_feeds
from onnxgraft.run.session import OnnxRuntime
from onnxgraft.run.tolerances import REWRITE_TIES
from onnxgraft.run.verdicts import Verdict, hold

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

    A rewrite is run once at each batch size; what it is held against has been run before it. Every
    node runs as it stands, and onnxruntime reads the weights where they are.

    Attributes:
        runs: How many times onnxruntime ran a graph.
        seconds: How long building and running took.
    """

    def __init__(self, model: Model) -> None:
        """Take the model that everything is held against; `begin` runs it."""
        self.runs = 0
        self.seconds = 0.0
        self._model = model
        self._feeds: list[dict[str, Array]] = []
        self._first: list[Outputs] = []

    def begin(self, most_seconds: float | None = None) -> None:
        """Run the model that everything is held against, if that has not been done.

        Raises:
            ModelError: onnxruntime can't run the model.
            InputError: An input can't be fed with random numbers, or the runs to come would take
                longer than ``most_seconds``.
        """
        if self._first:
            return
        start = time.perf_counter()
        specs = self._model.inputs
        free = any(spec.shape and isinstance(spec.shape[0], str) for spec in specs)
        symbols = {dim for spec in specs for dim in spec.shape[1:] if isinstance(dim, str)}
        sizes = _SIZES if symbols else _SIZES[:1]
        for size in sizes:
            self._feeds = [_feeds(specs, batch, size) for batch in ((1, 2) if free else (1,))]
            try:
                self._first = self._now = self._next = self._run(self._model)
                break
            except InputError:
                if size == sizes[-1]:
                    raise
        self.seconds = time.perf_counter() - start
        if most_seconds is not None and 2 * self.seconds > most_seconds:
            raise InputError(
                f"the model as it came took {self.seconds:.1f} s, by itself surgery verifies for "
                f"up to {most_seconds:.0f} s (--verify does it anyway)"
            )

    def check(self, rewritten: Model) -> str | None:
        """Return what is wrong with a rewrite of the model that was accepted last, or None."""
        start = time.perf_counter()
        try:
            self._next = self._run(rewritten)
            verdicts = _verdicts(self._now, self._next)
        except InputError as error:
            return f"the graph no longer runs: {error}"
        finally:
            self.seconds += time.perf_counter() - start
        for verdict in verdicts:
            if not verdict.passed:
                return (
                    f"{verdict.output} differs by {verdict.max_abs:.1e}, "
                    f"up to {verdict.tolerance:.1e} is float noise"
                )
        return None

    def accept(self) -> None:
        """Hold what comes after against the rewrite that was checked last."""
        self._now = self._next

    def verdicts(self) -> list[Verdict]:
        """Compare what was accepted last with the model that it all began with."""
        return _verdicts(self._first, self._now) if self._first else []

    def _run(self, model: Model) -> list[Outputs]:
        light, weights = model.without_weights()
        # Of initializers onnxruntime makes a copy, what is fed at each run it reads in place.
        inputs = {
            name: np.require(value, requirements=["A", "C"])
            for name, value in weights.items()
            if value.dtype.isbuiltin
        }
        try:
            return self._infer(light, weights, inputs)
        except InputError:
            # There are kernels that want their weights to be constants.
            return self._infer(light, weights, {})

    def _infer(
        self, light: onnx.ModelProto, weights: dict[str, Array], inputs: dict[str, Array]
    ) -> list[Outputs]:
        kept = {name: value for name, value in weights.items() if name not in inputs}
        with OnnxRuntime(
            fed(light, inputs),
            name=self._model.file,
            weights=kept,
            optimize=False,
            configure=_light,
        ) as session:
            found = []
            known = {spec.name for spec in session.inputs}
            for feeds in self._feeds:
                given = {n: v for n, v in (feeds | inputs).items() if n in known}
                found.append(session.infer(given))
                self.runs += 1
            return found


def _light(options: Any) -> None:
    """Make the session cheap to build, as it runs twice only, and silent: errors are reported."""
    options.log_severity_level = 4
    # Planning which tensors share memory takes a time that is quadratic in the nodes (onnxruntime
    # 1.31: 0.2 of 0.24 s for 1,381 nodes). The arena reuses what is freed all the same.
    options.enable_mem_reuse = False
    options.enable_mem_pattern = False
    # Threads that wait sleep: beside other work spinning doubles the time.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")


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
    """Compare runs; an output may not change its type either."""
    return [
        verdict
        for before, after in zip(expected, actual, strict=True)
        for verdict in hold(before, _same_types(before, after), ties=REWRITE_TIES)
    ]


def _same_types(before: Outputs, after: Outputs) -> Outputs:
    return {
        name: value
        for name, value in after.items()
        if name in before and value.dtype == before[name].dtype
    }
