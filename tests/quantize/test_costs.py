"""Multiplications and the latency estimated from them."""

from __future__ import annotations

import pytest

from onnxgraft.graph.model import Model
from onnxgraft.stages.quantize import placement
from onnxgraft.stages.quantize.place.costs import BYTES, Estimate, costs, int8_share
from onnxgraft.targets import TARGETS, target_names
from tests.conftest import model_of
from tests.quantize.networks import pair, weights

OPERATORS = """
g (float[N, 4, 10, 10] x) => (float[a, b] y, float[c, d] z, float[e, f, g, h] u) {
    [conv] a = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (x, w1)
    [depthwise] b = Conv <pads = [1, 1, 1, 1], group = 6> (a, w2)
    [up] u = ConvTranspose <strides = [2, 2]> (b, w3)
    f = Flatten (b)
    [dense] y = Gemm <transB = 1> (f, w4)
    [matmul] z = MatMul (f, w5)
}
"""
SHAPES = {
    "w1": (6, 4, 3, 3), "w2": (6, 1, 3, 3), "w3": (6, 5, 2, 2), "w4": (7, 150), "w5": (150, 9),
}  # fmt: skip


def operators() -> Model:
    return model_of(OPERATORS, weights(SHAPES))


def test_multiplications_are_those_of_the_definitions() -> None:
    found = {name: cost.macs for name, cost in costs(operators()).items()}
    assert found == {
        "conv": 5 * 5 * 6 * 4 * 9,
        "depthwise": 5 * 5 * 6 * 9,
        "up": 5 * 5 * 6 * 5 * 4,
        "dense": 150 * 7,
        "matmul": 150 * 9,
    }


def test_values_are_counted_at_batch_one() -> None:
    cost = costs(operators())["conv"]
    assert (cost.inputs, cost.weights, cost.outputs) == (400, 216, 150)


@pytest.mark.parametrize(
    ("left", "right", "out", "macs"),
    [("2,3", "3", "2", 6), ("3", "3,4", "4", 12), ("3", "3", "", 3), ("5,2,3", "3", "5,2", 30)],
)
def test_products_with_vectors_multiply_along_what_they_share(
    left: str, right: str, out: str, macs: int
) -> None:
    result = f"float[{out}]" if out else "float"
    text = f"n (float[{left}] x, float[{right}] z) => ({result} y) {{ [mul] y = MatMul(x, z) }}"
    assert costs(model_of(text))["mul"].macs == macs


def test_the_share_is_of_multiplications() -> None:
    found = costs(operators())
    assert int8_share(found, []) == 0
    assert int8_share(found, found) == 1
    assert int8_share(found, ["conv"]) == found["conv"].macs / sum(c.macs for c in found.values())


@pytest.mark.parametrize("target", target_names())
def test_more_int8_is_estimated_to_be_faster(target: str) -> None:
    model = pair()
    estimate = Estimate(model, placement(target))
    steps = [[], ["second"], ["first", "second", "third"]]
    times = [estimate(int8) for int8 in steps]
    assert times == sorted(times, reverse=True)
    assert Estimate(model, placement("tensorrt"), "fp16")([]) < Estimate(
        model, placement("tensorrt")
    )([])


def test_every_machine_knows_every_precision() -> None:
    for target in TARGETS:
        assert set(target.machine.macs) == set(BYTES) - {"fp8"}
        if target.fp8 is not None:
            assert set(target.fp8.machine.macs) == set(BYTES) - {"int8"}
