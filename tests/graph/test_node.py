"""The nodes of our graphs: each is only itself."""

from __future__ import annotations

import re
from collections.abc import Callable

import onnx_graphsurgeon as gs
import pytest

from onnxgraft.graph.model import Model
from onnxgraft.graph.node import Node
from onnxgraft.graph.walk import detach, every_node
from tests.conftest import ROOT, model_of
from tests.sources import files

NESTED = """agraph (bool c, float[2] x) => (float[2] y) {
    y = If<then_branch = a () => (float[2] p) { p = Relu(x) },
           else_branch = b () => (float[2] q) { q = Neg(x) }>(c)
}"""


def test_of_two_equal_nodes_the_one_that_is_meant_is_taken_off_a_tensor() -> None:
    tensor = gs.Variable("x")
    first, second = (Node("Relu", "", {}, [tensor], [gs.Variable("y")]) for _ in "ab")
    detach(second)
    assert [node is first for node in tensor.outputs] == [True]


def test_taking_a_node_off_a_tensor_looks_at_no_other() -> None:
    class Attribute:
        def __eq__(self, other: object) -> bool:
            raise AssertionError("compared")

        __hash__ = None  # type: ignore[assignment]

    tensor = gs.Variable("x")
    nodes = [Node("Relu", "", {"a": Attribute()}, [tensor], []) for _ in range(3)]
    detach(nodes[-1])
    assert len(tensor.outputs) == 2


@pytest.mark.parametrize("made", [lambda model: model, Model.copy], ids=["read", "copied"])
def test_all_nodes_are_ours_in_bodies_too(made: Callable[[Model], Model]) -> None:
    nodes = list(every_node(made(model_of(NESTED)).graph))
    assert [type(node) for node in nodes] == [Node] * 3


def test_no_other_nodes_are_made() -> None:
    others = [
        (file.relative_to(ROOT), line)
        for file in files()
        for line in file.read_text().splitlines()
        if re.search(r"\bgs\.Node\(", line) and ">>>" not in line
    ]
    assert not others, "take onnxgraft.graph.node.Node, which is only equal to itself"
