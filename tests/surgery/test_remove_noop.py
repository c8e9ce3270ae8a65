"""remove_noop: nodes that change nothing are bypassed."""

from __future__ import annotations

import numpy as np
import pytest

from tests.conftest import model_of
from tests.surgery.helpers import assert_same, clean, refusal, report_of, untouched

PASS = "remove_noop"

CONSTANTS = {
    "same": np.array([-1, 2, 3, 4]),
    "copied": np.array([0, 0, 0, -1]),
    "ones": np.array([1, 1, 1, 1]),
    "row": np.array([4]),
    "one": np.array([1]),
    "zero": np.array([0]),
    "two": np.array([2]),
    "three": np.array([3]),
    "minus": np.array([-1]),
    "lowest": np.array([np.iinfo(np.int64).min]),
    "end": np.array([np.iinfo(np.int64).max]),
    "both": np.array([2, 3]),
    "zeros": np.array([0, 0]),
    "ends": np.array([3, 4]),
    "pads": np.zeros(8, np.int64),
    "some": np.array([0, 0, 0, 1, 0, 0, 0, 0]),
    "crop": np.array([0, 0, 0, -1, 0, 0, 0, 1]),
    "swapped": np.array([-1, 3, 2, 4]),
}


def between(node: str) -> str:
    return f"agraph (float[N,2,3,4] x) => (float[A,B,C,D] y) {{ r = {node}\n y = Relu(r) }}"


@pytest.mark.parametrize(
    "node",
    [
        "Reshape(x, same)",
        "Reshape(x, copied)",
        "Expand(x, ones)",
        "Expand(x, row)",
        "Slice(x, zero, end, two)",
        "Slice(x, zero, three, two, one)",
        "Slice(x, zeros, ends, both)",
        "Pad(x, pads)",
        "Cast<to=1>(x)",
        "Transpose<perm=[0,1,2,3]>(x)",
        "Concat<axis=1>(x)",
    ],
    ids=[
        "reshape", "reshape_zeros", "expand_ones", "expand_row", "slice", "slice_step_one",
        "slice_two_axes", "pad_zero", "cast", "transpose", "concat_of_one",
    ],
)  # fmt: skip
def test_a_node_that_changes_nothing_is_removed(node: str) -> None:
    before = model_of(between(node), CONSTANTS)
    after, report = clean(before, PASS)
    assert after.operators() == {"Relu": 1}
    (done,) = report_of(report, PASS).done
    assert done.sentence == f"{node.split('(')[0].split('<')[0]} changed nothing"
    assert_same(before, after)


@pytest.mark.parametrize(
    "node",
    [
        "Reshape(x, swapped)",
        "Expand(x, grown)",
        "Slice(x, one, end, two)",
        "Slice(x, minus, lowest, three, minus)",
        "Slice(x, zero, end, three, two)",
        "Pad(x, some)",
        "Pad(x, crop)",
        "Transpose<perm=[0,1,3,2]>(x)",
        "Transpose(x)",
        "Concat<axis=1>(x, x)",
    ],
    ids=[
        "reshape", "expand", "slice_from_one", "slice_backwards", "slice_every_other", "pad",
        "pad_shift", "transpose", "transpose_default", "concat_of_two",
    ],
)  # fmt: skip
def test_a_node_that_changes_something_stays(node: str) -> None:
    before = model_of(between(node), {**CONSTANTS, "grown": np.array([2, 1, 1, 1, 1])})
    if "grown" in node:
        before = model_of(
            f"agraph (float[N,2,3,4] x) => (float[A,B,C,D,E] y) {{ r = {node}\n y = Relu(r) }}",
            {"grown": np.array([2, 1, 1, 1, 1])},
        )
    after, report = clean(before, PASS)
    assert after.operators() == before.operators()
    assert untouched(report, PASS)
    assert_same(before, after)


def test_a_cast_to_another_type_stays() -> None:
    before = model_of(
        "agraph (float[N,4] x) => (double[N,4] y) { c = Cast<to=11>(x)\n y = Relu(c) }"
    )
    after, report = clean(before, PASS)
    assert after.operators() == {"Cast": 1, "Relu": 1}
    assert untouched(report, PASS)
    assert_same(before, after)


def test_a_cast_of_a_type_that_numpy_lacks_stays() -> None:
    before = model_of(
        """agraph (float[N,4] x) => (float[N,4] y) {
            b = Cast<to=16>(x)
            c = Cast<to=1>(b)
            y = Relu(c)
        }"""
    )
    after, report = clean(before, PASS)
    assert after.operators() == {"Cast": 2, "Relu": 1}
    assert untouched(report, PASS)


