"""Graphs in float16 and bfloat16 made float32, between inputs and outputs of their own types."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx.helper import make_graph, make_model, make_node, make_opsetid, make_tensor_value_info
from onnx.numpy_helper import from_array

from onnxgraft.errors import NotSupportedError
from onnxgraft.graph.lift import halves, lift, lifting, uses_bfloat16
from onnxgraft.graph.model import Model, Source
from onnxgraft.graph.tensors import Array
from onnxgraft.run.difference import sqnr
from onnxgraft.run.feeds import random_feeds
from onnxgraft.run.session import OnnxRuntime, exposing
from tests.conftest import model_of

KINDS = {"float16": onnx.TensorProto.FLOAT16, "bfloat16": onnx.TensorProto.BFLOAT16}
# A float16 keeps 11 bits, 66 dB, a bfloat16 8, 48 dB; what a few layers round away leaves less.
LEAST_SQNR = {"float16": 50.0, "bfloat16": 30.0}


def half(values: Array, kind: str) -> Array:
    return values.astype(np.dtype(kind))


def model(nodes: list[Any], kind: str, constants: dict[str, Array], **outer: Any) -> Model:
    """Return a graph from x to y, (N, 4) of ``kind`` or as ``outer`` says."""
    given, made = outer.get("x", KINDS[kind]), outer.get("y", KINDS[kind])
    graph = make_graph(
        nodes, "network", [make_tensor_value_info("x", given, ["N", 4])],
        [make_tensor_value_info("y", made, ["N", 4])],
        [from_array(value, name) for name, value in constants.items()],
        value_info=outer.get("info", []),
    )  # fmt: skip
    opsets = [make_opsetid("", 22), *(make_opsetid(d, 1) for d in outer.get("domains", ()))]
    proto = make_model(graph, opset_imports=opsets, ir_version=10)
    return Model.from_onnx(proto, Source("half.onnx", "onnx", "0" * 64))


def weights(kind: str) -> dict[str, Array]:
    rng = np.random.default_rng(0)
    return {
        "w": half(rng.standard_normal((4, 4)), kind), "b": half(rng.standard_normal(4), kind),
    }  # fmt: skip


def plain(kind: str) -> Model:
    return model(
        [make_node("Gemm", ["x", "w", "b"], ["h"]), make_node("Relu", ["h"], ["y"])],
        kind, weights(kind),
    )  # fmt: skip


def mixed(kind: str) -> Model:
    """A part in float32, between Casts that are no more than that."""
    return model(
        [
            make_node("Cast", ["x"], ["x16"], to=KINDS[kind]),
            make_node("MatMul", ["x16", "w"], ["h16"]),
            make_node("Cast", ["h16"], ["h"], to=1), make_node("Softplus", ["h"], ["s"]),
            make_node("Cast", ["s"], ["s16"], to=KINDS[kind]),
            make_node("Add", ["s16", "b"], ["z"]), make_node("Cast", ["z"], ["y"], to=1),
        ],
        kind, weights(kind), x=1, y=1,
    )  # fmt: skip


def made_inside(kind: str) -> Model:
    """Halves that nodes make by an attribute."""
    one = from_array(half(np.ones(1), kind))
    return model(
        [
            make_node("Shape", ["x"], ["shape"]),
            make_node("ConstantOfShape", ["shape"], ["ones"], value=one),
            make_node("Constant", [], ["two"], value=from_array(half(np.array(2.0), kind))),
            make_node("Cast", ["shape"], ["sizes"], to=KINDS[kind]),
            make_node("ReduceMax", ["sizes"], ["largest"], keepdims=0),
            make_node("EyeLike", ["w"], ["eye"], dtype=KINDS[kind]),
            make_node("MatMul", ["x", "eye"], ["same"]),
            make_node("Mul", ["same", "two"], ["double"]),
            make_node("Add", ["double", "ones"], ["more"]),
            make_node("Div", ["more", "largest"], ["y"]),
        ],
        kind, {"w": weights(kind)["w"]},
    )  # fmt: skip


def branches(kind: str) -> Model:
    """Bodies that read halves around them, and have their own."""
    bodies = {}
    for name, op in (("then_branch", "Add"), ("else_branch", "Mul")):
        info = make_tensor_value_info(f"{op}_out", KINDS[kind], ["N", 4])
        bodies[name] = make_graph(
            [make_node(op, ["x", f"{op}_c"], [f"{op}_out"])], name, [], [info],
            [from_array(half(np.full(4, 0.5), kind), f"{op}_c")],
        )  # fmt: skip
    return model(
        [
            make_node("ReduceSum", ["x"], ["total"], keepdims=0),
            make_node("Cast", ["total"], ["wide"], to=1),
            make_node("Greater", ["wide", "zero"], ["positive"]),
            make_node("If", ["positive"], ["chosen"], **bodies),
            make_node("MatMul", ["chosen", "w"], ["y"]),
        ],
        kind, weights(kind) | {"zero": np.zeros((), np.float32)},
    )  # fmt: skip


def loop(kind: str) -> Model:
    """A loop that carries a half."""
    float_, whole, boolean = KINDS[kind], onnx.TensorProto.INT64, onnx.TensorProto.BOOL
    body = make_graph(
        [
            make_node("MatMul", ["carried", "w"], ["next"]),
            make_node("Identity", ["go"], ["going"]),
        ],
        "body",
        [
            make_tensor_value_info("i", whole, []), make_tensor_value_info("go", boolean, []),
            make_tensor_value_info("carried", float_, ["N", 4]),
        ],
        [
            make_tensor_value_info("going", boolean, []),
            make_tensor_value_info("next", float_, ["N", 4]),
        ],
    )  # fmt: skip
    return model(
        [make_node("Loop", ["count", "", "x"], ["y"], body=body)],
        kind, weights(kind) | {"count": np.array(2, np.int64)},
    )  # fmt: skip


NETWORKS = [plain, mixed, made_inside, branches, loop]


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("network", NETWORKS)
def test_what_is_computed_stays_and_so_do_inputs_and_outputs(network: Any, kind: str) -> None:
    original = network(kind)
    before = original.to_onnx().SerializeToString(deterministic=True)
    lifted = lift(original)
    proto = lifted.to_onnx()
    assert original.to_onnx().SerializeToString(deterministic=True) == before
    onnx.checker.check_model(proto, full_check=True)
    assert halves(original) == (kind,)
    assert halves(lifted) == ()
    assert (lifted.inputs, lifted.outputs) == (original.inputs, original.outputs)
    feeds = random_feeds(original.inputs, 3)
    found = computed(proto, feeds)
    if kind == "float16":  # onnxruntime has kernels for it
        assert sqnr(computed(original.to_onnx(), feeds), found) > LEAST_SQNR[kind]
    # The same in float32 from the beginning on is the reference for both.
    wide = {name: value.astype(np.float32) for name, value in feeds.items()}
    expected = computed(in_float32(original), wide)
    assert sqnr(expected, found) > LEAST_SQNR[kind]


def computed(proto: onnx.ModelProto, feeds: dict[str, Array]) -> Array:
    with OnnxRuntime(proto, optimize=False) as session:
        return np.asarray(session.infer(feeds)["y"], np.float32)


def in_float32(original: Model) -> onnx.ModelProto:
    """Write float32 for halves in the text of a model, another way than `lift`."""
    proto = original.to_onnx()
    rewrite(proto.graph)
    for tensor in (*proto.graph.input, *proto.graph.output):
        tensor.type.tensor_type.elem_type = 1
    return proto


def rewrite(graph: onnx.GraphProto) -> None:
    for info in (*graph.input, *graph.output, *graph.value_info):
        if info.type.tensor_type.elem_type in KINDS.values():
            info.type.tensor_type.elem_type = 1
    for tensor in graph.initializer:
        wide(tensor)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.name in ("to", "dtype") and attribute.i in KINDS.values():
                attribute.i = 1
            if attribute.HasField("t"):
                wide(attribute.t)
            if attribute.HasField("g"):
                rewrite(attribute.g)


def wide(tensor: onnx.TensorProto) -> None:
    if tensor.data_type in KINDS.values():
        tensor.CopyFrom(from_array(onnx.numpy_helper.to_array(tensor).astype("f4"), tensor.name))


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("network", NETWORKS)
def test_what_is_lifted_is_lifted_once(network: Any, kind: str) -> None:
    lifted = lift(network(kind))
    assert lift(lifted) is lifted
    assert not lifting(lifted)
    assert kind in lifting(network(kind))


def test_a_graph_in_float32_is_left_alone() -> None:
    graph = model_of("network (float[N,4] x) => (float[N,4] y) { y = Relu (x) }")
    assert lift(graph) is graph
    assert not uses_bfloat16(graph.to_onnx())


def test_casts_between_layers_are_gone() -> None:
    """Layers with a Cast between them are not computed together."""
    operators = lift(mixed("float16")).operators()
    assert operators == {"MatMul": 1, "Softplus": 1, "Add": 1, "Cast": 1}


def test_an_input_that_is_an_output_too_keeps_its_type() -> None:
    original = plain("float16")
    original.graph.outputs.append(original.graph.inputs[0])
    lifted = lift(original)
    assert [spec.dtype for spec in lifted.outputs] == ["float16"] * 2
    feeds = random_feeds(original.inputs, 2)
    with OnnxRuntime(lifted.to_onnx()) as session:
        assert (session.infer(feeds)["x"] == feeds["x"]).all()


def test_an_output_that_is_read_further_is_read_in_float32() -> None:
    original = model(
        [
            make_node("MatMul", ["x", "w"], ["y"]), make_node("MatMul", ["y", "w"], ["z"]),
        ],
        "float16", weights("float16"),
    )  # fmt: skip
    original.graph.outputs.append(original.graph.nodes[1].outputs[0])
    original.graph.outputs[1].dtype = np.dtype(np.float16)
    original.graph.outputs[1].shape = ["N", 4]
    lifted = lift(original)
    assert [n.inputs[0].name for n in lifted.graph.nodes if len(n.inputs) == 2] == [
        "x/float32", "y/float32",
    ]  # fmt: skip
    onnx.checker.check_model(lifted.to_onnx(), full_check=True)


def test_an_unknown_operator_is_given_its_halves() -> None:
    info = [make_tensor_value_info("f", KINDS["float16"], ["N", 4])]
    nodes = [
        make_node("MatMul", ["x", "w"], ["m"]),
        make_node("Odd", ["m"], ["f"], domain="acme"), make_node("Relu", ["f"], ["y"]),
    ]  # fmt: skip
    outer: dict[str, Any] = {"domains": ["acme"]}
    lifted = lift(model(nodes, "float16", weights("float16"), info=info, **outer))
    (odd,) = (node for node in lifted.graph.nodes if node.name == "f" or node.domain == "acme")
    assert [t.dtype for t in (*odd.inputs, *odd.outputs)] == [int(KINDS["float16"])] * 2
    assert [n.op for n in (odd.inputs[0].inputs[0], odd.outputs[0].outputs[0])] == ["Cast"] * 2
    assert lift(lifted) is lifted
    onnx.checker.check_model(lifted.to_onnx())
    with pytest.raises(NotSupportedError, match=r"'f', which acme.Odd 'f' makes .* not known"):
        lift(model(nodes, "float16", weights("float16"), **outer))


def test_tensors_within_a_bfloat16_graph_can_be_looked_at() -> None:
    original = plain("bfloat16")
    feeds = random_feeds(original.inputs, 2)
    with OnnxRuntime(exposing(original.to_onnx(), ["h"])) as session:
        assert session.infer(feeds)["h"].dtype == np.float32


def test_a_bfloat16_input_and_output_hold_what_was_fed() -> None:
    original = model([make_node("Identity", ["x"], ["y"])], "bfloat16", {})
    values = half(np.array([[1.5, -0.25, 3e38, 0.0]]), "bfloat16")
    for optimize in (True, False):
        with OnnxRuntime(original.to_onnx(), optimize=optimize) as session:
            found = session.infer({"x": values})["y"]
            assert (found == values.astype(np.float32)).all()
            assert session.infer({"x": values[:0]})["y"].shape == (0, 4)
