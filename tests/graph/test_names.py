"""Names of what is put into graphs: free ones, whatever a model calls its tensors."""

from __future__ import annotations

import ast
from collections.abc import Callable

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx.helper import make_graph, make_model, make_node, make_opsetid, make_tensor_value_info

from onnxgraft.data.ranges import Range, Ranges
from onnxgraft.graph.half import to_half
from onnxgraft.graph.model import Model, Source
from onnxgraft.graph.names import FreeNames, Taken, free, name_nodes
from onnxgraft.graph.tensors import Array
from onnxgraft.run.exact import exact_graph
from onnxgraft.run.feeds import random_feeds
from onnxgraft.run.session import OnnxRuntime
from onnxgraft.stages.convert.io_layout import set_io_layout
from onnxgraft.stages.quantize import Improved, quantize
from onnxgraft.stages.quantize.improve.equalize import scale_groups
from onnxgraft.stages.quantize.measure.calibrate import fingerprint
from onnxgraft.stages.quantize.place.shapes import shapes_of
from onnxgraft.stages.surgery import run
from onnxgraft.targets import target_names
from tests.conftest import few, model_of
from tests.sources import parsed

# What the product makes of a tensor's or a node's name, and a model may have beside it.
ENDINGS = (
    "/quantized", "/dequantized", "/scale", "/zero_point", "/integers", "/scaled", "/float16",
    "/as_float16", "/as_float32", "/Cast", "/positive", "/limits", "/before_io_layout", "/bias",
    "/exact/1", "/exact/2", "/exact/3", "/corrected_bias", "/QuantizeLinear", "/DequantizeLinear",
    "/a", "_2", "_3",
)  # fmt: skip
NAMES = st.builds(
    lambda base, endings: base + "".join(endings),
    st.sampled_from(["a", "b"]), st.lists(st.sampled_from(ENDINGS), max_size=3),
)  # fmt: skip
TENSORS = ("x", "a", "b", "c", "d", "e", "f", "y", "w", "v", "w2", "low", "high", "half")
NODES = ("conv1", "relu", "conv2", "clip", "conv3", "add", "mul")


def network(tensors: tuple[str, ...] = TENSORS, nodes: tuple[str, ...] = NODES) -> Model:
    """Return a small network with these names; a layer's weights and bias are another's too."""
    x, a, b, c, d, e, f, y, w, v, w2, low, high, half = tensors
    rng = np.random.default_rng(0)
    values = {
        w: rng.standard_normal((3, 3, 1, 1)), v: rng.standard_normal(3),
        w2: rng.standard_normal((3, 3, 1, 1)), low: np.zeros(()), high: np.full((), 6.0),
        half: np.full((), 0.5),
    }  # fmt: skip
    made = [
        make_node("Conv", [x, w, v], [a]), make_node("Relu", [a], [b]),
        make_node("Conv", [b, w2], [c]), make_node("Clip", [c, low, high], [d]),
        make_node("Conv", [d, w, v], [e]), make_node("Add", [e, b], [f]),
        make_node("Mul", [f, half], [y]),
    ]  # fmt: skip
    for node, name in zip(made, nodes, strict=True):
        node.name = name
    ends = (make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["N", 3, 4, 4]) for name in (x, y))
    graph = make_graph(
        made, "network", [next(ends)], [next(ends)],
        [onnx.numpy_helper.from_array(v.astype(np.float32), k) for k, v in values.items()],
    )  # fmt: skip
    proto = make_model(graph, opset_imports=[make_opsetid("", 19)], ir_version=9)
    return Model.from_onnx(proto, Source("a.onnx", "onnx", "0" * 64))


def ranges_for(model: Model) -> Ranges:
    names = [model.inputs[0].name, *(n.outputs[0].name for n in model.graph.nodes)]
    found = {name: Range(-4.0, 5.0, -4.0, 5.0, "minmax") for name in names}
    return Ranges("minmax", 1, fingerprint(model), "", "", found)


def quantized(target: str) -> Callable[[Model], onnx.ModelProto]:
    def made(model: Model) -> onnx.ModelProto:
        layers = [node.name for node in model.graph.nodes if node.attrs or len(node.inputs) == 3]
        improved = Improved(bias={layers[0]: np.full(3, 0.25)})
        return quantize(model, ranges_for(model), target, improved=improved)[0].to_onnx()

    return made


def equalized(model: Model) -> onnx.ModelProto:
    copy = model.copy()
    shapes = shapes_of(model)
    for group in scale_groups(copy.graph, shapes):
        group.divide(copy.graph, np.array([2.0, 4.0, 0.5]), shapes)
    return copy.to_onnx()


def moved(model: Model) -> onnx.ModelProto:
    copy = model.copy()
    set_io_layout(copy, "nhwc")
    return copy.to_onnx()


def exactly(model: Model) -> onnx.ModelProto:
    return exact_graph(quantize(model, ranges_for(model), "onnxruntime")[0])


