"""What is never below 0 is told by what makes it, and only where that is certain."""

from __future__ import annotations

import numpy as np
import pytest

from onnxgraft.graph.signs import never_negative
from tests.conftest import model_of

CONSTANTS = {
    "up": np.array([0, 1, 2], np.float32), "down": np.array([1, -1, 2], np.float32),
    "s": np.float32(0.1), "unsigned": np.uint8(0), "signed": np.int8(0), "middle": np.uint8(128),
    "nought": np.float32(0), "one": np.float32(1),
}  # fmt: skip


@pytest.mark.parametrize(
    ("body", "certain"),
    [
        ("y = Relu(x)", True),
        ("y = Identity(x)", False),
        ("a = Sigmoid(x)  y = Reshape(a, shape)", True),
        ("y = Clip(x, nought, one)", True),
        ("y = Clip(x, , one)", False),
        ("a = Relu(x)  y = Add(a, up)", True),
        ("a = Relu(x)  y = Add(a, down)", False),
        ("a = Relu(x)  y = Mul(a, x)", False),
        ("q = QuantizeLinear(x, s, unsigned)  y = DequantizeLinear(q, s, unsigned)", True),
        ("q = QuantizeLinear(x, s, middle)  y = DequantizeLinear(q, s, middle)", False),
        (
            "a = Relu(x) q = QuantizeLinear(a, s, unsigned) y = DequantizeLinear(q, s, middle)",
            False,
        ),
        ("a = Relu(x) q = QuantizeLinear(a, s, signed) y = DequantizeLinear(q, s, signed)", True),
    ],
)
def test_it_is_told_by_what_makes_it(body: str, certain: bool) -> None:
    names = {name: value for name, value in CONSTANTS.items() if name in body}
    if "shape" in body:
        names["shape"] = np.array([3, -1])
    model = model_of(f"g (float[N,3] x) => (float[a,b] y) {{ {body} }}", names)
    assert never_negative(model.graph.outputs[0]) == certain


def test_a_tensor_can_be_taken_for_such() -> None:
    graph = model_of("g (float[N,3] x) => (float[a,b] y) { y = Identity(x) }").graph
    assert never_negative(graph.outputs[0], {id(graph.inputs[0])})


def test_each_tensor_is_looked_at_once() -> None:
    sums = "\n".join(f"a{n + 1} = Add(a{n}, a{n})" for n in range(60))
    graph = model_of(f"g (float[N,3] x) => (float[a,b] a60) {{ a0 = Relu(x) {sums} }}").graph
    assert never_negative(graph.outputs[0])
