"""merge_slices: Slices of different axes become one."""

from __future__ import annotations

import numpy as np
import pytest

from onnxgraft.graph.tensors import Array
from tests.conftest import model_of
from tests.surgery.helpers import assert_same, clean, report_of, untouched

PASS = "merge_slices"
CONSTANTS: dict[str, Array] = {
    "v0": np.array([0]), "v1": np.array([1]), "v2": np.array([2]), "v3": np.array([3]),
    "last": np.array([-1]), "far": np.array([2**62]), "back": np.array([-(2**62)]),
    "small": np.array([1], np.int32), "large": np.array([3], np.int32),
    "pair": np.array([0, 1]), "pair_end": np.array([2, 5]),
}  # fmt: skip


def sliced(body: str, outputs: str = "float[N,A,B,C] y"):  # type: ignore[no-untyped-def]
    used = {name: value for name, value in CONSTANTS.items() if name in body}
    return model_of(f"agraph (float[N,4,6,8] x) => ({outputs}) {{ {body} }}", used)


BODIES = {
    "two_axes": "a = Slice(x, v1, v3, v1)  y = Slice(a, v0, far, v2, v2)",
    "backwards": "a = Slice(x, last, back, v1, last)  y = Slice(a, v1, far, v3)",
    "negative_axes": "a = Slice(x, v1, v3, last)  y = Slice(a, v0, v2, v2)",
    "without_axes": "a = Slice(x, pair, pair_end)  y = Slice(a, v1, last, v3)",
    "other_integers": "a = Slice(x, small, large, small)  y = Slice(a, v0, far, v2, v2)",
    "three": "a = Slice(x, v1, v3, v1)  b = Slice(a, v0, far, v2, v2)  y = Slice(b, v2, far, v3)",
}


@pytest.mark.parametrize("case", BODIES)
def test_slices_of_different_axes_become_one(case: str) -> None:
    before = sliced(BODIES[case])
    after, _ = clean(before, PASS)
    assert after.operators() == {"Slice": 1}
    assert_same(before, after)


def test_parts_of_one_slice_are_joined_with_it_each() -> None:
    before = sliced(
        """a = Slice(x, v0, far, v1, v2)
           b = Slice(a, v0, far, v2, v2)  c = Slice(a, v1, far, v2, v2)
           y = Concat<axis=3>(b, c)"""
    )
    after, report = clean(before, PASS)
    assert after.operators() == {"Slice": 2, "Concat": 1}
    assert report_of(report, PASS).removed == 1
    assert_same(before, after)


KEPT = {
    "the_same_axis": "a = Slice(x, v1, v3, v1)  y = Slice(a, v0, v1, v1)",
    "another_reader": "a = Slice(x, v1, v3, v1)  b = Slice(a, v0, v2, v2)  c = Relu(a)"
                      "  d = ReduceSum(c)  y = Add(b, d)",
    "computed": "a = Slice(x, v1, v3, v1)  s = Shape(x)  n = Slice(s, v3, far)"
                "  y = Slice(a, v0, n, v2)",
}  # fmt: skip


@pytest.mark.parametrize("case", KEPT)
def test_what_can_not_be_joined_stays(case: str) -> None:
    before = sliced(KEPT[case])
    after, report = clean(before, PASS)
    assert after.operators() == before.operators()
    assert not report_of(report, PASS).done


def test_an_output_stays() -> None:
    before = sliced(
        "a = Slice(x, v1, v3, v1)  y = Slice(a, v0, far, v2, v2)",
        "float[N,A,B,C] y, float[N,D,E,F] a",
    )
    after, report = clean(before, PASS)
    assert untouched(report, PASS)
    assert_same(before, after)
