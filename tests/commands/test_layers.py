"""The layer table of a report: the engine's precisions and outputs, or a word that they are not."""

from __future__ import annotations

import numpy as np
import pytest

from onnxgraft.commands._layers import layers_of_engine
from onnxgraft.graph.tensors import Feeds, Outputs, TensorSpec
from onnxgraft.run.engine import Resource
from onnxgraft.stages.engine import Layer
from onnxgraft.stages.validate.report import LayerRow
from tests.conftest import model_of

NET = (
    "net (float[1, 2] x) => (float[1, 2] y)"
    " { [first] a = Mul(x, w) [second] b = Relu(a) [third] y = Mul(b, w) }"
)
FEEDS = {"x": np.array([[1.0, 2.0]], np.float32)}
RIGHT = {"y": np.array([[1.0, 2.0]], np.float32)}


class Fake(Resource):
    """An engine that tells its layers, if it has any."""

    name = "fake int8"
    inputs = (TensorSpec("x", "float32", (1, 2)),)
    outputs = (TensorSpec("y", "float32", (1, 2)),)

    def __init__(self, answer: Outputs, layers: list[Layer] | None = None) -> None:
        self.answer = answer
        if layers is not None:
            self.layers = lambda: layers

    def infer(self, feeds: Feeds) -> Outputs:
        return self.answer


def rows(arrived: float = 40.0) -> list[LayerRow]:
    return [
        LayerRow(name, name, "Mul", "int8", 0.01, 40.0, arrived, candidate="fake int8")
        for name in ("a", "b", "y")
    ]


def model() -> object:
    return model_of(NET, {"w": np.ones(2, np.float32)})


@pytest.mark.parametrize(
    ("layers", "precisions"),
    [
        ([Layer("first/WithoutBiases", "Convolution", "u8", ("first", "second")),
          Layer("third", "Convolution", "f32", ("third",))], ["int8", "int8", "fp32"]),
        ([Layer("first_token_1", "com.microsoft.QLinearConv", "int8", ()),
          Layer("third_nchwc", "com.microsoft.nchwc.Conv", "float", ())], ["int8", "int8", "fp32"]),
        ([Layer("first", "Convolution", "u8", ("first", "second")),
          Layer("third", "Convolution", "bf16", ())], ["int8", "int8", "bf16"]),
        ([Layer("first", "Convolution", "u8", ("first", "second")),
          Layer("third", "Convolution", "", ())], ["int8", "int8", "int8"]),
    ],
    ids=["openvino", "onnxruntime", "bf16", "not told"],
)  # fmt: skip
def test_precisions_are_those_that_the_engine_tells(
    layers: list[Layer], precisions: list[str]
) -> None:
    engine = Fake(RIGHT, layers)
    found, said, apart = layers_of_engine(rows(), model(), engine, FEEDS, RIGHT)  # type: ignore[arg-type]
    assert [row.precision for row in found] == precisions
    assert apart == []
    assert said.startswith(f"fake int8 tells the precision of {sum(r.told for r in found)} of")


def test_an_engine_that_tells_nothing_is_said_to() -> None:
    found, said, apart = layers_of_engine(rows(), model(), Fake(RIGHT), FEEDS, RIGHT)  # type: ignore[arg-type]
    assert not any(row.told for row in found)
    assert "does not tell what its layers run in" in said
    assert apart == []
    assert "those of the graph that it was built from" in said


@pytest.mark.parametrize(("arrived", "factor"), [(128.0, 1e-6), (60.0, 3e-3), (40.0, 1.2e-2)])
def test_what_two_right_engines_differ_by_is_not_told(arrived: float, factor: float) -> None:
    near = {name: value * np.float32(1 + factor) for name, value in RIGHT.items()}
    engine = Fake(near)
    told = layers_of_engine(rows(arrived), model(), engine, FEEDS, RIGHT)  # type: ignore[arg-type]
    assert told[2] == []


def test_an_output_that_the_engine_loses_is_told_and_no_longer_the_graphs() -> None:
    off = {"y": RIGHT["y"] * np.float32(1.1)}
    found, said, apart = layers_of_engine(rows(), model(), Fake(off), FEEDS, RIGHT)  # type: ignore[arg-type]
    assert found[-1].arrived == pytest.approx(20.0, abs=0.01)
    assert "y keeps 20.0 dB in the engine and 40.0 in its graph" in said
    assert len(apart) == 1
    assert apart[0].startswith("fake int8: on this sample y keeps 20.0 dB in the engine")
    assert found[0].arrived == 40.0
