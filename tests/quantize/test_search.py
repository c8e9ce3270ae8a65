"""The search for a mix within a budget, on losses that are known."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxgraft.stages.quantize import Prepared, placement, quantize
from onnxgraft.stages.quantize.budget.search import Mix, mixed, noise, order, search, sensitivities
from onnxgraft.stages.quantize.place.costs import LayerCost
from tests.quantize.networks import infer, pair, ranges_of, samples_of

NO_COSTS: dict[str, LayerCost] = {}


class Additive:
    """A network whose layers' losses and times add up."""

    def __init__(self, losses: Collection[float], slower: Collection[float]) -> None:
        names = [f"layer{index}" for index in range(len(losses))]
        self.losses = dict(zip(names, losses, strict=True))
        self.slower = dict(zip(names, slower, strict=True))
        self.tried: list[frozenset[str]] = []

    def loss_of(self, floats: frozenset[str]) -> float:
        self.tried.append(floats)
        return sum(loss for name, loss in self.losses.items() if name not in floats)

    def seconds(self, floats: Collection[str]) -> float:
        return 1 + sum(self.slower[name] for name in floats)

    def run(self, budget: float, **options: int) -> Mix:
        ranked = order(self.losses, NO_COSTS, self.slower)
        return search(ranked, self.loss_of, self.seconds, budget, **options)

    def best(self, budget: float) -> float:
        """Return the smallest time of all mixes within the budget."""
        return min(
            self.seconds(floats)
            for count in range(len(self.losses) + 1)
            for floats in itertools.combinations(self.losses, count)
            if self.loss_of(frozenset(floats)) <= budget
        )


def test_all_int8_is_taken_when_it_is_within_the_budget() -> None:
    network = Additive([0.1, 0.1], [1, 1])
    mix = network.run(0.2)
    assert mix.found
    assert mix.best.float_layers == frozenset()
    assert len(network.tried) == 1


def test_the_layer_that_loses_most_per_second_goes_to_float_first() -> None:
    network = Additive([1.0, 1.0, 0.1], [5, 1, 1])
    mix = network.run(1.2)
    assert mix.best.float_layers == {"layer1"}


def test_layers_are_taken_from_the_best_on_and_given_back_from_the_slowest_on() -> None:
    # Accuracy per second of f to a: 8, 4, 2, 1, 0.5, 0.25; the names are in the other order.
    slower = {"a": 1.0, "b": 0.5, "c": 0.25, "d": 0.75, "e": 0.125, "f": 0.5}
    gains = {"a": 0.25, "b": 0.5, "c": 1.0, "d": 2.0, "e": 4.0, "f": 8.0}
    losses = {name: gains[name] * slower[name] for name in slower}
    ranked = order(losses, NO_COSTS, slower)
    assert ranked == ["f", "e", "d", "c", "b", "a"]
    tried: list[str] = []

    def loss_of(floats: frozenset[str]) -> float:
        tried.append("".join(sorted(floats)))
        return sum(loss for name, loss in losses.items() if name not in floats)

    def seconds(floats: Collection[str]) -> float:
        return 1 + sum(slower[name] for name in floats)

    # d, e and f in float leave a loss of 0.75, e and f alone one of 2.25.
    mix = search(ranked, loss_of, seconds, 0.75)
    doubled, halved = ["", "f", "ef", "cdef"], ["def"]
    # d takes most time in float, then f, then e; without d it is "ef", which was tried before.
    assert tried == [*doubled, *halved, "de", "df"]
    assert mix.best.float_layers == {"d", "e", "f"}


def test_one_layer_that_is_dear_is_given_back_for_what_the_others_spare() -> None:
    # `far` and `near` are too much without both; then `dear`, the slowest of them, is not needed.
    losses, slower = {"dear": 6.0, "far": 2.0, "near": 2.0}, {"dear": 2.0, "far": 1.0, "near": 1.0}
    tried: list[set[str]] = []

    def loss_of(floats: frozenset[str]) -> float:
        tried.append(set(floats))
        # Not a sum: the two together hide what `dear` does.
        return 0.0 if {"far", "near"} <= floats else 9.0

    ranked = order(losses, NO_COSTS, slower)
    assert ranked == ["dear", "far", "near"]
    mix = search(ranked, loss_of, lambda floats: sum(slower[n] for n in floats), 1.0)
    assert tried == [
        set(),
        {"dear"},
        {"dear", "far"},
        {*slower},
        {"far", "near"},
        {"near"},
        {"far"},
    ]
    assert mix.best.float_layers == {"far", "near"}


