"""Graphs with If, Loop and Scan: the nodes inside read what the passes rewrite outside."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from onnxgraft.graph.model import Model
from onnxgraft.graph.operators import counted
from onnxgraft.graph.tensors import Array
from onnxgraft.stages.surgery import run
from tests.conftest import model_of
from tests.surgery.helpers import ROUNDING, infer, normal, positive

CONSTANTS: dict[str, Array] = {
    "w": normal(6, 4, 1, 1, seed=1),
    "gamma": normal(6, seed=2),
    "beta": normal(6, seed=3),
    "mean": normal(6, seed=4),
    "var": positive(6, seed=5),
    "k": positive(6, 1, 1, seed=6),
    "row": normal(5, seed=7),
    "m": normal(5, 6, seed=8),
    "d": normal(60, 6, seed=9),
    "bias": normal(6, seed=10),
    "rows": np.array([-1, 5]),
    "flat": np.array([-1, 60]),
    "back": np.array([-1, 4, 3, 5]),
    "yes": np.array(True),
    "zeros": np.zeros(8, np.int64),
    "zero": np.array([0]),
    "one": np.array([1]),
    "sixty": np.array([60]),
}


def outer(model: Model) -> dict[str, int]:
    """Return how often each operator occurs in the graph itself, without the bodies."""
    return counted(model.graph.nodes)


def branching(
    outside: str, then: str, other: str = "e = Neg(x)", *, rank: int = 4, more: str = ""
) -> Model:
    """Return an If whose branches read, beside x (N, 4, 3, 5), what ``outside`` computes."""
    kind = f"float[{','.join('ABCD'[:rank])}]"
    text = f"""agraph (float[N,4,3,5] x, bool c) => ({kind} y{more}) {{
        {outside}
        y = If (c) <
            then_branch = yes_branch () => ({kind} t) {{ {then} }},
            else_branch = no_branch () => ({kind} e) {{ {other} }}
        >
    }}"""
    return model_of(text, {n: v for n, v in CONSTANTS.items() if n in outside + then + other})


def assert_right(before: Model, fraction: float = 0.0) -> Model:
    """Clean the model, and compare both ways that the If can go."""
    after, _ = run(before)
    onnx.checker.check_model(after.to_onnx())
    assert outer(after).get("If", 0) == outer(before).get("If", 0)
    for batch in (1, 3):
        for way in (True, False):
            feeds = {"x": normal(batch, 4, 3, 5), "c": np.array(way)}
            feeds = {spec.name: feeds[spec.name] for spec in before.inputs}
            expected, actual = infer(before, feeds), infer(after, feeds)
            assert list(actual) == list(expected)
            for name, value in expected.items():
                assert actual[name].shape == value.shape
                limit = fraction * float(np.ptp(value))
                assert float(np.abs(actual[name] - value).max()) <= limit
    return after


def test_a_graph_with_an_if_and_nothing_to_do_passes_through() -> None:
    before = branching("a = Relu(x)", "t = Exp(a)", "e = Neg(a)")
    after = assert_right(before)
    assert outer(after) == {"Relu": 1, "If": 1}


def test_a_captured_identity_is_removed() -> None:
    after = assert_right(branching("i = Identity(x)", "t = Exp(i)", "e = Neg(i)"))
    assert outer(after) == {"If": 1}


def test_a_captured_identity_that_is_an_output_too_is_replaced_everywhere() -> None:
    before = branching(
        "r = Relu(x)\n i = Identity(r)", "t = Exp(r)", "e = Neg(r)", more=", float[A,B,C,D] i"
    )
    after = assert_right(before)
    assert outer(after) == {"Relu": 1, "If": 1}


@pytest.mark.parametrize(
    "noop",
    ["i = Cast<to=1>(x)", "i = Pad(x, zeros)", "i = Reshape(x, back)", "i = Where(yes, x, r)"],
    ids=["cast", "pad", "reshape", "select"],
)
def test_what_changes_nothing_before_an_if_is_removed(noop: str) -> None:
    after = assert_right(branching(f"r = Relu(x)\n {noop}", "t = Exp(i)", "e = Neg(i)"))
    assert outer(after) == {"If": 1}


def test_a_constant_computed_outside_is_folded_for_the_branches() -> None:
    after = assert_right(branching("q = Exp(row)", "t = Mul(x, q)", "e = Add(x, q)"))
    assert outer(after) == {"If": 1}


def test_a_constant_that_the_graph_and_a_branch_read_is_folded() -> None:
    after = assert_right(branching("q = Exp(row)\n a = Add(x, q)", "t = Mul(a, q)", "e = Neg(a)"))
    assert outer(after) == {"Add": 1, "If": 1}


def test_a_constant_node_that_a_branch_reads_is_folded() -> None:
    outside = "q = Constant<value_floats=[1.0, 2.0, 3.0, 4.0, 5.0]>()"
    assert_right(branching(outside, "t = Mul(x, q)", "e = Add(x, q)"))


def test_a_transpose_that_both_branches_read_stays_right() -> None:
    assert_right(
        branching("i = Transpose<perm=[0,2,3,1]>(x)", "t = Exp(i)", "e = Neg(i)"), ROUNDING
    )


def test_transposes_inside_and_outside_stay_right() -> None:
    before = branching(
        "i = Transpose<perm=[0,2,3,1]>(x)",
        "a = Relu(i)\n t = Transpose<perm=[0,3,1,2]>(a)",
        "b = Neg(i)\n e = Transpose<perm=[0,3,1,2]>(b)",
    )
    assert_right(before)


def test_a_transpose_that_a_transpose_inside_undoes_stays_right() -> None:
    before = branching(
        "i = Transpose<perm=[0,2,3,1]>(x)",
        "t = Transpose<perm=[0,3,1,2]>(i)",
        "e = Neg(x)",
    )
    assert_right(before)


def test_a_transpose_that_the_graph_and_a_branch_read_stays_right() -> None:
    before = branching(
        """i = Transpose<perm=[0,2,3,1]>(x)
        r = Relu(i)
        z = Transpose<perm=[0,3,1,2]>(r)""",
        "a = Neg(i)\n t = Transpose<perm=[0,3,1,2]>(a)",
        "e = Neg(x)",
        more=", float[A,B,C,D] z",
    )
    assert_right(before)


def test_transposes_that_cancel_outside_leave_the_if_alone() -> None:
    before = branching(
        "i = Transpose<perm=[0,2,3,1]>(x)\n r = Relu(i)\n q = Transpose<perm=[0,3,1,2]>(r)",
        "t = Neg(q)",
        "e = Abs(q)",
    )
    after = assert_right(before)
    assert outer(after) == {"Relu": 1, "If": 1}


def test_a_batch_norm_that_a_branch_reads_is_folded() -> None:
    before = branching(
        "q = Conv(x, w)\n n = BatchNormalization(q, gamma, beta, mean, var)",
        "t = Relu(n)",
        "e = Neg(n)",
    )
    after = assert_right(before, ROUNDING)
    assert outer(after) == {"Conv": 1, "If": 1}


def test_a_conv_whose_output_a_branch_reads_keeps_its_batch_norm() -> None:
    before = branching(
        "q = Conv(x, w)\n n = BatchNormalization(q, gamma, beta, mean, var)",
        "t = Relu(q)",
        "e = Neg(n)",
    )
    after = assert_right(before)
    assert outer(after) == {"Conv": 1, "BatchNormalization": 1, "If": 1}


def test_weights_that_a_branch_reads_too_are_not_scaled_for_the_branch() -> None:
    before = branching("q = Conv(x, w)\n n = Mul(q, k)", "t = Conv(x, w)", "e = Neg(n)")
    assert_right(before, ROUNDING)


def test_a_batch_norm_inside_a_branch_is_not_folded_into_a_conv_outside() -> None:
    before = branching(
        "q = Conv(x, w)", "t = BatchNormalization(q, gamma, beta, mean, var)", "e = Neg(x)"
    )
    after = assert_right(before)
    assert outer(after) == {"Conv": 1, "If": 1}


def test_an_add_inside_a_branch_is_not_fused_with_a_matmul_outside() -> None:
    before = branching(
        "r = Reshape(x, rows)\n q = MatMul(r, m)",
        "t = Add(q, bias)",
        "e = Reshape(x, rows)",
        rank=2,
    )
    after = assert_right(before)
    assert outer(after) == {"Reshape": 1, "MatMul": 1, "If": 1}


def test_a_reshape_inside_a_branch_after_one_outside_stays_right() -> None:
    before = branching("r = Reshape(x, rows)", "t = Reshape(r, back)", "e = Neg(x)")
    assert_right(before)


def test_a_node_inside_a_branch_between_two_reshapes_stays_right() -> None:
    before = branching("r = Reshape(x, rows)", "a = Relu(r)\n t = Reshape(a, back)", "e = Neg(x)")
    assert_right(before)


def test_a_dense_layer_inside_a_branch_after_a_flatten_outside_stays_right() -> None:
    before = branching(
        "i = Transpose<perm=[0,2,3,1]>(x)\n f = Reshape(i, flat)",
        "t = Gemm(f, d)",
        "e = Reshape(x, rows)",
        rank=2,
    )
    assert_right(before, ROUNDING)


def test_dense_weights_that_a_branch_reads_too_stay_right() -> None:
    before = branching(
        """i = Transpose<perm=[0,2,3,1]>(x)
        f = Reshape(i, flat)
        z = Gemm(f, d)""",
        "g = Reshape(x, flat)\n t = Gemm(g, d)",
        "e = Reshape(x, flat)",
        rank=2,
        more=", float[A,B] z",
    )
    assert_right(before, ROUNDING)


def test_a_target_computed_outside_and_read_inside_stays_right() -> None:
    before = branching(
        """s = Shape(x)
        n = Slice(s, zero, one)
        g = Concat<axis=0>(n, sixty)
        z = Reshape(x, g)""",
        "t = Reshape(x, g)",
        "e = Neg(z)",
        rank=2,
        more=", float[A,B] z",
    )
    assert_right(before)


def test_a_frozen_training_flag_may_drive_an_if() -> None:
    before = model_of(
        """agraph (float[N,4] x, bool is_training) => (float[A,B] y) {
            i = Identity(x)
            y = If (is_training) <
                then_branch = a () => (float[A,B] t) { t = Exp(i) },
                else_branch = b () => (float[A,B] e) { e = Neg(i) }
            >
        }"""
    )
    after, _ = run(before)
    x = normal(3, 4)
    np.testing.assert_array_equal(
        infer(after, {"x": x})["y"], infer(before, {"x": x, "is_training": np.array(False)})["y"]
    )


def test_an_if_inside_an_if_reads_what_is_rewritten_outside() -> None:
    before = branching(
        "i = Identity(x)\n q = Exp(row)",
        """t = If (c) <
            then_branch = inner_yes () => (float[A,B,C,D] u) { u = Mul(i, q) },
            else_branch = inner_no () => (float[A,B,C,D] v) { v = Neg(i) }
        >""",
        "e = Add(i, q)",
    )
    after = assert_right(before)
    assert outer(after) == {"If": 1}


LOOP = """agraph (float[N,4,3,5] x) => (float[A,B,C,D] y) {{
    {outside}
    y = Loop (trips, yes, {start}) <
        body = step (int64 number, bool go, float[A,B,C,D] state)
            => (bool more, float[A,B,C,D] next) {{
            more = Identity(go)
            {inside}
        }}
    >
}}"""


@pytest.mark.parametrize(
    ("outside", "start", "inside"),
    [
        ("i = Identity(x)", "x", "next = Add(state, i)"),
        ("i = Identity(x)", "i", "next = Add(state, x)"),
        ("q = Exp(row)", "x", "next = Mul(state, q)"),
        ("a = Relu(x)\n i = Transpose<perm=[0,2,3,1]>(a)", "i", "next = Add(state, i)"),
        ("i = Transpose<perm=[0,2,3,1]>(x)", "x",
         "a = Relu(i)\n b = Transpose<perm=[0,3,1,2]>(a)\n next = Add(state, b)"),
        ("r = Conv(x, w4)\n n = Mul(r, k4)", "x", "next = Add(state, n)"),
        ("r = Conv(x, w4)\n n = Mul(r, k4)", "n", "next = Add(state, r)"),
    ],
    ids=[
        "identity_captured", "identity_carried", "constant_captured", "transpose_carried",
        "transpose_captured", "batch_norm_captured", "conv_captured",
    ],
)  # fmt: skip
def test_a_loop_reads_what_is_rewritten_outside(outside: str, start: str, inside: str) -> None:
    constants = {
        "trips": np.array(3),
        "yes": np.array(True),
        "row": CONSTANTS["row"] / 4,
        "w4": normal(4, 4, 1, 1, seed=1),
        "k4": positive(4, 1, 1, seed=2),
    }
    before = model_of(LOOP.format(outside=outside, start=start, inside=inside), constants)
    assert outer(before)["Loop"] == 1
    after = assert_right(before, ROUNDING)
    assert outer(after)["Loop"] == 1


# What is rewritten inside a body --------------------------------------------------------------


def test_a_body_is_cleaned_like_a_graph() -> None:
    before = branching(
        "r = Relu(x)",
        """q = Conv(r, w)
        n = BatchNormalization(q, gamma, beta, mean, var)
        i = Identity(n)
        t = Relu(i)""",
        "u = Transpose<perm=[0,2,3,1]>(x)\n v = Exp(u)\n e = Transpose<perm=[0,3,1,2]>(v)",
    )
    after = assert_right(before, ROUNDING)
    (node,) = (node for node in after.graph.nodes if node.op == "If")
    inside = [[inner.op for inner in body.nodes] for body in node.subgraphs()]
    assert inside == [["Conv", "Relu"], ["Exp"]]


def test_an_identity_that_hands_an_outer_tensor_out_of_a_body_stays() -> None:
    before = branching("r = Relu(x)", "t = Identity(r)", "e = Neg(x)")
    after = assert_right(before)
    (node,) = (node for node in after.graph.nodes if node.op == "If")
    assert [inner.op for inner in node.attrs["then_branch"].nodes] == ["Identity"]


def test_the_body_of_a_loop_is_cleaned_and_keeps_what_it_carries() -> None:
    before = model_of(
        LOOP.format(
            outside="",
            start="x",
            inside="""i = Identity(state)
            u = Transpose<perm=[0,2,3,1]>(i)
            v = Tanh(u)
            next = Transpose<perm=[0,3,1,2]>(v)""",
        ),
        {"trips": np.array(3), "yes": np.array(True)},
    )
    after = assert_right(before, ROUNDING)
    (node,) = after.graph.nodes
    body = node.attrs["body"]
    assert sorted(inner.op for inner in body.nodes) == ["Identity", "Tanh"]
    assert [tensor.name for tensor in body.outputs] == ["more", "next"]


SCAN = """agraph (float[T,4,3,5] x) => (float[A,B,C] last, float[D,E,F,G] all) {{
    {outside}
    start = Identity(zeros)
    last, all = Scan <num_scan_inputs=1, body = step (float[6,3,5] state, float[4,3,5] row)
        => (float[6,3,5] next, float[3,5,6] out) {{ {inside} }}> (start, x)
}}"""


def scanning(inside: str, outside: str = "") -> tuple[Model, Model]:
    """Return a Scan along x before and after the clean-up, which computes the same."""
    extra: dict[str, Array] = {"zeros": np.zeros((6, 3, 5), np.float32), "axes": np.array([0])}
    extra = {name: value for name, value in (CONSTANTS | extra).items()
             if name in (inside + outside + " zeros").replace("(", " ").replace(")", " ")
             .replace(",", " ").split()}  # fmt: skip
    before = model_of(SCAN.format(inside=inside, outside=outside), extra)
    after, report = run(before, verify=True)
    onnx.checker.check_model(after.to_onnx())
    assert report.passed and not [e for e in report.passes if e.rolled_back]
    for steps in (1, 4):
        feeds = {"x": normal(steps, 4, 3, 5)}
        expected, actual = infer(before, feeds), infer(after, feeds)
        assert list(actual) == list(expected)
        for name, value in expected.items():
            assert actual[name].shape == value.shape
            assert float(np.abs(actual[name] - value).max()) <= ROUNDING * float(np.ptp(value))
    return before, after


def test_the_body_of_a_scan_is_cleaned_and_keeps_what_it_carries() -> None:
    _, after = scanning(
        """image = Unsqueeze(row, axes)
        c = Conv(image, w)
        n = BatchNormalization(c, gamma, beta, mean, var)
        i = Identity(n)
        plane = Squeeze(i, axes)
        next = Add(plane, state)
        u = Transpose<perm=[1,2,0]>(next)
        v = Tanh(u)
        j = Identity(v)
        out = Relu(j)"""
    )
    (node,) = after.graph.nodes
    body = node.attrs["body"]
    assert sorted(inner.op for inner in body.nodes) == [
        "Add", "Conv", "Relu", "Squeeze", "Tanh", "Transpose", "Unsqueeze",
    ]  # fmt: skip
    assert [tensor.name for tensor in body.inputs] == ["state", "row"]
    assert [tensor.name for tensor in body.outputs] == ["next", "out"]


def test_a_scan_reads_what_is_rewritten_outside() -> None:
    _, after = scanning(
        """image = Unsqueeze(row, axes)
        c = Conv(image, scaled)
        plane = Squeeze(c, axes)
        next = Add(plane, state)
        out = Transpose<perm=[1,2,0]>(next)""",
        "half = Mul(k, k)\n same = Identity(w)\n k4 = Unsqueeze(half, axes)\n"
        " k5 = Transpose<perm=[1,0,2,3]>(k4)\n scaled = Mul(same, k5)",
    )
    assert [node.op for node in after.graph.nodes] == ["Scan"]


def test_what_a_scan_carries_and_hands_out_unchanged_keeps_its_names() -> None:
    _, after = scanning(
        """image = Unsqueeze(row, axes)
        c = Conv(image, w)
        plane = Squeeze(c, axes)
        next = Identity(plane)
        o = Add(state, plane)
        out = Transpose<perm=[1,2,0]>(o)"""
    )
    (node,) = after.graph.nodes
    assert [tensor.name for tensor in node.attrs["body"].outputs] == ["next", "out"]
    assert "Identity" not in {inner.op for inner in node.attrs["body"].nodes}


def test_a_dead_if_takes_what_only_it_read_with_it() -> None:
    before = model_of(
        """agraph (float[N,4] x, bool c) => (float[N,4] y) {
            a = Exp(x)
            d = If (c) <
                then_branch = yes_branch () => (float[A,B] t) { t = Neg(a) },
                else_branch = no_branch () => (float[A,B] e) { e = Abs(a) }
            >
            y = Relu(x)
        }"""
    )
    after, _ = run(before)
    assert outer(after) == {"Relu": 1}


# Ifs that are decided -------------------------------------------------------------------------


@pytest.mark.parametrize("way", [True, False])
def test_the_branch_that_a_constant_takes_replaces_the_if(way: bool) -> None:
    before = model_of(
        """agraph (float[N,4] x) => (float[A,B] y, float[C,D] z) {
            r = Relu(x)
            y, z = If (c) <
                then_branch = yes_branch () => (float[A,B] t, float[C,D] u) {
                    t = Exp(r)
                    u = Mul(t, k)
                },
                else_branch = no_branch () => (float[A,B] e, float[C,D] f) {
                    e = Neg(x)
                    f = Identity(r)
                }
            >
        }""",
        {"c": np.array(way), "k": positive(4)},
    )
    after, _ = run(before)
    onnx.checker.check_model(after.to_onnx(), full_check=True)
    assert outer(after) == ({"Relu": 1, "Exp": 1, "Mul": 1} if way else {"Relu": 1, "Neg": 1})
    x = normal(3, 4)
    for name, value in infer(before, {"x": x}).items():
        np.testing.assert_array_equal(infer(after, {"x": x})[name], value)


def test_branches_that_call_their_tensors_alike_are_told_apart() -> None:
    branch = """{name} = If ({flag}) <
        then_branch = a{name} () => (float[A,B] t) {{ s = Exp({x})\n t = Mul(s, k) }},
        else_branch = b{name} () => (float[A,B] e) {{ e = Neg({x}) }}
    >"""
    first = branch.format(name="p", x="x", flag="yes")
    second = branch.format(name="q", x="p", flag="no")
    third = branch.format(name="y", x="q", flag="yes")
    before = model_of(
        f"agraph (float[N,4] x) => (float[A,B] y) {{ {first}\n {second}\n {third} }}",
        {"k": positive(4) / 4, "yes": np.array(True), "no": np.array(False)},
    )
    after, report = run(before)
    assert not [entry.rolled_back for entry in report.passes if entry.rolled_back]
    assert outer(after) == {"Exp": 2, "Mul": 2, "Neg": 1}
    x = normal(3, 4)
    np.testing.assert_allclose(infer(after, {"x": x})["y"], infer(before, {"x": x})["y"], 1e-6)


def test_an_if_that_an_input_decides_is_refused() -> None:
    before = branching("r = Relu(x)", "t = Exp(r)")
    _, report = run(before, only=["remove_branch"])
    (entry,) = report.passes
    assert [finding.sentence for finding in entry.refused] == ["the condition is not a constant"]


@pytest.mark.parametrize(("bound", "branch"), [(9, "then"), (0, "else"), (1, "")])
def test_a_branch_that_no_sample_takes_is_told(bound: int, branch: str) -> None:
    before = model_of(
        """agraph (float[N, 4] x) => (float[N, 4] y) {
            r = Identity(x)  s = Shape(r)  n = Gather(s, zero)  c = Greater(n, k)
            y = If(c) <
                then_branch = a () => (float[N, 4] p) { p = Relu(r) },
                else_branch = b () => (float[N, 4] q) { q = Neg(r) }
            >
        }""",
        {"k": np.array(bound), "zero": np.array(0)},
    )
    _, report = run(before, verify=True)  # batches of 1 and 2
    assert report.verdicts
    told = [note for note in report.notes if "taken by none of the samples" in note]
    assert [note.split()[1] for note in told] == ([branch] if branch else [])
