"""merge_reshapes: Reshapes that follow each other, or undo each other around a node."""

from __future__ import annotations

import numpy as np
import pytest

from tests.conftest import model_of
from tests.surgery.helpers import (
    ROUNDING,
    assert_same,
    attributes,
    clean,
    model_at,
    normal,
    untouched,
)

PASS = "merge_reshapes"


@pytest.mark.parametrize("second", [[-1, 24], [-1, 4, 6], [-1, 2, 2, 6]], ids=["2d", "3d", "4d"])
def test_of_two_reshapes_the_second_stays(second: list[int]) -> None:
    before = model_of(
        f"""agraph (float[N,2,3,4] x) => (float[{",".join("NABC"[: len(second)])}] y) {{
            r = Reshape(x, first)
            y = Reshape(r, second)
        }}""",
        {"first": np.array([-1, 3, 8]), "second": np.array(second)},
    )
    after, _ = clean(before, PASS)
    assert after.operators() == {"Reshape": 1}
    assert_same(before, after)


def test_a_long_chain_of_reshapes_becomes_one() -> None:
    """Longer than any bound on the number of rounds that a list of passes may have."""
    steps = 60
    body = "\n".join(
        f"t{n + 1} = Reshape(t{n}, {'wide' if n % 2 else 'tall'})" for n in range(steps)
    )
    before = model_of(
        f"agraph (float[N,4] x) => (float[A,B] y) {{ t0 = Relu(x)\n {body}\n y = Neg(t{steps}) }}",
        {"tall": np.array([-1, 2]), "wide": np.array([-1, 4])},
    )
    after, _ = clean(before, PASS)
    assert after.operators() == {"Relu": 1, "Neg": 1}
    assert_same(before, after)


def test_a_zero_in_the_second_target_is_a_dimension_of_the_first() -> None:
    before = model_of(
        """agraph (float[N,2,3,4] x) => (float[A,B,C] y) {
            r = Reshape(x, first)
            y = Reshape(r, second)
        }""",
        {"first": np.array([-1, 3, 8]), "second": np.array([-1, 0, 4])},
    )
    after, _ = clean(before, PASS)
    assert after.operators() == {"Reshape": 1}
    assert after.graph.nodes[0].inputs[1].values.tolist() == [-1, 3, 4]
    assert_same(before, after)


@pytest.mark.parametrize(
    ("outputs", "tail"),
    [
        ("float[N,24] y, float[A,B] z", "y = Reshape(r, flat)\n z = Relu(r)"),
        ("float[N,24] y, float[A,B] r", "y = Reshape(r, flat)"),
    ],
    ids=["another_user", "an_output"],
)
def test_a_first_reshape_that_somebody_else_wants_stays(outputs: str, tail: str) -> None:
    before = model_of(
        f"agraph (float[N,2,3,4] x) => ({outputs}) {{ r = Reshape(x, rows)\n {tail} }}",
        {"rows": np.array([-1, 4]), "flat": np.array([-1, 24])},
    )
    after, report = clean(before, PASS)
    assert after.operators() == before.operators()
    assert untouched(report, PASS)
    assert_same(before, after)


def test_a_reshape_that_makes_the_target_of_another_is_not_merged_into_it() -> None:
    before = model_of(
        """agraph (float[N,2,3,4] x, int64[1,2] s) => (float[A,B] y) {
            target = Reshape(s, flat)
            y = Reshape(x, target)
        }""",
        {"flat": np.array([-1])},
    )
    after, report = clean(before, PASS)
    assert after.operators() == {"Reshape": 2}
    assert untouched(report, PASS)


def wrapped(node: str, first: str = "rows", last: str = "back") -> str:
    return f"""agraph (float[N,2,3,4] x) => (float[N,2,3,4] y) {{
        r = Reshape(x, {first})
        s = {node}
        y = Reshape(s, {last})
    }}"""


SHAPES = {
    "rows": np.array([-1, 4]),
    "back": np.array([-1, 2, 3, 4]),
    "three": np.array([-1, 6, 4]),
    "wide": np.array([-1, 12]),
    "low": np.array(-0.5, np.float32),
    "high": np.array(0.5, np.float32),
}


@pytest.mark.parametrize(
    ("node", "op"),
    [("Relu(r)", "Relu"), ("Clip(r, low, high)", "Clip"), ("Neg(r)", "Neg")],
    ids=["relu", "clip", "neg"],
)
@pytest.mark.parametrize("first", ["rows", "three", "wide"])
def test_an_elementwise_node_is_unwrapped_whatever_the_shape_between(
    node: str, op: str, first: str
) -> None:
    before = model_of(wrapped(node, first), SHAPES)
    after, _ = clean(before, PASS)
    assert after.operators() == {op: 1}
    assert_same(before, after)


