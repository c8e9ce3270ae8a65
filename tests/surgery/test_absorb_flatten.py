"""absorb_flatten: the permutation before a flatten goes into the rows of the dense weights."""

from __future__ import annotations

import numpy as np
import pytest

from onnxgraft.graph.model import Model
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

PASS = "absorb_flatten"

# x is (N, C, H, W) = (N, 2, 3, 5): no two are equal, so that no permutation is its own opposite.
FEATURES = 30
FLATTENS = {
    "flatten": "f = Flatten<axis=1>(t)",
    "flatten_default": "f = Flatten(t)",
    "reshape_free_batch": "f = Reshape(t, free_batch)",
    "reshape_copied_batch": "f = Reshape(t, copied_batch)",
    "reshape_free_features": "f = Reshape(t, free_features)",
}
DENSES = {
    "gemm": "y = Gemm(f, w, b)",
    "gemm_transB": "y = Gemm<transB=1>(f, w, b)",
    "gemm_no_bias": "y = Gemm<alpha=0.5>(f, w)",
    "matmul": "y = MatMul(f, w)",
}


def constants(dense: str) -> dict[str, Array]:
    shape = (4, FEATURES) if "transB" in dense else (FEATURES, 4)
    return {
        "w": normal(*shape, seed=1),
        "b": normal(4, seed=2),
        "free_batch": np.array([-1, FEATURES]),
        "copied_batch": np.array([0, FEATURES]),
        "free_features": np.array([0, -1]),
    }


def flat(
    flatten: str = "flatten", dense: str = "gemm", *, perm: str = "0,2,3,1", tail: str = "",
    outputs: str = "float[N,4] y", extra: dict[str, Array] | None = None,
) -> Model:  # fmt: skip
    return model_of(
        f"""agraph (float[N,2,3,5] x) => ({outputs}) {{
            t = Transpose<perm=[{perm}]>(x)
            {FLATTENS.get(flatten, flatten)}
            {DENSES.get(dense, dense)}
            {tail}
        }}""",
        {**constants(dense), **(extra or {})},
    )


def assert_absorbed(before: Model, *operators: str) -> None:
    after, report = clean(before, PASS)
    assert set(after.operators()) == set(operators)
    assert not report_of(report, PASS).refused
    # The same products, added in another order.
    assert_same(before, after, ROUNDING)


@pytest.mark.parametrize("dense", DENSES)
@pytest.mark.parametrize("flatten", FLATTENS)
def test_the_transpose_before_a_flatten_is_absorbed(flatten: str, dense: str) -> None:
    assert_absorbed(
        flat(flatten, dense),
        "Flatten" if flatten.startswith("flatten") else "Reshape",
        "MatMul" if dense == "matmul" else "Gemm",
    )


@pytest.mark.parametrize("perm", ["0,1,3,2", "0,2,1,3", "0,2,3,1", "0,3,1,2", "0,3,2,1"])
@pytest.mark.parametrize("dense", ["gemm", "gemm_transB"])
def test_every_permutation_that_leaves_the_batch_first_is_absorbed(perm: str, dense: str) -> None:
    assert_absorbed(flat(dense=dense, perm=perm), "Flatten", "Gemm")


@pytest.mark.parametrize(
    ("signature", "perm"),
    [
        ("float[N,5,6]", "0,2,1"),
        ("float[N,2,3,5,1]", "0,2,3,4,1"),
        ("float[N,3,2,1,5]", "0,4,1,3,2"),
    ],
    ids=["rank3", "rank5", "rank5_mixed"],
)
def test_tensors_of_other_ranks_are_absorbed(signature: str, perm: str) -> None:
    before = model_of(
        f"""agraph ({signature} x) => (float[N,4] y) {{
            t = Transpose<perm=[{perm}]>(x)
            f = Flatten<axis=1>(t)
            y = Gemm(f, w)
        }}""",
        {"w": normal(30, 4, seed=1)},
    )
    assert_absorbed(before, "Flatten", "Gemm")


def test_a_fixed_batch_is_absorbed() -> None:
    before = model_of(
        """agraph (float[3,2,3,5] x) => (float[3,4] y) {
            t = Transpose<perm=[0,2,3,1]>(x)
            f = Reshape(t, target)
            y = Gemm(f, w)
        }""",
        {"w": normal(30, 4, seed=1), "target": np.array([3, 30])},
    )
    assert_absorbed(before, "Reshape", "Gemm")


def test_a_transpose_that_somebody_else_reads_stays_for_them() -> None:
    before = flat(tail="z = Relu(t)", outputs="float[N,4] y, float[N,3,5,2] z")
    assert_absorbed(before, "Transpose", "Flatten", "Gemm", "Relu")


def test_the_weights_of_the_original_are_not_touched() -> None:
    before = flat()
    weights = before.graph.tensors()["w"].values.copy()
    clean(before, PASS)
    np.testing.assert_array_equal(before.graph.tensors()["w"].values, weights)


def test_the_flattened_tensor_is_no_longer_called_what_it_was() -> None:
    """It holds its values in another order, so no map of names may find it."""
    after, _ = clean(flat(), PASS)
    assert "f" not in after.graph.tensors()


# What is refused ------------------------------------------------------------------------------


def assert_refused(before: Model, *words: str) -> None:
    after, report = clean(before, PASS)
    assert after.operators() == before.operators()
    sentence = refusal(report, PASS)
    for word in words:
        assert word in sentence
    assert_same(before, after)


