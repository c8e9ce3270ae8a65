"""A graph is what it was when a snapshot of it is restored."""

from __future__ import annotations

import numpy as np

from onnxgraft.graph.walk import bodies
from onnxgraft.stages.surgery.running.snapshot import Snapshot
from tests.conftest import model_of

BRANCHES = """agraph (float[2,3] x, bool c) => (float[2,3] y) {
    n = Neg(x)
    y = If (c) <
        then_branch = g1 () => (float[2,3] t) { a = Add(n, one)  t = Mul(a, n) },
        else_branch = g2 () => (float[2,3] e) { e = Abs(n) }
    >
}"""


def test_what_a_body_reads_from_around_it_keeps_what_made_it() -> None:
    graph = model_of(BRANCHES, {"one": np.ones(1, np.float32)}).graph
    neg = next(node for node in graph.nodes if node.name and node.inputs[0].name == "x")
    tensor = neg.outputs[0]
    readers = list(tensor.outputs)
    body = next(body for body in bodies(graph) if "a" in body.tensors())
    before = Snapshot(body)
    add = next(node for node in body.nodes if node.outputs[0].name == "a")
    add.inputs[0] = add.inputs[1]
    tensor.name = "renamed"
    body.nodes.remove(add)
    before.restore()
    assert [node.outputs[0].name for node in body.nodes] == ["a", "t"]
    assert add.inputs[0] is tensor and tensor.name == "n"
    assert list(tensor.inputs) == [neg] and list(neg.outputs) == [tensor]
    assert list(tensor.outputs) == readers
