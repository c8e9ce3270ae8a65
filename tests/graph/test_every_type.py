"""Whatever type and form a file stores its constants in, they come back bit for bit."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxgraft.errors import ModelError, NotSupportedError
from onnxgraft.graph.external import LARGE
from onnxgraft.graph.model import Model
from onnxgraft.run.session import OnnxRuntime
from onnxgraft.stages.surgery import run
from tests.conftest import ROOT, outputs_of
from tests.sources import files

TYPES = [name for name in TensorProto.DataType.keys() if name != "UNDEFINED"]
SHAPES = {"scalar": (), "odd": (3,), "small": (4,), "large": (512, 513)}
FLOAT = TensorProto.FLOAT


def tensor(kind: str, shape: Sequence[int], *, raw: bool, name: str = "w") -> onnx.TensorProto:
    """Return a tensor of ones and zeros, whose data are raw bytes or numbers of their own field."""
    number = TensorProto.DataType.Value(kind)
    if kind == "STRING":
        texts = np.array([f"ß{i}" for i in range(int(np.prod(shape)))], object)
        return numpy_helper.from_array(texts.reshape(shape), name)
    dtype = helper.tensor_dtype_to_np_dtype(number)
    value = (np.arange(int(np.prod(shape))) % 2).astype(dtype).reshape(shape)
    if raw:
        return numpy_helper.from_array(value, name)
    return helper.make_tensor(name, number, shape, value.ravel())


def model_file(
    path: Path, nodes: Sequence[onnx.NodeProto], stored: Sequence[onnx.TensorProto] = (),
    *, opset: int = 17, ir: int = 11, outputs: Sequence[str] = ("y",), listed: bool = False,
    **more: Any,
) -> Path:  # fmt: skip
    """Write a model with the input ``x`` of three floats; ``listed`` makes constants inputs too."""
    value = lambda name: helper.make_tensor_value_info(name, FLOAT, [3])  # noqa: E731
    listed_too = [
        helper.make_tensor_value_info(entry.name, entry.data_type, entry.dims)
        for entry in stored
        if listed
    ]
    graph = helper.make_graph(
        nodes, "g", [value("x"), *listed_too], [value(name) for name in outputs], stored,
    )  # fmt: skip
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("acme", 1)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=ir, **more)
    path.write_bytes(model.SerializeToString())
    return path


def reads(*names: str) -> list[onnx.NodeProto]:
    return [helper.make_node("Read", ["x", *names], ["y"], domain="acme")]


def same(one: onnx.TensorProto, other: onnx.TensorProto) -> bool:
    a, b = numpy_helper.to_array(one), numpy_helper.to_array(other)
    values = a.tolist() == b.tolist() if a.dtype == object else a.tobytes() == b.tobytes()
    return one.data_type == other.data_type and list(one.dims) == list(other.dims) and values


@pytest.mark.parametrize("raw", [True, False], ids=["raw", "numbers"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("kind", TYPES)
def test_an_initializer_comes_back_bit_for_bit(
    tmp_path: Path, kind: str, shape: tuple[int, ...], raw: bool
) -> None:
    if kind == "STRING":
        shape = shape[:1]  # they are never beside the file, and each is an object
    given = tensor(kind, shape, raw=raw)
    file = model_file(tmp_path / "a.onnx", reads("w"), [given])
    cleaned, _ = run(Model.load(file))
    for model in (Model.load(file), cleaned):
        model.save(tmp_path / "b.onnx")
        [found] = onnx.load(tmp_path / "b.onnx").graph.initializer
        assert same(found, given)
        assert same(model.to_onnx().graph.initializer[0], given)


@pytest.mark.parametrize("kind", TYPES)
def test_a_constant_and_one_that_was_read_come_back_bit_for_bit(tmp_path: Path, kind: str) -> None:
    given = tensor(kind, (5,), raw=False)
    nodes = [helper.make_node("Constant", [], ["c"], value=given), *reads("c")]
    file = model_file(tmp_path / "a.onnx", nodes)
    model = Model.load(file)
    model.save(tmp_path / "b.onnx")
    assert same(onnx.load(tmp_path / "b.onnx").graph.node[0].attribute[0].t, given)
    assert np.size(model.graph.nodes[0].attrs["value"].values) == 5
    model.save(tmp_path / "b.onnx")
    assert same(onnx.load(tmp_path / "b.onnx").graph.node[0].attribute[0].t, given)
    run(model)[0].save(tmp_path / "b.onnx")
    [found] = onnx.load(tmp_path / "b.onnx").graph.initializer
    found.name = given.name
    assert same(found, given)


@pytest.mark.parametrize("kind", [kind for kind in TYPES if kind not in ("STRING",)])
def test_an_output_keeps_its_type(tmp_path: Path, kind: str) -> None:
    number = TensorProto.DataType.Value(kind)
    file = model_file(tmp_path / "a.onnx", reads(), [tensor(kind, (3,), raw=True)])
    proto = onnx.load(file)
    proto.graph.output.append(helper.make_tensor_value_info("w", number, [3]))
    onnx.save(proto, file)
    run(Model.load(file))[0].save(tmp_path / "b.onnx")
    found = onnx.load(tmp_path / "b.onnx").graph.output[1]
    assert found.type.tensor_type.elem_type == number


def test_strings_that_are_no_text_are_refused(tmp_path: Path) -> None:
    given = TensorProto(name="w", data_type=TensorProto.STRING, dims=[1], string_data=[b"\xff"])
    file = model_file(tmp_path / "a.onnx", reads("w"), [given])
    with pytest.raises(ModelError, match="'w' holds strings that are not UTF-8"):
        Model.load(file)


# Weights that are inputs too ----------------------------------------------------------------


@pytest.mark.parametrize("width", [3, LARGE], ids=["small", "large"])
@pytest.mark.parametrize(("ir", "opset"), [(3, 7), (3, 8), (4, 9), (8, 17)])
def test_weights_that_are_inputs_too_are_weights(
    tmp_path: Path, ir: int, opset: int, width: int
) -> None:
    weight = np.random.default_rng(0).standard_normal((3, width)).astype(np.float32)
    nodes = [helper.make_node("MatMul", ["a", "w"], ["y"]),
             helper.make_node("Unsqueeze", ["x"], ["a"], axes=[0])][::-1]  # fmt: skip
    if opset > 12:
        nodes[0] = helper.make_node("Reshape", ["x", "s"], ["a"])
    stored = [numpy_helper.from_array(weight, "w")]
    stored += [numpy_helper.from_array(np.array([1, 3]), "s")] if opset > 12 else []
    file = model_file(tmp_path / "a.onnx", nodes, stored, ir=ir, opset=opset, listed=True)
    proto = onnx.load(file)
    proto.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", FLOAT, [1, width]))
    onnx.save(proto, file)
    onnx.checker.check_model(str(file), full_check=True)
    model = Model.load(file)
    assert [entry.name for entry in model.inputs] == ["x"]
    for each in (model, run(model, verify=True)[0]):
        each.save(tmp_path / "b.onnx")
        onnx.checker.check_model(str(tmp_path / "b.onnx"), full_check=True)
        found = outputs_of(Model.load(tmp_path / "b.onnx"), 1)["y"]
        np.testing.assert_array_equal(found, outputs_of(model, 1)["y"])


@pytest.mark.parametrize("ir", [1, 2])
def test_files_that_do_not_say_their_operators_version_are_refused(tmp_path: Path, ir: int) -> None:
    file = model_file(tmp_path / "a.onnx", [helper.make_node("Relu", ["x"], ["y"])], ir=ir)
    proto = onnx.load(file)
    del proto.opset_import[:]
    onnx.save(proto, file)
    with pytest.raises(ModelError, match=f"IR version {ir}, of before 2017"):
        Model.load(file)


# Sparse tensors -----------------------------------------------------------------------------


def sparse(kind: str, name: str, *, coordinates: bool) -> onnx.SparseTensorProto:
    """Return a tensor of 2 by 3 with a one at 1 and at 5."""
    places = np.array([[0, 1], [1, 2]]) if coordinates else np.array([1, 5])
    ones = np.ones(2, helper.tensor_dtype_to_np_dtype(TensorProto.DataType.Value(kind)))
    return helper.make_sparse_tensor(
        numpy_helper.from_array(ones, name), numpy_helper.from_array(places, f"{name}_at"), [2, 3]
    )


def dense(kind: str) -> onnx.TensorProto:
    dtype = helper.tensor_dtype_to_np_dtype(TensorProto.DataType.Value(kind))
    return numpy_helper.from_array(np.array([[0, 1, 0], [0, 0, 1]]).astype(dtype), "w")


SPARSE = ["FLOAT", "DOUBLE", "FLOAT16", "BFLOAT16", "INT8", "INT64", "BOOL"]


@pytest.mark.parametrize("coordinates", [False, True])
@pytest.mark.parametrize("kind", SPARSE)
def test_a_sparse_initializer_becomes_a_dense_one(
    tmp_path: Path, kind: str, coordinates: bool
) -> None:
    file = model_file(tmp_path / "a.onnx", reads("w"))
    proto = onnx.load(file)
    proto.graph.sparse_initializer.append(sparse(kind, "w", coordinates=coordinates))
    onnx.save(proto, file)
    run(Model.load(file))[0].save(tmp_path / "b.onnx")
    [found] = onnx.load(tmp_path / "b.onnx").graph.initializer
    assert same(found, dense(kind))


@pytest.mark.parametrize("place", ["graph", "body", "function"])
@pytest.mark.parametrize("kind", SPARSE)
def test_a_sparse_value_becomes_a_dense_one(tmp_path: Path, kind: str, place: str) -> None:
    constant = helper.make_node(
        "Constant", [], ["c"], sparse_value=sparse(kind, "v", coordinates=False)
    )
    nodes = [constant, *reads("c")]
    functions = []
    if place == "body":
        value = helper.make_tensor_value_info("y", FLOAT, [3])
        body = helper.make_graph(nodes, "body", [], [value])
        yes = helper.make_node("Constant", [], ["b"], value=helper.make_tensor("b", 9, [], [1]))
        nodes = [yes, helper.make_node("If", ["b"], ["y"], then_branch=body, else_branch=body)]
    elif place == "function":
        imports = [helper.make_opsetid("", 17), helper.make_opsetid("acme", 1)]
        functions = [helper.make_function("acme", "Own", ["x"], ["y"], nodes, imports)]
        nodes = [helper.make_node("Own", ["x"], ["y"], domain="acme")]
    file = model_file(tmp_path / "a.onnx", nodes, functions=functions)
    Model.load(file).save(tmp_path / "b.onnx")
    proto = onnx.load(tmp_path / "b.onnx")
    holder: Any = proto.graph
    if place == "body":
        holder = next(node for node in holder.node if node.op_type == "If").attribute[0].g
    elif place == "function":
        [holder] = proto.functions
    found = next(node for node in holder.node if node.op_type == "Constant").attribute[0]
    assert found.name == "value"
    assert same(found.t, dense(kind))


# Attributes ---------------------------------------------------------------------------------


def test_attributes_of_every_type_stay(tmp_path: Path) -> None:
    kind = helper.make_tensor_type_proto(FLOAT, [2])
    values = {
        "kind": kind, "kinds": [kind, kind], "tensors": [tensor("INT4", (3,), raw=True)],
        "sparse": sparse("FLOAT", "s", coordinates=False), "number": 1, "text": "a",
    }  # fmt: skip
    [node] = reads()
    node.attribute.extend(helper.make_attribute(name, value) for name, value in values.items())
    file = model_file(tmp_path / "a.onnx", [node])
    run(Model.load(file))[0].save(tmp_path / "b.onnx")
    [found] = onnx.load(tmp_path / "b.onnx").graph.node
    by_name = lambda entry: entry.name  # noqa: E731
    assert sorted(found.attribute, key=by_name) == sorted(node.attribute, key=by_name)


@pytest.mark.parametrize("place", ["graph", "body", "function"])
@pytest.mark.parametrize(
    ("op", "name", "number"),
    [("Cast", "to", 1 << 40), ("Cast", "to", 0), ("Cast", "to", -1), ("EyeLike", "dtype", 99),
     ("RandomNormalLike", "dtype", 1 << 31), ("QuantizeLinear", "output_dtype", 77)],
)  # fmt: skip
def test_a_type_that_is_none_is_refused_by_name(
    tmp_path: Path, op: str, name: str, number: int, place: str
) -> None:
    constants = [numpy_helper.from_array(np.float32(1), "s")] * (op == "QuantizeLinear")
    read = ["x", *(entry.name for entry in constants)]
    nodes = [helper.make_node(op, read, ["y"], "made", **{name: number})]
    functions = []
    if place == "body":
        body = helper.make_graph(nodes, "b", [], [helper.make_tensor_value_info("y", FLOAT, [3])])
        yes = helper.make_node("Constant", [], ["b"], value=helper.make_tensor("b", 9, [], [1]))
        nodes = [yes, helper.make_node("If", ["b"], ["y"], then_branch=body, else_branch=body)]
    elif place == "function":
        imports = [helper.make_opsetid("", 21), helper.make_opsetid("acme", 1)]
        functions = [helper.make_function("acme", "Own", read, ["y"], nodes, imports)]
        nodes = [helper.make_node("Own", read, ["y"], domain="acme")]
    file = model_file(tmp_path / "a.onnx", nodes, constants, opset=21, functions=functions)
    with pytest.raises(ModelError, match=rf"'{name}' of {op} 'made' is {number}, which is no type"):
        Model.load(file)


# The field of each list, which says what an empty one is a list of.
LISTS = {
    "FLOATS": [1.5], "INTS": [1], "STRINGS": ["a"],
    "TENSORS": [helper.make_tensor("t", FLOAT, [], [1])],
    "TYPE_PROTOS": [helper.make_tensor_type_proto(FLOAT, [2])],
}  # fmt: skip


@pytest.mark.parametrize("kind", LISTS)
@pytest.mark.parametrize("place", ["graph", "function"])
def test_an_attribute_that_is_an_empty_list_stays(tmp_path: Path, kind: str, place: str) -> None:
    [node] = reads()
    number = onnx.AttributeProto.AttributeType.Value(kind)
    node.attribute.append(onnx.AttributeProto(name="empty", type=number))
    node.attribute.append(helper.make_attribute("some", LISTS[kind]))
    nodes, functions = [node], []
    if place == "function":
        imports = [helper.make_opsetid("", 17), helper.make_opsetid("acme", 1)]
        functions = [helper.make_function("acme", "Own", ["x"], ["y"], nodes, imports)]
        nodes = [helper.make_node("Own", ["x"], ["y"], domain="acme")]
    file = model_file(tmp_path / "a.onnx", nodes, functions=functions)
    run(Model.load(file))[0].save(tmp_path / "b.onnx")
    proto = onnx.load(tmp_path / "b.onnx")
    [found] = proto.functions[0].node if place == "function" else proto.graph.node
    assert list(found.attribute) == list(node.attribute)


def test_a_reduction_over_an_empty_list_of_axes_goes_through(tmp_path: Path) -> None:
    """It is one over all axes."""
    node = helper.make_node("ReduceSum", ["x"], ["y"], keepdims=0)
    node.attribute.append(onnx.AttributeProto(name="axes", type=onnx.AttributeProto.INTS))
    file = model_file(tmp_path / "a.onnx", [node], opset=11)
    model = Model.load(file)
    feeds = {"x": np.arange(3, dtype=np.float32)}
    with OnnxRuntime(onnx.load(file)) as before, OnnxRuntime(run(model)[0].to_onnx()) as after:
        np.testing.assert_array_equal(after.infer(feeds)["y"], before.infer(feeds)["y"])


def test_an_attribute_that_cannot_be_kept_is_refused_by_name(tmp_path: Path) -> None:
    [node] = reads()
    body = helper.make_graph([], "b", [], [])
    node.attribute.append(helper.make_attribute("parts", [body, body]))
    file = model_file(tmp_path / "a.onnx", [node])
    with pytest.raises(NotSupportedError, match=r"'parts' of acme\.Read 'y' is of the type"):
        Model.load(file)


# Outputs ------------------------------------------------------------------------------------


@pytest.mark.parametrize("said", ["type", "nothing"])
def test_an_output_without_a_shape_is_accepted(tmp_path: Path, said: str) -> None:
    file = model_file(tmp_path / "a.onnx", [helper.make_node("Relu", ["x"], ["y"])])
    proto = onnx.load(file)
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    if said == "nothing":
        proto.graph.output[0].ClearField("type")
    onnx.save(proto, file)
    model = Model.load(file)
    assert [str(entry) for entry in model.outputs] == ["y (3) float32"]
    model.save(tmp_path / "b.onnx")
    onnx.checker.check_model(str(tmp_path / "b.onnx"), full_check=True)


def test_an_output_whose_shape_nobody_knows_stays_without(tmp_path: Path) -> None:
    file = model_file(tmp_path / "a.onnx", reads())
    proto = onnx.load(file)
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    onnx.save(proto, file)
    run(Model.load(file))[0].save(tmp_path / "b.onnx")
    [output] = onnx.load(tmp_path / "b.onnx").graph.output
    assert not output.type.tensor_type.HasField("shape")


# Sequences and optionals inside ---------------------------------------------------------------

SEQUENCES = {
    "sequence": """s = SequenceConstruct(x, x)  y = SequenceAt(s, i)""",
    "optional": """s = Optional(x)  y = OptionalGetElement(s)""",
    "loop": """none = SequenceEmpty()
        s = Loop(n, yes, none) <body = b (int64 k, bool c, seq(float) q) => (bool d, seq(float) r)
            { d = Identity(c)  r = SequenceInsert(q, x) }>
        y = ConcatFromSequence<axis=0>(s)""",
}


@pytest.mark.parametrize("kind", SEQUENCES)
def test_what_a_file_says_of_sequences_inside_does_no_harm(tmp_path: Path, kind: str) -> None:
    text = f"""<ir_version: 8, opset_import: ["" : 18]>
        n (float[3] x) => (float[N] y)
        <int64 i = {{0}}, int64 n = {{1}}, bool yes = {{1}}> {{ {SEQUENCES[kind]} }}"""
    proto = onnx.parser.parse_model(text)
    tensor_kind = helper.make_tensor_type_proto(FLOAT, [3])
    make = (
        helper.make_optional_type_proto if kind == "optional" else helper.make_sequence_type_proto
    )
    proto.graph.value_info.append(helper.make_value_info("s", make(tensor_kind)))
    onnx.save(proto, tmp_path / "a.onnx")
    before = Model.load(tmp_path / "a.onnx")
    for model in (before, run(before)[0], before.copy()):
        model.save(tmp_path / "b.onnx")
        with OnnxRuntime(tmp_path / "b.onnx", optimize=False) as session:
            found = session.infer({"x": np.arange(3, dtype=np.float32)})["y"]
        np.testing.assert_array_equal(found, [0, 1, 2])


@pytest.mark.parametrize(
    "kind", [b"", b"\r\x08\x01\x12\x11", b"\n\0"], ids=["empty", "unknown", "undefined"]
)
def test_a_type_of_no_kind_is_as_none(kind: bytes, tmp_path: Path) -> None:
    proto = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        n (float[N] x) => (float[N] y) <float[N] h> { h = Neg(x)  y = Relu(h) }"""
    )
    for entry in (proto.graph.output[0], proto.graph.value_info[0]):
        entry.type.Clear()
        entry.type.MergeFromString(kind)
        entry.type.SetInParent()
    onnx.save(proto, tmp_path / "a.onnx")
    model = Model.load(tmp_path / "a.onnx")
    assert (model.outputs[0].dtype, len(model.outputs[0].shape)) == ("float32", 1)
    for each in (model, run(model)[0], model.copy()):
        each.save(tmp_path / "b.onnx")
        with OnnxRuntime(tmp_path / "b.onnx", optimize=False) as session:
            found = session.infer({"x": np.array([-1, 2], np.float32)})["y"]
        np.testing.assert_array_equal(found, [1, 0])


