"""Counting by the upper 16 bits: compiled and with OpenCV, held against numpy's bincount."""

from __future__ import annotations

import numpy as np
import pytest

from onnxgraft.data import binning
from onnxgraft.data.binning import BINS, count_bins, limits_of
from onnxgraft.graph.tensors import Array


@pytest.fixture(params=["numba", "opencv"])
def counter(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Count with numba, and as if it were not installed."""
    if request.param == "numba":
        pytest.importorskip("numba")
        binning.prepare()
        assert binning._compiled is not None
    else:
        monkeypatch.setattr(binning, "_compiled", None)
    return str(request.param)


def values_of(kind: str, count: int) -> Array:
    rng = np.random.default_rng(0)
    normal = rng.standard_normal(count).astype(np.float32)
    bits = rng.integers(0, 1 << 32, count, np.uint32)
    return {"normal": normal, "relu": np.maximum(normal, 0), "any": bits.view(np.float32)}[kind]


@pytest.mark.usefixtures("counter")
@pytest.mark.parametrize("kind", ["normal", "relu", "any"])
@pytest.mark.parametrize("count", [0, 1, 7, 10_000, 300_001])
def test_counts_are_those_of_bincount(kind: str, count: int) -> None:
    values = values_of(kind, count)
    counts = np.ones(BINS, np.int64)
    count_bins(values, counts)
    limits = count_bins(values, counts)
    assert repr(limits) == repr(limits_of(values))  # NaN, too
    expected = np.bincount(values.view(np.uint32) >> 16, minlength=BINS)
    assert (counts == 1 + 2 * expected).all()


@pytest.mark.usefixtures("counter")
@pytest.mark.parametrize(
    ("values", "limits"),
    [
        ([1.5, -2.0, 0.25], (-2.0, 1.5)),
        ([-3.0, -2.0], (-3.0, -2.0)),
        ([0.0, -0.0], (0.0, 0.0)),
        ([-0.0], (0.0, 0.0)),
        ([np.inf, 1.0, -np.inf], (-np.inf, np.inf)),
        ([1.0, np.nan], (np.nan, np.nan)),
        ([1.0, -np.nan], (np.nan, np.nan)),
        ([1e-45, -1e-45], (-1e-45, 1e-45)),
        ([], (np.inf, -np.inf)),
    ],
)
def test_the_smallest_and_the_largest_value(
    values: list[float], limits: tuple[float, float]
) -> None:
    array = np.array(values, np.float32)
    found = count_bins(array, np.zeros(BINS, np.int64))
    assert repr(found) == repr(tuple(float(np.float32(limit)) for limit in limits))


@pytest.mark.usefixtures("counter")
def test_values_that_begin_at_any_float_are_counted() -> None:
    values = values_of("normal", 300_001)[1:]
    counts = np.zeros(BINS, np.int64)
    count_bins(values, counts)
    assert (counts == np.bincount(values.view(np.uint32) >> 16, minlength=BINS)).all()


def test_more_equal_values_than_a_float_counts_are_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # OpenCV counts in float32, which stops at 2**24.
    monkeypatch.setattr(binning, "_compiled", None)
    counts = np.zeros(BINS, np.int64)
    count_bins(np.ones((1 << 24) + 5, np.float32), counts)
    assert counts[0x3F80] == (1 << 24) + 5


@pytest.mark.parametrize(("count", "compiles"), [(1 << 20, 0), (1 << 31, 1), (None, 1)])
def test_few_values_wait_for_no_compiler(
    count: int | None, compiles: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[None] = []
    monkeypatch.setattr(binning, "_compiled", None)
    monkeypatch.setattr(binning, "_compile", lambda: asked.append(None))
    binning.prepare(count)
    assert len(asked) == compiles
