"""cut.extract: the part of a graph between named tensors."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from onnxgraft.errors import InputError
from onnxgraft.graph.cut import extract
from onnxgraft.graph.model import Model, Origin, Source
from onnxgraft.graph.tensor_option import parse_tensors
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


def custom() -> Model:
    proto = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17, "acme" : 1]>
        agraph (float[N,4] x) => (float[?,4] y) { m = acme.Mystery(x)\n y = Relu(m) }"""
    )
    return Model.from_onnx(proto, Source("test.onnx", "onnx", "0" * 64))


def test_what_an_unknown_operator_makes_is_a_float_input_where_its_shape_is_given() -> None:
    after = extract(custom(), parse_tensors("m[?,4]"))
    assert [str(spec) for spec in after.inputs] == ["m (m.0, 4) float32"]
    assert infer(after, {"m": normal(2, 4)})["y"].shape == (2, 4)


def test_what_an_unknown_operator_makes_can_not_be_an_output() -> None:
    with pytest.raises(InputError, match="shape of 'm' is not known"):
        extract(custom(), outputs=parse_tensors("m"))
    with pytest.raises(InputError, match="type of 'm' is not known; cut elsewhere"):
        extract(custom(), outputs=parse_tensors("m[?,4]"))


def test_an_opset_that_nobody_knows_can_be_cut_where_the_shape_is_given() -> None:
    model = model_of("agraph (float[N,4] x) => (float[N,4] y) { a = Relu(x)\n y = Neg(a) }")
    model.graph.opset = 999
    assert extract(model, parse_tensors("a[?,4]")).operators() == {"Neg": 1}


def test_what_a_branch_reads_stays() -> None:
    model = model_of(
        """agraph (float[N,4] x, bool c) => (float[N,4] y) {
            a = Relu(x)
            b = Exp(a)
            i = If (c) <
                then_branch = yes () => (float[N,4] t) { t = Neg(b) },
                else_branch = no () => (float[N,4] e) { e = Abs(a) }
            >
            y = Relu(i)
        }"""
    )
    after = extract(model, parse_tensors("a,c"), parse_tensors("i[?,4]"))
    assert after.operators() == {"Exp": 1, "If": 1, "Neg": 1, "Abs": 1}
    with pytest.raises(InputError, match="need the input 'x' too"):
        extract(model, parse_tensors("b,c"), parse_tensors("i[?,4]"))
