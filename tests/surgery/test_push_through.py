"""push_transposes: each operator that a Transpose moves past, and how it changes."""

from __future__ import annotations

import numpy as np
import pytest

from onnxgraft.graph.tensors import Array
from tests.conftest import model_of
from tests.surgery.helpers import ROUNDING, assert_same, clean, model_at, normal, report_of

PASS = "push_transposes"

# x is (N, 2, 3, 4) in NCHW, t is x in NHWC: (N, 3, 4, 2). What comes out goes back to where the
# Transpose can cancel; an axis taken for another would show in shape or numbers.
BACK = "y = Transpose<perm=[0,3,1,2]>(r)"
I64 = np.int64

BODIES: dict[str, tuple[str, dict[str, Array]]] = {
    "split": (
        "a, b = Split<axis=3>(t)\n c = Neg(a)\n r = Concat<axis=3>(b, c)\n " + BACK, {}
    ),
    "slice": (
        "r = Slice(t, one, far, three)\n " + BACK,
        {"one": np.array([1]), "far": np.array([99]), "three": np.array([3])},
    ),
    "slice_without_axes": (
        "r = Slice(t, starts, ends)\n " + BACK,
        {"starts": np.array([0, 1]), "ends": np.array([99, 3])},
    ),
    "slice_backwards": (
        "r = Slice(t, minus, far, three, minus)\n " + BACK,
        {"minus": np.array([-1]), "far": np.array([-99]), "three": np.array([-1])},
    ),
    "gather": ("r = Gather<axis=-1>(t, i)\n " + BACK, {"i": np.array([1, 0, 1])}),
    "gather_one": (
        "g = Gather<axis=2>(t, i)\n y = Transpose<perm=[0,2,1]>(g)", {"i": np.array(3)}
    ),
    "tile": ("r = Tile(t, times)\n " + BACK, {"times": np.array([1, 2, 1, 3])}),
    "expand": (
        "m = ReduceMax<axes=[1]>(t)\n r = Expand(m, to)\n " + BACK,
        {"to": np.array([1, 5, 1, 1])},
    ),
    "resize_scales": (
        'r = Resize<mode="linear">(t, none, scales)\n ' + BACK,
        {"none": np.zeros(0, np.float32), "scales": np.array([1, 2, 3, 1], np.float32)},
    ),
    "reduce_without_keepdims": (
        "m = ReduceMean<axes=[2], keepdims=0>(t)\n y = Transpose<perm=[0,2,1]>(m)", {}
    ),
    "reduce_to_the_channels": ("y = ReduceMean<axes=[1,2], keepdims=0>(t)", {}),
    "argmax_without_keepdims": (
        "m = ArgMax<axis=3, keepdims=0>(t)\n f = Cast<to=1>(m)\n y = Neg(f)", {}
    ),
    "unsqueeze": (
        "u = Unsqueeze(t, three)\n r = Squeeze(u, three)\n " + BACK, {"three": np.array([3])}
    ),
    "join_rows_and_columns": (
        "m = Reshape(t, to)\n y = Transpose<perm=[0,2,1]>(m)", {"to": np.array([0, 12, 2])}
    ),
    "split_the_channels": (
        "m = Reshape(t, to)\n y = Transpose<perm=[0,3,4,1,2]>(m)",
        {"to": np.array([-1, 3, 4, 1, 2])},
    ),
    "a_gate_from_a_reshape": (
        """m = ReduceMean<axes=[1,2], keepdims=0>(t)
        d = MatMul(m, w)
        s = Sigmoid(d)
        g = Reshape(s, to)
        r = Mul(t, g)
        """ + BACK,
        {"w": normal(2, 2), "to": np.array([-1, 1, 1, 2])},
    ),
    "a_gate_from_an_unsqueeze": (
        """m = ReduceMean<axes=[1,2], keepdims=0>(t)
        s = Sigmoid(m)
        g = Unsqueeze(s, axes)
        r = Mul(g, t)
        """ + BACK,
        {"axes": np.array([1, 2])},
    ),
    "a_constant_in_a_concat": (
        "m = ReduceSum(t, first)\n r = Concat<axis=3>(m, k)\n " + BACK,
        {"k": normal(1, 3, 4, 5), "first": np.array([0])},
    ),
    "greater_and_where": (
        "c = Greater(t, k)\n n = Neg(t)\n r = Where(c, t, n)\n " + BACK, {"k": normal(4, 1)}
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BODIES)
def test_a_transpose_moves_past(case: str) -> None:
    body, constants = BODIES[case]
    dims = body.count("y = Transpose") and body.split("perm=[")[-1].count(",") + 1
    if not dims:
        dims = 2 if case == "reduce_to_the_channels" else 3
    before = model_of(
        f"""agraph (float[N,2,3,4] x) => (float[{",".join("ABCDE"[:dims])}] y) {{
            t = Transpose<perm=[0,2,3,1]>(x)
            {body}
        }}""",
        constants,
    )
    after, _ = clean(before, PASS)
    assert "Transpose" not in after.operators()
    assert_same(before, after, ROUNDING)


def test_axes_of_a_reduction_may_be_an_input() -> None:
    before = model_at(
        18,
        """agraph (float[N,2,3,4] x) => (float[A,B,C,D] y) {
            t = Transpose<perm=[0,2,3,1]>(x)
            r = ReduceMax(t, axes)
            y = Transpose<perm=[0,3,1,2]>(r)
        }""",
        {"axes": np.array([-1, 1])},
    )
    after, _ = clean(before, PASS)
    assert after.operators() == {"ReduceMax": 1}
    assert_same(before, after)


@pytest.mark.parametrize(
    ("body", "obstacle"),
    [
        ("m = Reshape(t, to)\n y = Neg(m)", "Reshape"),
        ("m = Expand(t, to)\n y = Transpose<perm=[0,3,1,2]>(m)", "Expand"),
        ("m = Gather<axis=3>(t, to)\n y = Relu(m)", "Gather"),
        ("m = LpNormalization<axis=3>(t)\n y = Transpose<perm=[0,3,1,2]>(m)", "LpNormalization"),
    ],
    ids=["channels_into_columns", "lower_rank", "indices_of_two_axes", "another_operator"],
)
def test_what_a_transpose_can_not_pass_is_named(body: str, obstacle: str) -> None:
    to = {"Reshape": [0, 3, 8], "Expand": [2], "Gather": [[0, 1]]}.get(obstacle, [0])
    dims = {"Reshape": "A,B,C", "Gather": "A,B,C,D,E"}.get(obstacle, "A,B,C,D")
    before = model_of(
        f"""agraph (float[N,2,3,4] x) => (float[{dims}] y) {{
            t = Transpose<perm=[0,2,3,1]>(x)
            {body}
        }}""",
        {"to": np.array(to)} if "to)" in body else {},
    )
    after, report = clean(before, PASS)
    assert after.operators() == before.operators()
    assert f"can't move past the {obstacle}" in report_of(report, PASS).refused[0].sentence
    assert_same(before, after)


def test_going_back_leaves_the_graph_as_it_was() -> None:
    """Nothing cancels here: the nodes, constants and names are those that came in."""
    before = model_of(
        """agraph (float[N,2,3,4] x) => (float[A,B,C,D] y) {
            t = Transpose<perm=[0,2,3,1]>(x)
            a = Mul(t, k)
            b = Softmax<axis=3>(a)
            y = LpNormalization<axis=3>(b)
        }""",
        {"k": normal(4, 1)},
    )
    after, _ = clean(before, PASS)
    for node in before.graph.nodes:
        node.name = node.outputs[0].name  # as surgery calls a node without a name
    assert list(after.to_onnx().graph.node) == list(before.to_onnx().graph.node)
    assert sorted(after.graph.tensors()) == sorted(before.graph.tensors())
    assert_same(before, after)


def test_a_thousand_transposes_cancel() -> None:
    """Each move looks at its neighbours alone, or this takes minutes."""
    body, tensor = [], "x"
    for n in range(500):
        body.append(f"t{n} = Transpose<perm=[0,2,3,1]>({tensor})")
        body.append(f"a{n} = Tanh(t{n})")
        body.append(f"u{n} = Transpose<perm=[0,3,1,2]>(a{n})")
        tensor = f"u{n}"
    before = model_of(
        f"agraph (float[N,2,3,4] x) => (float[N,2,3,4] y) {{ {chr(10).join(body)}\n"
        f" y = Neg({tensor}) }}"
    )
    after, _ = clean(before, PASS)
    assert after.operators() == {"Tanh": 500, "Neg": 1}


def test_a_consumer_that_another_one_feeds_is_looked_at_again() -> None:
    before = model_of(
        """agraph (float[N,2,3,4] x) => (float[A,B,C,D] y) {
            t = Transpose<perm=[0,2,3,1]>(x)
            m = ReduceMax<axes=[3], keepdims=1>(t)
            n = Neg(t)
            a = Add(m, n)
            b = Mul(t, a)
            y = Transpose<perm=[0,3,1,2]>(b)
        }"""
    )
    after, _ = clean(before, PASS)
    assert "Transpose" not in after.operators()
    assert_same(before, after, ROUNDING)
