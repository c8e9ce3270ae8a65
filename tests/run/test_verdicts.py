"""Verdicts on one run, with Polygraphy's comparator as the witness."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from onnxgraft.graph.tensors import Array
from onnxgraft.run.tolerances import FLOAT_TOLERANCE
from onnxgraft.run.verdicts import hold

# Values from -3 to 5, so that a tolerance of 1/8 is exactly 1 and has no rounding.
EXPECTED = np.array([[-3.0, 0.0], [2.0, 5.0]], np.float32)


def off_by(step: float) -> Array:
    """Return the expected values with one of them moved."""
    actual = EXPECTED.copy()
    actual[1, 0] += step
    return actual


@pytest.mark.parametrize(
    ("step", "passed"),
    [(0.0, True), (0.99, True), (1.0, True), (1.01, False), (-1.01, False)],
    ids=["equal", "below", "at_the_tolerance", "above", "above_negative"],
)
def test_the_tolerance_is_a_fraction_of_the_range(step: float, passed: bool) -> None:
    (verdict,) = hold({"y": EXPECTED}, {"y": off_by(step)}, tolerance=0.125)
    assert verdict.passed is passed
    assert verdict.output == "y"
    assert verdict.tolerance == 1.0
    # float32 keeps 2.99 to 1.2e-7.
    assert verdict.max_abs == pytest.approx(abs(step), abs=3e-7)
    assert verdict.mean_abs == pytest.approx(abs(step) / 4, abs=1e-7)


@pytest.mark.parametrize(
    ("kind", "steps", "passed"),
    [(np.float16, 1, True), (np.float16, 2, False), (np.float32, 64, False)],
)
def test_one_rounding_of_a_half_is_no_difference(kind: type, steps: int, passed: bool) -> None:
    """Where an output's range is small beside its size, one step is a large part of it."""
    value = np.array([1024, 1025, 1027], kind)
    moved = value.copy()
    for _ in range(steps):
        moved[1] = np.nextafter(moved[1], kind(np.inf))
    (verdict,) = hold({"y": value}, {"y": moved}, tolerance=1e-6)
    assert verdict.passed is passed


def polygraphy(expected: Array, actual: Array, tolerance: float) -> Any:
    """Return what Polygraphy's own comparator finds."""
    from polygraphy.comparator import SimpleCompareFunc
    from polygraphy.comparator.struct import IterationResult
    from polygraphy.logger import G_LOGGER

    compare = SimpleCompareFunc(rtol=0.0, atol=tolerance, check_error_stat="max")
    with G_LOGGER.verbosity(G_LOGGER.CRITICAL), np.errstate(divide="ignore", invalid="ignore"):
        return compare(
            IterationResult({"y": expected}, runner_name="expected"),
            IterationResult({"y": actual}, runner_name="actual"),
        )["y"]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("case", ["noise", "wrong", "equal", "constant"])
def test_verdicts_on_floats_are_polygraphys(dtype: type, case: str) -> None:
    rng = np.random.default_rng(0)
    value = rng.uniform(0, 100, (3, 50))
    moved = value + {"noise": 1e-3, "wrong": 1.5}.get(case, 0) * rng.standard_normal(value.shape)
    if case == "constant":
        value = np.full_like(value, 7)
    expected, actual = value.astype(dtype), np.abs(moved).astype(dtype)
    (ours,) = hold({"y": expected}, {"y": actual})
    theirs = polygraphy(expected, actual, ours.tolerance)
    assert ours.passed == bool(theirs)
    # Their mean is of float16 differences in float16; one unit of its last place is 1e-3.
    close = 1e-2 if dtype is np.float16 else 1e-5
    assert ours.max_abs == pytest.approx(theirs.max_absdiff, rel=close)
    assert ours.mean_abs == pytest.approx(theirs.mean_absdiff, rel=close)


def test_an_output_without_elements_differs_by_nothing() -> None:
    empty: Array = np.zeros((0, 4), np.float32)
    (verdict,) = hold({"y": empty}, {"y": empty})
    assert verdict.passed and verdict.max_abs == verdict.mean_abs == 0.0


