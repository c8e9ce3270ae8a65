"""Every method that raises accuracy does so, on what it was not tuned on."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxgraft.data.ranges import BY_HAND, Ranges
from onnxgraft.data.samples import Samples, open_samples
from onnxgraft.errors import InputError
from onnxgraft.graph.model import Model
from onnxgraft.graph.tensors import Feeds, Outputs
from onnxgraft.run.exact import exact
from onnxgraft.run.feeds import random_feeds
from onnxgraft.run.session import OnnxRuntime
from onnxgraft.stages.quantize import (
    IMPROVEMENTS,
    METHODS,
    Prepared,
    calibrate,
    improve,
    placement,
    quantize,
    rechoose,
    settle,
)
from onnxgraft.stages.quantize.improve.whole import Judge, Noise, held_out, noise_of
from onnxgraft.targets import target_names
from tests.conftest import model_of
from tests.quantize.networks import (
    PAIR,
    PAIR_SHAPES,
    infer,
    pair,
    ranges_of,
    residual,
    samples_of,
    sqnr,
    weights,
)

# Its function has its name.
module = importlib.import_module("onnxgraft.stages.quantize.improve.improve")


W = {"w": np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)}


def gain(model: Model, ranges: Ranges, samples: Samples, *methods: str) -> tuple[float, float]:
    """Return the SQNR in dB without and with the methods, on samples of another seed."""
    feeds = random_feeds(model.inputs, 16, seed=77)
    expected = infer(model, feeds)["y"]
    plain = infer(quantize(model, ranges, "tensorrt")[0], feeds)["y"]
    found = improve(model, ranges, "tensorrt", samples, methods)
    better, _ = quantize(found.model, found.ranges, "tensorrt", improved=found.improved)
    return sqnr(expected, plain), sqnr(expected, infer(better, feeds)["y"])


@pytest.mark.parametrize(
    ("method", "network"),
    [
        ("equalize", pair),
        ("equalize", residual),
        ("rounding", pair),
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


def half_read() -> Model:
    """Return a chain that does not look at the last channel of its image."""
    model = pair()
    next(node for node in model.graph.nodes if node.name == "first").inputs[1].values[:, 2] = 0
    return model


def tailed(model: Model, folder: Path) -> Samples:
    """Return samples of which the last channel of the first has one far larger value."""
    feeds = random_feeds(model.inputs, 24, seed=5)
    feeds["image"][0, 2, 0, 0] = 80
    np.savez(folder / "tailed.npz", **feeds)
    return open_samples(folder / "tailed.npz", model.inputs)


@pytest.mark.parametrize("histograms", [True, False])
def test_ranges_are_cut_where_few_values_are_far_larger(histograms: bool, tmp_path: Path) -> None:
    model = half_read()
    samples = tailed(model, tmp_path)
    ranges = ranges_of(model, samples)
    if not histograms:
        ranges = replace(ranges, histograms={})
    found = improve(model, ranges, "tensorrt", samples, ["activations"])
    assert found.methods == ("activations",), found.notes
    assert found.ranges.tensors["image"].amax < ranges.tensors["image"].amax


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
        np.testing.assert_array_equal(stored.numbers, other.improved.weights[name].numbers)


@pytest.mark.parametrize("tensor", ["image", "b"])
def test_a_range_by_hand_is_not_chosen_again(tensor: str, tmp_path: Path) -> None:
    model = pair()
    samples = samples_of(model, tmp_path)
    ranges = ranges_of(model, samples).with_overrides({tensor: (-3.0, 3.0)}, "here")
    found = improve(model, ranges, "tensorrt", samples, ["equalize", "activations"])
    assert tensor != "image" or "equalize" in found.methods, found.notes
    assert found.ranges.tensors[tensor].origin == BY_HAND
    assert found.ranges.tensors[tensor].amax == 3


@pytest.mark.parametrize("target", target_names())
def test_every_target_can_be_improved(target: str, tmp_path: Path) -> None:
    model = pair()
    samples = samples_of(model, tmp_path)
    methods = [name for name in IMPROVEMENTS if name != "smooth"]  # there is no normalization
    found = improve(model, ranges_of(model, samples), target, samples, methods)
    graph, report = quantize(found.model, found.ranges, target, improved=found.improved)
    assert report.layers == ["first", "second", "third"]
    told = [note for note in found.notes if "was taken back" in note]
    assert len(found.methods) + len(told) == len(methods)
    assert found.methods
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


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("network", [pair, residual], ids=lambda network: network.__name__)
def test_no_improvement_makes_a_network_worse(
    network: Callable[[], Model], seed: int, tmp_path: Path
) -> None:
    model = network()
    samples = samples_of(model, tmp_path, seed=seed)
    ranges = ranges_of(model, samples)
    judged = samples_of(model, tmp_path, seed=100 + seed)
    judge = Judge(model, judged, placement("tensorrt"))
    found = improve(model, ranges, "tensorrt", samples, IMPROVEMENTS)
    before = judge.noise(model, ranges).mean
    after = judge.noise(found.model, found.ranges, found.improved).mean
    assert after <= before + 0.1  # dB, on samples of another seed


def test_what_makes_the_network_worse_is_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = pair()
    samples = samples_of(model, tmp_path)
    ranges = ranges_of(model, samples)

    def spoilt(work: Any, state: Prepared) -> tuple[Prepared, str]:
        cut = {
            name: replace(value, low=value.low / 20, high=value.high / 20)
            for name, value in state.ranges.tensors.items()
        }
        return replace(state, ranges=replace(state.ranges, tensors=cut)), "spoilt"

    monkeypatch.setitem(module._STEPS, "activations", spoilt)
    found = improve(model, ranges, "tensorrt", samples, ["activations", "rounding"])
    assert found.ranges.tensors == ranges.tensors
    assert found.methods == ("rounding",)
    assert found.notes[0].startswith("activations was taken back: signal over noise is ")


# The method that chooses all ranges.


@pytest.mark.parametrize("target", target_names())
def test_auto_takes_the_method_with_which_the_network_loses_least(
    target: str, tmp_path: Path
) -> None:
    model = half_read()
    samples = tailed(model, tmp_path)
    ranges = calibrate(model, samples)
    chosen = settle(model, ranges, samples, target)
    assert (chosen.method, chosen.chosen_for) == ("auto", target)
    assert set(chosen.tried) == set(METHODS)
    best = max(METHODS, key=lambda method: chosen.tried[method])
    again = rechoose(ranges, best).tensors
    assert {name: value.amax for name, value in chosen.tensors.items()} == {
        name: value.amax for name, value in again.items()
    }
    assert {value.origin for value in chosen.tensors.values()} == {best}
    assert chosen.tried[best] > min(chosen.tried.values()) + 1
    assert f"ranges by {best}" in chosen.choice
    # On what nothing was fitted to it is no worse than any other, but for ties.
    judge = Judge(model, samples_of(model, tmp_path, seed=9), placement(target))
    found = {method: judge.noise(model, rechoose(ranges, method)).mean for method in METHODS}
    assert found[best] <= min(found.values()) + 0.3


def test_auto_judges_on_samples_that_it_did_not_see(tmp_path: Path) -> None:
    model = pair()
    samples = samples_of(model, tmp_path)
    fitted, kept = held_out(samples)
    assert not {*fitted.indices} & {*kept.indices}
    assert len(fitted) == 18
    # Largest in those that are kept apart: what was seen before cuts it.
    values = np.ones((24, 3, 16, 16), np.float32)
    values[[*kept.indices]] = np.random.default_rng(0).standard_normal((6, 3, 16, 16)) * 10
    np.savez(tmp_path / "late.npz", image=values)
    late = open_samples(tmp_path / "late.npz", model.inputs)
    chosen = settle(model, calibrate(model, late), late, "tensorrt")
    assert max(chosen.tried.values()) < 10
    assert chosen.tensors["image"].maximum == values.max()


CLASSIFIER = """
network (float[N, 3, 16, 16] image) => (float[N, 10] y) {
    [first] a = Conv <pads = [1, 1, 1, 1]> (image, w1, b1)
    [relu] b = Relu (a)
    [pool] c = GlobalAveragePool (b)
    [flat] d = Flatten (c)
    [second] e = Gemm (d, w2, b2)
    [ready] f = Identity (e)
    [end] p = Softmax <axis = -1> (f)
    [named] y = Identity (p)
}
"""
LAST = "[end] p = Softmax <axis = -1> (f)"
CLASSIFIER_SHAPES = {"w1": (8, 3, 3, 3), "b1": (8,), "w2": (8, 10), "b2": (10,)}


def classifier(end: str = "Softmax <axis = -1>") -> Model:
    """Return one that is sure: of ten classes one has a probability of 1."""
    constants = {name: 30 * value for name, value in weights(CLASSIFIER_SHAPES).items()}
    if end == WRITTEN_OUT:
        constants |= {"ones": np.array([1]), "upright": np.array([-1, 1])}
        constants["shape"] = np.array([1, 10])
        return model_of(CLASSIFIER.replace(LAST, WRITTEN_OUT.strip()), constants)
    return model_of(CLASSIFIER.replace("Softmax <axis = -1>", end), constants)


# As JAX has it.
WRITTEN_OUT = """
    [greatest] g = ReduceMax <axes = [1], keepdims = 0> (f)
    [column] h = Reshape (g, upright)
    [as_wide] i = Expand (h, shape)
    [below] j = Sub (f, i)
    [exp] k = Exp (j)
    [sum] l = ReduceSum <keepdims = 0> (k, ones)
    [upright] m = Reshape (l, upright)
    [all] n = Expand (m, shape)
    [end] p = Div (k, n)
