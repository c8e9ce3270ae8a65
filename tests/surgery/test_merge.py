"""merge_casts, merge_duplicates, merge_initializers and merge_arithmetic."""

from __future__ import annotations

import numpy as np
import pytest

from onnxgraft.stages.surgery import run
from tests.conftest import model_of
from tests.surgery.helpers import (
    ROUNDING,
    assert_same,
    clean,
    infer,
    normal,
    positive,
    refusal,
    report_of,
    untouched,
)

# Casts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "wide", "target"),
    [
        ("float", 11, 1), ("float", 11, 7), ("float16", 1, 11), ("int32", 7, 1), ("int32", 11, 6),
        ("uint8", 10, 6), ("bool", 6, 1), ("int8", 1, 3),
    ],
)  # fmt: skip
def test_a_cast_to_a_wider_type_is_left_out(source: str, wide: int, target: int) -> None:
    names = {1: "float", 3: "int8", 6: "int32", 7: "int64", 11: "double"}
    before = model_of(
        f"""agraph ({source}[N,4] x) => ({names[target]}[N,4] y) {{
            w = Cast<to={wide}>(x)
            y = Cast<to={target}>(w)
        }}"""
    )
    after, _ = clean(before, "merge_casts")
    assert after.operators() == {"Cast": 1}
    kind = before.inputs[0].dtype
    x = np.array([[0, 1, 2, 100]]).astype(kind)
    np.testing.assert_array_equal(infer(before, {"x": x})["y"], infer(after, {"x": x})["y"])


def test_a_pair_that_comes_back_to_its_type_vanishes() -> None:
    before = model_of(
        """agraph (float[N,4] x) => (float[N,4] y) {
            r = Relu(x)
            w = Cast<to=11>(r)
            y = Cast<to=1>(w)
        }"""
    )
    after, _ = clean(before)
    assert after.operators() == {"Relu": 1}
    assert_same(before, after)


@pytest.mark.parametrize(
    ("source", "between"), [("float", 10), ("float", 7), ("int32", 1), ("int64", 11), ("float", 9)]
)
def test_a_cast_that_may_lose_digits_stays(source: str, between: int) -> None:
    before = model_of(
        f"""agraph ({source}[N,4] x) => ({source}[N,4] y) {{
            w = Cast<to={between}>(x)
            y = Cast<to={ {"float": 1, "int32": 6, "int64": 7}[source] }>(w)
        }}"""
    )
    after, report = clean(before, "merge_casts")
    assert after.operators() == {"Cast": 2}
    assert "may lose digits" in refusal(report, "merge_casts")


# Duplicates -----------------------------------------------------------------------------------


def test_what_is_computed_twice_is_computed_once() -> None:
    before = model_of(
        """agraph (float[N,4] x) => (float[N,4] y) {
            a = Mul(x, k)
            b = Mul(x, l)
            c = Softmax<axis=1>(a)
            d = Softmax<axis=1>(b)
            y = Add(c, d)
        }""",
        {"k": positive(4), "l": positive(4)},
    )
    after, report = clean(before, "merge_duplicates")
    assert after.operators() == {"Mul": 1, "Softmax": 1, "Add": 1}
    assert len(report_of(report, "merge_duplicates").done) == 2
    assert_same(before, after)


@pytest.mark.parametrize(
    ("second", "constants"),
    [
        ("b = Mul(x, l)", {"l": positive(4, seed=1)}),
        ("b = Mul(x, l)", {"l": positive(4).reshape(1, 4)}),
        ("b = Div(x, k)", {}),
        ("b = Mul(a, k)", {}),
    ],
    ids=["value", "shape", "operator", "operand"],
)
def test_what_differs_stays(second: str, constants: dict[str, np.ndarray]) -> None:
    before = model_of(
        f"agraph (float[N,4] x) => (float[N,4] y) {{ a = Mul(x, k)\n {second}\n y = Add(a, b) }}",
        {"k": positive(4)} | constants,
    )
    after, report = clean(before, "merge_duplicates")
    assert after.operators() == before.operators()
    assert untouched(report, "merge_duplicates")


def test_attributes_tell_nodes_apart() -> None:
    before = model_of(
        """agraph (float[N,4,5] x) => (float[N,4,5] y) {
            a = Softmax<axis=1>(x)
            b = Softmax<axis=2>(x)
            y = Add(a, b)
        }"""
    )
    after, report = clean(before, "merge_duplicates")
    assert after.operators() == before.operators()
    assert untouched(report, "merge_duplicates")


