"""What became of each node, told by the graph before and after a pass."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.graph.model import Model
from onnxgraft.graph.tensors import Array
from onnxgraft.graph.walk import detach, tidy
from onnxgraft.stages import surgery
from onnxgraft.stages.surgery import Finding, Move, SurgeryReport, followed
from onnxgraft.stages.surgery.running.lineage import moves
from onnxgraft.stages.surgery.running.snapshot import Snapshot
from tests.conftest import Cli, model_of

RNG = np.random.default_rng(0)
CONV_BN = """n (float[1, 3, 8, 8] x) => (float[1, 4, 8, 8] y) {
  [pad] a = Identity(x) [conv] b = Conv<pads = [1, 1, 1, 1]>(a, w)
  [bn] c = BatchNormalization(b, s, s, s, s) [act] y = Relu(c) }"""
WEIGHTS = {
    "w": RNG.normal(size=(4, 3, 3, 3)).astype(np.float32),
    "s": RNG.uniform(0.5, 1.5, 4).astype(np.float32),
}


def cleaned(text: str, weights: dict[str, Array], **how: Any) -> tuple[Model, SurgeryReport]:
    return surgery.run(model_of(text, weights), **how)


def test_a_folded_node_lives_on_in_the_one_that_does_its_work() -> None:
    _, report = cleaned(CONV_BN, WEIGHTS)
    (move,) = [move for move in report.moves if move.node == "bn"]
    assert (move.by, move.what, move.into) == ("fold_batchnorm", "removed", ("conv",))
    assert "conv" in move.why


def test_the_node_that_takes_another_in_is_changed_by_the_same_pass() -> None:
    _, report = cleaned(CONV_BN, WEIGHTS)
    assert ("fold_batchnorm", "conv", "changed") in {(m.by, m.node, m.what) for m in report.moves}


def test_a_node_that_did_nothing_is_gone_without_an_heir() -> None:
    _, report = cleaned(CONV_BN, WEIGHTS)
    (move,) = [move for move in report.moves if move.node == "pad"]
    assert (move.by, move.what, move.into) == ("remove_identity", "removed", ())


def test_a_node_that_is_new_is_made_and_takes_in_what_it_replaces() -> None:
    graph = model_of("n (float[2] x) => (float[2] y) { [a] t = Neg(x) [b] y = Neg(t) }").graph
    before = Snapshot(graph)
    old = graph.nodes[1]
    graph.nodes.append(gs.Node("Identity", "new", {}, [graph.inputs[0]], [graph.outputs[0]]))
    detach(old)
    tidy(graph)
    found = moves("cancel", before, graph, [Finding("b", "two of them are none")])
    assert [(move.node, move.what, move.into) for move in found] == [
        ("new", "made", ()), ("a", "removed", ("new",)), ("b", "removed", ("new",)),
    ]  # fmt: skip
    assert {move.why for move in found} == {"two of them are none"}


def test_a_node_whose_attributes_become_others_is_changed() -> None:
    graph = model_of(
        "n (float[2,3] x) => (float[3,2] y) { [a] y = Transpose<perm=[1,0]>(x) }"
    ).graph
    before = Snapshot(graph)
    graph.nodes[0].attrs["perm"] = [0, 1]
    assert [(m.node, m.what) for m in moves("turn", before, graph, [])] == [("a", "changed")]


def test_a_node_that_reads_another_tensor_alone_is_not_changed() -> None:
    graph = model_of("n (float[2] x) => (float[2] y) { [a] t = Identity(x) [b] y = Neg(t) }").graph
    before = Snapshot(graph)
    graph.nodes[1].inputs[0] = graph.inputs[0]
    tidy(graph)
    assert [(m.node, m.what) for m in moves("skip", before, graph, [])] == [("a", "removed")]


def test_what_is_left_alone_has_no_moves() -> None:
    _, report = cleaned(CONV_BN, WEIGHTS, only=["remove_identity"])
    assert {move.node for move in report.moves} == {"pad"}


def test_every_node_that_is_gone_has_a_move_and_every_heir_was_there_or_is_there() -> None:
    given = model_of(CONV_BN, WEIGHTS)
    before = {str(node.name) for node in given.graph.nodes}
    model, report = surgery.run(given)
    after = {str(node.name) for node in model.graph.nodes}
    assert before - after == {m.node for m in report.moves if m.what == "removed"} - after
    assert {name for m in report.moves for name in m.into} <= before | after


def test_nodes_are_followed_through_several_passes() -> None:
    moves = [
        Move("one", "a", "removed", ("b",)),
        Move("two", "b", "removed", ("c", "d")),
        Move("two", "d", "made"),
        Move("three", "e", "removed"),
    ]
    assert followed(moves, ["a", "b", "c", "e"]) == {
        "a": {"c", "d"}, "b": {"c", "d"}, "c": {"c"}, "e": set(),
    }  # fmt: skip


def test_the_report_of_surgery_has_them(cli: Cli, tmp_path: Path) -> None:
    model_of(CONV_BN, WEIGHTS).save(tmp_path / "m.onnx")
    cli("surgery", tmp_path / "m.onnx", "--report", tmp_path / "r.json", "-o", tmp_path / "c.onnx")
    told = json.loads((tmp_path / "r.json").read_text())["moves"]
    assert ["fold_batchnorm", "bn", "removed", ["conv"]] in [
        [move["by"], move["node"], move["what"], move["into"]] for move in told
    ]
