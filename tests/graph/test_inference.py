"""Types and shapes: at least what onnx's own inference knows, and no error where that has one."""

from __future__ import annotations

import ast
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from onnx import TensorProto

from onnxgraft.graph.dims import Dim
from onnxgraft.graph.inference import TensorType, infer, write_types
from onnxgraft.graph.model import Model, Source
from onnxgraft.stages.quantize.place.costs import costs
from tests.conftest import model_of
from tests.foreign import foreign
from tests.sources import parsed
from tests.surgery.test_random_graphs import models

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
N = Dim(1, ("N",))


def sizes_of(model: Model, name: str) -> list[int | str | None]:
    """Return the dimensions of a tensor as a graph stores them."""
    shape = infer(model.graph)[name].shape
    assert shape is not None
    return [dim.written for dim in shape]


def test_what_is_fed_and_what_is_made_is_known() -> None:
    model = model_of(
        "g (float[N,3,h] x) => (int64[N,3] y) { a = Relu(x)\n y = ArgMax<axis=2, keepdims=0>(a) }"
    )
    found = infer(model.graph)
    assert list(found) == ["x", "a", "y"]
    assert found["a"] == found["x"] == TensorType(FLOAT, (N, Dim(3), Dim(1, ("h",))))
    assert found["y"] == TensorType(INT64, (N, Dim(3)))
    assert found["y"].sizes is found["y"].nbytes is None


def test_dimensions_are_those_that_are_fed_or_one_number() -> None:
    model = model_of(
        "g (float[N,3,h] x, float[N,2] z) => (float16[N,3,h] y, float[N,2] w)"
        " { y = Cast<to=10>(x)\n w = Neg(z) }"
    )
    found = infer(model.graph, {"x": (2, 3, 5)}, free=1)
    assert (found["y"].sizes, found["y"].nbytes) == ((2, 3, 5), 60)
    assert (found["w"].sizes, found["w"].nbytes) == ((1, 2), 8)


def test_what_a_graph_says_of_its_tensors_is_believed_only_where_that_is_asked_for() -> None:
    model = model_of("g (float[N,4] x) => (float[N,4] y) { a = Relu(x)\n y = Neg(a) }")
    model.graph.nodes[0].domain = "acme"
    model.graph.nodes[0].outputs[0].dtype = np.dtype(np.float32)
    model.graph.nodes[0].outputs[0].shape = ["M", 7]
    assert infer(model.graph)["a"] == TensorType(FLOAT, None)
    found = infer(model.graph, declared=True)
    # What is inferred, or a number, goes before what is declared.
    assert found["a"].shape == found["y"].shape == (Dim(1, ("M",)), Dim(7))


def test_an_opset_that_nobody_knows_is_taken_for_the_newest() -> None:
    model = model_of("g (float[N,4] x) => (float[N,4] y) { a = Relu(x)\n y = Neg(a) }")
    model.graph.opset = 999
    assert infer(model.graph)["a"] == TensorType(FLOAT, (N, Dim(4)))


def test_an_unknown_operator_is_no_error_and_what_follows_is_known_again() -> None:
    model = model_of(
        "g (float[N,4] x) => (int64[2] y, double[A,B] z)"
        " { a = Relu(x)\n y = Shape(a)\n z = Cast<to=11>(a) }"
    )
    model.graph.nodes[0].domain = "acme"
    found = infer(model.graph)
    assert found["a"] == TensorType(None, None)
    assert found["y"].element == INT64
    assert found["z"].element == TensorProto.DOUBLE


