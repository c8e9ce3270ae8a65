"""One thing is changed in a sound graph: it is another, and mostly still a graph."""

from __future__ import annotations

import random
from pathlib import Path

import onnx
import pytest

from tests.conftest import model_of
from tests.fuzz.changes import onnx_changed, tensorflow_changed

NETWORK = """
    g (float[1,2,4,4] x) => (float[1,1,4,4] y, float z) <float[1,2,1,1] w = {0.5, 0.25}> {
        a = Conv<pads = [0, 0, 0, 0], auto_pad = "NOTSET">(x, w)
        y = LeakyRelu<alpha = 0.1>(a)
        c = ReduceMax<keepdims = 0>(y)
        b = Greater(c, c)
        z = If(b)
            <then_branch = t () => (d) { d = Neg(c) }, else_branch = e () => (f) { f = Abs(c) }>
    }
"""


def test_each_onnx_model_that_is_changed_is_another() -> None:
    data = model_of(NETWORK).to_onnx().SerializeToString(deterministic=True)
    made = [onnx_changed(data, random.Random(seed)) for seed in range(300)]
    assert made == [onnx_changed(data, random.Random(seed)) for seed in range(300)]
    assert None not in made and data not in made
    assert len({*made}) > 60
    models = [onnx.ModelProto.FromString(each) for each in made if each is not None]
    operators = {tuple(node.op_type for node in model.graph.node) for model in models}
    assert operators == {("Conv", "LeakyRelu", "ReduceMax", "Greater", "If")}
    pads = {tuple(a.ints) for m in models for a in m.graph.node[0].attribute if a.name == "pads"}
    assert any(2**31 - 1 in each for each in pads)
    assert {len(m.graph.node[0].input) for m in models} > {2}


def test_each_tensorflow_graph_that_is_changed_is_another(tmp_path: Path) -> None:
    tf = pytest.importorskip("tensorflow")
    from tests.convert.test_loops import fixed, frozen

    data = frozen(tmp_path, fixed, "functions").read_bytes()
    made = [tensorflow_changed(data, random.Random(seed)) for seed in range(200)]
    assert None not in made
    graphs = [tf.compat.v1.GraphDef.FromString(each) for each in made]
    before = tf.compat.v1.GraphDef.FromString(data)
    assert before not in graphs
    assert any(graph.library != before.library for graph in graphs)
    assert any(list(graph.node) != list(before.node) for graph in graphs)
