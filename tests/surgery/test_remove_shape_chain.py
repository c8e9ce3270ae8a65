"""remove_shape_chain: a computed target becomes a constant, and the batch stays free."""

from __future__ import annotations

import numpy as np
import pytest

from onnxgraft.graph.model import Model
from onnxgraft.graph.tensors import Array
from tests.conftest import model_of
from tests.surgery.helpers import assert_same, clean, infer, model_at, refusal, report_of, untouched

PASS = "remove_shape_chain"

NUMBERS: dict[str, Array] = {
    "zero": np.array([0]),
    "one": np.array([1]),
    "two": np.array([2]),
    "three": np.array([3]),
    "four": np.array([4]),
    "ten": np.array([10]),
    "minus_one": np.array([-1]),
    "first": np.array(0),
    "last": np.array(-1),
    "tail": np.array([1, 2]),
    "head_and_tail": np.array([0, 2]),
    "lowest": np.array([np.iinfo(np.int64).min]),
    "end": np.array([np.iinfo(np.int64).max]),
}


def chain(body: str, source: str = "N,2,5", shape: str = "A,B") -> Model:
    return model_of(
        f"agraph (float[{source}] x) => (float[{shape}] y) {{ {body}\n y = Reshape(x, t) }}",
        {name: value for name, value in NUMBERS.items() if name in body},
    )


CHAINS: dict[str, tuple[str, list[int]]] = {
    "slice": ("n = Slice(s, zero, one)\n t = Concat<axis=0>(n, ten)", [0, 10]),
    "minus_one": ("n = Slice(s, zero, one)\n t = Concat<axis=0>(n, minus_one)", [0, -1]),
    "gather_scalar": (
        "n = Gather(s, first)\n u = Unsqueeze(n, zero)\n t = Concat<axis=0>(u, ten)",
        [0, 10],
    ),
    "gather_vector": ("n = Gather(s, zero)\n t = Concat<axis=0>(n, ten)", [0, 10]),
    "shape_range": ("n = Shape<start=0, end=1>(x)\n t = Concat<axis=0>(n, ten)", [0, 10]),
    "reduce_prod": (
        """n = Slice(s, zero, one)
        r = Slice(s, one, end)
        p = ReduceProd(r)
        t = Concat<axis=0>(n, p)""",
        [0, 10],
    ),
    "mul": (
        """n = Gather(s, zero)
        h = Gather(s, one)
        w = Gather(s, two)
        p = Mul(h, w)
        t = Concat<axis=0>(n, p)""",
        [0, 10],
    ),
    "cast": (
        """i = Cast<to=6>(s)
        n = Slice(i, zero, one)
        l = Cast<to=7>(n)
        t = Concat<axis=0>(l, ten)""",
        [0, 10],
    ),
    "squeeze": (
        """n = Slice(s, zero, one)
        q = Squeeze(n, zero)
        u = Unsqueeze(q, zero)
        t = Concat<axis=0>(u, ten)""",
        [0, 10],
    ),
    "keep_last": ("w = Slice(s, two, three)\n t = Concat<axis=0>(minus_one, w)", [-1, 5]),
    "keep_last_negative": (
        "w = Slice(s, minus_one, end)\n t = Concat<axis=0>(minus_one, w)",
        [-1, 5],
    ),
    "backwards": (
        """r = Slice(s, minus_one, lowest, zero, minus_one)
        n = Gather(r, two)
        t = Concat<axis=0>(n, minus_one)""",
        [0, -1],
    ),
}


@pytest.mark.parametrize("case", CHAINS)
def test_a_target_computed_from_the_shape_becomes_a_constant(case: str) -> None:
    body, target = CHAINS[case]
    before = chain(f"s = Shape(x)\n {body}")
    after, report = clean(before, PASS)
    assert after.operators() == {"Reshape": 1}
    done = [finding.sentence for finding in report_of(report, PASS).done]
    assert f"target made constant: {target}" in done
    assert after.graph.nodes[0].inputs[1].values.tolist() == target
    assert_same(before, after)


def test_dimensions_that_are_known_are_written_as_numbers() -> None:
    """A 0 would copy them too, but hide the shape from later passes that look for a 0."""
    before = chain("s = Shape(x)\n t = Slice(s, zero, end)", shape="A,B,C")
    after, _ = clean(before, PASS)
    assert after.graph.nodes[0].inputs[1].values.tolist() == [0, 2, 5]
    assert_same(before, after)


def test_a_multiple_of_the_batch_leaves_the_other_dimension_to_be_computed() -> None:
    """(N, 2, 5) into (2*N, -1): the -1 is 5."""
    before = chain(
        """s = Shape(x)
        n = Slice(s, zero, one)
        h = Mul(n, two)
        t = Concat<axis=0>(h, minus_one)"""
    )
    after, _ = clean(before, PASS)
    assert after.operators() == {"Reshape": 1}
    assert_same(before, after)