@given(
    st.lists(st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)), min_size=1, max_size=7),
    st.floats(0.01, 3),
)
def test_a_mix_keeps_the_budget_and_is_near_the_best(
    layers: list[tuple[float, float]], budget: float
) -> None:
    network = Additive([loss for loss, _ in layers], [slow for _, slow in layers])
    mix = network.run(budget, most=100)
    assert mix.found
    assert network.loss_of(mix.best.float_layers) <= budget
    # What is lost is at most the time of one layer: the greedy bound of the knapsack.
    assert mix.best.seconds <= network.best(budget) + max(network.slower.values()) + 1e-9


def test_no_mix_is_judged_twice_and_no_more_than_asked() -> None:
    rng = np.random.default_rng(0)
    network = Additive(list(rng.random(40)), list(rng.random(40)))
    network.run(5.0, most=9)
    # The doubling may need a few more to find any mix at all.
    assert len(network.tried) <= 9
    assert len(set(network.tried)) == len(network.tried)


def test_an_impossible_budget_gives_the_most_accurate_mix() -> None:
    mix = Additive([0.3, 0.2], [1, 1]).run(-1.0)
    assert not mix.found
    assert mix.best.loss == 0
    assert mix.best.float_layers == {"layer0", "layer1"}


def test_a_metric_that_is_nan_is_out_of_every_budget() -> None:
    network = Additive([0.3, 0.2], [1, 2])

    def loss_of(floats: frozenset[str]) -> float:
        return math.nan if "layer0" not in floats else network.loss_of(floats)

    mix = search(["layer0", "layer1"], loss_of, network.seconds, 10.0)
    assert mix.found
    assert mix.best.float_layers == {"layer0"}


def test_layers_that_are_always_in_float_stay_so() -> None:
    network = Additive([0.3, 0.2, 0.1], [1, 1, 1])
    mix = search(["layer0", "layer1"], network.loss_of, network.seconds, 0.2, always=["layer2"])
    assert mix.best.float_layers == {"layer0", "layer2"}


def test_a_layer_that_is_faster_in_float_comes_first() -> None:
    assert order({"a": 1.0, "b": 0.1}, NO_COSTS, {"a": 1.0, "b": -0.5})[0] == "b"


def test_of_equal_layers_that_with_fewer_products_comes_first() -> None:
    costs = {
        name: LayerCost(name, macs, 0, 0, 0) for name, macs in (("a", 300), ("b", 200), ("c", 100))
    }
    same = dict.fromkeys(costs, 1.0)
    assert order(same, costs, same) == ["c", "b", "a"]


def test_equal_layers_are_ranked_by_name() -> None:
    assert order({"b": 1.0, "a": 1.0}, NO_COSTS, {"a": 1.0, "b": 1.0}) == ["a", "b"]


def test_sensitivities_are_what_one_layer_alone_does(tmp_path: object) -> None:
    model = pair()
    samples = samples_of(model, tmp_path)  # type: ignore[arg-type]
    prepared = Prepared(model, ranges_of(model, samples))
    table = placement("tensorrt")
    names = quantize(model, prepared.ranges, table)[1].layers
    few = samples.head(2)
    found = sensitivities(prepared, table, names, few)
    for name in names:
        graph, report = quantize(
            model, prepared.ranges, "tensorrt", keep_float=[n for n in names if n != name]
        )
        assert report.layers == [name]
        expected = np.mean([noise(infer(model, s.feeds), infer(graph, s.feeds)) for s in few])
        # Rounding in float32 aside, which moves a value over the middle now and then.
        assert found[name] == pytest.approx(expected, rel=1e-3)
    # To first order they add up: within 3 dB of what all layers together do.
    whole = mixed(prepared, table, [])
    together = np.mean([noise(infer(model, s.feeds), infer(whole, s.feeds)) for s in few])
    assert 0.5 < sum(found.values()) / together < 2


def test_known_sensitivities_are_not_measured_again(tmp_path: object) -> None:
    model = pair()
    samples = samples_of(model, tmp_path)  # type: ignore[arg-type]
    prepared = Prepared(model, ranges_of(model, samples))
    known = {"first": 1.0, "second": 2.0, "third": 3.0}
    table = placement("tensorrt")
    assert sensitivities(prepared, table, list(known), samples, known) == known
