"""`validate --hosts`: an engine's answers on other machines, against answers computed here once.

Samples are read and prepared here, and what is fed goes to each host; the original runs here alone,
once, and its answers are kept. So a host needs the engine's library, and nothing of the original's.
What is held against what, and by which tolerance, is as without hosts.
"""

from __future__ import annotations

import itertools
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from onnxgraft.commands._baked import Answering, InIt, Rows
from onnxgraft.commands._hosts import Connection, Host, Tell, on_all, told
from onnxgraft.data.labels import Labels
from onnxgraft.data.samples import Samples
from onnxgraft.errors import InputError
from onnxgraft.graph.tensors import Feeds, Outputs, TensorSpec
from onnxgraft.run.answers import adapted
from onnxgraft.run.engine import Engine, Resource
from onnxgraft.run.frames import arrays
from onnxgraft.run.selections import Selecting
from onnxgraft.stages.engine.passport import Passport
from onnxgraft.stages.validate import Metric, Tally, measure
from onnxgraft.stages.validate.report import HostRow
from onnxgraft.words import several

__all__ = ["Described", "answered_on"]


@dataclass
class Described(Resource):
    """An engine that does not run here, as its passport describes it."""

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    @classmethod
    def of(cls, passport: Passport) -> Described:
        """Return the engine of a passport."""
        return cls(passport.name, passport.inputs, passport.outputs)

    def infer(self, feeds: Feeds) -> Outputs:
        """Raise: only hosts run it."""
        raise InputError(f"{self.name}: is run on hosts, and not here")


def answered_on(
    hosts: Sequence[Host],
    python: str,
    engine: str,
    name: str,
    reference: Engine,
    samples: Samples,
    metric: Callable[[], Metric] | None,
    output: str | None,
    labels: Labels,
    selector: Callable[[], Selecting] | None,
    in_it: InIt,
    pictures: Samples | None,
) -> tuple[list[HostRow], Tally, list[str]]:
    """Run an engine on hosts, all at the same time, and compare what each answers.

    Args:
        hosts: In the order of the rows.
        python: That has onnxgraft on them.
        engine: Its path here; it has a passport.
        name: Of the engine in tables; that of the host follows it.
        reference: The original.
        samples: Fed to all.
        metric: As of `measure`.
        output: Likewise.
        labels: Likewise.
        selector: Likewise.
        in_it: What of the recipe is in the engine.
        pictures: As of `measure`.

    Returns:
        What is known of each host; the sums, with a candidate for each that answered; and a
        sentence for each whose boxes are wrong.
    """
    wrong: list[str] = []
    with (
        tempfile.TemporaryDirectory(prefix="onnxgraft-") as folder,
        _Answers(reference, samples, Path(folder)) as answers,
    ):

        def work(there: Connection, tell: Tell) -> Tally:
            elsewhere = in_it.held(_Elsewhere(
                there, engine, f"{name} on {there.host.name}",
                lambda done: tell(done, len(samples)),
            ))  # fmt: skip
            original = in_it.asked(_Again(answers))
            tally = measure(
                original, [elsewhere], samples, metric, output, labels=labels, pictures=pictures,
                selector=(lambda: original) if isinstance(original, Answering) else selector,
            )  # fmt: skip
            if isinstance(elsewhere, Rows):
                wrong.append(in_it.told(elsewhere.name, elsewhere.wrong))
            return tally

        count = several(len(hosts), "host")
        found = on_all(hosts, python, f"validating on {count}", work)
        if answers.error is not None:
            raise answers.error
    tallies = [tally for _, tally in found if tally is not None]
    return [row for row, _ in found], _side_by_side(tallies), wrong


class _Answers:
    """An engine's answers to all samples, made once beside those who wait for them, in files."""

    def __init__(self, engine: Engine, samples: Samples, folder: Path) -> None:
        self.engine = engine
        self.error: Exception | None = None
        self._samples, self._folder = samples, folder
        self._there = 0
        self._wanted = True
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._make, daemon=True)

    def __enter__(self) -> Self:
        """Begin."""
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        """End, where nobody is left who waits."""
        self._wanted = False
        self._thread.join()

    def at(self, position: int) -> Outputs:
        """Return the answers to a sample."""
        with self._changed:
            self._changed.wait_for(lambda: self._there > position or self.error is not None)
            if self.error is not None:
                raise self.error
        with np.load(self._folder / str(position)) as file:
            return {name[1:]: file[name] for name in file.files}

    def _make(self) -> None:
        try:
            for position, sample in enumerate(self._samples):
                if not self._wanted:
                    return
                outputs = self.engine.infer(adapted(sample.feeds, self.engine))
                with open(self._folder / str(position), "wb") as file:
                    # A name by itself could be that of a parameter.
                    named: dict[str, Any] = {f"_{name}": value for name, value in outputs.items()}
                    np.savez(file, **named)
                with self._changed:
                    self._there += 1
                    self._changed.notify_all()
        except Exception as error:  # whatever it is, those who wait are told
            with self._changed:
                self.error = error
                self._changed.notify_all()


class _Again(Resource):
    """Answers that were made elsewhere, given back in the samples' order."""

    def __init__(self, answers: _Answers) -> None:
        engine = answers.engine
        self.name, self.inputs, self.outputs = engine.name, engine.inputs, engine.outputs
        self._answers = answers
        self._positions = itertools.count()

    def infer(self, feeds: Feeds) -> Outputs:
        """Return the next answers."""
        return self._answers.at(next(self._positions))


class _Elsewhere(Resource):
    """An engine that runs on a host."""

    def __init__(
        self, there: Connection, engine: str, name: str, answered: Callable[[int], None]
    ) -> None:
        self._there, self._answered = there, answered
        about = there.ask({"do": "open", "name": there.copy(engine)})[0]
        there.row.notes = [told(warning) for warning in about["warnings"]]
        there.row.results = [name]
        self.name = name
        self.inputs, self.outputs = _specs(about["inputs"]), _specs(about["outputs"])
        self._done = 0

    def infer(self, feeds: Feeds) -> Outputs:
        """Return what it answers there."""
        found = arrays(*self._there.ask({"do": "infer"}, feeds))
        for spec in self.outputs:
            value = found.get(spec.name)
            if value is None or not spec.accepts(value.shape):
                raise InputError(f"gives no {told(spec)}")
        self._done += 1
        self._answered(self._done)
        return {spec.name: found[spec.name] for spec in self.outputs}


def _specs(listed: Sequence[Sequence[Any]]) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(
            str(name), str(dtype),
            tuple(axis if isinstance(axis, int) else str(axis) for axis in shape),
        )
        for name, dtype, shape in listed
    )  # fmt: skip


def _side_by_side(tallies: Sequence[Tally]) -> Tally:
    """Return the sums of one original and one candidate each as those of several candidates."""
    total = tallies[0] if tallies else Tally.empty(0, None)
    for other in tallies[1:]:
        total.metrics += other.metrics[1:]
        total.differences += other.differences
        total.broken += other.broken
        total.worst += other.worst
        total.gallery += other.gallery
        total.other_boxes += other.other_boxes
    return total
