"""Every method that raises accuracy does so, on what it was not tuned on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from onnxgraft.data.ranges import BY_HAND, Ranges
from onnxgraft.data.samples import Samples
from onnxgraft.errors import InputError
from onnxgraft.graph.model import Model
from onnxgraft.run.feeds import random_feeds
from onnxgraft.stages.quantize import IMPROVEMENTS, improve, quantize
from onnxgraft.targets import target_names
from tests.quantize.networks import infer, pair, ranges_of, residual, samples_of, sqnr


def gain(model: Model, ranges: Ranges, samples: Samples, *methods: str) -> tuple[float, float]:
    """Return the SQNR in dB without and with the methods, on samples of another seed."""
    feeds = random_feeds(model.inputs, 16, seed=77)
    expected = infer(model, feeds)["y"]
    plain = infer(quantize(model, ranges, "tensorrt")[0], feeds)["y"]
    found = improve(model, ranges, "tensorrt", samples, methods)
    better, _ = quantize(found.model, found.ranges, "tensorrt", improved=found.improved)
    return sqnr(expected, plain), sqnr(expected, infer(better, feeds)["y"])


# Which range is best for the next layer is not always so for the output: activations on a chain.
@pytest.mark.parametrize(
    ("method", "network"),
    [
        ("equalize", pair),
        ("equalize", residual),
        ("activations", pair),
        ("rounding", pair),
        ("rounding", residual),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_a_method_raises_the_signal_over_the_noise(
    method: str, network: Callable[[], Model], tmp_path: Path
) -> None:
    model = network()
    samples = samples_of(model, tmp_path)
    before, after = gain(model, ranges_of(model, samples), samples, method)
    assert after > before


def test_mse_ranges_help_where_few_weights_are_far_larger_than_the_rest(tmp_path: Path) -> None:
    model = pair()
    for node in model.graph.nodes:
        if node.op == "Conv":
            node.inputs[1].values[:, 0, 0, 0] *= 3
    samples = samples_of(model, tmp_path)
    before, after = gain(model, ranges_of(model, samples), samples, "weights")
    assert after > before - 0.1  # a cut weight costs where rounding gains: never much


def test_a_bias_takes_back_what_is_lost_on_average(tmp_path: Path) -> None:
    model = pair()
    samples = samples_of(model, tmp_path)
    ranges = ranges_of(model, samples)
    # Cut at a third, positive activations lose in one direction.
    low = {
        name: replace(value, low=value.low / 3, high=value.high / 3)
        for name, value in ranges.tensors.items()
    }
    before, after = gain(model, replace(ranges, tensors=low), samples, "bias")
    assert after > before


def test_all_methods_together_are_better_than_none(tmp_path: Path) -> None:
    model = pair()
    samples = samples_of(model, tmp_path)
    before, after = gain(model, ranges_of(model, samples), samples, *IMPROVEMENTS)
    assert after > before + 1


def test_the_same_seed_gives_the_same_integers(tmp_path: Path) -> None:
    model = pair()
    samples = samples_of(model, tmp_path)
    ranges = ranges_of(model, samples)
    one, other = (improve(model, ranges, "tensorrt", samples) for _ in range(2))
    assert one.ranges.tensors == other.ranges.tensors
    for name, stored in one.improved.weights.items():
        np.testing.assert_array_equal(stored.integers, other.improved.weights[name].integers)


def test_a_range_by_hand_is_not_chosen_again(tmp_path: Path) -> None:
    model = pair()
    samples = samples_of(model, tmp_path)
    ranges = ranges_of(model, samples).with_overrides({"image": (-2.0, 2.0)}, "here")
    found = improve(model, ranges, "tensorrt", samples, ["activations"])
    assert found.ranges.tensors["image"].origin == BY_HAND
    assert found.ranges.tensors["image"].amax == 2


def test_ranges_without_histograms_can_still_be_cut(tmp_path: Path) -> None:
    model = pair()
    samples = samples_of(model, tmp_path)
    ranges = replace(ranges_of(model, samples), histograms={})
    before, after = gain(model, ranges, samples, "activations")
    assert after > before


@pytest.mark.parametrize("target", target_names())
def test_every_target_can_be_improved(target: str, tmp_path: Path) -> None:
    model = pair()
    samples = samples_of(model, tmp_path)
    found = improve(model, ranges_of(model, samples), target, samples, IMPROVEMENTS)
    graph, report = quantize(found.model, found.ranges, target, improved=found.improved)
    assert report.layers == ["first", "second", "third"]
    assert found.methods == IMPROVEMENTS
    feeds = random_feeds(model.inputs, 4)
    assert sqnr(infer(model, feeds)["y"], infer(graph, feeds)["y"]) > 20


def test_an_unknown_method_is_refused(tmp_path: Path) -> None:
    model = pair()
    samples = samples_of(model, tmp_path)
    with pytest.raises(InputError, match="did you mean rounding"):
        improve(model, ranges_of(model, samples), "tensorrt", samples, ["roundin"])


def test_ranges_of_another_graph_are_refused(tmp_path: Path) -> None:
    samples = samples_of(pair(), tmp_path)
    with pytest.raises(InputError, match="measured on another graph"):
        improve(residual(), ranges_of(pair(), samples), "tensorrt", samples)
