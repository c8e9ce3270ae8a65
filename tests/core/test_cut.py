"""cut.extract: the part of a graph between named tensors."""

from __future__ import annotations

import numpy as np
import pytest

from onnxgraft.cut import extract
from onnxgraft.errors import InputError
from onnxgraft.model import Model, Origin
from onnxgraft.tensor_option import parse_tensors
from tests.conftest import model_of
from tests.surgery.helpers import infer, normal, tensor_values

CONSTANTS = {"w": normal(6, 4, 3, 3, seed=1), "k": normal(6, 1, 1, seed=2)}


def network() -> Model:
    model = model_of(
        """agraph (float[N,4,5,7] x, float[N,6,3,5] z) => (float[N,6,3,5] y) {
            c = Conv(x, w)
            m = Mul(c, k)
            r = Relu(m)
            y = Add(r, z)
        }""",
        CONSTANTS,
    )
    model.names = {"c": Origin("conv"), "r": Origin("relu")}
    return model


def part(inputs: str | None = None, outputs: str | None = None) -> Model:
    return extract(network(), parse_tensors(inputs), parse_tensors(outputs))


def test_what_is_between_computes_what_the_whole_computes_there() -> None:
    between = part("c", "r")
    assert between.operators() == {"Mul": 1, "Relu": 1}
    assert [str(spec) for spec in between.inputs] == ["c (N, 6, 3, 5) float32"]
    assert [str(spec) for spec in between.outputs] == ["r (N, 6, 3, 5) float32"]
    feeds = {"x": normal(2, 4, 5, 7), "z": normal(2, 6, 3, 5)}
    values = tensor_values(network(), ["c", "r"], feeds)
    np.testing.assert_array_equal(infer(between, {"c": values["c"]})["r"], values["r"])
    assert between.names == {"c": Origin("conv"), "r": Origin("relu")}


def test_outputs_alone_keep_the_inputs() -> None:
    head = part(outputs="r")
    assert head.operators() == {"Conv": 1, "Mul": 1, "Relu": 1}
    assert [spec.name for spec in head.inputs] == ["x", "z"]


def test_a_shape_may_be_given() -> None:
    assert [str(spec) for spec in part("c[2,6,-1,5]", "r").inputs] == ["c (2, 6, c.2, 5) float32"]


def test_an_input_that_is_needed_too_is_named() -> None:
    with pytest.raises(InputError, match="need the input 'z' too; name it in --inputs"):
        part("c", "y")


def test_an_unknown_tensor_is_an_error_that_names_the_nearest() -> None:
    with pytest.raises(InputError, match="no tensor is called 'conv'; there are: c, m, r, x, y, z"):
        part(outputs="conv")


def test_the_model_is_not_changed() -> None:
    model = network()
    extract(model, parse_tensors("c"), parse_tensors("r"))
    assert model.operators() == network().operators()
    assert [spec.name for spec in model.inputs] == ["x", "z"]
