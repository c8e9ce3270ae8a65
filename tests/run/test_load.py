"""Load on an engine that is not there: with a clock of its own, against the theory of queues."""

from __future__ import annotations

import heapq
import math
import threading
from collections.abc import Callable

import numpy as np
import pytest

from onnxgraft.run.load import (
    Requests,
    Round,
    Setting,
    Summary,
    by_chance,
    drive,
    evenly,
    poisson,
    search,
    settings,
    summary,
)


def simulated(requests: Requests, workers: int, seconds: Callable[[int], float]) -> None:
    """Let workers compute requests, with a clock that jumps from event to event."""
    now, running = 0.0, list[tuple[float, int, list[float]]]()
    for number in range(1_000_000):
        if requests.over(now) and not running:
            return
        while len(running) < workers and (taken := requests.take(now)):
            heapq.heappush(running, (now + seconds(len(taken)), number, taken))
        due, ends = requests.next(), running[0][0] if running else math.inf
        waits_for = due if due is not None and len(running) < workers else math.inf
        now = max(now, min(waits_for, ends))
        while running and running[0][0] <= now:
            _, _, taken = heapq.heappop(running)
            requests.finish(taken, now)


def times(requests: Requests) -> list[float]:
    return [end - due for due, end in requests.done]


def test_in_a_closed_loop_each_client_has_one_request_under_way() -> None:
    requests = Requests([0.0] * 3, again=True, until=1.0)
    simulated(requests, 3, lambda _: 0.1)
    assert times(requests) == pytest.approx([0.1] * len(requests.done))
    assert len(requests.done) == pytest.approx(30, abs=3)


def test_clients_beyond_what_runs_at_once_wait_for_their_turn() -> None:
    requests = Requests([0.0] * 4, again=True, until=10.0)
    simulated(requests, 2, lambda _: 0.1)
    # Little's law: 4 under way at 20 a second take 0.2 s each.
    assert np.mean(times(requests)) == pytest.approx(0.2, rel=0.02)


def test_waiting_requests_are_joined_and_end_together() -> None:
    requests = Requests([0.0, 0.0, 0.0, 0.01, 0.02], batch=2)
    simulated(requests, 1, lambda count: 0.1 * count)
    wanted = [(0.0, 0.2), (0.0, 0.2), (0.0, 0.4), (0.01, 0.4), (0.02, 0.5)]
    np.testing.assert_allclose(sorted(requests.done), wanted)


@pytest.mark.parametrize("busy", [0.3, 0.6, 0.8])
def test_an_open_loop_waits_as_pollaczek_and_khinchine_say(busy: float) -> None:
    """A queue of Poisson's arrivals and one server of constant time: busy / 2 (1 - busy) of it."""
    requests = Requests(poisson(busy, 100_000, seed=1))
    simulated(requests, 1, lambda _: 1.0)
    wanted = 1 + busy / (2 * (1 - busy))
    assert np.mean(times(requests)) == pytest.approx(wanted, rel=0.03)


def test_what_was_due_during_a_pause_is_counted_from_when_it_was_due() -> None:
    """One slow answer of 1 s, while a request is due each 0.1 s: the ten behind it are slow too."""
    slow = iter([1.0])
    requests = Requests(evenly(10, 3))
    simulated(requests, 1, lambda _: next(slow, 0.01))
    late = [value for value in times(requests) if value > 0.05]
    assert len(late) == pytest.approx(10, abs=1)
    assert max(times(requests)) == pytest.approx(1.0)


def test_what_waits_beyond_patience_is_given_up_and_counts_as_slow() -> None:
    requests = Requests(evenly(10, 1), patience=2.0)
    simulated(requests, 1, lambda _: 1.0)
    assert requests.given_up == 8
    assert len(requests.done) == 10
    assert max(times(requests)) == pytest.approx(1.9)


def test_poissons_requests_know_nothing_of_each_other() -> None:
    gaps = np.diff(poisson(100, 200, seed=2))
    assert gaps.mean() == pytest.approx(0.01, rel=0.03)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.03)
    assert poisson(100, 1, seed=3) == poisson(100, 1, seed=3) != poisson(100, 1, seed=4)


# Threads ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 3])
def test_threads_compute_each_request_once(batch: int) -> None:
    counted, lock = [0], threading.Lock()

    def run(worker: int, count: int) -> None:
        assert 1 <= count <= batch
        with lock:
            counted[0] += count

    requests = Requests(evenly(10_000, 0.05), batch=batch)
    begun = Clock()
    drive(requests, run, 4, begun)
    assert counted[0] == len(requests.done) == 500
    assert min(times(requests)) >= 0