def test_a_flattened_tensor_with_another_user_is_refused() -> None:
    before = flat(tail="z = Relu(f)", outputs="float[N,4] y, float[N,30] z")
    assert_refused(before, "one dense layer alone")


def test_a_flattened_tensor_of_two_dense_layers_is_refused() -> None:
    before = flat(
        tail="z = Gemm(f, w2)", outputs="float[N,4] y, float[N,6] z",
        extra={"w2": normal(30, 6, seed=3)},
    )  # fmt: skip
    assert_refused(before, "one dense layer alone")


def test_a_flattened_tensor_that_is_an_output_is_refused() -> None:
    assert_refused(flat(outputs="float[N,4] y, float[N,30] f"), "one dense layer alone")


@pytest.mark.parametrize("dense", ["gemm", "matmul"])
def test_weights_that_are_shared_are_refused(dense: str) -> None:
    before = model_of(
        f"""agraph (float[N,2,3,5] x, float[N,30] u) => (float[N,4] y, float[N,4] z) {{
            t = Transpose<perm=[0,2,3,1]>(x)
            f = Flatten<axis=1>(t)
            {DENSES[dense]}
            z = MatMul(u, w)
        }}""",
        constants(dense),
    )
    assert_refused(before, "'w'", "shared")


def test_a_permutation_of_the_batch_is_refused() -> None:
    before = model_of(
        """agraph (float[2,8,15] x) => (float[8,4] y) {
            t = Transpose<perm=[1,0,2]>(x)
            f = Flatten<axis=1>(t)
            y = Gemm(f, w)
        }""",
        {"w": normal(30, 4, seed=1)},
    )
    assert_refused(before, "mixes the batch")


def test_a_flatten_that_takes_a_feature_axis_into_the_rows_is_refused() -> None:
    before = model_of(
        """agraph (float[N,2,3,5] x) => (float[A,4] y) {
            t = Transpose<perm=[0,2,3,1]>(x)
            f = Flatten<axis=2>(t)
            y = Gemm(f, w)
        }""",
        {"w": normal(10, 4, seed=1)},
    )
    assert_refused(before, "mixes the batch")


def test_a_flatten_of_free_height_is_refused() -> None:
    before = model_of(
        """agraph (float[N,2,H,5] x) => (float[A,B] y) {
            t = Transpose<perm=[0,2,3,1]>(x)
            f = Flatten<axis=1>(t)
            y = Gemm(f, w)
        }""",
        {"w": normal(80, 4, seed=1)},
    )
    assert_refused(before, "free dimension")


def test_a_flatten_after_a_height_of_one_stays_right() -> None:
    """Flatten of axis 2 is a flatten of the features only while axis 1 is as long as 1."""
    before = model_of(
        """agraph (float[N,6,1,5] x) => (float[N,4] y) {
            t = Transpose<perm=[0,2,3,1]>(x)
            f = Flatten<axis=2>(t)
            y = Gemm(f, w)
        }""",
        {"w": normal(30, 4, seed=1)},
    )
    after, _ = clean(before, PASS)
    assert_same(before, after, ROUNDING)


def test_a_reshape_with_allowzero_stays_right() -> None:
    """With allowzero a 0 in the target is a dimension of size 0, not a copied one."""
    before = model_of(
        """agraph (float[3,2,3,5] x) => (float[3,4] y) {
            t = Transpose<perm=[0,2,3,1]>(x)
            f = Reshape<allowzero=1>(t, target)
            y = Gemm(f, w)
        }""",
        {"w": normal(30, 4, seed=1), "target": np.array([3, 30])},
    )
    after, _ = clean(before, PASS)
    assert_same(before, after, ROUNDING)


@pytest.mark.parametrize(
    ("output", "dense"),
    [
        ("float[30,4]", "y = Gemm<transA=1>(f, v)"),
        ("float[4,30]", "y = Gemm(u, f)"),
        ("float[2,3,4]", "y = MatMul(f, batch)"),
        ("float[3,30]", "y = Relu(f)"),
    ],
    ids=["transA", "as_the_weights", "weights_of_rank3", "no_dense_layer"],
)
def test_a_flatten_that_feeds_no_plain_dense_layer_stays(output: str, dense: str) -> None:
    before = model_of(
        f"""agraph (float[3,2,3,5] x) => ({output} y) {{
            t = Transpose<perm=[0,2,3,1]>(x)
            f = Flatten(t)
            {dense}
        }}""",
        {"v": normal(3, 4), "u": normal(4, 3), "batch": normal(2, 30, 4)},
    )
    after, report = clean(before, PASS)
    assert after.operators() == before.operators()
    assert not report_of(report, PASS).done
    assert_same(before, after)


def test_a_flatten_without_a_transpose_before_it_stays() -> None:
    before = model_of(
        "agraph (float[N,2,3,5] x) => (float[N,4] y) { f = Flatten(x)\n y = Gemm(f, w) }",
        {"w": normal(30, 4, seed=1)},
    )
    after, report = clean(before, PASS)
    assert untouched(report, PASS)
    assert_same(before, after)


def test_a_transpose_without_perm_moves_the_batch_and_is_refused() -> None:
    """The default of ONNX reverses the axes."""
    before = model_of(
        """agraph (float[6,5,3] x) => (float[3,4] y) {
            t = Transpose(x)
            f = Flatten<axis=1>(t)
            y = Gemm(f, w)
        }""",
        {"w": normal(30, 4, seed=1)},
    )
    assert_refused(before, "mixes the batch")
