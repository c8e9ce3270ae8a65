"""Many requests at once: when they are due, who computes them, and how long each waited in all.

A request's time runs from when it was due, and not from when somebody was free to begin it: what
waits behind a slow one is slow too, and is counted so. In a closed loop each of so many clients
asks again when it is answered; in an open one requests come when they come, whoever is busy.
"""

from __future__ import annotations

import heapq
import math
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

__all__ = [
    "Requests", "Round", "Setting", "Summary", "Trial", "by_chance", "cores_of", "drive", "evenly",
    "poisson", "search", "settings", "summary",
]  # fmt: skip

# So many requests are looked at in one measurement, at the most.
_MOST = 1_000_000
# Of how many requests a 99th percentile is one of the ten slowest.
_ENOUGH = 1000
# Steps by which the rate is closed in on.
_STEPS = 5


@dataclass(frozen=True)
class Setting:
    """How an engine is run for many requests.

    Attributes:
        instances: Processes, each with the engine.
        threads: Of the CPU, for each; None takes what the engine was built for.
        streams: Inferences that each runs at once; None takes as many as there are requests.
        batch: How many waiting requests are joined, at most.
        pin: Whether each instance has cores of its own.
    """

    instances: int = 1
    threads: int | None = None
    streams: int | None = None
    batch: int = 1
    pin: bool = False

    def __str__(self) -> str:
        """Return it in words, such as ``2 x 1 thread, pinned, batch 4``."""
        threads = "" if self.threads is None else f"{_many(self.threads, 'thread')}"
        words = [f"{self.instances} x {threads}" if self.instances > 1 else threads]
        if self.streams is not None:
            words.append(_many(self.streams, "stream"))
        if self.pin:
            words.append("pinned")
        if self.batch > 1:
            words.append(f"batch {self.batch}")
        return ", ".join(filter(None, words)) or "as built"


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"


class Requests:
    """Requests by when they are due, in seconds; whoever computes takes some and says when done.

    Args:
        due: When each is due.
        batch: How many are taken together, at most.
        again: Whether who is answered asks again.
        until: When nobody asks any more.
        patience: When those that still wait are given up.
    """

    def __init__(
        self,
        due: Iterable[float],
        *,
        batch: int = 1,
        again: bool = False,
        until: float = math.inf,
        patience: float = math.inf,
    ) -> None:
        self._waiting = list(due)
        heapq.heapify(self._waiting)
        self._batch, self._again, self._until, self._patience = batch, again, until, patience
        self._running = 0
        self.done: list[tuple[float, float]] = []
        self.given_up = 0

    def next(self) -> float | None:
        """Return when the next is due; None where none is known."""
        return self._waiting[0] if self._waiting else None

    def take(self, now: float) -> list[float]:
        """Return those that are computed together now: when each was due."""
        taken: list[float] = []
        while self._waiting and self._waiting[0] <= now and len(taken) < self._batch:
            taken.append(heapq.heappop(self._waiting))
        self._running += len(taken)
        return taken

    def finish(self, taken: Sequence[float], now: float) -> None:
        """Take note that some were answered."""
        self._running -= len(taken)
        self.done += [(due, now) for due in taken]
        if self._again and now < self._until and len(self.done) < _MOST:
            for _ in taken:
                heapq.heappush(self._waiting, now)

    def over(self, now: float) -> bool:
        """Tell whether nothing is left to take; what waits too long is given up, and counts."""
        if now >= self._patience and self._waiting:
            self.given_up += len(self._waiting)
            self.done += [(due, now) for due in self._waiting if due <= now]
            self._waiting.clear()
        return not self._waiting and not (self._again and self._running)


