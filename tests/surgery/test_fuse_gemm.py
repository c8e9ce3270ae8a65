"""fuse_gemm: MatMul by a constant and Add of a constant become a Gemm."""

from __future__ import annotations

import numpy as np
import pytest

from onnxgraft.graph.tensors import Array
from tests.conftest import model_of
from tests.surgery.helpers import (
    ROUNDING,
    assert_same,
    clean,
    normal,
    refusal,
    report_of,
    untouched,
)

PASS = "fuse_gemm"


@pytest.mark.parametrize("order", ["m, b", "b, m"], ids=["bias_second", "bias_first"])
@pytest.mark.parametrize("shape", [(3,), (1, 3)], ids=["rank1", "rank2"])
def test_matmul_and_add_become_a_gemm(order: str, shape: tuple[int, ...]) -> None:
    before = model_of(
        f"agraph (float[N,4] x) => (float[N,3] y) {{ m = MatMul(x, w)\n y = Add({order}) }}",
        {"w": normal(4, 3), "b": normal(*shape, seed=1)},
    )
    after, report = clean(before, PASS)
    assert after.operators() == {"Gemm": 1}
    assert len(report_of(report, PASS).done) == 1
    # The bias is added before the products instead of after them.
    assert_same(before, after, ROUNDING)


def test_two_dense_layers_that_share_weights_both_become_a_gemm() -> None:
    before = model_of(
        """agraph (float[N,4] x) => (float[N,4] y) {
            m = MatMul(x, w)
            a = Add(m, b)
            n = MatMul(a, w)
            y = Add(n, b)
        }""",
        {"w": normal(4, 4), "b": normal(4, seed=1)},
    )
    after, _ = clean(before, PASS)
    assert after.operators() == {"Gemm": 2}
    assert_same(before, after, ROUNDING)


@pytest.mark.parametrize(
    ("value", "columns"),
    [(normal(), "3"), (normal(1), "3"), (normal(3, 1), "3"), (normal(2, 1, 3), "3")],
    ids=["scalar", "one_value", "one_a_row", "rank3"],
)
def test_what_is_not_one_constant_a_column_is_refused(value: Array, columns: str) -> None:
    out = "float[A,3,3]" if value.ndim == 3 else f"float[3,{columns}]"
    before = model_of(
        f"agraph (float[3,4] x) => ({out} y) {{ m = MatMul(x, w)\n y = Add(m, b) }}",
        {"w": normal(4, 3), "b": value},
    )
    after, report = clean(before, PASS)
    assert after.operators() == {"MatMul": 1, "Add": 1}
    assert "not one constant a column" in refusal(report, PASS)
    assert_same(before, after)


def test_two_sums_that_round_are_refused() -> None:
    before = model_of(
        """agraph (float[N,4] x) => (float[N,3] y)
        { m = MatMul(x, w)  a = Add(m, b)  y = Sub(a, b) }""",
        {"w": normal(4, 3), "b": np.full(3, 1.5 * 2**23, np.float32)},
    )
    after, report = clean(before, PASS)
    assert after.operators() == before.operators()
    assert "round" in refusal(report, PASS)
    assert_same(before, after)


def test_whole_numbers_are_left_alone() -> None:
    before = model_of(
        "agraph (int32[N,4] x) => (int32[N,3] y) { m = MatMul(x, w)  y = Add(m, b) }",
        {"w": np.ones((4, 3), np.int32), "b": np.arange(3, dtype=np.int32)},
    )
    after, report = clean(before, PASS)
    assert after.operators() == before.operators()
    assert untouched(report, PASS)


def test_an_add_of_two_computed_tensors_is_refused() -> None:
    before = model_of(
        "agraph (float[N,4] x) => (float[N,4] y) { m = MatMul(x, w)\n y = Add(m, x) }",
        {"w": normal(4, 4)},
    )
    after, report = clean(before, PASS)
    assert after.operators() == {"MatMul": 1, "Add": 1}
    assert "not one constant a column" in refusal(report, PASS)
    assert_same(before, after)


@pytest.mark.parametrize(
    ("signature", "body"),
    [
        ("(float[N,4] x) => (float[N,3] y, float[N,3] z)",
         "m = MatMul(x, w)\n y = Add(m, b)\n z = Relu(m)"),
        ("(float[N,4] x) => (float[N,3] y, float[N,3] m)", "m = MatMul(x, w)\n y = Add(m, b)"),
        ("(float[N,4] x) => (float[N,3] y)", "m = MatMul(x, w)\n y = Add(m, m)"),
        ("(float[N,5,4] x) => (float[N,5,3] y)", "m = MatMul(x, w)\n y = Add(m, b)"),
        ("(float[N,4] x, float[4,3] v) => (float[N,3] y)", "m = MatMul(x, v)\n y = Add(m, b)"),
        ("(float[N,4] x) => (float[N,3] y)", "m = MatMul(x, w)\n y = Sub(m, b)"),
    ],
    ids=["another_user", "an_output", "doubled", "rank3_input", "weights_not_constant", "no_add"],
)  # fmt: skip
def test_a_matmul_that_no_gemm_can_stand_for_stays(signature: str, body: str) -> None:
    before = model_of(
        f"agraph {signature} {{ {body} }}", {"w": normal(4, 3), "b": normal(3, seed=1)}
    )
    after, report = clean(before, PASS)
    assert after.operators() == before.operators()
    assert untouched(report, PASS)
    assert_same(before, after)
