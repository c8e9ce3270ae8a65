"""ONNX files that onnx-graphsurgeon reads otherwise than onnxruntime are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from onnxgraft import commands
from onnxgraft.errors import InputError, ModelError, NotSupportedError
from onnxgraft.graph.model import Model
from onnxgraft.run.session import OnnxRuntime
from tests.conftest import Cli, model_of

X = np.arange(9, dtype=np.float32).reshape(3, 3)


def parsed(text: str, *stored: onnx.TensorProto) -> onnx.ModelProto:
    """Return a model of its text, unchecked."""
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]>\n{text}')
    proto.graph.initializer.extend(stored)
    return proto


def written(folder: Path, proto: onnx.ModelProto) -> Path:
    onnx.save(proto, folder / "net.onnx")
    return folder / "net.onnx"


def referring() -> onnx.ModelProto:
    """Return a graph whose attribute has a value, and stands for one of a function, in none."""
    proto = parsed(
        "g (float[3,3] x) => (float[3,1] y) { y = Gather <axis = 1> (x, i) }",
        numpy_helper.from_array(np.array([1]), "i"),
    )
    proto.graph.node[0].attribute[0].ref_attr_name = "axis"
    return proto


def hiding(inner: str) -> onnx.ModelProto:
    """Return a graph with a branch that has an initializer, 5, of some name."""
    proto = parsed(
        """g (float[3,3] x, bool c) => (float[3,3] y) {
            y = If (c) <
                then_branch = a () => (float[3,3] one) { one = Mul (x, w) },
                else_branch = b () => (float[3,3] two) { two = Identity (x) }
            > }""",
        numpy_helper.from_array(np.float32(2), "w"),
    )
    branch = proto.graph.node[0].attribute[0].g
    branch.initializer.append(numpy_helper.from_array(np.float32(5), inner))
    return proto


def test_an_attribute_of_no_function_is_read_by_onnxruntime_and_refused_here(
    tmp_path: Path,
) -> None:
    file = written(tmp_path, referring())
    with OnnxRuntime(onnx.load(file), optimize=False) as session:
        assert np.array_equal(session.infer({"x": X})["y"], X[:, 1:2])
    with pytest.raises(NotSupportedError, match=r"'axis' of Gather 'y' stands for an attribute"):
        Model.load(file)


def test_an_attribute_of_a_function_stands_for_the_one_that_the_call_brings(
    tmp_path: Path,
) -> None:
    proto = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17, "d" : 1]>
        g (float[3,3] x) => (float[3,3] y) { y = d.F <by = 0> (x) }
        <opset_import: ["" : 17], domain: "d">
        F <by> (a) => (b) { b = Softmax <axis : int = @by> (a) }"""
    )
    loaded = Model.load(written(tmp_path, proto))
    for each in (proto, loaded.to_onnx()):
        with OnnxRuntime(each, optimize=False) as session:
            assert np.allclose(session.infer({"x": X})["y"].sum(0), 1)  # not along the last axis


