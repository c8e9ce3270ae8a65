"""fold_batchnorm: what scales and shifts a layer's output goes into its weights and bias."""

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
    infer,
    normal,
    positive,
    refusal,
    report_of,
    untouched,
)

PASS = "fold_batchnorm"

Constants = dict[str, Array]

BN = "BatchNormalization(c, gamma, beta, mean, var)"


def statistics(channels: int) -> Constants:
    """Return the parameters of a batch norm; some gammas are negative."""
    gamma = normal(channels, seed=11)
    assert channels == 1 or (gamma < 0).any()
    return {
        "gamma": gamma,
        "beta": normal(channels, seed=12),
        "mean": normal(channels, seed=13),
        "var": positive(channels, seed=14),
    }


def conv(
    tail: str = f"y = {BN}", *, group: int = 1, bias: bool = True, cin: int = 4, cout: int = 8,
    constants: Constants | None = None, outputs: str = "float[N,8,5,7] y",
) -> Model:  # fmt: skip
    """Return a 3x3 Conv of (N, 4, 5, 7), and what comes after it."""
    return model_of(
        f"""agraph (float[N,{cin},5,7] x) => ({outputs}) {{
            c = Conv<kernel_shape=[3,3], pads=[1,1,1,1], group={group}>(x, w{", b" if bias else ""})
            {tail}
        }}""",
        {
            "w": normal(cout, cin // group, 3, 3, seed=1),
            "b": normal(cout, seed=2),
            **statistics(cout),
            **(constants or {}),
        },
    )


def assert_folded(before: Model, op: str) -> None:
    """The layer is all that is left, with no more than it needs, and computes the same.

    W * a is rounded to float32 once more than W and a were: each product is off by 6e-8 of itself.
    """
    after, report = clean(before, PASS)
    assert after.operators() == {op: 1}
    assert not report_of(report, PASS).refused
    assert all(np.any(parameter.values) for parameter in after.graph.nodes[0].inputs[1:])
    assert_same(before, after, ROUNDING)


def assert_refused(before: Model, *words: str, op: str = "Conv") -> None:
    after, report = clean(before, PASS)
    assert after.operators() == before.operators()
    sentence = refusal(report, PASS)
    for word in words:
        assert word in sentence
    assert_same(before, after)


# What is folded -------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [True, False], ids=["bias_true", "bias_false"])
@pytest.mark.parametrize("group", [1, 2, 4], ids=["group1", "group2", "depthwise4"])
def test_a_batch_norm_is_folded_into_a_conv(bias: bool, group: int) -> None:
    assert_folded(conv(group=group, bias=bias), "Conv")


def test_a_batch_norm_is_folded_into_a_depthwise_conv_of_one_output_a_channel() -> None:
    before = conv(group=8, cin=8, cout=8)
    assert_folded(before, "Conv")


@pytest.mark.parametrize("epsilon", [1e-5, 1e-3, 0.5], ids=["tiny", "small", "large"])
def test_the_epsilon_of_the_batch_norm_counts(epsilon: float) -> None:
    tail = f"y = BatchNormalization<epsilon={epsilon}>(c, gamma, beta, mean, var)"
    assert_folded(conv(tail), "Conv")


def test_a_batch_norm_of_tiny_variance_is_folded() -> None:
    assert_folded(conv(constants={"var": np.full(8, 1e-12, np.float32)}), "Conv")


@pytest.mark.parametrize("bias", [True, False], ids=["bias_true", "bias_false"])
@pytest.mark.parametrize("group", [1, 2, 4], ids=["group1", "group2", "depthwise4"])
@pytest.mark.parametrize("per_group", [1, 3], ids=["one_each", "three_each"])
def test_a_batch_norm_is_folded_into_a_conv_transpose(
    bias: bool, group: int, per_group: int
) -> None:
    cout = group * per_group
    before = model_of(
        f"""agraph (float[N,4,5,7] x) => (float[N,{cout},A,B] y) {{
            c = ConvTranspose<kernel_shape=[2,2], strides=[2,2], group={group}>
                (x, w{", b" if bias else ""})
            y = {BN}
        }}""",
        {
            "w": normal(4, per_group, 2, 2, seed=1),
            "b": normal(cout, seed=2),
            **{name: normal(cout, seed=20 + n) for n, name in enumerate(("gamma", "beta", "mean"))},
            "var": positive(cout, seed=14),
        },
    )
    assert_folded(before, "ConvTranspose")


@pytest.mark.parametrize("bias", ["row", "matrix", "scalar", "none"])
@pytest.mark.parametrize("scale", ["", "alpha=0.5, beta=3.0, "], ids=["plain", "alpha_beta"])
@pytest.mark.parametrize("turned", [0, 1], ids=["transB0", "transB1"])
def test_a_batch_norm_is_folded_into_a_gemm(turned: int, scale: str, bias: str) -> None:
    shapes: dict[str, tuple[int, ...]] = {"row": (8,), "matrix": (1, 8), "scalar": ()}
    before = model_of(
        f"""agraph (float[N,6] x) => (float[N,8] y) {{
            c = Gemm<{scale}transB={turned}>(x, w{"" if bias == "none" else ", b"})
            y = {BN}
        }}""",
        {
            "w": normal(*((8, 6) if turned else (6, 8)), seed=1),
            "b": normal(*shapes.get(bias, ()), seed=2),
            **statistics(8),
        },
    )
    assert_folded(before, "Gemm")


STEPS = {
    "mul": "y = Mul(c, k)",
    "mul_swapped": "y = Mul(k, c)",
    "add": "y = Add(c, k)",
    "add_swapped": "y = Add(k, c)",
    "sub": "y = Sub(c, k)",
    "sub_swapped": "y = Sub(k, c)",
    "div": "y = Div(c, k)",
}
FORMS: dict[str, tuple[int, ...]] = {
    "scalar": (),
    "one_value": (1,),
    "ones": (1, 1, 1, 1),
    "rank3": (8, 1, 1),
    "rank4": (1, 8, 1, 1),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("step", STEPS)
def test_arithmetic_with_a_constant_is_folded_into_a_conv(step: str, form: str) -> None:
    # Both signs, and nothing near the 0 that a division can't take.
    k = positive(*FORMS[form], seed=3)
    k = np.asarray(k * np.sign(normal(*FORMS[form], seed=4)), np.float32)
    assert_folded(conv(STEPS[step], constants={"k": k}), "Conv")


@pytest.mark.parametrize("bias", [True, False], ids=["bias_true", "bias_false"])
@pytest.mark.parametrize("group", [1, 4], ids=["group1", "depthwise4"])
@pytest.mark.parametrize("step", STEPS)
def test_arithmetic_is_folded_whatever_the_groups_and_the_bias(
    step: str, group: int, bias: bool
) -> None:
    before = conv(STEPS[step], group=group, bias=bias, constants={"k": positive(8, 1, 1, seed=3)})
    assert_folded(before, "Conv")


@pytest.mark.parametrize("group", [1, 2], ids=["group1", "group2"])
@pytest.mark.parametrize("step", STEPS)
def test_arithmetic_is_folded_into_a_conv_transpose(step: str, group: int) -> None:
    before = model_of(
        f"""agraph (float[N,4,5,7] x) => (float[N,6,A,B] y) {{
            c = ConvTranspose<kernel_shape=[2,2], group={group}>(x, w)
            {STEPS[step]}
        }}""",
        {"w": normal(4, 6 // group, 2, 2, seed=1), "k": positive(6, 1, 1, seed=3)},
    )
    assert_folded(before, "ConvTranspose")


@pytest.mark.parametrize("form", [(), (1,), (8,), (1, 8)], ids=["scalar", "one", "row", "matrix"])
@pytest.mark.parametrize("step", STEPS)
def test_arithmetic_is_folded_into_a_gemm(step: str, form: tuple[int, ...]) -> None:
    before = model_of(
        f"""agraph (float[N,6] x) => (float[N,8] y) {{
            c = Gemm<alpha=2.0, beta=0.5, transB=1>(x, w, b)
            {STEPS[step]}
        }}""",
        {"w": normal(8, 6, seed=1), "b": normal(8, seed=2), "k": positive(*form, seed=3)},
    )
    assert_folded(before, "Gemm")


def test_a_spelled_out_batch_norm_is_folded_step_by_step() -> None:
    """(c - mean) / std * gamma + beta."""
    before = conv(
        "s = Sub(c, mean4)\n d = Div(s, std)\n m = Mul(gamma4, d)\n y = Add(m, beta4)",
        constants={
            "mean4": normal(1, 8, 1, 1, seed=3),
            "std": positive(8, 1, 1, seed=4),
            "gamma4": normal(8, 1, 1, seed=5),
            "beta4": normal(1, 8, 1, 1, seed=6),
        },
    )
    assert_folded(before, "Conv")


def test_a_constant_for_the_only_channel_is_folded() -> None:
    before = conv(
        "y = Mul(c, k)", cout=1, outputs="float[N,1,5,7] y",
        constants={"k": positive(1, 1, 1, 1, seed=3)},
    )  # fmt: skip
    assert_folded(before, "Conv")


def test_a_batch_norm_is_folded_into_a_conv_of_one_spatial_dimension() -> None:
    before = model_of(
        f"""agraph (float[N,4,9] x) => (float[N,8,9] y) {{
            c = Conv<kernel_shape=[3], pads=[1,1]>(x, w)
            b = {BN}
            y = Mul(b, k)
        }}""",
        {"w": normal(8, 4, 3, seed=1), "k": positive(8, 1, seed=3), **statistics(8)},
    )
    assert_folded(before, "Conv")


def test_two_layers_are_folded_on_their_own() -> None:
    before = model_of(
        """agraph (float[N,4,5,7] x) => (float[N,4,5,7] y) {
            c = Conv<kernel_shape=[1,1]>(x, w)
            a = Mul(c, k)
            r = Relu(a)
            d = Conv<kernel_shape=[1,1]>(r, v)
            y = Add(d, l)
        }""",
        {
            "w": normal(4, 4, 1, 1, seed=1), "v": normal(4, 4, 1, 1, seed=2),
            "k": normal(4, 1, 1, seed=3), "l": normal(4, 1, 1, seed=4),
        },
    )  # fmt: skip
    after, _ = clean(before, PASS)
    assert after.operators() == {"Conv": 2, "Relu": 1}
    assert_same(before, after, ROUNDING)


def test_the_weights_of_the_original_are_not_touched() -> None:
    before = conv()
    weights = before.graph.tensors()["w"].values.copy()
    clean(before, PASS)
    np.testing.assert_array_equal(before.graph.tensors()["w"].values, weights)


def test_a_bias_whose_name_is_taken_does_not_replace_the_other_constant() -> None:
    """Exporters call a bias after its layer; here two layers share it."""
    before = model_of(
        """agraph (float[N,4,5,7] x) => (float[N,4,5,7] y) {
            ["c"] c = Conv<kernel_shape=[1,1]>(x, w)
            a = Add(c, "c/bias")
            r = Relu(a)
            y = Mul(r, "c/bias")
        }""",
        {"w": normal(4, 4, 1, 1, seed=1), "c/bias": normal(4, 1, 1, seed=3)},
    )
    after, _ = clean(before, PASS)
    assert_same(before, after, ROUNDING)


def test_a_second_bias_whose_name_is_taken_does_not_replace_the_other_constant() -> None:
    before = model_of(
        """agraph (float[N,4,5,7] x) => (float[N,4,5,7] y) {
            ["c"] c = Conv<kernel_shape=[1,1]>(x, w)
            a = Mul(c, k)
            r = Relu(a)
            y = Add(r, "c/bias")
        }""",
        {
            "w": normal(4, 4, 1, 1, seed=1), "k": normal(4, 1, 1, seed=2),
            "c/bias": normal(4, 1, 1, seed=3),
        },
    )  # fmt: skip
    after, _ = clean(before, PASS)
    assert after.operators() == {"Conv": 1, "Relu": 1, "Add": 1}
    assert_same(before, after, ROUNDING)


# What is refused ------------------------------------------------------------------------------


def test_a_conv_whose_output_another_node_reads_is_refused() -> None:
    before = conv(f"y = {BN}\n z = Relu(c)", outputs="float[N,8,5,7] y, float[N,8,5,7] z")
    assert_refused(before, "output of 'c'", "another user")


def test_a_conv_whose_output_is_an_output_of_the_graph_is_refused() -> None:
    before = conv(outputs="float[N,8,5,7] y, float[N,8,5,7] c")
    assert_refused(before, "output of 'c'", "another user")


def beside(parameters: str) -> Model:
    """Return a Conv with a batch norm, beside another Conv of these parameters."""
    return conv(
        f"y = {BN}\n z = Conv<kernel_shape=[3,3]>(x, {parameters})",
        outputs="float[N,8,5,7] y, float[N,8,3,5] z",
        constants={"w2": normal(8, 4, 3, 3, seed=5), "b2": normal(8, seed=6)},
    )


def test_a_conv_that_shares_its_weights_is_refused() -> None:
    assert_refused(beside("w, b2"), "'w' of 'c'", "shared")


def test_a_conv_that_shares_its_bias_gets_one_of_its_own() -> None:
    before = beside("w2, b")
    after, _ = clean(before, PASS)
    assert after.operators() == {"Conv": 2}
    assert_same(before, after, ROUNDING)


def test_two_sums_that_round_are_refused() -> None:
    magic = {"m": np.float32(1.5 * 2**23)}
    assert_refused(conv("a = Add(c, m)\n y = Sub(a, m)", constants=magic), "it rounds")


def test_a_batch_norm_in_training_mode_is_refused() -> None:
    tail = """y, running_mean, running_var =
        BatchNormalization<training_mode=1>(c, gamma, beta, mean, var)"""
    assert_refused(conv(tail), "training mode")


def test_a_batch_norm_with_computed_parameters_is_refused() -> None:
    before = model_of(
        f"""agraph (float[N,4,5,7] x, float[8] gamma) => (float[N,8,5,7] y) {{
            c = Conv<kernel_shape=[1,1]>(x, w)
            y = {BN}
        }}""",
        {
            "w": normal(8, 4, 1, 1, seed=1), "beta": normal(8, seed=2), "mean": normal(8, seed=3),
            "var": positive(8, seed=4),
        },
    )  # fmt: skip
    assert_refused(before, "parameters are not constants")


@pytest.mark.parametrize("form", FORMS)
def test_a_constant_divided_by_the_layer_is_refused(form: str) -> None:
    before = conv("y = Div(k, c)", constants={"k": positive(*FORMS[form], seed=3)})
    assert_refused(before, "divisor")


@pytest.mark.parametrize(
    "form",
    [(1, 1, 5, 7), (7,), (5, 7), (5, 1), (1, 8, 5, 7), (8, 5, 1)],
    ids=["plane", "row", "plane_rank2", "column", "full", "channel_and_row"],
)
@pytest.mark.parametrize("step", STEPS)
def test_a_constant_that_is_not_one_value_a_channel_is_refused(
    step: str, form: tuple[int, ...]
) -> None:
    assert_refused(
        conv(STEPS[step], constants={"k": positive(*form, seed=3)}), "not one value a channel"
    )


def test_a_constant_along_the_last_axis_that_is_as_long_as_the_channels_is_refused() -> None:
    before = conv(
        "y = Mul(c, k)", cout=7, outputs="float[N,7,5,7] y", constants={"k": positive(7, seed=3)}
    )
    assert_refused(before, "not one value a channel")


def test_a_constant_along_the_batch_is_refused() -> None:
    before = model_of(
        """agraph (float[8,4,5,7] x) => (float[8,8,5,7] y) {
            c = Conv<kernel_shape=[1,1]>(x, w)
            y = Mul(c, k)
        }""",
        {"w": normal(8, 4, 1, 1, seed=1), "k": positive(8, 1, 1, 1, seed=3)},
    )
    assert_refused(before, "not one value a channel")


def test_a_constant_of_higher_rank_than_the_layer_is_refused() -> None:
    before = conv(
        "y = Mul(c, k)", outputs="float[A,N,8,5,7] y", constants={"k": positive(1, 1, 1, 1, 1)}
    )
    assert_refused(before, "not one value a channel")


def test_a_constant_that_broadcasts_a_single_channel_to_several_is_refused() -> None:
    before = conv(
        "y = Mul(c, k)", cout=1, outputs="float[N,8,5,7] y",
        constants={"k": positive(8, 1, 1, seed=3)},
    )  # fmt: skip
    assert_refused(before, "not one value a channel")


def test_a_divisor_that_holds_a_zero_is_refused() -> None:
    """c / 0 is an infinity or NaN where the folded weights would mix both into every sum."""
    k = positive(8, 1, 1, seed=3)
    k[2] = 0
    before = conv("y = Div(c, k)", constants={"k": k})
    after, report = clean(before, PASS)
    assert after.operators() == {"Conv": 1, "Div": 1}
    assert "zero" in refusal(report, PASS)


@pytest.mark.parametrize("columns", [4, 6], ids=["square", "not_square"])
def test_a_gemm_with_one_bias_a_row_stays_right(columns: int) -> None:
    """C of a Gemm broadcasts: (4, 1) is one value a row, also where there are four columns."""
    before = model_of(
        f"""agraph (float[4,6] x) => (float[4,{columns}] y) {{
            c = Gemm(x, w, b)
            y = Mul(c, k)
        }}""",
        {
            "w": normal(6, columns, seed=1), "b": normal(4, 1, seed=2),
            "k": positive(columns, seed=3),
        },
    )  # fmt: skip
    after, _ = clean(before, PASS)
    assert_same(before, after, ROUNDING)


def test_a_gemm_with_one_bias_an_element_stays_right() -> None:
    before = model_of(
        "agraph (float[4,6] x) => (float[4,5] y) { c = Gemm(x, w, b)\n y = Mul(c, k) }",
        {"w": normal(6, 5, seed=1), "b": normal(4, 5, seed=2), "k": positive(5, seed=3)},
    )
    after, _ = clean(before, PASS)
    assert_same(before, after, ROUNDING)


@pytest.mark.parametrize(
    "tail",
    [
        "y = Add(c, x)", "d = Relu(c)\n y = Mul(d, k)", "y = Mul(c, c)",
        "s = Sigmoid(c)\n y = Mul(c, s)",
    ],
    ids=["residual", "activation_between", "square", "gate"],
)  # fmt: skip
def test_what_is_no_batch_norm_stays(tail: str) -> None:
    before = conv(tail, cin=8, group=2, constants={"k": positive(8, 1, 1, seed=3)})
    after, report = clean(before, PASS)
    assert after.operators() == before.operators()
    assert untouched(report, PASS)
    assert_same(before, after)


def test_a_layer_whose_weights_are_computed_stays() -> None:
    before = model_of(
        """agraph (float[N,4,5,7] x, float[8,4,1,1] w) => (float[N,8,5,7] y) {
            c = Conv<kernel_shape=[1,1]>(x, w)
            y = Mul(c, k)
        }""",
        {"k": positive(8, 1, 1, seed=3)},
    )
    after, report = clean(before, PASS)
    assert after.operators() == {"Conv": 1, "Mul": 1}
    assert untouched(report, PASS)
    assert_same(before, after)


# MatMul ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [(6,), (1, 6), (), (1, 1, 1)], ids=str)
@pytest.mark.parametrize("step", ["y = Mul(c, k)", "y = Div(c, k)", "y = Mul(k, c)"])
def test_a_factor_is_folded_into_a_matmul_of_any_rank(step: str, form: tuple[int, ...]) -> None:
    before = model_of(
        f"agraph (float[N,5,4] x) => (float[N,5,6] y) {{ c = MatMul(x, w)\n {step} }}",
        {"w": normal(4, 6, seed=1), "k": positive(*form, seed=3)},
    )
    after, _ = clean(before, PASS)
    assert after.operators() == {"MatMul": 1}
    assert_same(before, after, ROUNDING)


def test_a_shift_after_a_matmul_stays() -> None:
    before = model_of(
        "agraph (float[N,5,4] x) => (float[N,5,6] y) { c = MatMul(x, w)\n y = Add(c, k) }",
        {"w": normal(4, 6, seed=1), "k": positive(6, seed=3)},
    )
    after, report = clean(before, PASS)
    assert after.operators() == before.operators()
    assert untouched(report, PASS)


def test_a_batch_norm_of_another_axis_than_the_columns_of_a_matmul_is_refused() -> None:
    before = model_of(
        f"agraph (float[N,8,4] x) => (float[N,8,8] y) {{ c = MatMul(x, w)\n y = {BN} }}",
        {"w": normal(4, 8, seed=1), **statistics(8)},
    )
    after, report = clean(before, PASS)
    assert after.operators() == before.operators()
    assert "channels are not the layer's" in refusal(report, PASS)


OUTPUT_WEIGHTS = {
    "fold_batchnorm": "c = Conv(x, w)  y = Mul(c, k)",
    "fold_affine_backward": "c = Mul(x, k)  y = Conv(c, w)",
    "absorb_flatten": "t = Transpose<perm=[0,2,3,1]>(x)  f = Flatten(t)  y = Gemm(f, w)",
}


@pytest.mark.parametrize("name", OUTPUT_WEIGHTS)
def test_weights_that_are_an_output_stay_what_they_are(name: str) -> None:
    dense = name == "absorb_flatten"
    shape = "12,5" if dense else "3,3,1,1"
    before = model_of(
        f"""agraph (float[N,3,2,2] x) => (float[N,{"5" if dense else "3,2,2"}] y, float[{shape}] w)
        {{ {OUTPUT_WEIGHTS[name]} }}""",
        {"w": normal(*map(int, shape.split(",")))} | ({} if dense else {"k": positive(3, 1, 1)}),
    )
    after, report = clean(before, name)
    assert refusal(report, name).endswith("another user")
    assert_same(before, after)


@pytest.mark.parametrize("layer", ["Conv", "ConvTranspose", "Gemm", "MatMul"])
@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("fold_batchnorm", "c = LAYER(x, w) y = Neg(c)"),
        ("fold_affine_backward", "c = Neg(x) y = LAYER(c, w)"),
    ],
)
def test_a_neg_goes_into_the_layer(name: str, body: str, layer: str) -> None:
    image = layer.startswith("Conv")
    given, made = ("N,3,5,5", "N,A,B,C") if image else ("N,3", "N,A")
    before = model_of(
        f"""agraph (float[{given}] x) => (float[{made}] y)
        {{ {body.replace("LAYER", layer)} }}""",
        {"w": normal(3, 3, *([2, 2] if image else []))},
    )
    after, _ = clean(before, name)
    assert after.operators() == {layer: 1}
    assert_same(before, after)


# What float16 can't hold ----------------------------------------------------------------------

# What a single value is off by in float16: half of 2^-10 of itself.
HALF = 2.0**-11


def half(weights: float, step: str, factor: float, seed: int = 1) -> Model:
    """Return a Conv of float16 and a factor, before or after it."""
    lines = {
        "before": "c = Mul(x, k) y = Conv(c, w)",
        "after": "c = Conv(x, w) y = Mul(c, k)",
    }
    return model_of(
        f"agraph (float16[N,3,8,8] x) => (float16[N,4,6,6] y) {{ {lines[step]} }}",
        {
            "w": (normal(4, 3, 3, 3, seed=seed) * weights).astype(np.float16),
            "k": np.array(factor, np.float16),
        },
    )


@pytest.mark.parametrize("step", ["before", "after"])
@pytest.mark.parametrize(
    ("weights", "factor"), [(1e-4, 1e-4), (1e-3, 1e-3), (200, 1000)], ids=["0", "subnormal", "inf"]
)
def test_a_factor_that_float16_weights_cannot_take_is_left_out(
    step: str, weights: float, factor: float
) -> None:
    before = half(weights, step, factor)
    after, report = clean(before)
    assert after.operators() == {"Conv": 1, "Mul": 1}
    name = PASS if step == "after" else "fold_affine_backward"
    assert "float16 does not hold" in refusal(report, name)
    # The sizes that real pictures have: with the factor in the weights, the output would be 0,
    # half a per cent off, or infinite.
    size = 255 if factor < 1 else 1e-3
    x = (np.random.default_rng(3).random((1, 3, 8, 8)) * size).astype(np.float16)
    np.testing.assert_array_equal(infer(before, {"x": x})["y"], infer(after, {"x": x})["y"])


@pytest.mark.parametrize("step", ["before", "after"])
def test_a_factor_that_float16_weights_can_take_is_folded(step: str) -> None:
    before = half(0.05, step, 1 / 255)
    after, _ = clean(before)
    assert after.operators() == {"Conv": 1}
    x = (np.random.default_rng(3).random((1, 3, 8, 8)) * 255).astype(np.float16)
    wanted, got = infer(before, {"x": x})["y"], infer(after, {"x": x})["y"]
    # Weights, products and the sum are each rounded once more.
    assert np.abs(wanted - got).max() <= 4 * HALF * np.abs(wanted).max()


def test_small_weights_beside_large_ones_may_become_zero() -> None:
    before = half(1.0, "after", 0.5)
    weight = before.graph.nodes[0].inputs[1]
    weight.values[:, :, 0, 0] = 2.0**-24
    after, _ = clean(before)
    assert after.operators() == {"Conv": 1}


def test_a_channel_of_small_weights_beside_channels_of_large_ones_is_not_lost() -> None:
    before = half(1.0, "after", 1e-3)
    weight = before.graph.nodes[0].inputs[1]
    weight.values[2] *= np.float16(1e-3)
    after, report = clean(before)
    assert after.operators() == {"Conv": 1, "Mul": 1}
    assert "float16" in refusal(report, PASS)
