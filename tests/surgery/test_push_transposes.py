"""push_transposes: Transposes move towards the outputs until they cancel."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from onnxgraft.graph.model import Model, Origin
from onnxgraft.graph.tensors import Array
from onnxgraft.run.feeds import random_feeds
from onnxgraft.stages.surgery.passes.layout import push_transposes
from onnxgraft.stages.surgery.passes.layout._commute import move
from tests.conftest import model_of
from tests.surgery.helpers import (
    ROUNDING,
    assert_same,
    attributes,
    clean,
    model_at,
    normal,
    positive,
    report_of,
    tensor_values,
)

PASS = "push_transposes"

# x is (N, C, H, W) = (N, 2, 3, 5) and t is NHWC. The permutation is not its own inverse, and no two
# sizes are equal: a permutation in the wrong direction shows.
TO_NHWC = "t = Transpose<perm=[0,2,3,1]>(x)"
TO_NCHW = "Transpose<perm=[0,3,1,2]>"


def around(
    body: str, constants: dict[str, Array] | None = None, *, shape: str = "N,2,3,5", opset: int = 17
) -> Model:
    """Return a model that goes to NHWC, computes r from t, and goes back."""
    text = f"""agraph (float[N,2,3,5] x) => (float[{shape}] y) {{
        {TO_NHWC}
        {body}
        y = {TO_NCHW}(r)
    }}"""
    return model_at(opset, text, constants)


def assert_cancelled(before: Model, fraction: float = 0.0) -> Model:
    after, report = clean(before, PASS)
    assert "Transpose" in before.operators()
    rest = {op: count for op, count in before.operators().items() if op != "Transpose"}
    assert after.operators() == rest
    count = before.operators()["Transpose"]
    assert [f.sentence for f in report_of(report, PASS).done] == [f"{count} Transposes became 0"]
    assert_same(before, after, fraction)
    return after


def assert_kept(before: Model) -> None:
    after, report = clean(before, PASS)
    assert after.operators() == before.operators()
    entry = report_of(report, PASS)
    assert not entry.done
    assert all("move" in finding.sentence for finding in entry.refused)
    assert_same(before, after)


# Cancelling -----------------------------------------------------------------------------------


def test_two_transposes_that_undo_each_other_are_gone() -> None:
    assert_cancelled(around("r = Relu(t)"))


def test_two_transposes_that_do_not_undo_each_other_become_one() -> None:
    before = model_of(
        """agraph (float[N,2,3,5] x) => (float[N,2,5,3] y) {
            t = Transpose<perm=[0,2,3,1]>(x)
            r = Relu(t)
            y = Transpose<perm=[0,3,2,1]>(r)
        }"""
    )
    after, _ = clean(before, PASS)
    assert after.operators() == {"Relu": 1, "Transpose": 1}
    assert attributes(after, "Transpose")["perm"] == [0, 1, 3, 2]
    assert_same(before, after)


def test_a_chain_of_transposes_becomes_one() -> None:
    before = model_of(
        """agraph (float[2,3,4,5] x) => (float[A,B,C,D] y) {
            a = Transpose<perm=[1,2,3,0]>(x)
            b = Transpose<perm=[0,2,1,3]>(a)
            y = Transpose<perm=[3,0,2,1]>(b)
        }"""
    )
    after, _ = clean(before, PASS)
    assert after.operators() == {"Transpose": 1}
    assert_same(before, after)


def test_a_transpose_of_a_transpose_between_an_input_and_an_output_stays_legal() -> None:
    before = model_of(
        f"agraph (float[N,2,3,5] x) => (float[N,2,3,5] y) {{ {TO_NHWC}\n y = {TO_NCHW}(t) }}"
    )
    after, _ = clean(before, PASS)
    assert after.operators().get("Transpose", 0) <= 1
    assert_same(before, after)


def test_a_transpose_without_perm_reverses_the_axes() -> None:
    before = model_of(
        """agraph (float[2,3,5] x) => (float[2,3,5] y) {
            t = Transpose(x)
            r = Relu(t)
            y = Transpose(r)
        }"""
    )
    assert_cancelled(before)


# What a Transpose is pushed through -------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        "r = Neg(t)",
        "r = Clip(t, low, high)",
        "r = LeakyRelu<alpha=0.3>(t)",
        "r = Identity(t)",
        "a = Abs(t)\n r = Sqrt(a)",
        "c = Cast<to=11>(t)\n r = Cast<to=1>(c)",
        "q = QuantizeLinear(t, high)\n r = DequantizeLinear(q, high)",
    ],
    ids=["neg", "clip", "leaky_relu", "identity", "chain", "cast", "quantize"],
)
def test_an_elementwise_node_takes_a_transpose(body: str) -> None:
    before = around(body, {"low": np.array(-0.5, np.float32), "high": np.array(0.5, np.float32)})
    after, _ = clean(before, PASS)
    assert "Transpose" not in after.operators()
    assert_same(before, after)


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div", "Max", "Min"])
def test_a_binary_node_takes_a_transpose_on_both_sides(op: str) -> None:
    before = model_of(
        f"""agraph (float[N,2,3,5] x, float[N,2,3,5] z) => (float[N,2,3,5] y) {{
            {TO_NHWC}
            u = Transpose<perm=[0,2,3,1]>(z)
            r = {op}(t, u)
            y = {TO_NCHW}(r)
        }}"""
    )
    assert_cancelled(before)


@pytest.mark.parametrize("op", ["Add", "Mul", "Max"])
def test_a_node_that_reads_the_transposed_tensor_twice_takes_one_transpose(op: str) -> None:
    assert_cancelled(around(f"r = {op}(t, t)"))


def test_a_concat_of_a_tensor_with_itself_takes_one_transpose() -> None:
    assert_cancelled(around("r = Concat<axis=3>(t, t)", shape="N,4,3,5"))


CONSTANTS: dict[str, tuple[int, ...]] = {
    "scalar": (),
    "one_value": (1,),
    "rank1": (2,),
    "rank2": (5, 1),
    "rank3": (3, 1, 2),
    "rank4": (1, 1, 1, 2),
    "rank4_full": (1, 3, 5, 2),
    "rank4_height": (1, 3, 1, 1),
}


@pytest.mark.parametrize("order", ["t, k", "k, t"], ids=["constant_second", "constant_first"])
@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div"])
@pytest.mark.parametrize("form", CONSTANTS)
def test_a_constant_operand_is_transposed_with_it(form: str, op: str, order: str) -> None:
    assert_cancelled(around(f"r = {op}({order})", {"k": positive(*CONSTANTS[form])}))


def test_a_constant_that_two_nodes_read_is_transposed_for_the_one_only() -> None:
    before = model_of(
        f"""agraph (float[N,2,3,5] x, float[N,2] z) => (float[N,2,3,5] y, float[N,2] v) {{
            {TO_NHWC}
            r = Mul(t, k)
            y = {TO_NCHW}(r)
            v = Add(z, k)
        }}""",
        {"k": normal(2)},
    )
    assert_cancelled(before)


def test_a_prelu_takes_a_transpose_with_its_slope() -> None:
    assert_cancelled(around("r = PRelu(t, k)", {"k": positive(2)}))


def test_a_select_takes_a_transpose() -> None:
    before = model_of(
        f"""agraph (float[N,2,3,5] x, float[N,2,3,5] z) => (float[N,2,3,5] y) {{
            {TO_NHWC}
            u = Transpose<perm=[0,2,3,1]>(z)
            g = Greater(t, k)
            r = Where(g, u, l)
            y = {TO_NCHW}(r)
        }}""",
        {"k": normal(2), "l": normal(1, 1, 5, 2)},
    )
    assert_cancelled(before)


@pytest.mark.parametrize("axis", [1, 2, 3, -1, -2])
def test_a_concat_works_on_the_axis_before_the_transpose(axis: int) -> None:
    sizes = [2, 3, 5]
    grown = [0, 2, 3, 1][axis] - 1
    sizes[grown] *= 2
    out = f"float[N,{','.join(map(str, sizes))}]"
    before = model_of(
        f"""agraph (float[N,2,3,5] x, float[N,2,3,5] z) => ({out} y) {{
            {TO_NHWC}
            u = Transpose<perm=[0,2,3,1]>(z)
            r = Concat<axis={axis}>(t, u)
            y = {TO_NCHW}(r)
        }}"""
    )
    after = assert_cancelled(before)
    assert attributes(after, "Concat")["axis"] == grown + 1


@pytest.mark.parametrize("axis", ["", "<axis=-1>", "<axis=1>", "<axis=2>", "<axis=3>"])
@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax"])
def test_a_softmax_works_on_the_axis_before_the_transpose(op: str, axis: str) -> None:
    # A sum along another stride may be added in another order.
    assert_cancelled(around(f"r = {op} {axis}(t)"), ROUNDING)


@pytest.mark.parametrize("axis", ["<axis=1>", "<axis=2>", "<axis=3>"])
def test_a_softmax_of_opset_11_spans_the_axes_behind_and_stays_right(axis: str) -> None:
    before = around(f"r = Softmax {axis}(t)", opset=11)
    after, _ = clean(before, PASS)
    assert_same(before, after, ROUNDING)


@pytest.mark.parametrize("axes", ["[1,2]", "[-1]", "[3]", "[-3,-2]", "[1]"])
@pytest.mark.parametrize("op", ["ReduceMean", "ReduceMax", "ReduceMin"])
def test_a_reduction_works_on_the_axes_before_the_transpose(op: str, axes: str) -> None:
    before = around(f"r = {op}<axes={axes}>(t)", shape="N,A,B,C")
    assert_cancelled(before, 0.0 if op != "ReduceMean" else ROUNDING)


def test_a_reduction_whose_axes_are_an_input_works_on_the_axes_before_the_transpose() -> None:
    before = around("r = ReduceSum(t, axes)", {"axes": np.array([1, -1])}, shape="N,A,B,C")
    assert_cancelled(before, ROUNDING)


@pytest.mark.parametrize("axis", ["", "<axis=3>", "<axis=-2>"])
def test_an_argmax_works_on_the_axis_before_the_transpose(axis: str) -> None:
    before = around(f"m = ArgMax {axis}(t)\n r = Cast<to=1>(m)", shape="A,B,C,D")
    after, _ = clean(before, PASS)
    assert "Transpose" not in after.operators()
    assert_same(before, after)


def test_a_pad_pads_the_axes_before_the_transpose() -> None:
    pads = np.array([0, 1, 2, 0, 0, 3, 0, 1])
    before = around(
        "r = Pad(t, pads, value)", {"pads": pads, "value": np.array(7, np.float32)}, shape="N,A,B,C"
    )
    assert_cancelled(before)


def test_a_pad_whose_pads_are_an_attribute_stays_right() -> None:
    before = around("r = Pad<pads=[0,1,2,0,0,3,0,1]>(t)", shape="N,A,B,C", opset=10)
    after, _ = clean(before, PASS)
    assert_same(before, after)


@pytest.mark.parametrize("axes", ["", ", a"], ids=["no_axes", "axes"])
def test_a_slice_by_int32_keeps_axes_of_that_type(axes: str) -> None:
    numbers = {"s": [0, 1], "e": [9, 3], "a": [0, 1]}
    used = [name for name in numbers if name != "a" or axes]
    before = around(
        f"r = Slice(t, s, e{axes})",
        {name: np.array(numbers[name], np.int32) for name in used},
        shape="N,2,2,5",
    )
    assert_cancelled(before)


def test_a_reduction_over_all_axes_is_left_as_it_is() -> None:
    before = model_at(
        18,
        """agraph (float[N,2,3,5] x) => (float[N,2,3,5] y, float z) {
            t = Transpose<perm=[0,2,3,1]>(x)  r = Relu(t)  y = Transpose<perm=[0,3,1,2]>(r)
            z = ReduceSum<keepdims = 0>(r, none)
        }""",
        {"none": np.zeros(0, np.int64)},
    )
    after, report = clean(before, PASS)
    assert not report.notes
    assert all(len(n.inputs[0].shape or ()) for n in after.graph.nodes if n.op == "Transpose")
    assert_same(before, after)


def test_a_transpose_moves_through_a_long_way() -> None:
    before = model_of(
        f"""agraph (float[N,2,3,5] x, float[N,2,3,5] z) => (float[N,4,3,5] y) {{
            {TO_NHWC}
            u = Transpose<perm=[0,2,3,1]>(z)
            a = Mul(t, k)
            b = Add(a, u)
            c = Relu(b)
            d = Concat<axis=3>(c, u)
            e = Add(d, l)
            r = Clip(e)
            y = {TO_NCHW}(r)
        }}""",
        {"k": normal(2), "l": normal(1, 1, 1, 4)},
    )
    assert_cancelled(before)


@pytest.mark.parametrize("pairs", [10, 40])
def test_each_transpose_stops_at_the_first_that_undoes_it(
    pairs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved: list[str] = []

    def counted(node: gs.Node, *args: Any) -> Any:
        moved.append(node.name)
        return move(node, *args)

    monkeypatch.setattr(push_transposes, "move", counted)
    lines, last = [], "x"
    for index in range(pairs):
        lines.append(f"a{index} = Transpose<perm=[0,2,3,1]>({last}) b{index} = Relu(a{index})")
        lines.append(f"c{index} = Transpose<perm=[0,3,1,2]>(b{index}) d{index} = Tanh(c{index})")
        last = f"d{index}"
    body = f"{' '.join(lines)} y = Neg({last})"
    assert_cancelled(model_of(f"agraph (float[N,2,3,4] x) => (float[N,2,3,4] y) {{ {body} }}"))
    # Through the Relu behind each; one that had missed its partner would go on to the end.
    assert len(moved) == pairs


def test_a_transpose_that_two_nodes_read_is_pushed_through_both() -> None:
    before = model_of(
        f"""agraph (float[N,2,3,5] x) => (float[N,2,3,5] y, float[N,2,3,5] z) {{
            {TO_NHWC}
            a = Relu(t)
            b = Neg(t)
            y = {TO_NCHW}(a)
            z = {TO_NCHW}(b)
        }}"""
    )
    assert_cancelled(before)


# Outputs --------------------------------------------------------------------------------------


def test_a_transposed_output_of_the_graph_stays_as_it_is() -> None:
    before = model_of(
        f"""agraph (float[N,2,3,5] x) => (float[N,3,5,2] t, float[N,2,3,5] y) {{
            {TO_NHWC}
            r = Relu(t)
            y = {TO_NCHW}(r)
        }}"""
    )
    after, _ = clean(before, PASS)
    assert after.operators()["Transpose"] <= 2
    assert_same(before, after)


def test_two_transposes_meet_at_an_output_and_become_one() -> None:
    before = model_of(
        f"""agraph (float[N,2,3,5] x, float[N,2,3,5] z) => (float[N,3,5,2] y) {{
            {TO_NHWC}
            u = Transpose<perm=[0,2,3,1]>(z)
            y = Add(t, u)
        }}"""
    )
    after, _ = clean(before, PASS)
    assert after.operators() == {"Add": 1, "Transpose": 1}
    assert [tensor.name for tensor in after.graph.outputs] == ["y"]
    assert_same(before, after)


def test_a_cancelled_transpose_at_an_output_leaves_its_name() -> None:
    before = model_of(
        f"""agraph (float[N,2,3,5] x) => (float[N,2,3,5] y, float[N,3,5,2] z) {{
            c = Relu(x)
            t = Transpose<perm=[0,2,3,1]>(c)
            y = {TO_NCHW}(t)
            z = Neg(t)
        }}"""
    )
    after, _ = clean(before, PASS)
    assert [tensor.name for tensor in after.graph.outputs] == ["y", "z"]
    assert_same(before, after)


# Never more than before -----------------------------------------------------------------------


def test_one_transpose_with_nothing_to_meet_stays_where_it_was() -> None:
    before = model_of(
        f"agraph (float[N,2,3,5] x) => (float[N,3,5,2] y) {{ {TO_NHWC}\n y = Relu(t) }}"
    )
    assert_kept(before)


def test_a_transpose_that_would_have_to_be_doubled_stays_where_it_was() -> None:
    before = model_of(
        f"""agraph (float[N,2,3,5] x) => (float[N,3,5,2] y, float[N,3,5,2] z) {{
            {TO_NHWC}
            y = Relu(t)
            z = Neg(t)
        }}"""
    )
    assert_kept(before)


@pytest.mark.parametrize(
    ("body", "constants"),
    [
        ("r = Add(t, x2)", {}),
        ("r = Concat<axis=3>(t, x2)", {}),
        ("r = ReduceMean(t)", {}),
        ("q = QuantizeLinear<axis=3>(t, scales, zeros)\n r = DequantizeLinear(q, scale)",
         {"scales": positive(2), "zeros": np.zeros(2, np.uint8), "scale": positive()}),
    ],
    ids=[
        "add_of_another_input", "concat_with_another_input", 
        "reduction_of_all", "quantize_per_channel",
    ],
)  # fmt: skip
def test_what_can_not_take_a_transpose_keeps_it(body: str, constants: dict[str, Array]) -> None:
    before = model_of(
        f"""agraph (float[N,2,3,5] x, float[N,3,5,2] x2) => (float[A,B,C,D] y) {{
            {TO_NHWC}
            {body}
            y = {TO_NCHW}(r)
        }}""",
        constants,
    )
    assert_kept(before)


def test_a_constant_in_a_concat_is_transposed() -> None:
    before = model_of(
        f"""agraph (float[1,2,3,5] x) => (float[1,4,3,5] y) {{
            {TO_NHWC}
            r = Concat<axis=3>(t, k)
            y = {TO_NCHW}(r)
        }}""",
        {"k": normal(1, 3, 5, 2)},
    )
    after, _ = clean(before, PASS)
    assert after.operators() == {"Concat": 1}
    assert_same(before, after, batches=(1,))


def test_a_constant_of_higher_rank_than_the_transpose_keeps_it() -> None:
    before = model_of(
        f"""agraph (float[N,2,3,5] x) => (float[A,B,C,D,E] y) {{
            {TO_NHWC}
            r = Add(t, k)
            y = Transpose<perm=[0,1,4,2,3]>(r)
        }}""",
        {"k": normal(2, 1, 1, 1, 2)},
    )
    assert_kept(before)


def test_a_tensor_that_meets_its_own_activation_stays_right() -> None:
    before = around("s = Sigmoid(t)\n r = Mul(t, s)")
    after, _ = clean(before, PASS)
    assert after.operators().get("Transpose", 0) <= 2
    assert_same(before, after, ROUNDING)  # a sigmoid may be computed otherwise at a row's end


def test_a_transpose_of_another_permutation_on_the_other_side_keeps_both() -> None:
    before = model_of(
        f"""agraph (float[N,3,3,3] x, float[N,3,3,3] z) => (float[N,3,3,3] y) {{
            {TO_NHWC}
            u = Transpose<perm=[0,1,3,2]>(z)
            r = Add(t, u)
            y = {TO_NCHW}(r)
        }}"""
    )
    after, _ = clean(before, PASS)
    assert after.operators()["Transpose"] <= 3
    assert_same(before, after)


def test_a_user_that_can_not_take_the_transpose_keeps_it_for_all() -> None:
    before = model_of(
        f"""agraph (float[N,2,3,5] x) => (float[N,2,3,5] y, float[A,B] z) {{
            {TO_NHWC}
            r = Relu(t)
            y = {TO_NCHW}(r)
            z = Flatten(t)
        }}"""
    )
    after, _ = clean(before, PASS)
    assert after.operators()["Transpose"] <= 2
    assert_same(before, after)


# Names ----------------------------------------------------------------------------------------


def named(model: Model) -> Model:
    """Return the model with each float tensor as its own origin."""
    tensors = [t for t in model.graph.tensors().values() if type(t).__name__ == "Variable"]
    return replace(model, names={t.name: Origin(f"{t.name}:0") for t in tensors})


def assert_names_are_right(before: Model, after: Model) -> None:
    """Every name left is that of a tensor of the graph that holds the transposed origin."""
    assert after.names
    feeds = random_feeds(before.inputs, 3)
    names = list(after.names)
    origins = [after.names[name].name.removesuffix(":0") for name in names]
    found = tensor_values(after, names, feeds)
    wanted = tensor_values(before, sorted(set(origins)), feeds)
    for name, origin in zip(names, origins, strict=True):
        value = wanted[origin]
        perm = after.names[name].perm
        expected = value if perm is None else np.transpose(value, perm)
        assert found[name].shape == expected.shape, name
        np.testing.assert_allclose(found[name], expected, rtol=0, atol=1e-6, err_msg=name)


def test_a_moved_tensor_is_mapped_to_its_origin_transposed() -> None:
    before = named(around("a = Neg(t)\n r = Relu(a)"))
    after = assert_cancelled(before)
    assert [origin.perm for origin in after.names.values() if origin.name == "a:0"] == [
        (0, 3, 1, 2)
    ]
    assert_names_are_right(before, after)


def test_moved_tensors_along_a_long_way_are_mapped_to_their_origins_transposed() -> None:
    body = """a = Mul(t, k)
        b = Relu(a)
        c = Concat<axis=3>(b, b)
        d = Softmax<axis=2>(c)
        r = ReduceMax<axes=[1]>(d)"""
    before = named(around(body, {"k": normal(2)}, shape="N,A,B,C"))
    after, _ = clean(before, PASS)
    assert "Transpose" not in after.operators()
    moved = {origin.name: origin.perm for origin in after.names.values() if origin.perm}
    assert {name: moved[name] for name in ("a:0", "b:0", "c:0", "d:0")} == dict.fromkeys(
        ("a:0", "b:0", "c:0", "d:0"), (0, 3, 1, 2)
    )
    assert_names_are_right(before, after)


def test_an_origin_that_was_transposed_before_is_transposed_once_more() -> None:
    """b holds transpose(B, [1, 2, 3, 0]); what is moved is held against B itself."""
    before = model_of(
        f"""agraph (float[1,2,3,5] x) => (float[1,2,3,5] y) {{
            {TO_NHWC}
            b = Neg(t)
            r = Relu(b)
            y = {TO_NCHW}(r)
        }}"""
    )
    before.names = {"b": Origin("B", (1, 2, 3, 0))}
    after, _ = clean(before, PASS)
    ((name, origin),) = after.names.items()
    feeds = random_feeds(before.inputs, 1)
    value = tensor_values(before, ["b"], feeds)["b"]
    framework = np.transpose(value, np.argsort([1, 2, 3, 0]))
    assert origin.name == "B" and origin.perm is not None
    np.testing.assert_array_equal(
        tensor_values(after, [name], feeds)[name], np.transpose(framework, origin.perm)
    )


def test_a_trial_that_is_not_kept_leaves_no_names() -> None:
    before = named(
        model_of(f"agraph (float[N,2,3,5] x) => (float[N,3,5,2] y) {{ {TO_NHWC}\n y = Relu(t) }}")
    )
    after, _ = clean(before, PASS)
    assert after.names == before.names


def test_a_node_that_is_called_like_the_transpose_to_come_is_no_obstacle() -> None:
    before = model_of(
        f"""agraph (float[N,2,3,5] x, float[N,2,3,5] z) => (float[N,3,5,2] y) {{
            {TO_NHWC}
            ["a/transpose"] u = Transpose<perm=[0,2,3,1]>(z)
            ["a"] s = Add(t, u)
            ["a/transpose_2"] v = Neg(s)
            y = Relu(v)
        }}"""
    )
    after, _ = clean(before, PASS)
    assert after.operators()["Transpose"] == 1
    assert_same(before, after)


def test_a_node_of_the_graph_that_has_the_name_of_a_pushed_transpose_keeps_it() -> None:
    before = model_of(
        f"""agraph (float[N,2,3,5] x) => (float[N,2,3,5] y, float[N,2,3,5] w) {{
            {TO_NHWC}
            ["a"] s = Relu(t)
            y = {TO_NCHW}(s)
            ["a/transpose"] w = Exp(x)
        }}"""
    )
    assert_cancelled(before)


def test_a_graph_whose_names_are_those_of_moved_tensors_stays_right() -> None:
    before = model_of(
        f"""agraph (float[N,2,3,5] x) => (float[N,2,3,5] y, float[N,2,3,5] w) {{
            "s/a" = Exp(x)
            {TO_NHWC}
            ["a"] s = Relu(t)
            y = {TO_NCHW}(s)
            w = Neg("s/a")
        }}"""
    )
    assert_cancelled(before)


def test_a_gate_and_a_residual_addition_are_freed_of_transposes() -> None:
    body = "s = Add(t, three)  g = Sigmoid(s)  m = Mul(t, g)  r = Add(m, t)"
    assert_cancelled(around(body, {"three": np.array([3.0], np.float32)}))


@pytest.mark.parametrize("mode", ["cubic", "linear", "nearest"])
def test_a_resize_is_moved_only_to_where_onnxruntime_runs_it(mode: str) -> None:
    # The interpolated axes are the last two in NCHW, where the Resize stands between Transposes.
    before = model_at(
        17,
        f"""agraph (float[2,4,5,3] x) => (float[2,8,15,3] y)
        {{ t = Transpose<perm=[0,3,1,2]>(x)  m = Resize<mode="{mode}">(t, , scales)
           y = Transpose<perm=[0,2,3,1]>(m) }}""",
        {"scales": np.array([1, 1, 2, 3], np.float32)},
    )
    after, _ = clean(before, PASS)
    left = {"Resize": 1, "Transpose": 2} if mode == "cubic" else {"Resize": 1}
    assert after.operators() == left
    assert_same(before, after, ROUNDING, batches=(1,))


@pytest.mark.parametrize("op", ["PRelu", "Add", "Mul"])
def test_what_broadcasts_as_before_opset_7_is_not_moved_past(op: str) -> None:
    attribute = "" if op == "PRelu" else "<broadcast=1, axis=1>"
    before = model_at(
        6,
        f"""agraph (float[2,4,5,3] x) => (float[2,4,5,3] y)
        {{ t = Transpose<perm=[0,3,1,2]>(x)  m = {op} {attribute} (t, c)
           y = Transpose<perm=[0,2,3,1]>(m) }}""",
        {"c": normal(3)},
    )
    after, report = clean(before, PASS)
    assert not report_of(report, PASS).done
    assert [node.op for node in after.graph.nodes] == ["Transpose", op, "Transpose"]