WAYS: dict[str, Callable[[Model], onnx.ModelProto]] = {
    **{target: quantized(target) for target in target_names()},
    "half": lambda model: to_half(model, ranges_for(model).sizes(), keep=[])[0].to_onnx(),
    "half_beside_int8": lambda model: to_half(
        quantize(model, ranges_for(model), "tensorrt")[0]
    )[0].to_onnx(),
    "equalized": equalized,
    "io_layout": moved,
    "exact": exactly,
    "surgery": lambda model: run(model, verify=False)[0].to_onnx(),
}  # fmt: skip


def answer(proto: onnx.ModelProto) -> Array:
    onnx.checker.check_model(proto, full_check=True)
    with OnnxRuntime(proto, optimize=False) as session:
        (value,) = session.infer(random_feeds(session.inputs, 2, size=4)).values()
    return value


@pytest.fixture(scope="module")
def plain() -> dict[str, Array]:
    return {name: answer(way(network())) for name, way in WAYS.items()}


@pytest.mark.parametrize("way", few(WAYS, 4, 6))
@settings(max_examples=30)
@given(
    tensors=st.lists(NAMES, min_size=len(TENSORS), max_size=len(TENSORS), unique=True),
    nodes=st.lists(st.one_of(NAMES, st.just("")), min_size=len(NODES), max_size=len(NODES)),
)
def test_hostile_names_change_nothing(
    plain: dict[str, Array], way: str, tensors: list[str], nodes: list[str]
) -> None:
    """The same network under plain names is the reference, to the bit."""
    found = answer(WAYS[way](network(tuple(tensors), tuple(nodes))))
    assert (found == plain[way]).all()


@pytest.mark.parametrize("other", ["a/quantized", "a/dequantized", "a/scale", "a/zero_point"])
def test_a_tensor_called_as_what_is_inserted_makes_no_cycle(other: str) -> None:
    names = tuple(other if name == "e" else name for name in TENSORS)
    names = tuple("a" if name == "b" else "b" if name == "a" else name for name in names)
    for target in target_names():
        expected = answer(WAYS[target](network()))
        assert (answer(WAYS[target](network(names))) == expected).all()


def test_names_are_free_in_bodies_and_in_the_map_of_names_too() -> None:
    model = model_of(
        """agraph (float[N,4] x, bool c) => (float[N,4] y) {
            y = If (c) <
                then_branch = one () => (float[N,4] inner) { inner = Relu (x) },
                else_branch = two () => (float[N,4] other) { other = Neg (x) }
            >
        }"""
    )
    names = FreeNames(model.graph, ["gone"])
    assert [names.tensor(wish) for wish in ("inner", "other", "gone", "gone", "new", "new")] == [
        "inner_2", "other_2", "gone_2", "gone_3", "new", "new_2",
    ]  # fmt: skip


def test_given_names_of_nodes_are_kept_before_others_are_made() -> None:
    nodes = [gs.Node("Relu", name) for name in ("", "a", "a", "b")]
    for node, made in zip(nodes, ("b", "c", "d", "e"), strict=True):
        node.outputs = [gs.Variable(made)]
    name_nodes(gs.Graph(nodes))
    assert [node.name for node in nodes] == ["b_2", "a", "a_2", "b"]


def test_layers_without_names_are_told_apart() -> None:
    """What is found for one layer is not applied to another one without a name."""
    layers = [node.name for node in network(nodes=("",) * len(NODES)).graph.nodes]
    assert layers == ["a", "b", "c", "d", "e", "f", "y"]


def test_every_name_that_is_made_is_asked_for() -> None:
    """No tensor, constant or node gets a name that was put together on the spot."""
    wrong = []
    for name, tree in parsed(r"\bgs\.", "models", "benchmarks"):
        for call in ast.walk(tree):
            match call:
                case ast.Call(
                    func=ast.Attribute(
                        value=ast.Name("gs"), attr="Variable" | "Constant" | "Node"
                    ) as kind,
                    args=[*given],
                ):
                    at = 1 if kind.attr == "Node" else 0
                    if len(given) > at and isinstance(given[at], ast.JoinedStr):
                        wrong.append(f"{name}:{call.lineno}")
    assert not wrong, "ask onnxgraft.graph.names for: " + ", ".join(wrong)


class Counted(Taken):
    """Counts how often it is asked."""

    asked = 0

    def __contains__(self, name: object) -> bool:
        self.asked += 1
        return super().__contains__(name)


def test_the_same_name_for_many_is_looked_for_once_each() -> None:
    """A file of 250,000 nodes of one name would take hours."""
    taken = Counted(["n_3"])
    names = [free(taken, "n") for _ in range(2000)]
    assert names == ["n", "n_2", *(f"n_{number}" for number in range(4, 2002))]
    assert taken.asked < 3 * len(names)


def test_a_plain_set_gives_the_same_names() -> None:
    plain, taken = {"n", "n_2", "m"}, Taken(["n", "n_2", "m"])
    for wish in ("n", "n", "m", "k", "k", "n_2"):
        assert free(plain, wish) == free(taken, wish)
    assert plain == taken