def drive(
    requests: Requests,
    run: Callable[[int, int], object],
    workers: int,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Let threads compute requests until they are over.

    Args:
        requests: Due by the clock.
        run: Is given the number of a worker, and of requests that it computes together.
        workers: How many threads.
        clock: Seconds.

    Raises:
        Exception: What ``run`` raised first.
    """
    changed = threading.Condition()
    errors: list[BaseException] = []
    watched = False  # whether someone waits for the next that is due; the others wait for a word

    def taken() -> list[float]:
        nonlocal watched
        with changed:
            while True:
                now = clock()
                if errors or requests.over(now):
                    changed.notify_all()
                    return []
                due = requests.next()
                if due is not None and due <= now:
                    changed.notify()
                    return requests.take(now)
                if due is None or watched:
                    changed.wait()
                else:
                    watched = True
                    changed.wait(due - now)
                    watched = False

    def work(number: int) -> None:
        try:
            while some := taken():
                run(number, len(some))
                with changed:
                    requests.finish(some, clock())
                    changed.notify(len(some))
        except BaseException as error:
            with changed:
                errors.append(error)
                changed.notify_all()

    threads = [threading.Thread(target=work, args=(n,), daemon=True) for n in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def poisson(rate: float, seconds: float, seed: int = 0) -> list[float]:
    """Return when requests come that know nothing of each other, ``rate`` of them a second."""
    rng = np.random.default_rng(seed)
    count = min(round(rate * seconds * 1.5) + 50, _MOST)
    times = np.cumsum(rng.exponential(1 / rate, count))
    return [float(value) for value in times[times < seconds]]


def evenly(rate: float, seconds: float) -> list[float]:
    """Return when requests come that are all as far apart."""
    return [number / rate for number in range(min(math.ceil(rate * seconds), _MOST))]


@dataclass(frozen=True)
class Round:
    """One of the turns in which a load was measured.

    Attributes:
        milliseconds: Of each request that was due after the warm-up, from when it was due.
        seconds: For how long requests were counted.
        answered: How many were answered in that time.
        given_up: How many were not answered at all.
    """

    milliseconds: tuple[float, ...]
    seconds: float
    answered: int
    given_up: int = 0

    @classmethod
    def of(
        cls, done: Sequence[tuple[float, float]], warm_up: float, until: float, given_up: int = 0
    ) -> Round:
        """Return what counts of requests, as (due, answered) in seconds.

        Args:
            done: All of them.
            warm_up: What was due before does not count.
            until: When nobody asked any more.
            given_up: How many of them were.
        """
        counted = tuple(1000 * (end - due) for due, end in done if due >= warm_up)
        ended = sum(warm_up <= end < until for _, end in done)
        return cls(counted, until - warm_up, ended, given_up)

    @property
    def per_second(self) -> float:
        """Requests that were answered in a second."""
        return self.answered / self.seconds

    def percentile(self, which: float) -> float:
        """Return the milliseconds within which so many percent were answered."""
        return float(np.percentile(self.milliseconds, which)) if self.milliseconds else math.nan


@dataclass(frozen=True)
class Summary:
    """What was measured of a load, over all rounds.

    Attributes:
        requests: That were counted.
        per_second: The median of the rounds.
        slowest: Of the rounds.
        fastest: Likewise.
        percentiles: Of all requests together, in milliseconds: 50, 90, 99 and 99.9 %.
        p99s: The 99th percentile of each round.
        longest: In milliseconds.
        given_up: Requests that were not answered.
    """

    requests: int
    per_second: float
    slowest: float
    fastest: float
    percentiles: tuple[float, float, float, float]
    p99s: tuple[float, ...]
    longest: float
    given_up: int = 0

    @property
    def p99(self) -> float:
        """The 99th percentile in milliseconds."""
        return self.percentiles[2]

    @property
    def few(self) -> bool:
        """Whether the 99th percentile stands on fewer than ten requests."""
        return self.requests < _ENOUGH


def summary(rounds: Sequence[Round]) -> Summary:
    """Return what several rounds of a load say together."""
    every = np.concatenate([each.milliseconds for each in rounds]) if rounds else np.zeros(0)
    speeds = [each.per_second for each in rounds]
    shares = (
        tuple(float(v) for v in np.percentile(every, (50, 90, 99, 99.9)))
        if every.size
        else (math.nan,) * 4
    )
    return Summary(
        int(every.size), float(np.median(speeds)), min(speeds), max(speeds),
        (shares[0], shares[1], shares[2], shares[3]), tuple(each.percentile(99) for each in rounds),
        float(every.max(initial=0.0)), sum(each.given_up for each in rounds),
    )  # fmt: skip


def by_chance(one: Summary, other: Summary) -> bool:
    """Tell whether noise could have made the difference of two speeds: their rounds overlap."""
    return one.slowest <= other.fastest and other.slowest <= one.fastest


# The search -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Trial:
    """What was found of a setting.

    Attributes:
        setting: Was tried.
        capacity: Requests a second with as many clients as keep it busy.
        rate: The highest rate at which the limit was kept; 0 where none was.
        at: What was measured at that rate; None where the limit was never kept.
        skipped: Why no rate was tried; empty where some were.
    """

    setting: Setting
    capacity: float
    rate: float = 0.0
    at: Summary | None = None
    skipped: str = ""


def settings(
    cores: int, batches: Sequence[int] = (1,), *, threads: bool = True
) -> Iterator[Setting]:
    """Yield what is worth trying on so many cores.

    All cores for one inference; as many inferences as cores; processes with a part of the cores
    each. Each joins waiting requests in batches of each size.

    Args:
        cores: Of this machine.
        batches: Sizes.
        threads: Whether the engine takes a number of threads.
    """
    found = [Setting(threads=cores, streams=1)]
    if cores > 1:
        found.append(Setting(threads=cores, streams=cores))
        parts = [n for n in range(2, cores + 1) if cores % n == 0]
        found += [Setting(n, cores // n, 1, pin=True) for n in parts]
    if not threads:
        found = [Setting(streams=1), Setting(streams=2)]
    for setting in found:
        for batch in batches:
            yield replace(setting, batch=batch)


def search(
    tried: Iterable[Setting],
    capacity: Callable[[Setting], float],
    measure: Callable[[Setting, float], Summary],
    limit: float,
) -> list[Trial]:
    """Return what was found of each setting, the best first.

    The best keeps the limit at the highest rate. A setting that can't answer more than the best
    rate so far is not tried further.

    Args:
        tried: Settings.
        capacity: Returns how many requests a second one answers when it is kept busy.
        measure: Returns what a rate gives, of requests that know nothing of each other.
        limit: Milliseconds within which 99 % have to be answered.
    """
    trials: list[Trial] = []
    for setting in tried:
        most = capacity(setting)
        if most <= max((trial.rate for trial in trials), default=0.0):
            why = "answers no more than the best rate so far"
            trials.append(Trial(setting, most, skipped=why))
        else:
            trials.append(_highest(setting, most, measure, limit))
    return sorted(trials, key=lambda trial: -trial.rate)


def _highest(
    setting: Setting, most: float, measure: Callable[[Setting, float], Summary], limit: float
) -> Trial:
    """Close in on the highest rate that keeps the limit, from below."""
    low, high = 0.0, most
    found = Trial(setting, most)
    rate = 0.9 * most
    for _ in range(_STEPS):
        told = measure(setting, rate)
        if told.p99 <= limit and not told.given_up:
            low, found = rate, Trial(setting, most, rate, told)
        else:
            high = rate
        rate = (low + high) / 2
    return found


def cores_of(instance: int, instances: int) -> tuple[int, ...]:
    """Return the cores of one of several instances, of those that this process may use."""
    mine = sorted(os.sched_getaffinity(0))
    count = max(len(mine) // instances, 1)
    begin = (instance * count) % len(mine)
    return tuple(mine[begin : begin + count])
