"""fold_constants: what depends on constants alone is computed once."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from onnxgraft.stages.surgery.passes.fold.fold_constants import MOST_GROWTH
from tests.conftest import model_of
from tests.surgery.helpers import (
    ROUNDING,
    assert_same,
    clean,
    normal,
    positive,
    refusal,
    report_of,
    untouched,
)

PASS = "fold_constants"


@pytest.mark.parametrize(
    "body",
    [
        "k = Add(a, b)",
        "s = Mul(a, b)\n t = Sqrt(s)\n k = Add(t, a)",
        "k = Transpose<perm=[1,0]>(a)",
        "k, unused = Split<axis=0>(stack)",
        "r = Reshape(a, shape)\n k = Squeeze(r, first)",
        "k = Cast<to=1>(whole)",
        "k = Range(zero, four, one)",
        "k = ConstantOfShape<value=float[1]{2.5}>(four_long)",
    ],
    ids=["node", "chain", "transpose", "split", "reshape", "cast", "range", "constant_of_shape"],
)
def test_a_computation_of_constants_becomes_a_constant(body: str) -> None:
    constants = {
        "a": positive(4, 4, seed=1),
        "b": positive(4, 4, seed=2),
        "stack": normal(8, 4, seed=3),
        "shape": np.array([1, 4, 4]),
        "first": np.array([0]),
        "whole": np.arange(4),
        "zero": np.array(0, np.float32),
        "four": np.array(4, np.float32),
        "one": np.array(1, np.float32),
        "four_long": np.array([4]),
    }
    used = {name: value for name, value in constants.items() if name in body}
    before = model_of(
        f"agraph (float[N,4,4] x) => (float[N,4,4] y) {{ {body}\n y = Add(x, k) }}", used
    )
    after, report = clean(before, PASS)
    assert after.operators() == {"Add": 1}
    assert report_of(report, PASS).done
    assert_same(before, after)  # onnxruntime computed the constant, with the same kernels


@pytest.mark.parametrize(
    "attribute",
    [
        "value=float[4]{1.0, -2.0, 3.5, 0.25}",
        "value_floats=[1.0, -2.0, 3.5, 0.25]",
        "value_float=1.5",
    ],
    ids=["tensor", "floats", "float"],
)
def test_a_constant_node_becomes_an_initializer(attribute: str) -> None:
    before = model_of(
        f"agraph (float[N,4] x) => (float[N,4] y) {{ k = Constant<{attribute}>()\n y = Add(x, k) }}"
    )
    after, report = clean(before, PASS)
    assert after.operators() == {"Add": 1}
    assert [f.sentence for f in report_of(report, PASS).done] == [
        "Constant node made an initializer"
    ]
    assert_same(before, after)


@pytest.mark.parametrize("attribute", ["value_ints=[0,2,2]", "value=int64[3]{0,2,2}"])
def test_a_constant_node_of_integers_keeps_its_type(attribute: str) -> None:
    before = model_of(
        f"""agraph (float[N,4] x) => (float[N,2,2] y) {{
            k = Constant<{attribute}>()
            y = Reshape(x, k)
        }}"""
    )
    after, _ = clean(before, PASS)
    assert after.operators() == {"Reshape": 1}
    assert_same(before, after)


def test_constant_nodes_are_folded_together_with_what_reads_them() -> None:
    before = model_of(
        """agraph (float[N,4] x) => (float[N,4] y) {
            k = Constant<value_floats=[1.0, 2.0, 3.0, 4.0]>()
            e = Exp(k)
            y = Add(x, e)
        }"""
    )
    after, _ = clean(before, PASS)
    assert after.operators() == {"Add": 1}
    assert_same(before, after)


def test_a_constant_that_a_folded_and_a_living_node_read_stays_for_the_living() -> None:
    before = model_of(
        """agraph (float[N,4] x) => (float[N,4] y) {
            e = Exp(k)
            f = Neg(e)
            a = Add(x, e)
            b = Mul(a, f)
            y = Add(b, k)
        }""",
        {"k": normal(4)},
    )
    after, _ = clean(before, PASS)
    assert after.operators() == {"Add": 2, "Mul": 1}
    assert_same(before, after)


@pytest.mark.parametrize(
    "body",
    [
        "k = RandomNormal<shape=[1,4], seed=1.0>()",
        "k = RandomUniformLike<seed=1.0>(c)",
        "k = Bernoulli<seed=1.0>(c)",
    ],
    ids=["normal", "uniform_like", "bernoulli"],
)
def test_randomness_is_not_folded(body: str) -> None:
    before = model_of(
        f"agraph (float[N,4] x) => (float[N,4] y) {{ {body}\n y = Add(x, k) }}",
        {"c": np.full((1, 4), 0.5, np.float32)},
    )
    after, report = clean(before, PASS)
    assert after.operators() == before.operators()
    assert untouched(report, PASS)


def test_a_dropout_of_constants_in_training_mode_is_not_folded() -> None:
    before = model_of(
        """agraph (float[N,4] x) => (float[N,4] y) {
            k = Dropout(c, ratio, on)
            y = Add(x, k)
        }""",
        {"c": normal(1, 4), "ratio": np.array(0.5, np.float32), "on": np.array(True)},
    )
    after, _ = clean(before, PASS)
    assert after.operators() == {"Dropout": 1, "Add": 1}


def test_quantized_weights_stay_quantized() -> None:
    before = model_of(
        """agraph (float[N,4] x) => (float[N,3] y) {
            w = DequantizeLinear(q, scale)
            y = MatMul(x, w)
        }""",
        {"q": np.arange(12, dtype=np.int8).reshape(4, 3), "scale": np.array(0.1, np.float32)},
    )
    after, report = clean(before, PASS)
    assert after.operators() == {"DequantizeLinear": 1, "MatMul": 1}
    assert untouched(report, PASS)
    assert_same(before, after)


def test_a_result_much_larger_than_its_source_is_refused() -> None:
    before = model_of(
        """agraph (float[N,1] x) => (float[M,K] y) {
            e = Expand(one, shape)
            s = ReduceSum<keepdims=0>(e)
            y = Add(x, s)
        }""",
        {"one": np.array(1, np.float32), "shape": np.array([512, 513])},
    )
    assert 512 * 513 * 4 > MOST_GROWTH
    after, report = clean(before, PASS)
    assert after.operators() == {"Expand": 1, "ReduceSum": 1, "Add": 1}
    assert f"make 20 bytes {512 * 513 * 4}" in refusal(report, PASS)


def test_a_large_result_of_a_source_as_large_is_folded() -> None:
    before = model_of(
        "agraph (float[N,513] x) => (float[N,512] y) { t = Transpose(w)\n y = MatMul(x, t) }",
        {"w": normal(512, 513)},
    )
    assert 512 * 513 * 4 > MOST_GROWTH
    after, _ = clean(before, PASS)
    assert after.operators() == {"MatMul": 1}
    # onnxruntime multiplies by a constant matrix in another order than by a computed one.
    assert_same(before, after, ROUNDING)


def test_a_result_of_unknown_size_is_refused() -> None:
    before = model_of(
        """agraph (float[N,4] x) => (float[N,4] y) {
            places = NonZero(c)
            picked = Gather<axis=1>(x, places)
            y = ReduceSum<keepdims=0>(picked, second)
        }""",
        {"c": np.array([0, 1, 1, 0], np.float32), "second": np.array([1])},
    )
    after, report = clean(before, PASS)
    assert after.operators() == before.operators()
    assert "size of what NonZero makes of constants is not known" in refusal(report, PASS)


def test_a_constant_output_of_the_graph_stays_computed() -> None:
    before = model_of(
        "agraph (float[N,4] x) => (float[N,4] y, float[4] z) { z = Exp(k)\n y = Add(x, z) }",
        {"k": normal(4)},
    )
    after, _ = clean(before, PASS)
    assert after.operators() == {"Exp": 1, "Add": 1}
    assert_same(before, after)


def test_a_computation_that_an_input_takes_part_in_stays() -> None:
    before = model_of(
        "agraph (float[N,4] x) => (float[N,4] y) { s = Add(x, k)\n y = Mul(s, k) }",
        {"k": normal(4)},
    )
    after, report = clean(before, PASS)
    assert after.operators() == {"Add": 1, "Mul": 1}
    assert untouched(report, PASS)


def test_what_has_no_kernel_does_not_keep_the_others_from_being_folded() -> None:
    # onnxruntime has no Erf of double; the Add has nothing to do with it.
    before = model_of(
        """agraph (float[N,4] x) => (float[N,4] y, double[4] z)
        { d = Erf(wide)  k = Add(a, a)  y = Add(x, k)  z = Identity(d) }""",
        {"wide": np.ones(4), "a": positive(4)},
    )
    after, report = clean(before, PASS)
    assert after.operators() == {"Add": 1, "Erf": 1, "Identity": 1}
    assert "NOT_IMPLEMENTED" in refusal(report, PASS)


def test_bfloat16_is_moved_and_cast_but_not_computed() -> None:
    bfloat = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(onnx.TensorProto.BFLOAT16))
    before = model_of(
        """agraph (float[N,3] x) => (float[N,3] y, bfloat16[3,1] z)
        { k = Mul(p, p)  f = Cast<to=1>(k)  m = Reshape(p, shape)  t = Add(x, f)
          c = Cast<to=1>(p)  y = Add(t, c)  z = acme.Own(m) }""".replace("acme.Own", "Relu"),
        {"p": np.array([1, 2, 3], bfloat), "shape": np.array([3, 1])},
    )
    after, report = clean(before, PASS)
    assert after.operators() == {"Add": 2, "Mul": 1, "Cast": 1, "Relu": 1}
    relu = next(node for node in after.graph.nodes if node.op == "Relu")
    assert relu.inputs[0].values.dtype == bfloat
    assert refusal(report, PASS) == "onnxruntime does not compute Mul in bfloat16"


def test_a_range_of_computed_vectors_gets_scalars() -> None:
    # onnxruntime runs it as long as they are computed, and refuses the file once they are stored.
    before = model_of(
        """agraph (float[N,3] x) => (int64[3] y)
        { s = Shape(x)  n = Slice(s, one, two, nought)  r = Range(zero, n, step)
          y = Mul(r, n) }""",
        {"one": np.array([1]), "two": np.array([2]), "nought": np.array([0]),
         "zero": np.array(0), "step": np.array(1)},
    )  # fmt: skip
    after, _ = clean(before)
    assert_same(before, after)