@pytest.mark.parametrize("first", ["rows", "three"])
@pytest.mark.parametrize("axis", ["", "<axis=-1>"], ids=["default", "minus_one"])
@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax"])
def test_a_softmax_of_the_last_axis_is_unwrapped(op: str, axis: str, first: str) -> None:
    before = model_of(wrapped(f"{op} {axis}(r)", first), SHAPES)
    after, _ = clean(before, PASS)
    assert after.operators() == {op: 1}
    assert attributes(after, op)["axis"] == 3
    assert_same(before, after)  # the same rows, in the same order


def test_a_softmax_that_names_the_last_axis_by_its_number_is_unwrapped() -> None:
    before = model_of(wrapped("Softmax<axis=2>(r)", "three"), SHAPES)
    after, _ = clean(before, PASS)
    assert after.operators() == {"Softmax": 1}
    assert_same(before, after)


@pytest.mark.parametrize(
    ("node", "first"),
    [("Softmax<axis=0>(r)", "rows"), ("Softmax<axis=1>(r)", "three"), ("Softmax(r)", "wide")],
    ids=["first_axis", "middle_axis", "other_last_axis"],
)
def test_a_softmax_over_anything_else_stays_wrapped(node: str, first: str) -> None:
    before = model_of(wrapped(node, first), SHAPES)
    after, report = clean(before, PASS)
    assert after.operators() == {"Reshape": 2, "Softmax": 1}
    assert untouched(report, PASS)
    assert_same(before, after)


def test_the_default_softmax_of_opset_11_spans_all_axes_but_the_first_and_stays_wrapped() -> None:
    before = model_at(11, wrapped("Softmax(r)", "three"), SHAPES)
    after, _ = clean(before, PASS)
    assert_same(before, after, ROUNDING)


def test_a_node_that_comes_out_in_another_shape_stays_wrapped() -> None:
    before = model_of(
        """agraph (float[N,2,3,4] x) => (float[N,24] y) {
            r = Reshape(x, rows)
            s = Softmax(r)
            y = Reshape(s, flat)
        }""",
        {"rows": np.array([-1, 4]), "flat": np.array([-1, 24])},
    )
    after, report = clean(before, PASS)
    assert after.operators() == {"Reshape": 2, "Softmax": 1}
    assert untouched(report, PASS)
    assert_same(before, after)


def test_a_wrapped_node_that_somebody_else_reads_stays_wrapped() -> None:
    before = model_of(
        """agraph (float[N,2,3,4] x) => (float[N,2,3,4] y, float[A,4] z) {
            r = Reshape(x, rows)
            s = Relu(r)
            y = Reshape(s, back)
            z = Add(s, k)
        }""",
        {**SHAPES, "k": normal(4)},
    )
    after, report = clean(before, PASS)
    assert after.operators() == before.operators()
    assert untouched(report, PASS)
    assert_same(before, after)


# Dense layers on rows, and other views --------------------------------------------------------


@pytest.mark.parametrize(
    ("layer", "left"),
    [
        ("d = MatMul(r, w)", {"MatMul": 1}),
        ("m = MatMul(r, w)\n d = Add(m, b)", {"MatMul": 1, "Add": 1}),
        ("d = Gemm(r, w, b)", {"MatMul": 1, "Add": 1}),
        ("d = Gemm<transB=1>(r, v, b)", {"MatMul": 1, "Add": 1}),
        ("m = Gemm(r, w, b)\n s = Softmax<axis=1>(m)\n d = Mul(s, b)",
         {"MatMul": 1, "Add": 1, "Softmax": 1, "Mul": 1}),
    ],
    ids=["matmul", "matmul_add", "gemm", "gemm_transposed", "chain"],
)  # fmt: skip
def test_a_dense_layer_on_rows_works_on_all_axes(layer: str, left: dict[str, int]) -> None:
    constants = {
        "rows": np.array([-1, 4]), "back": np.array([-1, 3, 6]), "w": normal(4, 6, seed=1),
        "v": normal(6, 4, seed=1), "b": normal(6, seed=2),
    }  # fmt: skip
    before = model_of(
        f"""agraph (float[N,3,4] x) => (float[N,3,6] y) {{
            r = Reshape(x, rows)
            {layer}
            y = Reshape(d, back)
        }}""",
        {
            name: value
            for name, value in constants.items()
            if name in ("rows", "back") or f" {name})" in layer or f" {name}," in layer
        },
    )
    after, _ = clean(before, PASS)
    assert after.operators() == left
    assert_same(before, after, ROUNDING)


@pytest.mark.parametrize(
    "body",
    [
        "d = Gemm<alpha=2.0>(r, w)\n y = Reshape(d, back)",
        "d = MatMul(r, w)\n s = Softmax<axis=0>(d)\n y = Reshape(s, back)",
        "d = MatMul(r, w)\n y = Reshape(d, other)",
    ],
    ids=["alpha", "another_axis", "another_shape"],
)
def test_a_dense_layer_that_needs_its_rows_keeps_them(body: str) -> None:
    constants = {"rows": np.array([-1, 4]), "w": normal(4, 6, seed=1)}
    constants |= (
        {"other": np.array([-1, 9, 2])} if "other" in body else {"back": np.array([-1, 3, 6])}
    )
    before = model_of(
        f"agraph (float[N,3,4] x) => (float[A,B,C] y) {{ r = Reshape(x, rows)\n {body} }}",
        constants,
    )
    after, _ = clean(before, PASS)
    assert after.operators() == before.operators()
    assert_same(before, after)


