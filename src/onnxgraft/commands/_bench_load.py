"""`bench` under load: many requests at once, each timed from when it was due; the best settings.

Each instance of an engine is a process of its own, in which as many threads ask as requests may be
computed at once. Clients and arrivals are dealt out to the instances in turn, as a proxy does.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from onnxgraft.commands._arguments import Numbers, numbers
from onnxgraft.commands._bench import Arrivals, Benched, BenchTarget, Worker, bench_targets
from onnxgraft.commands._opening import Place
from onnxgraft.errors import InputError
from onnxgraft.files.trust import Trust
from onnxgraft.graph.model import Model
from onnxgraft.progress import track
from onnxgraft.run.feeds import fixed_batches
from onnxgraft.run.load import (
    Round,
    Setting,
    Summary,
    Trial,
    by_chance,
    cores_of,
    evenly,
    poisson,
    search,
    settings,
    summary,
)
from onnxgraft.stages.engine import target_of
from onnxgraft.stages.engine.passport import passport_path, read_passport
from onnxgraft.stages.engine.passport import record as record_in_passport

__all__ = ["LoadRow", "Searched", "bench_load"]

# So much of each round warms up, and at most so many seconds.
_WARM_UP, _MOST_WARM_UP = 0.1, 1.0
# Between telling all instances when a round begins, and that.
_HEAD_START = 0.05
# Of the machine's cores: a load above this, before anything is measured, is told.
_BUSY = 0.3
# A machine that can't keep up ends after so many times the round.
_PATIENCE = 2.0
# What a search joins where nothing is asked for.
_BATCHES = (1, 4, 8)


@dataclass(frozen=True)
class LoadRow:
    """What a load gave.

    Attributes:
        name: Of the engine.
        setting: How it was run.
        clients: Requests under way at once; None for as many as come.
        rate: Requests a second that came; None in a closed loop.
        told: What was measured.
        ratio: How many times the requests a second of the engine's first row; None for that.
        chance: Whether noise could have made that ratio.
        busy: Load of the machine before, as a part of its cores.
    """

    name: str
    setting: Setting
    clients: int | None
    rate: float | None
    told: Summary
    ratio: float | None = None
    chance: bool = False
    busy: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return asdict(self)


@dataclass(frozen=True)
class Searched:
    """The best settings of an engine under a limit.

    Attributes:
        name: Of the engine.
        limit: Milliseconds within which 99 % of the requests are answered.
        trials: The settings that were tried, the best first.
        stored: Whether the best stands in the engine's passport.
    """

    name: str
    limit: float
    trials: list[Trial]
    stored: bool = False

    @property
    def best(self) -> Trial | None:
        """The best; None where no setting keeps the limit at any rate."""
        return self.trials[0] if self.trials and self.trials[0].rate else None

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return asdict(self)


def bench_load(
    engines: Sequence[Place],
    *,
    batch: Numbers | None,
    rounds: int,
    threads: int | None,
    trust: Trust,
    clients: Numbers | None,
    rate: Numbers | None,
    arrivals: Arrivals,
    duration: float,
    instances: int | None,
    streams: int | None,
    pin: bool,
    p99: str | float | None,
) -> Benched:
    """Measure engines under load, or look for their best settings; see `bench`."""
    loads = _loads(clients, rate)
    positive = (rounds, *(n for n in (threads, instances, streams) if n is not None))
    if min(positive) < 1 or not 0 < duration < math.inf:
        raise InputError("rounds, instances, streams and threads are from 1 on, duration above 0")
    targets = bench_targets(engines, threads=threads, trust=trust)
    busy = os.getloadavg()[0] / (os.cpu_count() or 1)
    notes = _told(busy, rounds, duration)
    timing = _Timing(rounds, duration / rounds, arrivals)
    if p99 is not None:
        if loads or pin or (threads, instances, streams) != (None, None, None):
            raise InputError(
                "--p99 looks for clients, rate, threads, streams and instances itself: leave them "
                "out"
            )
        found = [_searched(t, timing, milliseconds(p99), batch, busy, notes) for t in targets]
        return Benched([], [], notes, searches=found)
    rows = []
    for target in targets:
        sizes = _sizes(target, batch, (1,))
        if len(sizes) != 1:
            raise InputError("--batch under load is one size: so many requests are joined at most")
        setting = Setting(instances or 1, threads, streams, sizes[0], pin)
        rows += _rows(target, setting, loads, timing, busy)
    notes += _doubts(rows)
    return Benched([], [], notes, loads=rows)


def milliseconds(text: str | float) -> float:
    """Return the milliseconds that ``20ms``, ``0.02s`` or a number of them mean.

    >>> milliseconds("20ms"), milliseconds("0.5 s"), milliseconds(3)
    (20.0, 500.0, 3.0)
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(ms|s)?\s*", str(text))
    if found is None or not float(found[1]):
        raise InputError(f"--p99 {text}: write a time such as 20ms")
    return float(found[1]) * (1000 if found[2] == "s" else 1)