def test_each_output_has_its_own_range() -> None:
    expected: dict[str, Array] = {"small": EXPECTED / 1000, "large": EXPECTED * 1000}
    moved = {name: value + np.float32(1.0) for name, value in expected.items()}
    verdicts = {verdict.output: verdict.passed for verdict in hold(expected, moved, 0.01)}
    assert verdicts == {"small": False, "large": True}


def test_the_largest_difference_decides_not_the_mean() -> None:
    expected = np.zeros(10_000, np.float32)
    expected[0] = 1.0
    actual = expected.copy()
    actual[-1] = 2 * FLOAT_TOLERANCE
    assert not hold({"y": expected}, {"y": actual})[0].passed


def test_a_constant_output_is_held_against_its_size() -> None:
    expected = np.full(4, 50.0, np.float32)
    verdicts = [hold({"y": expected}, {"y": expected + d}, 0.1)[0] for d in (4.0, 6.0)]
    assert [verdict.passed for verdict in verdicts] == [True, False]
    assert verdicts[0].tolerance == pytest.approx(5.0)


def test_an_output_of_zeros_is_held_against_one() -> None:
    expected = np.zeros(4, np.float32)
    verdicts = [hold({"y": expected}, {"y": expected + d}, 0.1)[0] for d in (0.05, 0.2)]
    assert [verdict.passed for verdict in verdicts] == [True, False]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_fails(bad: float) -> None:
    actual = EXPECTED.copy()
    actual[0, 0] = bad
    assert not hold({"y": EXPECTED}, {"y": actual}, tolerance=1e6)[0].passed


def test_what_is_not_finite_in_both_is_left_out_and_noted() -> None:
    value = np.array([1.0, math.nan, 3.0, math.inf], np.float32)
    (same,) = hold({"y": value}, {"y": value.copy()})
    assert same.passed
    assert "2 values of the original are NaN or infinite" in same.note
    moved = value + np.float32(1)
    assert not hold({"y": value}, {"y": moved})[0].passed


def test_another_shape_fails_with_a_note_that_names_both() -> None:
    (verdict,) = hold({"y": EXPECTED}, {"y": EXPECTED.ravel()})
    assert not verdict.passed
    assert "'y' is (2, 2) in the original and (4,)" in verdict.note


def test_a_missing_output_fails_with_a_note_that_names_what_there_is() -> None:
    (verdict,) = hold({"prob": EXPECTED}, {"score": EXPECTED, "box": EXPECTED})
    assert not verdict.passed
    assert "no output 'prob'; it has score, box" in verdict.note


@pytest.mark.parametrize(("differing", "passed"), [(0, True), (1, True), (2, False)])
def test_of_whole_numbers_a_thousandth_may_differ(differing: int, passed: bool) -> None:
    classes = np.zeros(1000, np.int64)
    moved = classes.copy()
    moved[:differing] = 7
    (verdict,) = hold({"y": classes}, {"y": moved})
    assert (verdict.passed, verdict.max_abs) == (passed, differing / 1000)


def test_booleans_are_compared_by_the_share_that_differs() -> None:
    mask = np.array([True, False])
    assert hold({"y": mask}, {"y": mask.copy()})[0].passed
    assert hold({"y": mask}, {"y": ~mask})[0].max_abs == 1.0


def test_integers_against_floats_of_the_same_value_pass() -> None:
    classes = np.array([3, 1, 4], np.int64)
    assert hold({"y": classes}, {"y": classes.astype(np.float32)})[0].passed


def test_another_type_fails_where_types_count() -> None:
    expected, actual = {"y": np.arange(4, dtype=np.uint8)}, {"y": np.arange(4, dtype=np.int8)}
    assert hold(expected, actual)[0].passed
    (verdict,) = hold(expected, actual, types=True)
    assert not verdict.passed
    assert verdict.note == "y is uint8 in the original and int8 in the candidate"
    assert hold(expected, expected, types=True)[0].passed