def test_operators_of_other_domains_that_onnx_has_are_followed() -> None:
    proto = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 17, "ai.onnx.ml" : 3]>
        g (float[N,4] x) => (float[N,4] y) { y = ai.onnx.ml.Binarizer(x) }
    """)
    model = Model.from_onnx(proto, Source("test.onnx", "onnx", "0" * 64))
    assert infer(model.graph)["y"].shape == (N, Dim(4))


def test_a_function_of_the_model_is_looked_into() -> None:
    model = model_of(
        "g (float[N,3,8,8] x) => (float[N,4,6,6] y) { [it] a = Conv(x, w)\n y = Relu(a) }",
        {"w": np.zeros((4, 3, 3, 3), np.float32)},
    )
    assert infer(foreign(model, "it").graph) == infer(model.graph)


def test_types_that_numpy_does_not_have() -> None:
    model = model_of(
        "g (bfloat16[N,4] x) => (bfloat16[N,4] y, float[N,4] z) { y = Relu(x)\n z = Cast<to=1>(y) }"
    )
    found = infer(model.graph, free=1)
    assert found["x"].element == found["y"].element == TensorProto.BFLOAT16
    assert (found["y"].nbytes, found["z"].nbytes) == (8, 16)


def test_a_constant_node_is_a_constant() -> None:
    model = model_of(
        "g (float[N,3,4] x) => (float[N,12] y, float[N,6,8] z) {"
        " s = Constant<value_ints = [0, -1]>()\n y = Reshape(x, s)\n"
        " f = Constant<value_floats = [1.0, 2.0, 2.0]>()\n z = Resize(x, , f) }"
    )
    assert sizes_of(model, "y") == ["N", 12]
    assert sizes_of(model, "z") == ["N", 6, 8]


def test_a_size_that_is_computed_is_a_size() -> None:
    model = model_of(
        "g (float[N,3,4] x) => (float[N,3,A] y) {"
        " s = Shape<start = 1>(x)\n t = Concat<axis = 0>(one, s)\n d = Mul(t, two)\n"
        " y = Tile(x, t)\n e = Expand(k, d) }",
        {"one": np.array([1]), "two": np.array([1, 1, 2]), "k": np.zeros(1, np.float32)},
    )
    assert sizes_of(model, "y") == [None, 9, 16]
    assert infer(model.graph)["e"].sizes == (1, 3, 8)


def test_question_marks_are_no_names() -> None:
    model = model_of("g (float[A,B] x) => (float[A,B] y) { y = Neg(x) }")
    model.graph.inputs[0].shape = ["?", "?"]
    rows, columns = infer(model.graph)["y"].shape or ()
    assert rows != columns and rows.written is columns.written is None


# Bodies ---------------------------------------------------------------------------------------


def test_of_an_if_what_both_branches_agree_on() -> None:
    model = model_of(
        """g (float[N,4] x, bool c) => (float[A,B] y) {
            y = If (c) <
                then_branch = yes () => (float[N,4] t) { t = Neg(x) },
                else_branch = no () => (float[N,B] e) { e = Concat<axis = 1>(x, x) }
            >
        }"""
    )
    assert sizes_of(model, "y") == ["N", None]


LOOP = """g (float[N,4] x, int64 n, bool c) => (float[A,B] h, float[A,B] g, float[T,N,4] y) {
    h, g, y = Loop (n, c, x, x) <
        body = turn (int64 i, bool go, s, r) => (bool more, float[P,Q] t, float[R,S] u, v) {
            more = Identity(go)
            t = Tanh(x)
            u = Concat<axis = 0>(r, r)
            v = Relu(t)
        }
    >
    z = Relu(y)
}"""


def loop() -> Model:
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]>{LOOP}')
    return Model.from_onnx(proto, Source("test.onnx", "onnx", "0" * 64))


def test_of_a_loop_what_stays_as_it_starts_and_what_is_scanned() -> None:
    model = loop()
    assert sizes_of(model, "h") == ["N", 4]
    assert infer(model.graph)["g"].element == FLOAT
    assert infer(model.graph)["g"].shape is None
    assert sizes_of(model, "y") == sizes_of(model, "z") == [None, "N", 4]


def test_types_are_written_into_bodies_too() -> None:
    graph = loop().graph
    write_types(graph)
    (body,) = graph.nodes[0].subgraphs()
    known = {t.name: (t.dtype, t.shape) for node in body.nodes for t in node.outputs}
    assert known["u"][0] == known["v"][0] == np.float32
    assert known["t"][1] == ["P", "Q"]  # an output of the body, whose shape the graph gives
    assert known["v"][1] == ["N", 4]
    assert [np.dtype(tensor.dtype).name for tensor in body.inputs[2:]] == ["float32", "float32"]


def test_of_a_scan_states_keep_their_shape_and_axes_go_and_come() -> None:
    proto = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[N,8] start, float[N,T,3] x) => (float[A,B] end, float[A,B,C] y) {
            end, y = Scan <num_scan_inputs = 1, scan_input_axes = [1], scan_output_axes = [-1],
                body = turn (s, e) => (t, v) {
                    t = Tanh(s)
                    v = Concat<axis = 1>(t, e)
                }
            > (start, x)
        }
    """)
    model = Model.from_onnx(proto, Source("test.onnx", "onnx", "0" * 64))
    assert sizes_of(model, "end") == ["N", 8]
    assert sizes_of(model, "y") == ["N", 11, "T"]
    assert infer(model.graph)["y"].element == FLOAT