def test_random_numbers_are_drawn_as_often_as_before() -> None:
    before = model_of(
        """agraph (float[N,4] x) => (float[N,4] y) {
            a = RandomNormalLike(x)
            b = RandomNormalLike(x)
            y = Sub(a, b)
        }"""
    )
    after, _ = clean(before, "merge_duplicates")
    assert after.operators() == before.operators()


def test_a_duplicate_that_is_an_output_is_refused() -> None:
    before = model_of(
        "agraph (float[N,4] x) => (float[N,4] y, float[N,4] z) { y = Relu(x)\n z = Relu(x) }"
    )
    after, report = clean(before, "merge_duplicates")
    assert after.operators() == {"Relu": 2}
    assert "is an output" in refusal(report, "merge_duplicates")


# Initializers ---------------------------------------------------------------------------------


def test_equal_constants_are_stored_once() -> None:
    w = normal(40, 40, seed=1)
    before = model_of(
        "agraph (float[N,40] x) => (float[N,40] y) { a = MatMul(x, w)\n y = MatMul(a, v) }",
        {"w": w, "v": w.copy()},
    )
    after, report = clean(before, "merge_initializers")
    assert len(after.to_onnx().graph.initializer) == 1
    assert len(report_of(report, "merge_initializers").done) == 1
    assert_same(before, after)


@pytest.mark.parametrize("case", ["one_element", "negative_zero", "type"])
def test_constants_that_differ_are_both_stored(case: str) -> None:
    w = normal(40, 40, seed=1)
    w[20, 3] = 0
    v = w.copy()
    if case == "one_element":
        v[7, 7] += 1
    elif case == "negative_zero":
        v[20, 3] = -0.0
    else:
        v = w.view(np.int32)
    kind = "int32" if case == "type" else "float"
    before = model_of(
        f"agraph (float[N,40] x, {kind}[40,40] z) => (float[N,40] y, {kind}[40,40] u)"
        " { y = MatMul(x, w)\n u = Add(z, v) }",
        {"w": w, "v": v},
    )
    after, report = clean(before, "merge_initializers")
    assert len(after.to_onnx().graph.initializer) == 2
    assert untouched(report, "merge_initializers")


def test_constants_are_merged_after_everything_is_folded() -> None:
    """Weights that two layers share are weights that nothing is folded into."""
    w = normal(4, 4, 1, 1, seed=1)
    before = model_of(
        """agraph (float[N,4,5,7] x) => (float[N,4,5,7] y) {
            c = Conv(x, w)
            m = Mul(c, k)
            y = Conv(m, v)
        }""",
        {"w": w, "v": w.copy(), "k": positive(4, 1, 1)},
    )
    after, _ = clean(before)
    assert after.operators() == {"Conv": 2}
    assert_same(before, after, ROUNDING)


# Arithmetic -----------------------------------------------------------------------------------


@pytest.mark.parametrize("second", ["Add(a, d)", "Sub(a, d)", "Add(d, a)"])
@pytest.mark.parametrize("first", ["Add(x, c)", "Sub(x, c)", "Add(c, x)"])
def test_two_sums_become_one(first: str, second: str) -> None:
    check_joined(first, second, "Add")


@pytest.mark.parametrize("second", ["Mul(a, d)", "Div(a, d)", "Mul(d, a)"])
@pytest.mark.parametrize("first", ["Mul(x, c)", "Div(x, c)", "Mul(c, x)"])
def test_two_products_become_one(first: str, second: str) -> None:
    check_joined(first, second, "Mul")


def check_joined(first: str, second: str, op: str) -> None:
    before = model_of(
        f"agraph (float[N,4] x) => (float[N,4] y) {{ a = {first}\n y = {second} }}",
        {"c": positive(4, seed=1), "d": positive(1, seed=2)},
    )
    after, _ = clean(before, "merge_arithmetic")
    assert after.operators() == {op: 1}
    assert_same(before, after, ROUNDING)


def test_a_factor_is_brought_to_a_matmul_and_folded() -> None:
    before = model_of(
        """agraph (float[N,5,4] x) => (float[N,5,3] y) {
            m = MatMul(x, w)
            a = Add(m, b)
            y = Mul(a, k)
        }""",
        {"w": normal(4, 3, seed=1), "b": normal(3, seed=2), "k": positive(3, seed=3)},
    )
    after, _ = clean(before)
    assert after.operators() == {"MatMul": 1, "Add": 1}
    assert_same(before, after, ROUNDING)


