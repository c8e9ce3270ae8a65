"""Scales and integers of weights."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from onnxgraft.stages.quantize.improve.rounding import (
    Stored,
    along,
    mse_scale,
    nearest_numbers,
    output_numbers,
    store,
    weight_scale,
)


def error(values: np.ndarray, scale: np.ndarray, axis: int | None) -> float:
    kept = Stored(nearest_numbers(values, scale, axis), scale, axis).values
    return float(np.square(kept - values, dtype=np.float64).sum())


@pytest.mark.parametrize("axis", [0, 1, None])
def test_an_mse_scale_is_never_worse_than_that_of_the_largest_weight(axis: int | None) -> None:
    values = np.random.default_rng(0).standard_t(3, (6, 5, 3, 3)).astype(np.float32)
    best = mse_scale(values, axis)
    assert best.shape == weight_scale(values, axis).shape
    assert error(values, best, axis) < error(values, weight_scale(values, axis), axis)


def test_an_mse_scale_is_the_best_of_a_fine_search() -> None:
    values = np.random.default_rng(0).standard_t(2, (400,)).astype(np.float32).reshape(1, -1)
    tried = np.abs(values).max() / 127 * np.linspace(0.5, 1, 2001)
    best = min(error(values, np.float32(scale), None) for scale in tried)
    assert error(values, mse_scale(values, None), None) <= 1.05 * best


def test_weights_of_zero_have_scale_one() -> None:
    stored = store(np.zeros((2, 3, 1, 1), np.float32), 0)
    np.testing.assert_array_equal(stored.scale, [1, 1])
    np.testing.assert_array_equal(stored.values, np.zeros((2, 3, 1, 1)))
    np.testing.assert_array_equal(mse_scale(np.zeros((2, 3), np.float32), 0), [1, 1])


def loss(matrix: np.ndarray, integers: np.ndarray, scale: np.ndarray, x: np.ndarray) -> np.ndarray:
    return np.square(x @ (matrix - integers * scale).swapaxes(1, 2)).sum(axis=1)


@pytest.mark.parametrize("groups", [1, 3])
def test_rounding_by_output_beats_the_nearest_and_comes_near_the_best(groups: int) -> None:
    rng = np.random.default_rng(0)
    # Inputs that go together: the error in one weight can be made up for by another.
    x = rng.standard_normal((groups, 60, 2)) @ rng.standard_normal((groups, 2, 5))
    x += 0.1 * rng.standard_normal(x.shape)
    matrix = rng.standard_normal((groups, 8, 5))
    scale = np.full(matrix.shape, 0.4)
    found = loss(matrix, output_numbers(matrix, scale, x), scale, x)
    nearest = loss(matrix, np.rint(matrix / scale), scale, x)
    assert found.sum() < 0.5 * nearest.sum()
    # Of all integers around each weight, tried one by one.
    best = np.full(found.shape, np.inf)
    for steps in itertools.product((-1, 0, 1, 2), repeat=5):
        best = np.minimum(best, loss(matrix, np.floor(matrix / scale) + steps, scale, x))
    # Column after column is no search; the nearest are some ten times worse than the best.
    assert found.sum() < 4 * best.sum()


def test_rounding_by_output_is_the_nearest_where_inputs_are_independent() -> None:
    rng = np.random.default_rng(0)
    matrix, x = rng.standard_normal((1, 4, 6)), np.eye(6)[np.newaxis] * 3
    scale = np.full(matrix.shape, 0.05)
    np.testing.assert_array_equal(output_numbers(matrix, scale, x), np.rint(matrix / scale))


def test_rounding_by_output_goes_beyond_a_block() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, 400, 20)) @ rng.standard_normal((1, 20, 300))
    x += 0.1 * rng.standard_normal(x.shape)
    matrix = rng.standard_normal((1, 8, 300))
    scale = np.broadcast_to(np.abs(matrix).max(axis=2, keepdims=True) / 127, matrix.shape)
    integers = output_numbers(matrix, scale, x)
    assert integers.dtype == np.int8
    assert np.abs(integers.astype(int)).max() <= 127
    found = loss(matrix, integers, scale, x).sum()
    assert found < 0.5 * loss(matrix, np.rint(matrix / scale), scale, x).sum()


def test_rounding_by_output_takes_inputs_of_nothing_but_zeros() -> None:
    matrix = np.random.default_rng(0).standard_normal((1, 3, 4))
    scale = np.full(matrix.shape, 0.02)
    integers = output_numbers(matrix, scale, np.zeros((1, 10, 4)))
    np.testing.assert_array_equal(integers, np.clip(np.rint(matrix / scale), -127, 127))


def test_a_scale_lies_along_its_axis() -> None:
    assert along(np.ones(3), 1, 4).shape == (1, 3, 1, 1)
    assert along(np.ones(()), None, 4).shape == ()
