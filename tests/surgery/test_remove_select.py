"""remove_select: a Where that a constant decides is gone, and what it did not select with it."""

from __future__ import annotations

import numpy as np
import pytest

from onnxgraft.graph.tensors import Array
from tests.conftest import model_of, outputs_of
from tests.surgery.helpers import assert_same, clean, normal, refusal, report_of

PASS = "remove_select"

SELECT = """agraph (float[N,4] x) => (float[N,4] y) {
    a = Relu(x)
    b = Neg(x)
    y = Where(c, a, b)
}"""


@pytest.mark.parametrize("taken", [True, False], ids=["true", "false"])
@pytest.mark.parametrize("shape", [(), (1,), (4,), (1, 4)], ids=["scalar", "one", "row", "matrix"])
def test_the_branch_that_the_condition_takes_stays_alone(
    taken: bool, shape: tuple[int, ...]
) -> None:
    before = model_of(SELECT, {"c": np.full(shape, taken)})
    after, report = clean(before, PASS)
    assert after.operators() == ({"Relu": 1} if taken else {"Neg": 1})
    (done,) = report_of(report, PASS).done
    assert f"the {'first' if taken else 'second'} branch is always taken" == done.sentence
    assert_same(before, after)


@pytest.mark.parametrize("taken", [True, False], ids=["first", "second"])
@pytest.mark.parametrize("poison", [np.nan, np.inf], ids=["nan", "inf"])
def test_a_nan_of_the_branch_not_taken_never_reaches_the_output(taken: bool, poison: float) -> None:
    branches = "a, bad" if taken else "bad, a"
    before = model_of(
        f"""agraph (float[N,4] x) => (float[N,4] y) {{
            a = Relu(x)
            bad = Mul(x, poison)
            s = Where(c, {branches})
            y = Neg(s)
        }}""",
        {"c": np.array(taken), "poison": np.full(4, poison, np.float32)},
    )
    for after, _ in (clean(before, PASS), clean(before)):
        assert after.operators() == {"Relu": 1, "Neg": 1}
        assert np.isfinite(outputs_of(after)["y"]).all()
        assert_same(before, after)


def test_a_nan_of_a_branch_that_is_taken_here_and_there_stays_where_it_was() -> None:
    before = model_of(
        """agraph (float[N,4] x) => (float[N,4] y) {
            a = Relu(x)
            bad = Mul(x, nan)
            y = Where(c, a, bad)
        }""",
        {"c": np.array([True, False, True, True]), "nan": np.array(np.nan, np.float32)},
    )
    after, report = clean(before)
    assert "neither all true nor all false" in refusal(report, PASS)
    assert np.isnan(outputs_of(after)["y"]).any(0).tolist() == [False, True, False, False]


@pytest.mark.parametrize(
    "condition",
    [np.array([True, False, True, False]), np.zeros((0, 4), bool)],
    ids=["mixed", "empty"],
)
def test_a_condition_that_decides_nothing_is_refused(condition: Array) -> None:
    after, report = clean(model_of(SELECT, {"c": condition}), PASS)
    assert after.operators()["Where"] == 1
    assert "neither all true nor all false" in refusal(report, PASS)


def test_a_condition_that_is_computed_is_refused() -> None:
    before = model_of(
        """agraph (float[N,4] x) => (float[N,4] y) {
            c = Greater(x, zero)
            y = Where(c, x, zero)
        }""",
        {"zero": np.array(0, np.float32)},
    )
    after, report = clean(before, PASS)
    assert after.operators() == {"Greater": 1, "Where": 1}
    assert "not a constant" in refusal(report, PASS)
    assert_same(before, after)


@pytest.mark.parametrize(
    ("condition", "branches"),
    [
        (np.array(True), "row, b"),
        (np.array(False), "b, row"),
        (np.full((1, 3, 1), True), "x, b"),
        (np.array(True), "scalar, b"),
    ],
    ids=["first_branch_row", "second_branch_row", "condition_wider", "branch_scalar"],
)
def test_a_branch_that_would_have_been_broadcast_is_refused(
    condition: Array, branches: str
) -> None:
    out = "float[N,3,4]" if condition.ndim == 3 else "float[N,4]"
    source = "float[N,1,4]" if condition.ndim == 3 else "float[N,4]"
    before = model_of(
        f"""agraph ({source} x) => ({out} y) {{
            b = Neg(x)
            s = Where(c, {branches})
            y = Relu(s)
        }}""",
        {"c": condition, "row": normal(1, 4), "scalar": np.array(2, np.float32)},
    )
    after, report = clean(before, PASS)
    assert after.operators()["Where"] == 1
    assert "broadcast" in refusal(report, PASS)
    assert_same(before, after)


def test_a_select_of_an_input_as_the_output_is_refused() -> None:
    before = model_of(
        "agraph (float[N,4] x) => (float[N,4] y) { b = Neg(x)\n y = Where(c, x, b) }",
        {"c": np.array(True)},
    )
    after, report = clean(before, PASS)
    assert after.operators() == {"Neg": 1, "Where": 1}
    assert "names are fixed" in refusal(report, PASS)
    assert_same(before, after)


def test_a_branch_whose_batch_may_differ_from_the_others_is_refused() -> None:
    before = model_of(
        """agraph (float[N,4] x, float[M,4] z) => (float[K,4] y) {
            a = Relu(x)
            y = Where(c, a, z)
        }""",
        {"c": np.array(True)},
    )
    after, report = clean(before, PASS)
    assert after.operators() == {"Relu": 1, "Where": 1}
    assert "broadcast" in refusal(report, PASS)
