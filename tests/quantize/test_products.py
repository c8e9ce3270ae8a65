"""A layer as a matrix product computes what onnxruntime computes."""

from __future__ import annotations

import numpy as np
import pytest

from onnxgraft.stages.quantize.improve.products import Product
from tests.conftest import model_of
from tests.quantize.networks import infer

# Sums of at most 200 products in another order.
CLOSE = 1e-5

CONVOLUTIONS = {
    "plain": ((6, 4, 3, 3), "", 1),
    "pads": ((6, 4, 3, 3), "pads = [1, 0, 2, 1]", 1),
    "strides": ((6, 4, 3, 3), "pads = [1, 1, 1, 1], strides = [2, 3]", 1),
    "dilations": ((6, 4, 3, 2), "pads = [2, 2, 2, 2], dilations = [2, 1]", 1),
    "same_upper": ((6, 4, 3, 2), 'auto_pad = "SAME_UPPER", strides = [2, 2]', 1),
    "same_lower": ((6, 4, 3, 2), 'auto_pad = "SAME_LOWER", strides = [2, 2]', 1),
    "groups": ((6, 2, 3, 3), "group = 2", 2),
    "depthwise": ((8, 1, 3, 3), "group = 4, pads = [1, 1, 1, 1]", 4),
    "one_dimension": ((6, 4, 5), "pads = [2, 1]", 1),
    "three_dimensions": ((3, 4, 2, 3, 2), "", 1),
}


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_a_convolution(case: str) -> None:
    shape, attributes, _ = CONVOLUTIONS[case]
    sizes = {3: [11], 4: [9, 11], 5: [4, 5, 6]}[len(shape)]
    rng = np.random.default_rng(1)
    x = rng.standard_normal((2, 4, *sizes)).astype(np.float32)
    dims = ", ".join(map(str, x.shape))
    model = model_of(
        f"g (float[{dims}] x) => (float[{', '.join('abcde'[: x.ndim])}] y) "
        f"{{ [conv] y = Conv {f'<{attributes}>' if attributes else ''} (x, w) }}",
        {"w": rng.standard_normal(shape).astype(np.float32)},
    )
    product = Product(model.graph.nodes[0])
    vectors = product.take(x, 10**6, rng)
    found = vectors @ product.matrix(product.weights).transpose(0, 2, 1)
    expected = infer(model, {"x": x})["y"]
    # (groups, positions, rows) -> (batch, channels, positions)
    channels = np.concatenate(list(found.transpose(0, 2, 1))).reshape(expected.shape[1], 2, -1)
    actual = channels.swapaxes(0, 1).reshape(expected.shape)
    np.testing.assert_allclose(actual, expected, rtol=CLOSE, atol=CLOSE)


@pytest.mark.parametrize("transposed", [0, 1])
def test_a_dense_layer(transposed: int) -> None:
    rng = np.random.default_rng(1)
    x = rng.standard_normal((5, 7)).astype(np.float32)
    w = rng.standard_normal((3, 7) if transposed else (7, 3)).astype(np.float32)
    text = f"g (float[5, 7] x) => (float[5, 3] y) {{ [d] y = Gemm <transB = {transposed}> (x, w) }}"
    model = model_of(text, {"w": w})
    product = Product(model.graph.nodes[0])
    found = product.take(x, 10**6, rng) @ product.matrix(w).transpose(0, 2, 1)
    np.testing.assert_allclose(found[0], infer(model, {"x": x})["y"], rtol=CLOSE, atol=CLOSE)


def test_a_transposed_convolution_whose_taps_do_not_overlap() -> None:
    rng = np.random.default_rng(1)
    x = rng.standard_normal((1, 4, 3, 3)).astype(np.float32)
    w = rng.standard_normal((4, 5, 2, 2)).astype(np.float32)
    text = (
        "g (float[1, 4, 3, 3] x) => (float[1, 5, 6, 6] y) "
        "{ [up] y = ConvTranspose <strides = [2, 2]> (x, w) }"
    )
    model = model_of(text, {"w": w})
    product = Product(model.graph.nodes[0])
    found = product.take(x, 10**6, rng) @ product.matrix(w).transpose(0, 2, 1)
    actual = found[0].reshape(3, 3, 5, 2, 2).transpose(2, 0, 3, 1, 4).reshape(1, 5, 6, 6)
    np.testing.assert_allclose(actual, infer(model, {"x": x})["y"], rtol=CLOSE, atol=CLOSE)


@pytest.mark.parametrize("op", ["Conv", "ConvTranspose", "Gemm", "GemmT", "MatMul"])
def test_a_matrix_goes_back_to_the_weights_it_came_from(op: str) -> None:
    shape = {"Conv": (6, 2, 3, 3), "ConvTranspose": (4, 3, 2, 2)}.get(op, (4, 3))
    w = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    attributes = {
        "Conv": "<group = 2>", "ConvTranspose": "<group = 2>", "GemmT": "<transB = 1>",
    }.get(op, "")  # fmt: skip
    dims = "float[1, 4, 8, 8] x" if len(shape) == 4 else f"float[1, {3 if op == 'GemmT' else 4}] x"
    rank = "float[a, b, c, d] y" if len(shape) == 4 else "float[a, b] y"
    name = op.removesuffix("T") if op == "GemmT" else op
    model = model_of(f"g ({dims}) => ({rank}) {{ y = {name} {attributes} (x, w) }}", {"w": w})
    product = Product(model.graph.nodes[0])
    np.testing.assert_array_equal(product.unmatrix(product.matrix(w)), w)


def test_few_positions_are_the_same_for_the_same_seed() -> None:
    x = np.random.default_rng(0).standard_normal((1, 4, 9, 9)).astype(np.float32)
    text = "g (float[1, 4, 9, 9] x) => (float[a, b, c, d] y) { y = Conv (x, w) }"
    model = model_of(text, {"w": np.ones((6, 4, 3, 3), np.float32)})
    product = Product(model.graph.nodes[0])
    one, other = (product.take(x, 8, np.random.default_rng(3)) for _ in range(2))
    assert one.shape == (1, 8, 36)
    np.testing.assert_array_equal(one, other)