@dataclass(frozen=True)
class _Load:
    """So many clients, or so many requests a second; of both, the clients are those at once."""

    clients: int | None
    rate: float | None


def _loads(clients: Numbers | None, rate: Numbers | None) -> list[_Load]:
    many = [] if clients is None else numbers(clients)
    rates = [] if rate is None else [float(each) for each in numbers(rate)]
    if min((*many, *rates), default=1) < 1:
        raise InputError("clients and rates are whole numbers from 1 on")
    if not rates:
        return [_Load(count, None) for count in many]
    if len(many) > 1:
        raise InputError("--clients beside --rate is one number: how many are computed at once")
    return [_Load(many[0] if many else None, each) for each in rates]


def _told(busy: float, rounds: int, duration: float) -> list[str]:
    """Return what is to be said of how it was measured."""
    seconds = duration / rounds
    warm_up = f"the first {_warm_up(seconds):.2g} s of each warm up and do not count"
    notes = [f"{rounds} rounds of {seconds:.3g} s; {warm_up}"]
    if busy > _BUSY:
        notes.append(
            f"the machine was busy before: a load of {busy:.0%} of its cores; these are not the "
            "times of a machine that is quiet"
        )
    return notes


def _doubts(rows: Sequence[LoadRow]) -> list[str]:
    """Return what is to be said of what was measured."""
    notes = []
    if any(row.told.few for row in rows):
        notes.append(
            "a p99 marked with ? is one of the ten slowest requests of fewer than 1000; take a "
            "longer --duration"
        )
    if any(row.chance for row in rows):
        notes.append("a ratio marked with ? is within the spread of the rounds: noise can make it")
    for row in rows:
        if row.told.given_up:
            notes.append(
                f"{row.name}: at {_number(row.rate)} a second {row.told.given_up} requests were "
                "given up unanswered; they count with the time that they had waited"
            )
    return notes


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _warm_up(seconds: float) -> float:
    return min(_WARM_UP * seconds, _MOST_WARM_UP)


def _sizes(target: BenchTarget, batch: Numbers | None, usual: Sequence[int]) -> list[int]:
    """Return how many requests may be joined; what an engine's fixed batch says, where it has one.

    Raises:
        InputError: A size is none.
    """
    path = Path(target.opened.path)
    known: tuple[int, ...] = ()
    if target.kind == "onnx":
        known = fixed_batches(Model.load(path).inputs)
    elif passport_path(path).is_file():
        known = fixed_batches(read_passport(path).inputs)
    if batch is None:
        return [known[0]] if known else list(usual)
    sizes = numbers(batch)
    if not sizes or min(sizes) < 1:
        raise InputError("batches are whole numbers from 1 on")
    return sizes


@dataclass(frozen=True)
class _Timing:
    rounds: int
    seconds: float
    arrivals: Arrivals

    def due(self, load: _Load, seed: int) -> list[float]:
        """Return when the requests of a round are due."""
        if load.rate is None:
            return [0.0] * (load.clients or 1)
        if self.arrivals == "fixed":
            return evenly(load.rate, self.seconds)
        return poisson(load.rate, self.seconds, seed)


def _rows(
    target: BenchTarget, setting: Setting, loads: Sequence[_Load], timing: _Timing, busy: float
) -> list[LoadRow]:
    """Measure loads on one setting, in turn, so that what drifts meets all of them."""
    found: list[list[Round]] = [[] for _ in loads]
    with _running(target, setting) as workers:
        for number in track(range(timing.rounds), f"{target.name} under load", timing.rounds):
            for load, rounds in zip(loads, found, strict=True):
                rounds.append(_round(workers, setting, load, timing, number))
    told = [summary(rounds) for rounds in found]
    rows = [
        LoadRow(target.name, setting, load.clients, load.rate, each, busy=busy)
        for load, each in zip(loads, told, strict=True)
    ]
    first = told[0]
    return rows[:1] + [
        row
        if row.rate is not None or not first.per_second
        else replace(
            row, ratio=row.told.per_second / first.per_second, chance=by_chance(first, row.told)
        )
        for row in rows[1:]
    ]