def test_a_reshape_to_a_shape_that_only_looks_the_same_stays() -> None:
    """(N, M) to (M, N): both free, and not the same."""
    before = model_of(
        """agraph (float[N,M] x) => (float[A,B] y) {
            s = Shape(x)
            t = Slice(s, minus, lowest, zero, minus)
            r = Reshape(x, t)
            y = Relu(r)
        }""",
        {name: CONSTANTS[name] for name in ("minus", "lowest", "zero")},
    )
    after, report = clean(before, PASS)
    assert after.operators()["Reshape"] == 1
    assert untouched(report, PASS)
    assert_same(before, after)


def test_a_noop_at_the_output_hands_the_name_to_the_node_before() -> None:
    before = model_of("agraph (float[N,4] x) => (float[N,4] y) { r = Relu(x)\n y = Cast<to=1>(r) }")
    after, _ = clean(before, PASS)
    assert after.operators() == {"Relu": 1}
    assert_same(before, after)


def test_a_noop_from_an_input_to_an_output_is_refused() -> None:
    before = model_of("agraph (float[N,4] x) => (float[N,4] y) { y = Cast<to=1>(x) }")
    after, report = clean(before, PASS)
    assert after.operators() == {"Cast": 1}
    assert "names are fixed" in refusal(report, PASS)
    assert_same(before, after)


# What else changes nothing --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("noop", "constants"),
    [
        ("n = Add(r, k)", {"k": np.float32(0)}),
        ("n = Add(k, r)", {"k": np.zeros(1, np.float32)}),
        ("n = Sub(r, k)", {"k": np.zeros((1, 1), np.float32)}),
        ("n = Mul(k, r)", {"k": np.float32(1)}),
        ("n = Div(r, k)", {"k": np.float32(1)}),
        ("n = Pow(r, k)", {"k": np.float32(1)}),
        ("n = Add(r, k)", {"k": np.zeros((1, 4), np.float32)}),
        ("n = Mul(r, k)", {"k": np.ones(4, np.float32)}),
        ("n = Relu(r)", {}),
        ("n = Sum(r)", {}),
        ("n = Max(r)", {}),
        ("n = Tile(r, k)", {"k": np.array([1, 1])}),
        ("n = Slice(r, k, m, k)", {"k": np.array([0]), "m": np.array([(1 << 63) - 1])}),
        ('n = Resize(r, e, k)', {"e": np.zeros(0, np.float32), "k": np.ones(2, np.float32)}),
        ("n = Flatten(r)", {}),
    ],
    ids=[
        "add_0", "0_add", "sub_0", "1_mul", "div_1", "pow_1", "add_mask", "mul_mask", "relu", "sum",
        "max", "tile", "slice", "resize", "flatten",
    ],
)  # fmt: skip
def test_arithmetic_that_changes_nothing_is_removed(
    noop: str, constants: dict[str, np.ndarray]
) -> None:
    before = model_of(
        f"agraph (float[N,4] x) => (float[N,4] y) {{ r = Relu(x)\n {noop}\n y = Neg(n) }}",
        constants,
    )
    after, _ = clean(before, "remove_noop")
    assert after.operators() == {"Relu": 1, "Neg": 1}
    assert_same(before, after)


@pytest.mark.parametrize(
    ("body", "constants"),
    [
        ("n = Sub(k, r)", {"k": np.float32(0)}),
        ("n = Div(k, r)", {"k": np.float32(1)}),
        ("n = Add(r, k)", {"k": np.zeros((3, 1, 1), np.float32)}),
        ("n = Mul(r, k)", {"k": np.ones((1, 1, 1), np.float32)}),
        ("n = Pow(k, r)", {"k": np.float32(1)}),
        ("n = Slice(r, k, m, k, b)",
         {"k": np.array([0]), "m": np.array([(1 << 63) - 1]), "b": np.array([2])}),
        ("n = Mod<fmod=1>(r, k)", {"k": np.float32(1)}),
        ("n = Add(r, k)", {"k": np.array([0, 0, 0, 1], np.float32)}),
    ],
    ids=["0_sub", "1_div", "broadcast", "rank", "1_pow", "steps", "mod", "some"],
)  # fmt: skip
def test_arithmetic_that_changes_something_stays(
    body: str, constants: dict[str, np.ndarray]
) -> None:
    before = model_of(
        f"""agraph (float[N,4] x) => (float y) {{
            r = Exp(x)
            {body}
            y = ReduceMax<keepdims=0>(n)
        }}""",
        constants,
    )
    after, _ = clean(before, "remove_noop")
    assert after.operators() == before.operators()
    assert_same(before, after)