def test_a_batch_that_moved_is_found_by_division() -> None:
    """(N, 2, 5) to (2 * N, 5): the first dimension is left to the Reshape."""
    before = chain(
        "s = Shape(x)\n n = Slice(s, zero, one)\n m = Mul(n, two)\n w = Slice(s, two, three)\n"
        "t = Concat<axis=0>(m, w)"
    )
    after, _ = clean(before, PASS)
    assert after.operators() == {"Reshape": 1}
    assert after.graph.nodes[0].inputs[1].values.tolist() == [-1, 5]
    assert_same(before, after)


def test_a_batch_at_another_place_than_in_the_source_becomes_minus_one() -> None:
    before = chain("s = Shape(x)\n n = Slice(s, zero, one)\n t = Concat<axis=0>(ten, n)")
    after, _ = clean(before, PASS)
    assert after.graph.nodes[0].inputs[1].values.tolist() == [10, -1]
    assert_same(before, after)


def test_a_shape_of_another_tensor_of_the_same_batch_is_followed() -> None:
    before = model_of(
        """agraph (float[N,2,5] x) => (float[A,B] y) {
            r = Relu(x)
            f = Flatten(r)
            s = Shape(f)
            n = Slice(s, zero, one)
            t = Concat<axis=0>(n, ten)
            y = Reshape(r, t)
        }""",
        {name: NUMBERS[name] for name in ("zero", "one", "ten")},
    )
    after, _ = clean(before, PASS)
    assert after.operators() == {"Relu": 1, "Reshape": 1}
    assert_same(before, after)


SOFTMAX = """s = Shape(x)
    w = Slice(s, three, four)
    t = Concat<axis=0>(minus_one, w)
    f = Reshape(x, t)
    p = Softmax(f)
    y = Reshape(p, s)"""


@pytest.mark.parametrize("source", ["N,2,3,5", "N,H,W,5"], ids=["fixed_size", "free_size"])
def test_the_softmax_of_tensorflow_is_unwrapped(source: str) -> None:
    before = model_of(
        f"agraph (float[{source}] x) => (float[{source}] y) {{ {SOFTMAX} }}",
        {name: NUMBERS[name] for name in ("three", "four", "minus_one")},
    )
    after, _ = clean(before)
    assert after.operators() == {"Softmax": 1}
    assert_same(before, after)  # the same rows, in the same order


def test_the_softmax_of_tensorflow_has_constant_targets_after_this_pass_alone() -> None:
    before = model_of(
        f"agraph (float[N,2,3,5] x) => (float[N,2,3,5] y) {{ {SOFTMAX} }}",
        {name: NUMBERS[name] for name in ("three", "four", "minus_one")},
    )
    after, _ = clean(before, PASS)
    assert after.operators() == {"Reshape": 2, "Softmax": 1}
    assert_same(before, after)


def test_a_flatten_of_a_computed_size_feeds_its_dense_layer_at_any_batch() -> None:
    before = model_of(
        """agraph (float[N,2,5] x) => (float[N,4] y) {
            s = Shape(x)
            n = Gather(s, first)
            u = Unsqueeze(n, zero)
            t = Concat<axis=0>(u, minus_one)
            f = Reshape(x, t)
            y = MatMul(f, w)
        }""",
        {
            **{name: NUMBERS[name] for name in ("first", "zero", "minus_one")},
            "w": np.random.default_rng(1).standard_normal((10, 4)).astype(np.float32),
        },
    )
    after, _ = clean(before)
    assert after.operators() == {"Reshape": 1, "MatMul": 1}
    assert_same(before, after, batches=(1, 3, 7))


# What is refused ------------------------------------------------------------------------------


def test_a_target_with_two_unknowns_is_refused() -> None:
    before = chain(
        "s = Shape(x)\n h = Slice(s, one, two)\n w = Slice(s, two, three)\n"
        "t = Concat<axis=0>(w, h, minus_one)",
        source="N,H,W", shape="A,B,C",
    )  # fmt: skip
    after, report = clean(before, PASS)
    assert after.operators() == before.operators()
    assert "more than one dimension" in refusal(report, PASS)
    assert_same(before, after)


def test_a_target_that_is_an_input_is_refused() -> None:
    before = model_of("agraph (float[N,2,5] x, int64[2] t) => (float[A,B] y) { y = Reshape(x, t) }")
    after, report = clean(before, PASS)
    assert after.operators() == {"Reshape": 1}
    assert "not computed from shapes and constants alone" in refusal(report, PASS)


def test_a_target_computed_from_data_is_refused() -> None:
    before = model_of(
        """agraph (float[N,2,5] x) => (float[A,B] y) {
            z = Mul(x, nothing)
            m = ReduceMax<keepdims=0>(z)
            i = Cast<to=7>(m)
            u = Unsqueeze(i, zero)
            a = Sub(u, one)
            t = Concat<axis=0>(a, ten)
            y = Reshape(x, t)
        }""",
        {
            **{name: NUMBERS[name] for name in ("zero", "one", "ten")},
            "nothing": np.array(0, np.float32),
        },
    )
    after, report = clean(before, PASS)
    assert after.operators() == before.operators()
    assert "not computed from shapes and constants alone" in refusal(report, PASS)
    assert_same(before, after)


