"""Files that are wrong: refused in a sentence, or left alone and said so."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.helper import make_graph, make_model, make_node, make_opsetid, make_tensor_value_info

from onnxgraft.errors import ModelError, NotSupportedError
from onnxgraft.graph.model import Model
from onnxgraft.stages.surgery import run


def file_of(path: Path, nodes: list[onnx.NodeProto], *more: str, opset: int = 17) -> Path:
    """Write a graph from x to y whose further initializers are called ``more``."""
    value = np.ones((4, 4), np.float32)
    graph = make_graph(
        nodes, "agraph",
        [make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", 4])],
        [make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["N", 4])],
        [onnx.numpy_helper.from_array(value, name) for name in more],
    )  # fmt: skip
    proto = make_model(graph, opset_imports=[make_opsetid("", opset)], ir_version=8)
    path.write_bytes(proto.SerializeToString())
    return path


BAD: dict[str, tuple[Callable[[Path], Path], str]] = {
    "not_onnx": (lambda p: (p.write_text("no model") and p) or p, "not a valid ONNX file"),
    "cycle": (
        lambda p: file_of(
            p, [make_node("Add", ["x", "b"], ["a"], name="sum"), make_node("Relu", ["a"], ["b"]),
                make_node("Neg", ["b"], ["y"])]
        ), "a cycle: the Add 'sum' can never run",
    ),
    "produced_twice": (
        lambda p: file_of(p, [make_node("Relu", ["x"], ["y"]), make_node("Neg", ["x"], ["y"])]),
        "'y' has been used as output names multiple times",
    ),
    "missing_initializer": (
        lambda p: file_of(p, [make_node("MatMul", ["x", "w"], ["y"])]),
        "reads 'w', which no node makes, and which is no input and no initializer",
    ),
    "initializer_twice": (
        lambda p: file_of(p, [make_node("MatMul", ["x", "w"], ["y"])], "w", "w"),
        "w initializer name is not unique",
    ),
    "missing_attribute": (
        lambda p: file_of(p, [make_node("Concat", ["x"], ["y"])]), "axis",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_an_invalid_file_is_refused_with_its_name_and_what_is_wrong(
    case: str, tmp_path: Path
) -> None:
    make, wrong = BAD[case]
    file = make(tmp_path / "bad.onnx")
    with pytest.raises(ModelError, match=rf"bad\.onnx.*{wrong}"):
        run(Model.load(file))


def test_an_output_that_is_no_tensor_is_refused(tmp_path: Path) -> None:
    file = file_of(tmp_path / "a.onnx", [make_node("SequenceConstruct", ["x"], ["y"])])
    proto = onnx.load(file)
    kind = onnx.helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, ["N", 4])
    proto.graph.output[0].type.CopyFrom(onnx.helper.make_sequence_type_proto(kind))
    file.write_bytes(proto.SerializeToString())
    with pytest.raises(NotSupportedError, match="the output 'y' is a sequence"):
        Model.load(file)


def test_an_opset_that_nobody_knows_is_left_alone_and_said_so(tmp_path: Path) -> None:
    file = file_of(tmp_path / "new.onnx", [make_node("Relu", ["x"], ["y"])], opset=999)
    after, report = run(Model.load(file), verify=None)
    assert after.operators() == {"Relu": 1}
    assert any("opset 999 is newer" in note for note in report.notes)
    assert any(note.startswith("not verified") for note in report.notes)
    after.save(tmp_path / "out.onnx")
    assert onnx.load(tmp_path / "out.onnx").opset_import[0].version == 999


def test_an_operator_that_onnx_does_not_have_is_left_alone_and_said_so(tmp_path: Path) -> None:
    nodes = [make_node("Identity", ["x"], ["i"]), make_node("Reluu", ["i"], ["y"], slope=2.0)]
    after, report = run(Model.load(file_of(tmp_path / "new.onnx", nodes)), verify=None)
    assert after.operators() == {"Reluu": 1}
    assert "the operator Reluu is not known; it is left alone" in report.notes
    after.save(tmp_path / "out.onnx")
    (node,) = onnx.load(tmp_path / "out.onnx").graph.node
    assert node.op_type == "Reluu" and node.attribute[0].f == 2.0


def test_two_nodes_of_one_name_are_told_apart(tmp_path: Path) -> None:
    nodes = [make_node("Relu", ["x"], ["a"], name="n"), make_node("Neg", ["a"], ["y"], name="n")]
    after, _ = run(Model.load(file_of(tmp_path / "a.onnx", nodes)))
    assert [node.name for node in after.graph.nodes] == ["n", "n_2"]


def test_external_data_outside_of_the_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "secret").write_bytes(os.urandom(64))
    file = file_of(tmp_path / "model" / "a.onnx", [make_node("MatMul", ["x", "w"], ["y"])], "w")
    proto = onnx.load(file)
    (tensor,) = proto.graph.initializer
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../secret")
    file.write_bytes(proto.SerializeToString())
    with pytest.raises(ModelError, match=r"'\.\./secret' is not in the model's folder"):
        Model.load(file)
