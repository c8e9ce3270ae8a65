"""fold_affine_backward: a batch norm, or a step of one, goes into the layer after it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxgraft.graph.model import Model
from onnxgraft.graph.tensors import Array
from onnxgraft.run.session import OnnxRuntime
from tests.conftest import model_of
from tests.surgery.helpers import ROUNDING, assert_same, clean, normal, positive, refusal

PASS = "fold_affine_backward"
BN = "n = BatchNormalization(x, gamma, beta, mean, var)"
STEPS = {
    "mul": "n = Mul(x, k)",
    "div": "n = Div(x, k)",
    "add": "n = Add(x, k)",
    "sub": "n = Sub(x, k)",
    "sub_swapped": "n = Sub(k, x)",
    "mul_swapped": "n = Mul(k, x)",
}
STATISTICS = {
    "gamma": normal(4, seed=11), "beta": normal(4, seed=12), "mean": normal(4, seed=13),
    "var": positive(4, seed=14),
}  # fmt: skip
LAYERS: dict[str, tuple[str, dict[str, Array]]] = {
    "conv": ("y = Conv(n, w)", {"w": normal(6, 4, 3, 3, seed=1)}),
    "conv_bias": (
        "y = Conv<strides=[2,2]>(n, w, b)",
        {"w": normal(6, 4, 3, 3, seed=1), "b": normal(6, seed=2)},
    ),
    "conv_groups": ("y = Conv<group=2>(n, w)", {"w": normal(6, 2, 3, 3, seed=1)}),
    "conv_depthwise": ("y = Conv<group=4>(n, w)", {"w": normal(8, 1, 3, 3, seed=1)}),
}


def image(body: str, constants: dict[str, Array]) -> Model:
    text = f"agraph (float[N,4,6,7] x) => (float[N,C,A,B] y) {{ {body} }}"
    return model_of(text, {name: v for name, v in constants.items() if name in body})


def assert_folded(before: Model, op: str) -> None:
    after, _ = clean(before, PASS)
    assert after.operators() == {op: 1}
    assert_same(before, after, ROUNDING)


def assert_refused(before: Model, reason: str) -> None:
    after, report = clean(before, PASS)
    assert after.operators() == before.operators()
    assert reason in refusal(report, PASS)
    assert_same(before, after)


@pytest.mark.parametrize("layer", LAYERS)
def test_a_batch_norm_goes_into_the_convolution_after_it(layer: str) -> None:
    body, constants = LAYERS[layer]
    assert_folded(image(f"{BN}\n {body}", STATISTICS | constants), "Conv")


@pytest.mark.parametrize("form", [(4, 1, 1), (1, 4, 1, 1), (), (1,)], ids=str)
@pytest.mark.parametrize("step", STEPS)
def test_a_step_by_one_constant_a_channel_goes_into_it(step: str, form: tuple[int, ...]) -> None:
    body, constants = LAYERS["conv_groups"]
    k = {"k": positive(*form, seed=3)}
    assert_folded(image(f"{STEPS[step]}\n {body}", constants | k), "Conv")


@pytest.mark.parametrize("step", ["mul", "div"])
@pytest.mark.parametrize("group", [1, 2])
def test_a_factor_goes_into_a_padded_or_transposed_convolution(step: str, group: int) -> None:
    k = {"k": positive(4, 1, 1, seed=3)}
    conv = {"w": normal(6, 4 // group, 3, 3, seed=1)} | k
    body = f"{STEPS[step]}\n y = Conv<pads=[1,1,1,1], group={group}>(n, w)"
    assert_folded(image(body, conv), "Conv")
    transposed = {"w": normal(4, 3, 3, 3, seed=1)} | k
    body = f"{STEPS[step]}\n y = ConvTranspose<strides=[2,2], group={group}>(n, w)"
    assert_folded(image(body, transposed), "ConvTranspose")


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize(
    "layer",
    ["y = MatMul(n, w)", "y = Gemm<alpha=0.5, beta=2.0>(n, w, b)", "y = Gemm<transB=1>(n, w)"],
    ids=["matmul", "gemm", "gemm_transposed"],
)
def test_a_step_goes_into_a_dense_layer(step: str, layer: str) -> None:
    turned = "transB" in layer
    constants = {
        "w": normal(3, 8, seed=1) if turned else normal(8, 3, seed=1), "b": normal(3, seed=2),
        "k": positive(8, seed=3),
    }  # fmt: skip
    body = f"{STEPS[step]}\n {layer}"
    before = model_of(
        f"agraph (float[N,8] x) => (float[N,3] y) {{ {body} }}",
        {name: value for name, value in constants.items() if name in layer or name == "k"},
    )
    after, _ = clean(before, PASS)
    assert set(after.operators()) <= {"Gemm", "MatMul"} and len(after.graph.nodes) == 1
    assert_same(before, after, ROUNDING)


def test_a_factor_goes_into_a_matmul_of_more_axes_and_a_shift_does_not() -> None:
    text = "agraph (float[N,5,8] x) => (float[N,5,3] y) {{ n = {}(x, k)\n y = MatMul(n, w) }}"
    constants = {"w": normal(8, 3, seed=1), "k": positive(8, seed=3)}
    assert_folded(model_of(text.format("Mul"), constants), "MatMul")
    assert_refused(model_of(text.format("Add"), constants), "has no bias to take the shift")


@pytest.mark.parametrize("padding", ["pads=[0,1,0,0]", 'auto_pad="SAME_UPPER"'])
def test_a_shift_before_a_padding_is_refused(padding: str) -> None:
    constants = {"w": normal(6, 4, 3, 3, seed=1)} | STATISTICS
    assert_refused(image(f"{BN}\n y = Conv<{padding}>(n, w)", constants), "pads with 0")


def test_a_shift_before_a_transposed_convolution_is_refused() -> None:
    constants = {"w": normal(4, 3, 3, 3, seed=1)} | STATISTICS
    assert_refused(image(f"{BN}\n y = ConvTranspose(n, w)", constants), "more taps in the middle")


def test_two_sums_that_round_are_refused() -> None:
    constants = {"w": normal(6, 4, 3, 3, seed=1), "m": np.float32(1.5 * 2**23)}
    assert_refused(image("a = Sub(x, m)\n n = Add(a, m)\n y = Conv(n, w)", constants), "it rounds")


def test_a_step_that_somebody_else_reads_is_refused() -> None:
    before = model_of(
        """agraph (float[N,4,6,7] x) => (float[N,C,A,B] y, float[N,4,6,7] n) {
            n = Mul(x, k)
            y = Conv(n, w)
        }""",
        {"w": normal(6, 4, 3, 3, seed=1), "k": positive(4, 1, 1, seed=3)},
    )
    assert_refused(before, "another user")


def test_shared_weights_are_refused() -> None:
    before = model_of(
        """agraph (float[N,4,6,7] x) => (float[N,C,A,B] y, float[N,C,A,B] z) {
            n = Mul(x, k)
            y = Conv(n, w)
            z = Conv(x, w)
        }""",
        {"w": normal(6, 4, 3, 3, seed=1), "k": positive(4, 1, 1, seed=3)},
    )
    assert_refused(before, "'w' of 'y' is shared")


@pytest.mark.parametrize(
    ("body", "k", "reason"),
    [
        ("n = Mul(x, k)", positive(7), "not one value a channel"),
        ("n = Mul(x, k)", positive(1, 4, 6, 7), "not one value a channel"),
        ("n = Div(k, x)", positive(4, 1, 1), "is the divisor"),
        ("n = Div(x, k)", np.array([1, 0, 2, 3], np.float32).reshape(4, 1, 1), "divisor is zero"),
    ],
    ids=["row", "whole", "divided", "zero"],
)
def test_what_is_no_step_a_channel_is_refused(body: str, k: Array, reason: str) -> None:
    w = {"w": normal(6, 4, 3, 3, seed=1), "k": k}
    after, report = clean(image(f"{body}\n y = Conv(n, w)", w), PASS)
    assert len(after.graph.nodes) == 2
    assert reason in refusal(report, PASS)


def test_a_constant_that_broadcasts_the_image_is_refused() -> None:
    before = model_of(
        "agraph (float[1,1,6,7] x) => (float[N,C,A,B] y) { n = Mul(x, k)\n y = Conv(n, w) }",
        {"w": normal(6, 4, 3, 3, seed=1), "k": positive(4, 1, 1, seed=3)},
    )
    assert_refused(before, "not one value a channel")


def test_a_batch_norm_of_another_axis_than_the_rows_is_refused() -> None:
    """Its channels are axis 1, the rows of the weights the last one; both are 4 here."""
    before = model_of(
        f"agraph (float[N,4,4] x) => (float[N,4,3] y) {{ {BN}\n y = MatMul(n, w) }}",
        {"w": normal(4, 3, seed=1)} | STATISTICS,
    )
    assert_refused(before, "channels are not the layer's")


# x (1 + erf(x / sqrt 2)) / 2, and what approximates it, as exporters spell them.
GELUS = {
    "erf": "s = Div(x, root) e = Erf(s) a = Add(e, one) p = Mul(x, a) n = Mul(p, half)",
    "erf_divided": "s = Mul(x, unroot) e = Erf(s) a = Add(one, e) p = Mul(a, x) n = Div(p, two)",
    "tanh": (
        "c = Pow(x, three) d = Mul(c, small) f = Add(x, d) s = Mul(f, big) e = Tanh(s) "
        "a = Add(e, one) p = Mul(x, a) n = Mul(half, p)"
    ),
}
# What onnxruntime finds of them.
FUSED: dict[str, list[str]] = {"erf": ["Gelu"], "erf_divided": [], "tanh": []}
NUMBERS = {
    "root": 2**0.5, "unroot": 0.5**0.5, "one": 1.0, "half": 0.5, "two": 2.0, "three": 3.0,
    "small": 0.044715, "big": (2 / np.pi) ** 0.5,
}  # fmt: skip


def fused(model: Model, folder: Path) -> list[str]:
    """Return the operators of onnxruntime's own that it runs."""
    file = folder / "fused.onnx"
    with OnnxRuntime(model.to_onnx(), save_optimized=file):
        return [node.op_type for node in onnx.load(file).graph.node if "Gelu" in node.op_type]


@pytest.mark.parametrize("form", GELUS)
def test_the_half_of_a_gelu_is_left_to_the_runtime(form: str, tmp_path: Path) -> None:
    numbers = {name: np.array(value, np.float32) for name, value in NUMBERS.items()}
    before = image(f"{GELUS[form]} y = Conv(n, w)", {"w": normal(6, 4, 3, 3, seed=1)} | numbers)
    assert_refused(before, "GELU")
    after, _ = clean(before, PASS)
    assert fused(after, tmp_path) == fused(before, tmp_path) == FUSED[form]