def test_a_reshape_with_allowzero_is_refused() -> None:
    before = model_of(
        """agraph (float[N,2,5] x) => (float[A,B] y) {
            s = Shape(x)
            n = Slice(s, zero, one)
            t = Concat<axis=0>(n, ten)
            y = Reshape<allowzero=1>(x, t)
        }""",
        {name: NUMBERS[name] for name in ("zero", "one", "ten")},
    )
    after, report = clean(before, PASS)
    assert after.operators() == before.operators()
    assert "allowzero" in refusal(report, PASS)
    assert_same(before, after)


def test_a_target_that_is_constant_already_is_left_alone() -> None:
    before = model_of(
        "agraph (float[N,2,5] x) => (float[A,B] y) { y = Reshape(x, target) }",
        {"target": np.array([0, 10])},
    )
    after, report = clean(before, PASS)
    assert untouched(report, PASS)
    assert_same(before, after)


def test_a_target_that_other_nodes_read_stays_for_them() -> None:
    before = model_of(
        """agraph (float[N,2,5] x) => (float[A,B] y, int64[2] z) {
            s = Shape(x)
            n = Slice(s, zero, one)
            t = Concat<axis=0>(n, ten)
            y = Reshape(x, t)
            z = Add(t, one)
        }""",
        {name: NUMBERS[name] for name in ("zero", "one", "ten")},
    )
    after, _ = clean(before, PASS)
    assert after.operators() == before.operators()
    assert_same(before, after)


def test_a_squeeze_and_a_slice_with_attributes_are_followed() -> None:
    """The forms of opset 9."""
    before = model_at(
        9,
        """agraph (float[N,2,5] x) => (float[A,B] y) {
            s = Shape(x)
            n = Slice<starts=[0], ends=[1], axes=[0]>(s)
            q = Squeeze<axes=[0]>(n)
            u = Unsqueeze<axes=[0]>(q)
            t = Concat<axis=0>(u, ten)
            y = Reshape(x, t)
        }""",
        {"ten": NUMBERS["ten"]},
    )
    after, _ = clean(before, PASS)
    assert_same(before, after)


WRAPPING = {
    "uint8": ("u = Cast<to=2>(s) p = Cast<to=7>(u) y = Neg(p)", 300),
    "int8": ("u = Cast<to=3>(s) p = Cast<to=7>(u) y = Neg(p)", 200),
    "int32": ("u = Cast<to=6>(s) m = Mul(u, many) p = Cast<to=7>(m) y = Neg(p)", 200),
    "uint8_of_an_unknown_size": ("u = Cast<to=2>(s) p = Cast<to=7>(u) y = Neg(p)", None),
}


@pytest.mark.parametrize("case", WRAPPING)
def test_numbers_that_their_type_does_not_hold_are_left_to_the_runtime(case: str) -> None:
    body, size = WRAPPING[case]
    before = model_of(
        f"agraph (float[{size or 'N'}, 2] x) => (int64[2] y) {{ s = Shape(x) {body} }}",
        {"many": np.array([100_000_000, 1], np.int32)} if "many" in body else {},
    )
    after, report = clean(before, PASS)
    assert not report.notes
    x = np.zeros((size or 300, 2), np.float32)
    np.testing.assert_array_equal(infer(before, {"x": x})["y"], infer(after, {"x": x})["y"])


def test_a_product_over_no_axes_stays_as_long_as_it_was() -> None:
    before = model_at(
        18,
        """agraph (float[2, 3] x) => (float[A, B] y) {
            s = Shape(x) p = ReduceProd<noop_with_empty_axes = 1, keepdims = 1>(s)
            y = Expand(k, p) }""",
        {"k": np.float32(1)},
    )
    after, report = clean(before, PASS)
    assert not report.notes
    x = np.zeros((2, 3), np.float32)
    np.testing.assert_array_equal(infer(before, {"x": x})["y"], infer(after, {"x": x})["y"])


@pytest.mark.parametrize("scale", [np.float32(7) / np.float32(11), np.float32(0.5)])
def test_a_size_that_the_rounding_of_a_scale_decides_is_left_to_the_runtime(
    scale: np.float32,
) -> None:
    before = model_of(
        """agraph (float[N, 3, 9, 11] x) => (float[A, B, C, D] y, int64[1] z) {
            y = Resize<mode = "nearest">(x, , scales) s = Shape(y) w = Gather(s, last) z = Neg(w)
        }""",
        {"scales": np.array([1, 1, 1, scale], np.float32), "last": np.array([3])},
    )
    after, _ = clean(before, PASS)
    x = np.zeros((1, 3, 9, 11), np.float32)
    made, wanted = infer(after, {"x": x}), infer(before, {"x": x})
    assert made["z"] == wanted["z"] == -wanted["y"].shape[3]
    assert ("Shape" in after.operators()) == (scale != 0.5)