def test_a_segment_of_a_tensor_is_refused(tmp_path: Path) -> None:
    """Nothing reads it: numpy_helper raises at it where it is looked at."""
    proto = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        n (float[1] x) => (float[1] y) <float[1] w = {1}> { y = Mul(x, w) }"""
    )
    proto.graph.initializer[0].segment.begin = 0
    onnx.save(proto, tmp_path / "a.onnx")
    with pytest.raises(ModelError, match=r"a\.onnx: 'w' is a segment of a tensor"):
        Model.load(tmp_path / "a.onnx")


@pytest.mark.parametrize("name", [b"xx", b"yy", b"Relu", b"kk", b"nn", b"ww", b"dd"])
def test_a_name_that_is_no_text_is_refused(name: bytes, tmp_path: Path) -> None:
    """Protobuf returns it as bytes, and what looks at names takes no bytes."""
    proto = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17, "dd" : 1]>
        nn (float[kk] xx) => (float[kk] yy) <float[1] ww = {1}> { h = Relu(xx)  yy = Mul(h, ww) }"""
    )
    data = proto.SerializeToString()
    assert name in data
    (tmp_path / "a.onnx").write_bytes(data.replace(name, b"\xff" * len(name)))
    with pytest.raises(ModelError, match=r"not a valid ONNX file \(the name b'.*' is no UTF-8\)"):
        Model.load(tmp_path / "a.onnx")


def test_graphs_go_in_and_out_through_one_door() -> None:
    door = ROOT / "src/onnxgraft/graph/surgeon.py"
    around = [
        file.relative_to(ROOT)
        for file in files()
        if file != door and re.search(r"\bgs\.(im|ex)port_onnx\(", file.read_text())
    ]
    assert not around, "graph_of and proto_of lose nothing; use them"