@pytest.mark.parametrize(
    "change",
    [
        {"num_scan_inputs": -1}, {"num_scan_inputs": 0}, {"num_scan_inputs": 3},
        {"num_scan_inputs": 2**31 - 1}, {"num_scan_inputs": None}, {"scan_input_axes": [1, 1]},
        {"scan_input_axes": []}, {"scan_output_axes": []}, {"x": []},
    ],
    ids=str,
)  # fmt: skip
def test_of_a_scan_that_no_library_runs_nothing_is_an_error(change: dict[str, Any]) -> None:
    model = model_of("""
        g (float[8] start, float[5,8] x) => (float[A] end, float[B,C] y) {
            end, y = Scan <num_scan_inputs = 1, scan_input_axes = [0], scan_output_axes = [0],
                body = turn (s, e) => (t, v) {
                    t = Add(s, e)
                    v = Neg(e)
                }
            > (start, x)
        }
    """)
    assert sizes_of(model, "y") == [5, 8]
    (node,) = model.graph.nodes
    for name, value in change.items():
        if name == "x":
            model.graph.inputs[1].shape = value
        elif value is None:
            del node.attrs[name]
        else:
            node.attrs[name] = value
    assert infer(model.graph)["x"].element == FLOAT
    costs(model)


def test_sequences_have_no_element_and_what_is_taken_from_them_has() -> None:
    model = model_of(
        "g (float[N,4] x, int64 i) => (float[N,4] y) {"
        " s = SequenceConstruct(x, x)\n a = SequenceAt(s, i)\n y = Relu(a) }"
    )
    found = infer(model.graph)
    assert found["s"] == TensorType(None, None)
    assert found["y"] == TensorType(FLOAT, (N, Dim(4)))


# Beside onnx's own ----------------------------------------------------------------------------


def holds(model: Model) -> None:
    """Hold what is inferred against what onnx's inference finds of the whole graph."""
    proto = model.to_onnx()
    del proto.graph.value_info[:]
    for value in proto.graph.output:
        value.type.tensor_type.ClearField("shape")
    theirs = onnx.shape_inference.infer_shapes(proto, data_prop=True).graph
    ours = infer(model.graph)
    for value in (*theirs.input, *theirs.value_info, *theirs.output):
        kind, found = value.type.tensor_type, ours[value.name]
        assert found.element == kind.elem_type, value.name
        if not kind.HasField("shape"):
            continue
        assert found.shape is not None and len(found.shape) == len(kind.shape.dim), value.name
        for dim, ours_there in zip(kind.shape.dim, found.shape, strict=True):
            if dim.HasField("dim_value"):
                assert ours_there == Dim(dim.dim_value), value.name


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(models())
def test_no_less_is_known_than_onnx_knows(drawn: Model) -> None:
    holds(drawn)


def test_no_less_is_known_of_bodies_than_onnx_knows() -> None:
    holds(loop())


def test_the_graph_is_not_changed() -> None:
    model = loop()
    before = model.to_onnx().SerializeToString(deterministic=True)
    infer(model.graph, declared=True)
    assert model.to_onnx().SerializeToString(deterministic=True) == before


DOOR = "src/onnxgraft/graph/shapes.py"
ONNX_S_OWN = {
    "infer_function_output_types", "infer_node_outputs", "infer_shapes", "infer_shapes_path",
}  # fmt: skip


def test_types_and_shapes_are_inferred_at_one_place() -> None:
    asking = {
        name
        for name, tree in parsed("|".join(ONNX_S_OWN), "models", "benchmarks")
        for node in ast.walk(tree)
        if ONNX_S_OWN & {getattr(node, key, None) for key in ("attr", "id", "name")}
    }
    assert asking == {DOOR}, "ask onnxgraft.graph.inference or Shapes"
