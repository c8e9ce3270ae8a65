"""Weights whose neighbours fit: no pair of products leaves 16 bits, and no more is lost for it."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxgraft.graph.pairs import MOST, fitting, pair_sums
from onnxgraft.graph.tensors import Array
from onnxgraft.stages.quantize.improve.rounding import Stored, nearest_numbers, weight_scale

# Layers by operator and attributes, the shape of their weights, and the axis of their scales.
LAYERS = {
    "conv": ("Conv", {}, (6, 5, 3, 3), 0),
    "conv of few channels": ("Conv", {}, (4, 3, 7, 7), 0),
    "depthwise": ("Conv", {"group": 8}, (8, 1, 3, 3), 0),
    "conv1d": ("Conv", {}, (5, 4, 3), 0),
    "transposed": ("ConvTranspose", {}, (4, 6, 2, 2), None),
    "gemm": ("Gemm", {}, (9, 4), 1),
    "gemm, transposed": ("Gemm", {"transB": 1}, (4, 9), 0),
    "matmul": ("MatMul", {}, (8, 4), 1),
    "matmul of many": ("MatMul", {}, (3, 8, 4), None),
}
layers = pytest.mark.parametrize("layer", LAYERS)


def node_of(layer: str, weights: Array) -> gs.Node:
    op, attrs, _, _ = LAYERS[layer]
    return gs.Node(op, "layer", attrs, [gs.Variable("x"), gs.Constant("w", weights)])


def textbook(op: str, transposed: bool, integers: Array) -> list[int]:
    """Return the largest pair of each output, one weight after the other."""
    if op == "Conv":
        rows = [[[w[i][t] for i in range(w.shape[0])] for t in range(w.shape[1])]
                for w in integers.reshape(*integers.shape[:2], -1)]  # fmt: skip
    elif op == "ConvTranspose":
        flat = integers.reshape(*integers.shape[:2], -1)
        rows = [[[flat[i][o][t] for i in range(flat.shape[0])] for t in range(flat.shape[2])]
                for o in range(flat.shape[1])]  # fmt: skip
    else:
        stacked = (integers.T if transposed else integers).reshape(-1, *integers.shape[-2:][::1])
        if transposed:
            stacked = integers.T[np.newaxis]
        rows = [[[m[i][o] for i in range(m.shape[0])] for m in stacked]
                for o in range(stacked.shape[2])]  # fmt: skip
    found = []
    for row in rows:
        most = 0
        in_order = [value for tap in row for value in tap]
        for run in [*row, in_order]:
            for at in range(0, len(run), 2):
                pair = [int(value) for value in run[at : at + 2]]
                most = max(most, sum(v for v in pair if v > 0), -sum(v for v in pair if v < 0))
        found.append(most)
    return found


@layers
def test_pairs_are_those_of_a_loop_over_all_weights(layer: str) -> None:
    op, attrs, shape, _ = LAYERS[layer]
    integers = np.random.default_rng(0).integers(-127, 128, shape).astype(np.int8)
    sums = pair_sums(node_of(layer, integers), integers)
    assert sums.tolist() == textbook(op, bool(attrs.get("transB")), integers)


@layers
@given(seed=st.integers(0, 2**32 - 1), heavy=st.booleans())
def test_neighbours_always_fit(layer: str, seed: int, heavy: bool) -> None:
    _, _, shape, axis = LAYERS[layer]
    rng = np.random.default_rng(seed)
    weights = rng.standard_normal(shape).astype(np.float32)
    if heavy:
        weights = np.sign(weights)  # all as large as the largest
    node, scale = node_of(layer, weights), weight_scale(weights, axis)
    integers, larger = fitting(
        node, scale, axis, lambda scale: nearest_numbers(weights, scale, axis)
    )
    stored = Stored(integers, larger, axis)
    assert stored.numbers.dtype == np.int8
    assert pair_sums(node, stored.numbers).max() <= MOST
    # Never by more than seven bits would have lost.
    assert (stored.scale <= scale * 2.02).all()
    largest = np.abs(stored.values - weights).max(initial=0)
    assert largest <= stored.scale.max() * 0.51


@layers
def test_what_fits_already_is_left_as_it_is(layer: str) -> None:
    _, _, shape, axis = LAYERS[layer]
    weights = np.zeros(shape, np.float32)
    weights.reshape(-1)[0] = 1.0  # with no neighbour that counts
    scale = weight_scale(weights, axis)
    integers, same = fitting(
        node_of(layer, weights), scale, axis, lambda s: nearest_numbers(weights, s, axis)
    )
    assert np.abs(integers).max() == 127
    np.testing.assert_array_equal(same, scale)