class Clock:
    """Seconds since it was made."""

    def __init__(self) -> None:
        import time

        self._time, self._begun = time.monotonic, time.monotonic()

    def __call__(self) -> float:
        return self._time() - self._begun


def test_threads_run_so_many_at_once_and_stop() -> None:
    together, met = threading.Barrier(3), set[int]()

    def run(worker: int, count: int) -> None:
        if worker not in met:
            together.wait(10)  # for all three: none is done before the others have begun
            met.add(worker)

    requests = Requests([0.0] * 3, again=True, until=0.05)
    drive(requests, run, 3, Clock())
    assert met == {0, 1, 2}
    assert len(requests.done) >= 3


def test_what_goes_wrong_in_a_thread_is_raised() -> None:
    def run(worker: int, count: int) -> None:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        drive(Requests([0.0] * 5, again=True, until=60.0), run, 3, Clock())


# What is told of it -----------------------------------------------------------------------------


def test_what_was_due_while_it_warmed_up_does_not_count() -> None:
    found = Round.of([(0.0, 0.5), (0.9, 1.1), (1.0, 1.2), (1.5, 1.6), (1.9, 2.4)], 1.0, 2.0)
    assert found.milliseconds == pytest.approx((200, 100, 500))
    assert (found.answered, found.per_second) == (3, 3.0)


def test_rounds_are_told_with_their_spread() -> None:
    rounds = [Round(tuple(range(100)), 1.0, n) for n in (90, 110, 100)]
    told = summary(rounds)
    assert (told.per_second, told.slowest, told.fastest) == (100, 90, 110)
    assert told.p99 == np.percentile(np.tile(np.arange(100), 3), 99)
    assert told.few


def of(slowest: float, fastest: float, p99: float = 1.0, given_up: int = 0) -> Summary:
    middle = (slowest + fastest) / 2
    return Summary(5000, middle, slowest, fastest, (0, 0, p99, 0), (p99,), 0, given_up)


def test_a_difference_that_noise_could_have_made_is_known() -> None:
    assert by_chance(of(90, 110), of(105, 130))
    assert not by_chance(of(90, 110), of(111, 130))
    assert by_chance(of(100, 100), of(100, 100))


# The search -------------------------------------------------------------------------------------


def test_settings_share_the_cores() -> None:
    told = [str(setting) for setting in settings(4, (1,))]
    assert told == [
        "4 threads, 1 stream", "4 threads, 4 streams", "2 x 2 threads, 1 stream, pinned",
        "4 x 1 thread, 1 stream, pinned",
    ]  # fmt: skip
    assert [str(setting) for setting in settings(1, (1, 4))] == [
        "1 thread, 1 stream", "1 thread, 1 stream, batch 4",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("limit", "best", "rate"),
    [(11.0, "steep", 90.9), (5.0, "steep", 80.0), (2.0, "flat", 70.0), (0.5, "", 0.0)],
)
def test_the_best_setting_keeps_the_limit_at_the_highest_rate(
    limit: float, best: str, rate: float
) -> None:
    """One answers 100 a second and is slow near that; another 70, and is never slow."""
    known = {"steep": Setting(threads=1), "flat": Setting(threads=2)}
    capacity = {known["steep"]: 100.0, known["flat"]: 70.0}

    def measure(setting: Setting, rate: float) -> Summary:
        return of(rate, rate, 1 / (1 - rate / 100) if setting == known["steep"] else 1.0)

    found = search(known.values(), capacity.__getitem__, measure, limit)
    # 1 / (1 - rate / 100) is 11 at 90.9, and 5 at 80.
    assert found[0].rate == pytest.approx(rate, abs=3)
    assert not best or found[0].setting == known[best]


def test_what_cannot_be_better_is_not_tried() -> None:
    tried: list[Setting] = []

    def measure(setting: Setting, rate: float) -> Summary:
        tried.append(setting)
        return of(rate, rate)

    fast, slow = Setting(threads=1), Setting(threads=2)
    found = search([fast, slow], {fast: 100.0, slow: 50.0}.__getitem__, measure, 10.0)
    assert set(tried) == {fast}
    assert found[1].skipped


def test_a_rate_at_which_requests_are_given_up_does_not_count() -> None:
    setting = Setting()
    found = search([setting], lambda _: 100.0, lambda _, r: of(r, r, 1.0, int(r > 40)), 10.0)
    assert found[0].rate == pytest.approx(40, abs=5)
