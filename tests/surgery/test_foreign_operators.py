"""Operators of other domains are other operators, whatever they are called: they are left alone."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest

from onnxgraft.graph.model import Model, Source
from onnxgraft.graph.tensors import Array
from onnxgraft.stages.surgery import run
from tests.foreign import foreign
from tests.surgery.helpers import normal, positive

CONSTANTS: dict[str, Array] = {
    "w": normal(4, 4), "b": normal(4, seed=1), "k": normal(6, 4, 3, 3), "c": normal(1, seed=2),
    "d": normal(12, 4), "g": positive(4), "h": positive(4, seed=1), "m": positive(4, seed=2),
    "v": positive(4, seed=3), "yes": np.array(True), "first": np.array([0]), "four": np.array([4]),
    "halves": np.array([0, 2, 2]), "row": np.array([0, 4]), "rows": np.array([-1, 4]),
    "three": np.array([-1, 3, 4]), "twelve": np.array([0, 12]), "nought": np.zeros(1, np.float32),
    "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
}  # fmt: skip
# What a pass would change if the operators were ONNX's own: each node in turn is not.
GRAPHS = {
    "identity": "(float[N,4] x) => (float[N,4] y) { i = Identity(x) y = Relu(i) }",
    "dropout": "(float[N,4] x) => (float[N,4] y) { i = Dropout(x) y = Relu(i) }",
    "constant": """(float[N,4] x) => (float[N,4] y) {
        i = Constant<value_float = 2.0>() y = Mul(x, i) }""",
    "fold": "(float[N,4] x) => (float[N,4] y) { i = Neg(b) y = Mul(x, i) }",
    "select": "(float[N,4] x) => (float[N,4] y) { i = Where(yes, x, x) y = Relu(i) }",
    "duplicates": "(float[N,4] x) => (float[N,4] y) { p = Exp(x) q = Exp(x) y = Add(p, q) }",
    "casts": """(float[N,4] x) => (float[N,4] y) {
        p = Cast<to = 11>(x) q = Cast<to = 1>(p) y = Relu(q) }""",
    "shape chain": """(float[N,2,2] x) => (float[N,4] y) {
        s = Shape(x) n = Gather(s, first) t = Concat<axis = 0>(n, four) y = Reshape(x, t) }""",
    "views": """(float[N,4] x) => (float[N,4] y) {
        p = Reshape(x, halves) q = Reshape(p, row) y = Relu(q) }""",
    "wrapped": """(float[N,3,4] x) => (float[N,3,4] y) {
        p = Reshape(x, rows) q = Softmax<axis = -1>(p) r = Reshape(q, three) y = Relu(r) }""",
    "nothing": """(float[N,4] x) => (float[N,4] y) {
        p = Add(x, nought) q = Relu(p) r = Relu(q) y = Exp(r) }""",
    "transposes": """(float[N,4,5,3] x) => (float[N,4,5,3] y) {
        p = Transpose<perm = [0, 2, 3, 1]>(x) q = Relu(p) r = Transpose<perm = [0, 3, 1, 2]>(q)
        y = Exp(r) }""",
    "flatten": """(float[N,4,1,3] x) => (float[N,4] y) {
        p = Transpose<perm = [0, 2, 3, 1]>(x) q = Reshape(p, twelve) y = MatMul(q, d) }""",
    "dense": """(float[N,4,1,3] x) => (float[N,4] y) {
        q = Flatten(x) r = Relu(q) y = Gemm(r, d, b) }""",
    "gemm": "(float[N,4] x) => (float[N,4] y) { p = MatMul(x, w) y = Add(p, b) }",
    "arithmetic": "(float[N,4] x) => (float[N,4] y) { p = Add(x, b) y = Sub(p, b) }",
    "factor": """(float[N,3,4] x) => (float[N,3,4] y) {
        p = MatMul(x, w) q = Add(p, b) y = Mul(q, b) }""",
    "batch norm behind": """(float[N,4,5,5] x) => (float[N,6,3,3] y) {
        p = Conv(x, k) y = Mul(p, c) }""",
    "batch norm before": """(float[N,4,5,5] x) => (float[N,6,3,3] y) {
        p = BatchNormalization(x, g, h, m, v) y = Conv(p, k) }""",
    "factor before": "(float[N,4] x) => (float[N,4] y) { p = Mul(x, b) y = Gemm(p, w) }",
    "pad": "(float[N,4,5,5] x) => (float[N,6,5,5] y) { p = Pad(x, pads) y = Conv(p, k) }",
    "pad of what is positive": """(float[N,4,4,4] x) => (float[N,4,4,4] y) {
        i = Relu(x) p = Pad(i, pads) y = MaxPool<kernel_shape = [3, 3]>(p) }""",
    "integers": "(int32[N,4] x) => (int32[N,4] y) { p = Relu(x) y = Neg(p) }",
}


def graph_of(name: str) -> Model:
    proto = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 17, "acme" : 1]>\nagraph {GRAPHS[name]}'
    )
    read = {tensor for node in proto.graph.node for tensor in node.input}
    proto.graph.initializer.extend(
        onnx.numpy_helper.from_array(np.asarray(value), key)
        for key, value in CONSTANTS.items()
        if key in read
    )
    return Model.from_onnx(proto, Source("test.onnx", "onnx", "0" * 64))


def nodes() -> list[tuple[str, int]]:
    return [(name, index) for name in GRAPHS for index in range(len(graph_of(name).graph.nodes))]


def told(node: gs.Node) -> tuple[object, ...]:
    """Return what a node is."""
    return node.op, node.domain, dict(node.attrs), len(node.inputs), len(node.outputs)


def constants(node: gs.Node) -> dict[int, bytes]:
    """Return what it reads that is constant."""
    return {
        index: np.asarray(tensor.values).tobytes()
        for index, tensor in enumerate(node.inputs)
        if isinstance(tensor, gs.Constant)
    }


@pytest.mark.parametrize(("name", "index"), nodes())
def test_a_foreign_operator_is_left_alone(name: str, index: int) -> None:
    model = graph_of(name)
    node = model.graph.nodes[index]
    node.domain = "acme"
    after, report = run(model, extra=["dense_to_conv"], target="tensorrt")
    assert not [entry.rolled_back for entry in report.passes if entry.rolled_back]
    (left,) = (node for node in after.graph.nodes if node.domain == "acme")
    assert told(left) == told(node)
    # What was computed of constants may have become one.
    assert constants(left).items() >= constants(node).items()
    note = f"the operator {node.op} of the domain 'acme' is not known; it is left alone"
    assert note in report.notes


@pytest.mark.parametrize(("name", "index"), nodes())
def test_what_is_done_around_a_foreign_operator_changes_no_output(name: str, index: int) -> None:
    model = graph_of(name)
    model.graph.nodes[index].name = "it"
    model = foreign(model, "it")
    after, report = run(model, extra=["dense_to_conv"], target="tensorrt", verify=True)
    assert not [entry.rolled_back for entry in report.passes if entry.rolled_back]
    assert report.passed and (
        report.verdicts or "not verified: nothing was changed" in report.notes
    )
    assert after.operators()[f"acme.{model.graph.nodes[index].op}"] == 1
