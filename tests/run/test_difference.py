"""Differences that add up over a data set."""

from __future__ import annotations

import itertools
import math
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxgraft.errors import InputError
from onnxgraft.run.difference import Difference, Sum
from onnxgraft.run.verdicts import check_pair

EXPECTED = np.array([[-3.0, 0.0], [2.0, 5.0]], np.float32)


@given(
    seed=st.integers(0, 1000),
    cuts=st.lists(st.integers(0, 64), max_size=5),
    noise=st.sampled_from([1e-3, 0.1, 1.0]),
)
def test_pieces_add_up_to_what_numpy_gives_for_the_whole(
    seed: int, cuts: list[int], noise: float
) -> None:
    rng = np.random.default_rng(seed)
    expected = rng.standard_normal((64, 10)).astype(np.float32)
    actual = expected + (noise * rng.standard_normal((64, 10))).astype(np.float32)
    difference = Difference()
    edges = [0, *sorted(cuts), 64]
    for begin, end in itertools.pairwise(edges):  # empty pieces are among them
        difference.add(expected[begin:end], actual[begin:end])
        difference.add_answers(expected[begin:end].argmax(-1), actual[begin:end].argmax(-1))
    e, a = expected.astype(np.float64).ravel(), actual.astype(np.float64).ravel()
    # Products of 640 float32 values are summed in float32: 640 * 6e-8 bounds the relative error.
    close = 4e-5
    assert difference.max_abs == pytest.approx(np.abs(e - a).max(), rel=1e-6)
    assert difference.mean_abs == pytest.approx(np.abs(e - a).mean(), rel=1e-6)
    assert difference.span == pytest.approx(np.ptp(e), rel=1e-6)
    assert difference.relative == pytest.approx(np.abs(e - a).max() / np.ptp(e), rel=2e-6)
    cosine = e @ a / math.sqrt((e @ e) * (a @ a))
    assert difference.cosine == pytest.approx(cosine, rel=close)
    sqnr = 10 * math.log10((e @ e) / ((e - a) @ (e - a)))
    assert difference.sqnr == pytest.approx(sqnr, abs=10 * math.log10(1 + 2 * close))
    assert difference.agreement == np.mean(expected.argmax(-1) == actual.argmax(-1))
    assert difference.nonfinite == 0


def test_equal_outputs_have_no_difference() -> None:
    difference = Difference()
    difference.add(EXPECTED, EXPECTED.copy())
    assert (difference.max_abs, difference.mean_abs, difference.relative) == (0.0, 0.0, 0.0)
    assert difference.sqnr == math.inf
    assert difference.cosine == pytest.approx(1.0, abs=1e-12)
    assert difference.agreement is None


def test_values_that_are_not_finite_are_counted_on_either_side() -> None:
    difference = Difference()
    difference.add(
        np.array([1.0, math.nan, math.inf, 2.0], np.float32),
        np.array([1.0, 0.0, math.inf, math.nan], np.float32),
    )
    assert difference.nonfinite == 3
    assert difference.max_abs == 0.0


def test_an_error_where_the_original_is_constant_is_relative_to_its_size() -> None:
    for size, relative in ((2.0, 0.25), (0.0, 0.5)):
        difference = Difference()
        difference.add(np.full(3, size, np.float32), np.full(3, size + 0.5, np.float32))
        assert difference.relative == relative


def test_an_error_where_the_original_is_zero_has_no_signal() -> None:
    difference = Difference()
    difference.add(np.zeros(3, np.float32), np.ones(3, np.float32))
    assert difference.sqnr == -math.inf
    assert difference.cosine == 0.0


def test_zeros_on_both_sides_point_the_same_way() -> None:
    difference = Difference()
    difference.add(np.zeros(3, np.float32), np.zeros(3, np.float32))
    assert difference.cosine == 1.0


def test_nothing_added_is_no_difference() -> None:
    difference = Difference()
    assert (difference.max_abs, difference.mean_abs, difference.span) == (0.0, 0.0, 0.0)
    assert difference.agreement is None


def test_large_sums_do_not_drown_small_pieces() -> None:
    # 2^24 ones in float32 would stop a float32 counter; the sums over pieces are of Python floats.
    difference = Difference()
    difference.add(np.full(4, 4096.0, np.float32), np.full(4, 4096.0, np.float32))
    for _ in range(10):
        difference.add(np.zeros(1, np.float32), np.ones(1, np.float32))
    assert difference.sqnr == pytest.approx(10 * math.log10(4 * 4096**2 / 10), rel=1e-9)


@pytest.mark.parametrize(
    ("expected", "actual", "cause"),
    [
        ((1, 10), (1, 12), "the number of classes or channels"),
        ((1, 3, 8, 8), (1, 3, 9, 9), "a pad, a stride or an upsampling"),
        ((1, 10), (2, 10), "the batch"),
        ((1, 10), (1, 5, 3), "it is another tensor"),
    ],
    ids=["classes", "size", "batch", "rank"],
)
def test_another_shape_has_a_likely_cause(
    expected: tuple[int, ...], actual: tuple[int, ...], cause: str
) -> None:
    with pytest.raises(InputError, match=cause):
        check_pair("y", np.zeros(expected), {"y": np.zeros(actual)})


@given(st.lists(st.floats(-1e12, 1e12), max_size=20), st.randoms())
def test_a_sum_is_exact_in_any_order_and_split(values: list[float], random: Random) -> None:
    parts = [Sum(), Sum(), Sum()]
    shuffled = list(values)
    random.shuffle(shuffled)
    for value in shuffled:
        random.choice(parts).add(value)
    total = Sum()
    for part in parts:
        total.merge(part)
    assert total.value == math.fsum(values)


def test_parts_of_a_difference_merge_to_the_same_bits() -> None:
    rng = np.random.default_rng(0)
    e, a = rng.standard_normal((2, 9, 20_000)).astype(np.float32)
    whole, first, second = Difference(), Difference(), Difference()
    for index in range(9):
        for difference in (whole, first if index % 2 else second):
            difference.add(e[index], a[index])
            difference.add_answers(e[index] > 0, a[index] > 0)
    first.merge(second)
    for name in (
        "max_abs", "mean_abs", "relative", "max_rel", "mean_rel", "cosine", "sqnr", "psnr",
        "agreement", "nonfinite",
    ):  # fmt: skip
        assert getattr(first, name) == getattr(whole, name), name


def test_relative_errors_are_of_values_that_are_not_small() -> None:
    difference = Difference()
    difference.add(
        np.array([100.0, -50.0, 0.01, 0.0], np.float32),
        np.array([101.0, -49.0, 0.02, 1.0], np.float32),
    )
    assert difference.max_rel == pytest.approx(0.02)
    assert difference.mean_rel == pytest.approx((0.01 + 0.02) / 2)


def test_the_peak_of_psnr_is_the_range() -> None:
    difference = Difference()
    difference.add(np.array([0.0, 10.0], np.float32), np.array([1.0, 10.0], np.float32))
    assert difference.psnr == pytest.approx(10 * math.log10(100 / 0.5))


def test_squares_beyond_float32_are_summed() -> None:
    difference = Difference()
    difference.add(np.full(3, 1e30, np.float32), np.full(3, 2e30, np.float32))
    assert difference.nonfinite == 0
    assert difference.sqnr == pytest.approx(0.0, abs=1e-5)