def doubled() -> onnx.ModelProto:
    """Return a graph that calls a function, of which there are two."""
    return onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17, "d" : 1]>
        g (float[3,3] x) => (float[3,3] y) { y = d.F (x) }
        <opset_import: ["" : 17], domain: "d">
        F (a) => (b) { b = Softmax (a) }
        <opset_import: ["" : 17], domain: "d">
        F (a) => (b) { b = Relu (a) }"""
    )


def test_two_functions_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"not a valid ONNX file \(it has two functions 'F'\)"):
        Model.load(written(tmp_path, doubled()))


@pytest.mark.parametrize("part", ["input", "output"])
def test_a_function_s_parameter_without_a_name_is_refused_as_onnxruntime_does(
    part: str, tmp_path: Path
) -> None:
    proto = doubled()
    del proto.functions[1]
    getattr(proto.functions[0], part)[0] = ""
    with pytest.raises(InputError, match=r"failed validating|onnxruntime refuses"):
        OnnxRuntime(proto, optimize=False)
    with pytest.raises(ModelError, match="a function, or a parameter of it, has no name"):
        Model.load(written(tmp_path, proto))


def test_an_initializer_of_a_branch_that_hides_another_is_refused(tmp_path: Path) -> None:
    file = written(tmp_path, hiding("w"))
    feeds = {"x": X, "c": np.array(True)}
    with OnnxRuntime(onnx.load(file), optimize=False) as session:
        assert np.array_equal(session.infer(feeds)["y"], 5 * X)  # the inner one
    with pytest.raises(ModelError, match="'w' of a body has the name of a tensor around it"):
        Model.load(file)


def test_an_initializer_of_a_branch_that_hides_an_input_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="'x' of a body has the name of a tensor around it"):
        Model.load(written(tmp_path, hiding("x")))


def test_an_initializer_of_a_branch_may_hide_one_of_the_same_values(tmp_path: Path) -> None:
    proto = hiding("w")
    body = proto.graph.node[0].attribute[0].g
    body.initializer[0].CopyFrom(proto.graph.initializer[0])
    loaded = Model.load(written(tmp_path, proto))
    with OnnxRuntime(loaded.to_onnx(), optimize=False) as session:
        made = session.infer({"x": X, "c": np.array(True)})["y"]
    assert np.array_equal(made, 2 * X)


def test_initializers_of_two_branches_may_have_one_name(tmp_path: Path) -> None:
    proto = hiding("v")
    branches = [attribute.g for attribute in proto.graph.node[0].attribute]
    branches[1].initializer.append(numpy_helper.from_array(np.float32(7), "v"))
    branches[0].node[0].input[1] = "v"
    branches[1].node[0].op_type = "Mul"
    branches[1].node[0].input.append("v")
    loaded = Model.load(written(tmp_path, proto))
    with OnnxRuntime(loaded.to_onnx(), optimize=False) as session:
        for flag, factor in ((True, 5), (False, 7)):
            made = session.infer({"x": X, "c": np.array(flag)})["y"]
            assert np.array_equal(made, factor * X)


def test_a_graph_without_outputs_is_refused(tmp_path: Path) -> None:
    proto = referring()
    proto.graph.node[0].attribute[0].ref_attr_name = ""
    del proto.graph.output[:]
    file = written(tmp_path, proto)
    with pytest.raises(ModelError, match="has no outputs; name them with --outputs"):
        commands.convert(file)
    with pytest.raises(ModelError, match="has no outputs; convert it, and name some"):
        commands.build(file, tmp_path / "e", target="onnxruntime")
    assert commands.convert(file, outputs="y").passed


@pytest.mark.parametrize("command", ["convert", "surgery"])
def test_a_graph_whose_types_do_not_fit_is_not_written(
    command: str, tmp_path: Path, cli: Cli
) -> None:
    proto = parsed("g (float[3,3] x) => (float[3,3] y) { z = Identity (x)  y = Where (z, x, x) }")
    done = cli(command, written(tmp_path, proto), "-o", tmp_path / "out.onnx")
    assert done.returncode == 2
    assert "not a valid ONNX graph (" in done.stderr
    assert not (tmp_path / "out.onnx").exists()


def test_what_onnx_can_not_infer_is_no_internal_error(tmp_path: Path) -> None:
    proto = parsed("g (float[3,3] x) => (float[3,3] y) { y = RandomNormalLike <dtype = 0> (x) }")
    with pytest.raises(ModelError, match=r"not a valid ONNX graph \(.*type"):
        commands.convert(written(tmp_path, proto))


def test_a_graph_with_an_operator_that_nobody_knows_is_written(tmp_path: Path, cli: Cli) -> None:
    proto = parsed("g (float[3,3] x) => (float[3,3] y) { z = Identity (x)  y = Identity (z) }")
    proto.graph.node[0].CopyFrom(helper.make_node("Mine", ["x"], ["z"], domain="acme"))
    proto.opset_import.add(domain="acme", version=1)
    done = cli("convert", written(tmp_path, proto), "-o", tmp_path / "out.onnx")
    assert done.returncode == 0, done.stderr
    assert "not compared with the original" in done.stdout


def test_what_openvino_does_not_convert_is_named(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    model = model_of(
        """g (float[1,1,2,2] x) => (float[1,1,1,1] y) {
            p, i = MaxPool <kernel_shape = [2,2], strides = [2,2]> (x)
            u = MaxUnpool <kernel_shape = [2,2], strides = [2,2]> (p, i)
            y = ReduceSum (u) }"""
    )
    with pytest.raises(ModelError, match=r"operations: MaxUnpool-\d+"):
        commands.build(model, tmp_path / "e", target="openvino")
