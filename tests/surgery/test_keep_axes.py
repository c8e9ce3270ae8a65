"""keep_axes: an Unsqueeze that puts an axis back goes into what left it out."""

from __future__ import annotations

import numpy as np
import pytest

from onnxgraft.graph.model import Model
from onnxgraft.graph.tensors import Array
from tests.conftest import model_of
from tests.surgery.helpers import ROUNDING, assert_same, clean, model_at, untouched

PASS = "keep_axes"
CONSTANTS: dict[str, Array] = {
    "nought": np.array(0), "two": np.array([2]), "last": np.array([-1]), "pair": np.array([1, 2]),
    "one": np.array([1]), "many": np.array([0, 1]), "last_scalar": np.array(-1),
    "ends": np.array([0, 2]), "far": np.array([0, 3]),
}  # fmt: skip


def given(body: str, shape: str) -> Model:
    used = {name: value for name, value in CONSTANTS.items() if f" {name})" in body or
            f" {name}," in body}  # fmt: skip
    return model_of(f"agraph (float[N,4,6] x) => (float[{shape}] y) {{ {body} }}", used)


BODIES = {
    "mean": ("m = ReduceMean<axes=[2], keepdims=0>(x)  y = Unsqueeze(m, two)", "N,4,1"),
    "negative": ("m = ReduceMax<axes=[-1], keepdims=0>(x)  y = Unsqueeze(m, two)", "N,4,1"),
    "two_axes": ("m = ReduceL2<axes=[2, 1], keepdims=0>(x)  y = Unsqueeze(m, pair)", "N,1,1"),
    "sum_by_input": ("m = ReduceSum<keepdims=0>(x, last)  y = Unsqueeze(m, two)", "N,4,1"),
    "gather": ("g = Gather<axis=1>(x, nought)  y = Unsqueeze(g, one)", "N,1,6"),
    "gather_last": ("g = Gather<axis=-1>(x, last_scalar)  y = Unsqueeze(g, last)", "N,4,1"),
}


@pytest.mark.parametrize("case", BODIES)
def test_an_axis_that_is_put_back_is_kept(case: str) -> None:
    before = given(*BODIES[case])
    after, _ = clean(before, PASS)
    assert sum(after.operators().values()) == 1
    assert "Unsqueeze" not in after.operators()
    assert_same(before, after, ROUNDING, batches=(3,))


def test_an_index_of_the_largest_keeps_its_axis() -> None:
    before = model_of(
        """agraph (float[N,4,6] x) => (int64[N,1,6] y)
        { m = ArgMax<axis=1, keepdims=0>(x)  y = Unsqueeze(m, one) }""",
        {"one": np.array([1])},
    )
    after, _ = clean(before, PASS)
    assert after.operators() == {"ArgMax": 1}
    assert_same(before, after)


def test_axes_that_are_attributes_are_read_too() -> None:
    before = model_at(
        11,
        """agraph (float[N,4,6] x) => (float[N,4,1] y)
        { m = ReduceSum<axes=[2], keepdims=0>(x)  y = Unsqueeze<axes=[2]>(m) }""",
    )
    after, _ = clean(before, PASS)
    assert after.operators() == {"ReduceSum": 1}
    assert_same(before, after, ROUNDING)


ANOTHER_READER = """m = ReduceMean<axes=[2], keepdims=0>(x)  u = Unsqueeze(m, two)
    s = ReduceSum(m)  y = Add(u, s)"""
KEPT = {
    "another_axis": ("m = ReduceMean<axes=[2], keepdims=0>(x)  y = Unsqueeze(m, one)", "N,1,4"),
    "kept_already": ("m = ReduceMean<axes=[2]>(x)  y = Unsqueeze(m, two)", "N,4,1,1"),
    "an_axis_beyond_the_rank": ("m = Gather<axis=0>(x, nought)  y = Unsqueeze(m, far)", "1,4,6,1"),
    "more_axes": ("m = ReduceMean<axes=[0], keepdims=0>(x)  y = Unsqueeze(m, ends)", "1,4,1,6"),
    "several": ("g = Gather<axis=1>(x, many)  y = Unsqueeze(g, one)", "N,1,2,6"),
    "another_reader": (ANOTHER_READER, "N,4,1"),
}  # fmt: skip


@pytest.mark.parametrize("case", KEPT)
def test_what_is_no_such_axis_stays(case: str) -> None:
    before = given(*KEPT[case])
    after, report = clean(before, PASS)
    assert after.operators() == before.operators()
    assert untouched(report, PASS)


def test_a_single_number_that_gets_an_axis_is_left_alone() -> None:
    axes = {"axis": np.array([0])}
    before = model_of(
        "agraph (float x) => (float[1] y) { n = Neg(x)  y = Unsqueeze(n, axis) }", axes
    )
    _, report = clean(before, PASS)
    assert untouched(report, PASS)