@pytest.mark.parametrize(
    "views",
    [
        "u = Unsqueeze(r, two)\n v = Squeeze(u, two)",
        "u = Flatten(r)\n v = Reshape(u, back)",
        "u = Unsqueeze(r, two)\n v = Reshape(u, back)",
    ],
    ids=["unsqueeze_squeeze", "flatten_reshape", "unsqueeze_reshape"],
)
def test_views_that_undo_each_other_vanish(views: str) -> None:
    constants = {"two": np.array([2]), "back": np.array([-1, 3, 4])}
    before = model_of(
        f"agraph (float[N,3,4] x) => (float[N,3,4] y) {{ r = Relu(x)\n {views}\n y = Neg(v) }}",
        {name: value for name, value in constants.items() if name in views},
    )
    after, _ = clean(before, PASS)
    assert after.operators() == {"Relu": 1, "Neg": 1}
    assert_same(before, after)


@pytest.mark.parametrize(
    "body",
    [
        "s = Squeeze(x, two)  t = Relu(s)  y = Unsqueeze(t, two)",
        "s = Squeeze(x, two)  t = Neg(s)  u = Clip(t, low)  y = Unsqueeze(u, two)",
        "s = Squeeze(x, two)  t = Mul(s, row)  y = Unsqueeze(t, two)",
        "s = Squeeze(x, two)  t = Softmax(s)  y = Unsqueeze(t, two)",
        "s = Unsqueeze(x, two)  t = Tanh(s)  y = Squeeze(t, two)",
        "s = Squeeze(x, two)  t = Sigmoid(s)  y = Reshape(t, shape)",
    ],
    ids=["relu", "chain", "row", "softmax", "unsqueeze", "reshape"],
)
def test_what_stands_between_squeeze_and_unsqueeze_is_unwrapped(body: str) -> None:
    constants = {
        "two": np.array([2]), "low": np.array(-0.5, np.float32), "row": normal(6, seed=1),
        "shape": np.array([0, 4, 1, 6]),
    }  # fmt: skip
    used = {name: value for name, value in constants.items() if f" {name}" in body}
    before = model_of(f"agraph (float[N,4,1,6] x) => (float[N,4,1,6] y) {{ {body} }}", used)
    after, _ = clean(before, "merge_reshapes")
    assert not {"Reshape", "Squeeze", "Unsqueeze"} & set(after.operators())
    assert_same(before, after)


def test_what_is_along_an_axis_that_a_squeeze_takes_stays() -> None:
    before = model_of(
        """agraph (float[N,4,6,1] x) => (float[N,4,6,1] y)
        { s = Squeeze(x, last)  t = Softmax(s)  y = Unsqueeze(t, last) }""",
        {"last": np.array([3])},
    )
    after, _ = clean(before, "merge_reshapes")
    assert after.operators() == before.operators()


# Transposes that move no element ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "left"),
    [
        ("r = Reshape(x, six)\n t = Transpose<perm=[0,1,3,2,4,5]>(r)\n n = Reshape(t, rows)",
         {"Reshape": 1}),
        ("r = Transpose<perm=[0,2,1,3]>(x)\n n = Reshape(r, rows)", {"Reshape": 1}),
        ("r = Reshape(x, six)\n n = Transpose<perm=[0,5,1,2,3,4]>(r)",
         {"Reshape": 1, "Transpose": 1}),
        ("t = Reshape(x, image)\n n = Transpose<perm=[0,2,1,3]>(t)",
         {"Reshape": 1}),
    ],
    ids=["windows", "before", "moves", "after"],
)  # fmt: skip
def test_a_transpose_of_axes_of_one_is_a_reshape(body: str, left: dict[str, int]) -> None:
    rank = 6 if "0,5,1" in body else 4 if "image" in body else 2
    before = model_of(
        f"""agraph (float[N,1,7,5] x) => (float[{",".join("NABCDE"[:rank])}] y) {{
            z = Relu(x)
            {body.replace("(x", "(z")}
            y = Neg(n)
        }}""",
        {
            "six": np.array([-1, 1, 7, 1, 1, 5]), "rows": np.array([-1, 35]),
            "image": np.array([-1, 1, 35, 1]),
        },
    )  # fmt: skip
    after, _ = clean(before, PASS)
    assert after.operators() == {"Relu": 1, "Neg": 1} | left
    assert_same(before, after)


def test_a_transpose_of_an_axis_that_may_be_more_than_one_stays() -> None:
    before = model_of(
        """agraph (float[N,M,7] x) => (float[A,B] y) {
            t = Transpose<perm=[0,2,1]>(x)
            y = Reshape(t, rows)
        }""",
        {"rows": np.array([-1, 7])},
    )
    _, report = clean(before, PASS)
    assert untouched(report, PASS)