"""


@pytest.mark.parametrize("target", target_names())
@pytest.mark.parametrize("end", ["Softmax <axis = -1>", "Sigmoid", WRITTEN_OUT])
def test_a_sure_classifier_is_judged_by_what_its_end_takes(
    end: str, target: str, tmp_path: Path
) -> None:
    model = classifier(end)
    samples = samples_of(model, tmp_path)
    ranges = calibrate(model, samples)
    graph, _ = quantize(model, ranges, target)
    pairs = []
    with exact(model, outputs=["e"]) as right, exact(graph, outputs=["e"]) as found:
        for sample in samples:
            pair_of = [session.infer(sample.feeds)["e"].copy() for session in (right, found)]
            if end != "Sigmoid":
                pair_of = [value - value.mean() for value in pair_of]
            pairs.append(pair_of)
    # Ten values of a sample say little: 24 samples are taken as eight.
    expected = [
        noise_of(*({"e": np.concatenate(side)} for side in zip(*pairs[i : i + 3], strict=True)))
        for i in range(0, 24, 3)
    ]
    noise = Judge(model, samples, placement(target)).noise(model, ranges)
    # Written out, the greatest value is taken off in float32 first.
    atol = 2e-3 if end == WRITTEN_OUT else 1e-6
    np.testing.assert_allclose(noise.samples, expected, rtol=0, atol=atol)
    with exact(model) as right, exact(graph) as found:
        sure = [noise_of(right.infer(s.feeds), found.infer(s.feeds)) for s in samples]
    assert max(sure) < -140 < -70 < min(noise.samples)


@pytest.mark.parametrize(("few", "count"), [(True, 96), (True, 40), (True, 5), (False, 96)])
def test_of_few_values_more_samples_are_run(
    few: bool, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = classifier() if few else pair()
    samples = samples_of(model, tmp_path, count=count)
    fitted, kept = held_out(samples)
    judge = Judge(model, kept, placement("tensorrt"), fitted)
    ran = []
    infer = OnnxRuntime.infer

    def counting(self: OnnxRuntime, feeds: Feeds) -> Outputs:
        ran.append(feeds)
        return infer(self, feeds)

    ranges = calibrate(model, samples)
    monkeypatch.setattr(OnnxRuntime, "infer", counting)
    noise = judge.noise(model, ranges)
    assert len(ran) == (min(count, 64) if few else 8)
    assert len(noise.samples) == min(len(ran), 8)


def test_one_value_of_several_samples_is_judged_by_how_it_varies(tmp_path: Path) -> None:
    ends = PAIR.replace("N, 5, 8, 8] y", "N, 1, 1, 1] y").replace("[third] y =", "[third] z =")
    ends = ends.replace("}", "[mean] y = ReduceMean <axes = [1, 2, 3]> (z)\n}")
    model = model_of(ends, weights(PAIR_SHAPES))
    samples = samples_of(model, tmp_path, count=64)
    ranges = calibrate(model, samples)
    graph, _ = quantize(model, ranges, "tensorrt")
    with exact(model) as right, exact(graph) as found:
        y = [[s.infer(sample.feeds)["y"].item() for sample in samples] for s in (right, found)]
    off, values = np.square(np.subtract(*y)).reshape(8, 8), np.array(y[0]).reshape(8, 8)
    expected = 10 * np.log10(off.sum(axis=1) / values.var(axis=1) / 8)
    noise = Judge(model, samples, placement("tensorrt")).noise(model, ranges)
    np.testing.assert_allclose(noise.samples, np.minimum(expected, 0), rtol=0, atol=1e-4)


def test_a_map_s_probabilities_are_judged_themselves(tmp_path: Path) -> None:
    text = PAIR.replace("[third] y = Conv", "[third] z = Conv").replace(
        "(e, w3, b3)", "(e, w3, b3)  [end] y = Softmax <axis = 1> (z)"
    ).replace("8, 8] y", "32, 32] y").replace("16, 16]", "64, 64]")  # fmt: skip
    model = model_of(text, weights(PAIR_SHAPES))
    samples = samples_of(model, tmp_path).head(8)
    ranges = calibrate(model, samples)
    graph, _ = quantize(model, ranges, "tensorrt")
    with exact(model) as right, exact(graph) as found:
        expected = [noise_of(right.infer(s.feeds), found.infer(s.feeds)) for s in samples]
    noise = Judge(model, samples, placement("tensorrt")).noise(model, ranges)
    np.testing.assert_allclose(noise.samples, expected, atol=1e-6)


def test_auto_chooses_again_for_another_target(tmp_path: Path) -> None:
    model = half_read()
    samples = tailed(model, tmp_path)
    ranges = settle(model, calibrate(model, samples), samples, "tensorrt")
    found = improve(model, ranges, "openvino", samples, [])
    assert found.ranges.chosen_for == "openvino"
    assert "in the form for openvino" in found.notes[0]


def test_a_method_with_which_nothing_is_finite_does_not_win(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = half_read()
    samples = tailed(model, tmp_path)
    left = iter([np.inf, -20.0, np.inf, -10.0])  # of mse, percentile, minmax and entropy

    monkeypatch.setattr(Judge, "noise", lambda *_, **__: Noise((next(left),) * 4))
    chosen = settle(model, calibrate(model, samples), samples, "tensorrt")
    assert chosen.tried == {
        "entropy": 10.0, "minmax": -np.inf, "percentile": 20.0, "mse": -np.inf
    }  # fmt: skip
    assert {value.origin for value in chosen.tensors.values()} == {"percentile"}
    chosen.save(tmp_path / "ranges.json")
    assert Ranges.load(tmp_path / "ranges.json").tried == chosen.tried


@pytest.mark.parametrize(
    ("level", "gain", "stay"),
    [
        (-20.0, 0.5, {"rounding", "bias"}),
        (-20.0, 0.0, {"bias"}),
        (-20.0, -0.5, set()),
        (-3.0, 0.0, set()),
        (-3.0, 0.5, {"rounding", "bias"}),
    ],
    ids=["a gain", "none", "a loss", "none, and hardly a signal", "a gain, and hardly a signal"],
)
def test_without_a_gain_the_biases_alone_stay_corrected(
    level: float, gain: float, stay: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Told(Judge):
        def noise(self, *_: Any, **__: Any) -> Noise:
            self.level = getattr(self, "level", level + gain) - gain
            return Noise((self.level,) * 4)

    monkeypatch.setattr(module, "Judge", Told)
    model = pair()
    samples = samples_of(model, tmp_path)
    found = improve(model, ranges_of(model, samples), "tensorrt", samples, ["rounding", "bias"])
    assert set(found.methods) == stay, found.notes


def test_what_is_worse_on_each_of_the_first_samples_is_not_run_on_the_others(
    tmp_path: Path,
) -> None:
    model = half_read()
    samples = tailed(model, tmp_path)
    ranges = calibrate(model, samples)
    judge = Judge(model, samples.head(6), placement("tensorrt"))
    alone = judge.noise(model, ranges)
    better, worse = (Noise(tuple(value + step for value in alone.samples)) for step in (-1, 1))
    assert len(alone.samples) == 6
    assert judge.noise(model, ranges, than=better).samples == alone.samples[:3]
    assert judge.noise(model, ranges, than=worse) == alone
    assert not judge.noise(model, ranges, than=better).better_than(better)
    assert alone.better_than(worse)


@pytest.mark.parametrize("count", [4, 5, 11, 31, 32, 64, 100, 1000])
def test_a_quarter_of_the_samples_is_kept_apart_from_all_over(count: int, tmp_path: Path) -> None:
    samples = replace(samples_of(pair(), tmp_path), indices=tuple(range(count)))
    fitted, kept = held_out(samples)
    assert sorted([*fitted.indices, *kept.indices]) == list(range(count))
    assert len(kept) == count // 4
    # Of a list that is ordered by films or classes there is something of each eighth.
    parts = min(8, count // 4)
    for part in range(parts):
        inside = range(part * count // parts, (part + 1) * count // parts)
        share = len({*kept.indices} & {*inside})
        assert abs(share - count / 4 / parts) < 1


def test_too_few_samples_are_judged_on_themselves(tmp_path: Path) -> None:
    model = pair()
    samples = samples_of(model, tmp_path, count=2)
    assert held_out(samples) == (samples, samples)
    chosen = settle(model, calibrate(model, samples), samples, "tensorrt")
    assert chosen.tried


def test_a_sample_that_was_skipped_is_not_run(tmp_path: Path) -> None:
    model = pair()
    values = random_feeds(model.inputs, 8, seed=1)["image"]
    values[3] = np.nan
    np.savez(tmp_path / "bad.npz", image=values)
    samples = open_samples(tmp_path / "bad.npz", model.inputs)
    ranges = calibrate(model, samples, skip_bad=True)
    assert list(ranges.skipped) == [samples.name(3)]
    assert 3 in {*held_out(samples)[1].indices}
    assert 3 not in {*held_out(samples, ranges.skipped)[1].indices}
    assert np.isfinite(list(settle(model, ranges, samples, "tensorrt").tried.values())).all()


# What a network's noise is.


def test_noise_is_that_of_every_channel_alike() -> None:
    rng = np.random.default_rng(0)
    right = rng.standard_normal((1, 100, 3)) * [1000.0, 1.0, 0.01]
    wrong = right + rng.standard_normal(right.shape) * [1.0, 0.1, 0.005]
    centred = np.square(right - right.mean(1, keepdims=True)).sum(1)
    textbook = [
        10 * math.log10(math.fsum(((right - wrong)[0, :, c] ** 2).tolist()) / float(centred[0, c]))
        for c in range(3)
    ]
    found = noise_of({"y": right.astype(np.float32)}, {"y": wrong.astype(np.float32)})
    assert found == pytest.approx(np.mean(textbook), abs=1e-3)  # of float32's rounding


def test_what_is_the_same_has_no_noise_and_what_is_not_a_number_any() -> None:
    right = {"y": np.arange(40, dtype=np.float32).reshape(1, 2, 20)}
    assert noise_of(right, right) == -150
    assert noise_of(right, {"y": np.full((1, 2, 20), np.nan, np.float32)}) == math.inf
    assert noise_of({"y": np.zeros((1, 3), np.float32)}, {"y": np.ones((1, 3), np.float32)}) == 0
    assert noise_of({}, {}) == -150


def test_a_channel_with_more_noise_than_signal_is_lost_however_much_it_has() -> None:
    right = np.random.default_rng(0).standard_normal((1, 2, 40)).astype(np.float32)
    far, farther = (right + np.float32([[[scale], [0.1]]]) for scale in (3, 9))
    assert noise_of({"y": right}, {"y": far}) == noise_of({"y": right}, {"y": farther}) < 0
    assert noise_of({"y": right}, {"y": right + 5}) == 0


def test_of_classes_the_share_that_differs_is_the_noise() -> None:
    right, wrong = np.arange(10), np.arange(10)
    wrong[3] = 0
    assert noise_of({"k": right}, {"k": wrong}) == pytest.approx(-10)
    assert noise_of({"k": right}, {"k": right}) == -150
    assert noise_of({"k": right}, {"k": right[:4]}) == 0
    # Beside scores it does not count.
    scores = np.linspace(0, 1, 40, dtype=np.float32)
    assert noise_of({"k": right, "y": scores}, {"k": wrong, "y": scores}) == -150


@pytest.mark.parametrize(
    ("one", "other", "better"),
    [
        ((-20.0, -21.0, -19.0), (-19.0, -20.0, -18.0), True),
        ((-20.0, -21.0, -19.0), (-20.01, -20.96, -19.0), False),
        ((-25.0, -15.0, -20.1), (-20.0, -20.0, -20.0), False),
        ((-20.2, -19.98, -20.2, -20.0), (-20.0,) * 4, True),
        ((-21.2, -19.6, -21.2, -19.6), (-20.0,) * 4, False),
        ((-20.0,), (math.inf,), True),
    ],
    ids=[
        "better",
        "by nothing",
        "by chance",
        "likely, worse by 0.1 dB at most",
        "as likely, perhaps far worse",
        "than a failure",
    ],
)
def test_better_is_more_than_chance(
    one: tuple[float, ...], other: tuple[float, ...], better: bool
) -> None:
    assert Noise(one).better_than(Noise(other)) is better


@pytest.mark.parametrize(
    ("one", "other", "no_worse"),
    [
        ((-20.1, -19.9, -20.0), (-20.0,) * 3, True),
        ((-20.3, -19.5, -20.4), (-20.0,) * 3, False),
        ((-19.96, -19.96, -19.96), (-20.0,) * 3, True),
        ((-19.9, -19.9, -19.9), (-20.0,) * 3, False),
        ((-20.1, -19.4, -19.6), (-20.0,) * 3, False),
        ((math.inf,), (-20.0,), False),
    ],
    ids=[
        "by chance",
        "perhaps by much",
        "by nothing",
        "a little, everywhere",
        "more than chance",
        "a failure",
    ],
)
def test_worse_is_more_than_chance(
    one: tuple[float, ...], other: tuple[float, ...], no_worse: bool
) -> None:
    assert Noise(one).no_worse_than(Noise(other)) is no_worse


def test_a_method_that_finds_nothing_to_do_is_not_told(tmp_path: Path) -> None:
    model = model_of("g (float[N, 4] x) => (float[N, 3] y) { y = MatMul (x, w) }", W)
    samples = samples_of(model, tmp_path)
    found = improve(model, ranges_of(model, samples), "tensorrt", samples, ["equalize"])
    assert (found.methods, found.notes) == ((), ())
