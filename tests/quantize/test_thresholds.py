"""Ranges from histograms, held against what the published definitions give on the raw data."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from onnxgraft.data.ranges import Histogram, bin_edges
from onnxgraft.graph.tensors import Array
from onnxgraft.stages.quantize import METHODS, Method, choose_range
from onnxgraft.stages.quantize.measure.thresholds import (
    LEVELS,
    MOST_CLIPPED,
    PERCENTILE,
    entropy_threshold,
    linear_bins,
    squared_errors,
)
from tests.conftest import few

BINS = 2048


def histogram_of(values: Array) -> Histogram:
    """Return the histogram of an array."""
    histogram = Histogram()
    histogram.add(np.asarray(values, np.float32))
    return histogram


def slow_divergence(bins: list[float], kept: int) -> float:
    """Return the divergence of ``kept`` bins as S7310 defines it, one bin after the other.

    The levels are equally wide, as those of an integer are.
    """
    p = list(bins[:kept])
    p[-1] += math.fsum(bins[kept:])
    levels: dict[int, list[int]] = {}
    for i in range(kept):
        levels.setdefault(128 * i // kept, []).append(i)
    q = [0.0] * kept
    for level in levels.values():
        filled = [i for i in level if bins[i] > 0]
        for i in filled:
            q[i] = math.fsum(bins[j] for j in level) / len(filled)
    p_sum, q_sum = math.fsum(p), math.fsum(q)
    terms = []
    for p_i, q_i in zip(p, q, strict=True):
        if p_i > 0:
            if q_i == 0:
                return math.inf
            terms.append(p_i / p_sum * math.log((p_i / p_sum) / (q_i / q_sum)))
    return math.fsum(terms)


def slow_threshold(bins: list[float]) -> float:
    """Return the threshold, in bins, among those that clip no more than is allowed."""
    divergences = {kept: slow_divergence(bins, kept) for kept in range(128, len(bins) + 1)}
    total = math.fsum(bins)
    allowed = {
        kept: divergence
        for kept, divergence in divergences.items()
        if math.fsum(bins[kept:]) <= MOST_CLIPPED * total
    }
    return min(allowed, key=lambda kept: allowed[kept]) + 0.5


def gaussian(rng: np.random.Generator) -> Array:
    return rng.standard_normal(200_000)


def half_gaussian(rng: np.random.Generator) -> Array:
    return np.maximum(rng.standard_normal(100_000), 0)


def laplace(rng: np.random.Generator) -> Array:
    return rng.laplace(size=100_000)


def uniform(rng: np.random.Generator) -> Array:
    return rng.uniform(-1, 1, 100_000)


def bimodal(rng: np.random.Generator) -> Array:
    return np.concatenate([rng.normal(1, 0.1, 50_000), rng.normal(6, 0.3, 50_000)])


def with_outliers(rng: np.random.Generator) -> Array:
    return np.append(rng.standard_normal(100_000), [40.0, -50.0, 45.0])


def few_values(rng: np.random.Generator) -> Array:
    return rng.standard_normal(300)


SHAPES = [gaussian, half_gaussian, laplace, uniform, bimodal, with_outliers, few_values]


@pytest.mark.parametrize("shape", few(SHAPES, 1, 2), ids=lambda shape: shape.__name__)
def test_entropy_is_the_published_algorithm(shape: Callable[..., Array]) -> None:
    magnitudes = np.abs(shape(np.random.default_rng(1)))
    counts, _ = np.histogram(magnitudes[magnitudes > 0], BINS, (0.0, magnitudes.max()))
    assert entropy_threshold(counts.astype(np.float64)) == slow_threshold(counts.tolist())


def test_entropy_clips_lonely_outliers() -> None:
    values = np.append(np.random.default_rng(1).standard_normal(1_000_000), [40.0, -50.0, 45.0])
    chosen = choose_range(histogram_of(values), "entropy")
    assert chosen.maximum == 45.0
    # The normal values end near 4.5; 128 of 2048 bins, the fewest that are tried, are 3.1.
    assert 3.0 < chosen.high < 8.0
    assert -8.0 < chosen.low < -3.0


def hard_swish(rng: np.random.Generator) -> Array:
    values = 4 * rng.standard_normal(100_000)
    return values * np.clip(values + 3, 0, 6) / 6


def heavy_tail(rng: np.random.Generator) -> Array:
    return np.exp(rng.standard_normal(100_000))


@pytest.mark.parametrize(
    "shape", [half_gaussian, laplace, hard_swish], ids=lambda shape: shape.__name__
)
def test_entropy_does_not_gather_where_bins_divide_evenly(shape: Callable[..., Array]) -> None:
    # With a last level that holds the remainder, 128 k - 1 bins cost nothing in all the others.
    gathered = 0
    for seed in range(6):
        magnitudes = np.abs(shape(np.random.default_rng(seed)))
        counts, _ = np.histogram(magnitudes[magnitudes > 0], BINS, (0.0, magnitudes.max()))
        gathered += int(entropy_threshold(counts.astype(np.float64))) % LEVELS == LEVELS - 1
    assert gathered <= 1  # by chance; all six did


@pytest.mark.parametrize(
    "shape", [*SHAPES, hard_swish, heavy_tail], ids=lambda shape: shape.__name__
)
def test_entropy_has_no_larger_squared_error_than_minmax(shape: Callable[..., Array]) -> None:
    values = shape(np.random.default_rng(6)).astype(np.float32)
    histogram = histogram_of(values)
    entropy, minmax = (
        error_of(values, choose_range(histogram, method).amax) for method in ("entropy", "minmax")
    )
    # The histogram knows a value to within its bin of 1/128.
    assert entropy <= 1.02 * minmax


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.__name__)
def test_squared_errors_are_those_of_values_spread_within_their_bins(
    shape: Callable[..., Array],
) -> None:
    magnitudes = np.abs(shape(np.random.default_rng(7)))
    counts, _ = np.histogram(magnitudes, 64, (0.0, magnitudes.max()))
    values = (np.arange(20_000 * len(counts)) + 0.5) / 20_000
    weights = np.repeat(counts / 20_000, 20_000)
    for threshold in (10.0, 41.5, 64.0):
        step = threshold / 127
        restored = np.minimum(np.rint(values / step), 127) * step
        textbook = float(np.dot(weights, (values - restored) ** 2))
        (found,) = squared_errors(counts.astype(np.float64), np.array([threshold]))
        # The textbook sum takes 20,000 points of a bin, and the error has corners within it.
        assert found == pytest.approx(textbook, rel=1e-5)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.__name__)
def test_entropy_never_clips_more_than_is_allowed(shape: Callable[..., Array]) -> None:
    values = shape(np.random.default_rng(2)).astype(np.float32)
    chosen = choose_range(histogram_of(values), "entropy")
    clipped = np.mean((values[values != 0] < chosen.low) | (values[values != 0] > chosen.high))
    # A linear bin of counts that were spread evenly may be wrong by one bin's worth of values.
    magnitudes = np.abs(values[values != 0])
    width = magnitudes.max() / BINS
    one_bin = np.mean(np.abs(magnitudes - chosen.amax) <= width + magnitudes / 128)
    assert clipped <= MOST_CLIPPED + one_bin


# Degenerate tensors.


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("values", [[], [0.0], [0.0, -0.0, 0.0]], ids=["none", "zero", "zeros"])
def test_nothing_but_zeros_has_the_range_zero(method: Method, values: list[float]) -> None:
    chosen = choose_range(histogram_of(np.array(values)), method)
    assert (chosen.low, chosen.high, chosen.amax) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("value", [3.0, -3.0, 1e-30, 3e38], ids=["3", "-3", "tiny", "huge"])
def test_a_constant_is_kept(method: Method, value: float) -> None:
    constant = np.float32(value)
    chosen = choose_range(histogram_of(np.full(1000, constant)), method)
    # A bin of the histogram is 1/128 of its values wide, so a threshold may end inside of it.
    assert (chosen.low, chosen.high) == pytest.approx((constant, constant), rel=1 / 128)


@pytest.mark.parametrize("method", METHODS)
def test_a_constant_among_zeros_is_kept(method: Method) -> None:
    values = np.zeros(1000, np.float32)
    values[::3] = 7.5
    chosen = choose_range(histogram_of(values), method)
    assert chosen.low == 0.0
    assert chosen.high == pytest.approx(7.5, rel=1 / BINS)


@pytest.mark.parametrize("method", METHODS)
def test_equidistant_spikes_are_not_clipped(method: Method) -> None:
    # Pixels of 17 gray levels, each as frequent as the others: clipping one loses 6 %.
    values = np.repeat(np.arange(17) / 16, 100)
    chosen = choose_range(histogram_of(values), method)
    assert chosen.low == 0.0
    # A spike is spread over its bin of 1/128, so the threshold may end inside of the last one.
    assert chosen.high >= 1 - 1 / 64


def test_rare_spikes_are_clipped_by_no_more_than_is_allowed() -> None:
    # Each level half as frequent as the one below.
    values = np.repeat(np.arange(17) / 16, 1 << np.arange(17)[::-1])
    chosen = choose_range(histogram_of(values), "entropy")
    assert np.mean(values[values > 0] > chosen.high * (1 + 1 / 128)) <= MOST_CLIPPED


@pytest.mark.parametrize("method", METHODS)
def test_a_negative_tensor_keeps_its_side(method: Method) -> None:
    values = -np.abs(np.random.default_rng(0).standard_normal(10_000)) - 0.5
    chosen = choose_range(histogram_of(values), method)
    assert chosen.high == np.float32(values.max())
    assert np.float32(values.min()) <= chosen.low < -2.0


def test_no_counts_at_all_keep_everything() -> None:
    assert entropy_threshold(np.zeros(BINS)) == BINS + 0.5


@pytest.mark.parametrize("last", [1.0, 1e9])
def test_counts_in_the_last_bin_alone_keep_everything(last: float) -> None:
    counts = np.zeros(BINS)
    counts[-1] = last
    assert entropy_threshold(counts) == BINS + 0.5


def test_counts_in_the_first_bins_alone_keep_the_fewest() -> None:
    counts = np.zeros(BINS)
    counts[:LEVELS] = np.arange(1, LEVELS + 1)
    assert entropy_threshold(counts) == LEVELS + 0.5


@given(
    values=hnp.arrays(
        np.float32,
        st.integers(1, 30),
        elements=st.floats(width=32, allow_nan=False, allow_infinity=False),
    ),
    method=st.sampled_from(METHODS),
)
@example(values=np.array([257.0], np.float32), method="mse")
# Zeros fill the first bin of the histogram, which is wider here than the linear ones.
@example(values=np.array([8.87342e-39, 0.0], np.float32), method="entropy")
def test_a_range_lies_within_what_was_seen(values: Array, method: Method) -> None:
    chosen = choose_range(histogram_of(values), method)
    assert (chosen.minimum, chosen.maximum) == (values.min(), values.max())
    assert chosen.minimum <= chosen.low <= chosen.high <= chosen.maximum
    assert chosen.origin == method
    # A quantizer without a width would divide by zero.
    assert (chosen.amax > 0) == bool(np.abs(values).max() > 0)


# Linear bins.


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.__name__)
@pytest.mark.parametrize("bins", [BINS, 100])
def test_linear_bins_hold_every_value(shape: Callable[..., Array], bins: int) -> None:
    values = shape(np.random.default_rng(3))
    counts = linear_bins(histogram_of(values), bins)
    assert counts.shape == (bins,)
    assert (counts >= 0).all()
    # Differences of a float64 cumulative sum up to 2e5.
    assert counts.sum() == pytest.approx(len(values), abs=1e-6)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.__name__)
def test_linear_bins_are_off_by_at_most_one_bin_of_the_histogram(
    shape: Callable[..., Array],
) -> None:
    values = shape(np.random.default_rng(3)).astype(np.float32)
    histogram = histogram_of(values)
    counts, edges = np.histogram(
        np.abs(values).astype(np.float64), BINS, (0.0, float(histogram.amax))
    )
    off = np.abs(np.cumsum(linear_bins(histogram)) - np.cumsum(counts))
    # What lies on either side of an edge is unknown only within the fine bin that holds the edge.
    holding = np.searchsorted(bin_edges(), edges[1:], side="right") - 1
    assert (off[:-1] <= histogram.magnitudes()[holding[:-1]] + 1e-6).all()
    assert off[-1] < 1e-6


def test_zeros_are_in_the_first_linear_bin() -> None:
    counts = linear_bins(histogram_of(np.array([0.0] * 70 + [1.0] * 30)))
    assert counts[0] == pytest.approx(70, abs=1e-9)
    assert counts[1:].sum() == pytest.approx(30, abs=1e-9)


def test_values_much_smaller_than_the_largest_are_in_the_first_linear_bin() -> None:
    counts = linear_bins(histogram_of(np.array([1e-30] * 70 + [1.0] * 30)))
    assert counts[0] == pytest.approx(70, abs=1e-9)


# The other methods, against the raw data.


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.__name__)
def test_minmax_is_exact(shape: Callable[..., Array]) -> None:
    values = shape(np.random.default_rng(4)).astype(np.float32)
    chosen = choose_range(histogram_of(values), "minmax")
    assert (chosen.low, chosen.high) == (values.min(), values.max())


@pytest.mark.parametrize(
    "shape",
    [gaussian, half_gaussian, laplace, uniform, bimodal, with_outliers],
    ids=lambda shape: shape.__name__,
)
def test_percentile_is_that_of_the_magnitudes(shape: Callable[..., Array]) -> None:
    values = shape(np.random.default_rng(4)).astype(np.float32)
    magnitudes = np.sort(np.abs(values))
    exact = magnitudes[math.ceil(PERCENTILE / 100 * len(magnitudes)) - 1]
    chosen = choose_range(histogram_of(values), "percentile")
    # One linear bin, and one bin of the histogram.
    assert abs(chosen.amax - exact) <= magnitudes[-1] / BINS + exact / 128


def error_of(values: Array, threshold: float) -> float:
    """Return the mean squared error of int8 with the scale threshold / 127."""
    scale = threshold / 127
    restored = np.clip(np.rint(values / scale), -127, 127) * scale
    return float(np.mean((values - restored) ** 2))


@pytest.mark.parametrize(
    "shape",
    [gaussian, half_gaussian, laplace, uniform, bimodal, with_outliers],
    ids=lambda shape: shape.__name__,
)
def test_mse_is_the_best_threshold_of_the_raw_data(shape: Callable[..., Array]) -> None:
    values = shape(np.random.default_rng(5))[:20_000]
    amax = float(np.abs(values).max())
    best = min(error_of(values, amax * part) for part in np.linspace(1 / 16, 1, 400))
    chosen = choose_range(histogram_of(values), "mse")
    # The error is flat around its minimum: bins of 1/2048 and 1/128 move it by a few percent.
    assert error_of(values, chosen.amax) <= 1.05 * best
