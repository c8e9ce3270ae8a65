"""`bench --hosts`: the same measurement, with the processes that time engines on other machines."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from onnxgraft.commands._bench import (
    Benched,
    BenchTarget,
    Worker,
    bench_targets,
    measure,
    speed_ups,
)
from onnxgraft.commands._hosts import Connection, Hosts, Tell, find_hosts, on_all, told
from onnxgraft.commands._opening import ModelGiven, Place
from onnxgraft.commands._outputs import check_report
from onnxgraft.commands._validate import write_report
from onnxgraft.errors import InputError
from onnxgraft.files import check_folder
from onnxgraft.stages.convert import written
from onnxgraft.stages.engine.passport import read_passport
from onnxgraft.stages.validate.report import LatencyRow, Report
from onnxgraft.words import several

__all__ = ["bench_hosts"]


def bench_hosts(
    engines: Sequence[ModelGiven],
    hosts: Hosts,
    python: str,
    *,
    batches: Sequence[int],
    rounds: int,
    runs: int,
    threads: int | None,
    report: Place | None,
    force: bool,
) -> Benched:
    """Time engines on other machines, all at the same time; see `bench`."""
    listed = find_hosts(hosts)
    if report is not None:
        check_folder(report)
        check_report(report, force=force)
    files = [written(engine) for engine in engines]
    for file in files:
        read_passport(file)  # without one it would not be loaded there
    targets = bench_targets(files, threads=threads)
    steps = len(batches) * len(targets) * (rounds + 1)

    def work(there: Connection, tell: Tell) -> tuple[list[BenchTarget], list[LatencyRow]]:
        places = [there.path(there.copy(file, number)) for number, file in enumerate(files)]
        mine = [
            replace(
                target, name=f"{target.name} on {there.host.name}",
                opened=replace(target.opened, path=place),
            )
            for target, place in zip(targets, places, strict=True)
        ]  # fmt: skip
        notes: list[str] = []
        start = partial(_Elsewhere, there, _counting(tell, steps))
        rows = measure(mine, batches=batches, rounds=rounds, runs=runs, notes=notes, start=start)
        if there.gone:  # which is why the rest could not be timed
            raise InputError("; ".join(notes))
        there.row.results = list(dict.fromkeys(row.name for row in rows))
        there.row.notes = [told(note) for note in notes]
        return mine, [replace(row, busy=there.row.busy) for row in rows]

    found = Benched([], [], [])
    count = several(len(listed), "host")
    for row, done in on_all(listed, python, f"timing on {count}", work):
        found.hosts.append(row)
        if done is not None:
            found.rows.extend(done[1])
            found.ratios.extend(speed_ups(done[1], done[0]))
    if report is not None:
        title = ", ".join(target.name for target in targets)
        source = ", ".join(map(os.fspath, files))
        write_report(Report(title, source, latency=found.rows, hosts=found.hosts), report)
    return found


def _counting(tell: Tell, steps: int) -> Callable[[], None]:
    """Return what is called with each answer."""
    numbers = iter(range(1, steps + 1))
    return lambda: tell(next(numbers, steps), steps)


class _Elsewhere(Worker):
    """A process on a host that holds one engine and times it when told."""

    def __init__(
        self, there: Connection, answered: Callable[[], None], target: BenchTarget, batch: int
    ) -> None:
        self._there, self._answered = there, answered
        self._message: dict[str, object] = {}
        super().__init__(target, batch)

    def run(self, count: int) -> list[float]:
        """Return the milliseconds of ``count`` inferences."""
        found = super().run(count)
        if not found or not all(0 < value < math.inf for value in found):
            raise InputError("answers times that are none")
        return found

    def close(self) -> None:
        """End the process."""
        if not self._there.gone:
            self._there.ask({"do": "stop", "worker": self._number})

    def _start(self) -> None:
        self._number = int(self._there.ask({"do": "start"})[0]["worker"])

    def _tell(self, message: dict[str, object]) -> None:
        self._message = message

    def _line(self) -> str:
        asked: dict[str, Any] = {"do": "ask", "worker": self._number, "message": self._message}
        line = str(self._there.ask(asked)[0]["line"])
        self._answered()
        return line