@contextlib.contextmanager
def _running(target: BenchTarget, setting: Setting) -> Iterator[list[Worker]]:
    """Yield the instances of an engine, each warm."""
    workers: list[Worker] = []
    try:
        for number in range(setting.instances):
            mine = replace(
                target,
                threads=setting.threads if target.kind == "engine" else None,
                streams=setting.streams if target.kind == "engine" else None,
                cores=cores_of(number, setting.instances) if setting.pin else (),
            )
            workers.append(Worker(mine, setting.batch))
        for worker in workers:
            worker.begin({"load": {}})
            worker.end()
        yield workers
    finally:
        for worker in workers:
            worker.close()


def _round(
    workers: Sequence[Worker], setting: Setting, load: _Load, timing: _Timing, seed: int
) -> Round:
    due = timing.due(load, seed)
    begins = time.monotonic() + _HEAD_START
    asked = []
    for number, worker in enumerate(workers):
        mine = due[number :: len(workers)]
        if not mine:  # fewer clients than instances
            continue
        at_once = setting.streams or -(-(load.clients or _at_once()) // len(workers))
        worker.begin({
            "load": {
                "due": mine, "batch": setting.batch, "again": load.rate is None,
                "until": timing.seconds, "patience": _PATIENCE * timing.seconds, "begins": begins,
                "workers": max(at_once, 1),
            }
        })  # fmt: skip
        asked.append(worker)
    answers = [worker.end() for worker in asked]
    done = [(start, end) for answer in answers for start, end in answer["done"]]
    given_up = sum(answer["given_up"] for answer in answers)
    return Round.of(done, _warm_up(timing.seconds), timing.seconds, given_up)


def _at_once() -> int:
    """Return how many requests are computed at once where nothing says it."""
    return 2 * len(os.sched_getaffinity(0))


# The search -----------------------------------------------------------------------------------


def _searched(
    target: BenchTarget,
    timing: _Timing,
    limit: float,
    batch: Numbers | None,
    busy: float,
    notes: list[str],
) -> Searched:
    """Look for the best settings of an engine, and write them into its passport."""
    if target.kind != "engine":
        raise InputError(f"{target.name}: settings are those of an engine; build one")
    cores = len(os.sched_getaffinity(0))
    on_cpu = target_of(Path(target.opened.path)).on_cpu
    tried = list(settings(cores, _sizes(target, batch, _BATCHES), threads=on_cpu))
    opened = _Opened(target)
    try:
        with contextlib.closing(_progress(target.name, tried)) as each:
            trials = search(
                each,
                lambda setting: opened.measure(setting, _Load(_filling(setting), None), timing)
                .per_second,
                lambda setting, rate: opened.measure(setting, _Load(None, rate), timing),
                limit,
            )  # fmt: skip
    finally:
        opened.close()
    found = Searched(target.name, limit, trials)
    best = found.best
    if best is None or best.at is None:
        notes.append(f"{target.name}: no setting answers 99 % within {limit:g} ms at any rate")
        return found
    second = next((trial for trial in trials[1:] if trial.at is not None), None)
    if second is not None and second.at is not None and by_chance(best.at, second.at):
        notes.append(
            f"{target.name}: the best two settings are within the spread of the rounds; noise can "
            "have chosen between them"
        )
    if best.at.few:
        notes.append(
            f"{target.name}: the best p99 stands on {best.at.requests} requests; take a longer "
            "--duration"
        )
    if target.trust:
        return found
    path = target.opened.path
    setting = best.setting
    passport = read_passport(path)
    record_in_passport(path, serving={
        "instances": setting.instances, "threads": setting.threads, "streams": setting.streams,
        "batch": setting.batch, "pin": setting.pin, "limit_ms": limit, "rate": best.rate,
        "per_second": best.at.per_second, "p99_ms": best.at.p99, "busy": busy,
        "cpu": passport.here(),
    })  # fmt: skip
    return replace(found, stored=True)


def _progress(name: str, tried: Sequence[Setting]) -> Generator[Setting, None, None]:
    yield from track(tried, f"{name}: settings", len(tried))


def _filling(setting: Setting) -> int:
    """Return how many clients keep a setting busy."""
    return 2 * setting.instances * (setting.streams or 1) * setting.batch


class _Opened:
    """An engine that runs in one setting at a time."""

    def __init__(self, target: BenchTarget) -> None:
        self._target = target
        self._setting: Setting | None = None
        self._stack = contextlib.ExitStack()
        self._workers: list[Worker] = []

    def measure(self, setting: Setting, load: _Load, timing: _Timing) -> Summary:
        if setting != self._setting:
            self.close()
            self._workers = self._stack.enter_context(_running(self._target, setting))
            self._setting = setting
        rounds = [
            _round(self._workers, setting, load, timing, number) for number in range(timing.rounds)
        ]
        return summary(rounds)

    def close(self) -> None:
        self._stack.close()
        self._setting = None
