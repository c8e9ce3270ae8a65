"""What reading an ONNX file lost or changed is found before anything is compared with it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from onnx import numpy_helper

from onnxgraft.errors import NotSupportedError
from onnxgraft.graph import model as reading
from onnxgraft.graph.external import LARGE
from onnxgraft.graph.kept import lost
from onnxgraft.graph.model import Model

BIG = np.ones((4, LARGE // 8), np.float32)
TEXT = """<ir_version: 8, opset_import: ["" : 17, "d" : 1]>
g (float[4,4] x, bool c) => (float[4,4] y)
<float[4] b = {1, 2, 3, 4}> {
    s = Softmax <axis = 1> (x)
    k = Constant <value = float[2] {1, 2}> ()
    f = d.F (s)
    a = Add (f, b)
    y = If (c) <
        then_branch = one () => (float[4,4] p) { p = LeakyRelu <alpha = 0.5> (a) },
        else_branch = two () => (float[4,4] q) { q = Clip (a, , b) }
    >
}
<opset_import: ["" : 17], domain: "d"> F (i) => (o) { o = Elu <alpha = 2.0> (i) }"""


def network() -> onnx.ModelProto:
    return onnx.parser.parse_model(TEXT)


def body(model: onnx.ModelProto) -> onnx.GraphProto:
    return model.graph.node[4].attribute[0].g


CHANGES: dict[str, tuple[Callable[[onnx.ModelProto], object], str]] = {
    "an attribute": (
        lambda m: setattr(m.graph.node[0].attribute[0], "i", 0), "'axis' of Softmax 's'"),
    "an attribute left out": (
        lambda m: m.graph.node[0].ClearField("attribute"), "'axis' of Softmax 's'"),
    "a stored value": (
        lambda m: m.graph.node[1].attribute[0].t.CopyFrom(
            numpy_helper.from_array(np.float32([1, 3]))),
        "'value' of Constant 'k'"),
    "an input": (lambda m: m.graph.node[3].input.reverse(), "the inputs of Add 'a'"),
    "an output": (
        lambda m: m.graph.node[1].output.append("more"), "the outputs of Constant 'k'"),
    "an operator": (lambda m: setattr(m.graph.node[3], "op_type", "Mul"), "Add 'a'"),
    "a domain": (lambda m: setattr(m.graph.node[2], "domain", "e"), "d.F 'f'"),
    "a node": (lambda m: m.graph.node.pop(1), "5 nodes of 'g'"),
    "an initializer": (
        lambda m: m.graph.initializer[0].CopyFrom(
            numpy_helper.from_array(np.float32([1, 2, 3, 5]), "b")),
        "the initializer 'b'"),
    "an attribute of a body": (
        lambda m: setattr(body(m).node[0].attribute[0], "f", 0.25), "'alpha' of LeakyRelu 'p'"),
    "an attribute of a function": (
        lambda m: setattr(m.functions[0].node[0].attribute[0], "f", 1), "'alpha' of Elu 'o'"),
    "a function": (lambda m: m.functions.pop(), "the function 'F'"),
    "an end": (lambda m: m.graph.output[0].ClearField("name"), "the outputs of 'g'"),
}  # fmt: skip


@pytest.mark.parametrize("kind", CHANGES)
def test_a_change_is_named(kind: str) -> None:
    change, words = CHANGES[kind]
    other = network()
    change(other)
    assert words in str(lost(network(), other, {}))


def test_nothing_is_lost_of_a_file_that_is_read(tmp_path: Path) -> None:
    onnx.save(network(), tmp_path / "net.onnx")
    assert lost(network(), Model.load(tmp_path / "net.onnx").to_onnx(), {}) is None


@pytest.mark.parametrize("big", [False, True], ids=["small", "large weights"])
def test_a_file_that_is_read_otherwise_is_refused(
    big: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proto = network()
    if big:
        proto.graph.initializer.append(numpy_helper.from_array(BIG, "w"))
        proto.graph.node.add(op_type="MatMul", input=["s", "w"], output=["z"])
        proto.graph.output.add(name="z")
    onnx.save(proto, tmp_path / "net.onnx")
    right = reading.graph_of

    def wrong(proto: onnx.ModelProto) -> gs.Graph:
        graph: Any = right(proto)
        graph.nodes[0].attrs["axis"] = 0
        return graph

    Model.load(tmp_path / "net.onnx")
    monkeypatch.setattr(reading, "graph_of", wrong)
    with pytest.raises(NotSupportedError, match=r"'axis' of Softmax 's' can't be read"):
        Model.load(tmp_path / "net.onnx")