# x + MAGIC - MAGIC is x, rounded to a whole number.
MAGIC = np.float32(1.5 * 2**23)


@pytest.mark.parametrize(
    ("first", "second", "c", "d", "reason"),
    [
        ("Add(x, c)", "Add(a, d)", positive(4), positive(4, 1), "would grow"),
        ("Mul(x, c)", "Mul(a, d)", np.float32(1e30), np.float32(1e30), "would grow"),
        ("Mul(x, c)", "Mul(a, d)", np.float32(1e-30), np.float32(1e-30), "would grow"),
        ("Mul(x, c)", "Mul(a, d)", np.float32(1e-20), np.float32(1e-20), "lose digits"),
        ("Add(x, c)", "Sub(a, d)", MAGIC, MAGIC, "it rounds"),
        ("Sub(x, c)", "Add(a, d)", MAGIC, MAGIC * np.float32(0.75), "it rounds"),
        ("Add(x, c)", "Sub(d, a)", positive(4), positive(4), "from a constant"),
        ("Div(c, x)", "Mul(a, d)", positive(4), positive(4), "from a constant"),
    ],
    ids=[
        "broadcast", "overflow", "underflow", "subnormal", "magic", "most_of_it", "reversed",
        "reversed_first",
    ],
)  # fmt: skip
def test_what_can_not_be_joined_is_refused(
    first: str, second: str, c: np.ndarray, d: np.ndarray, reason: str
) -> None:
    before = model_of(
        f"agraph (float[4,4] x) => (float[4,4] y) {{ a = {first}\n y = {second} }}",
        {"c": c, "d": d},
    )
    after, report = clean(before, "merge_arithmetic")
    assert after.operators() == before.operators()
    assert reason in refusal(report, "merge_arithmetic")


def test_a_step_that_somebody_else_reads_is_refused() -> None:
    before = model_of(
        "agraph (float[N,4] x) => (float[N,4] y, float[N,4] a) { a = Add(x, c)\n y = Add(a, c) }",
        {"c": positive(4)},
    )
    after, report = clean(before, "merge_arithmetic")
    assert after.operators() == {"Add": 2}
    assert "another user" in refusal(report, "merge_arithmetic")


def test_integers_are_left_alone() -> None:
    before = model_of(
        "agraph (int64[N,4] x) => (int64[N,4] y) { a = Mul(x, c)\n y = Div(a, c) }",
        {"c": np.array(3)},
    )
    after, report = clean(before, "merge_arithmetic")
    assert after.operators() == before.operators()
    assert untouched(report, "merge_arithmetic")


# Dense layers as convolutions -----------------------------------------------------------------


DENSE = """agraph (float[N,4,3,5] x) => (float[N,6] y) {{
    f = {flatten}
    d = Gemm<transB=1, alpha=0.5, beta=2.0>(f, w, b)
    r = Relu(d)
    y = MatMul(r, v)
}}"""


@pytest.mark.parametrize("flatten", ["Flatten(x)", "Reshape(x, flat)"])
def test_dense_layers_become_convolutions_where_it_is_asked_for(flatten: str) -> None:
    constants = {
        "w": normal(8, 60, seed=1), "b": normal(8, seed=2), "v": normal(8, 6, seed=3),
    }  # fmt: skip
    if "flat)" in flatten:
        constants["flat"] = np.array([-1, 60])
    before = model_of(DENSE.format(flatten=flatten), constants)
    after, _ = run(before, extra=["dense_to_conv"])
    assert after.operators() == {"Conv": 2, "Relu": 1, "Flatten": 1}
    assert_same(before, after, ROUNDING)
    kept, _ = run(before)
    assert "Conv" not in kept.operators()


def test_a_dense_layer_by_an_input_stays_dense() -> None:
    before = model_of(
        "agraph (float[N,4,3,5] x, float[60,6] w) => (float[N,6] y)"
        " { f = Flatten(x)\n y = MatMul(f, w) }"
    )
    after, report = run(before, extra=["dense_to_conv"])
    assert after.operators() == before.operators()
    assert "not constants" in refusal(report, "dense_to_conv")
