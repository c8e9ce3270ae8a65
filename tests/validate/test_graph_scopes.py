"""Blocks that nodes are folded into: by the framework's scopes, or by where they stand."""

from __future__ import annotations

from collections.abc import Sequence

from onnxgraft.stages.validate.views.graph.data import Shown
from onnxgraft.stages.validate.views.graph.scopes import LEAST, MOST, fold


def chain(names: Sequence[str]) -> list[Shown]:
    """Return nodes that each read what the one before makes."""
    return [
        Shown(name, "Op", inputs=[place] if place else [], outputs=[place + 1])
        for place, name in enumerate(names)
    ]


def folded(names: Sequence[str]) -> dict[str, str]:
    """Return, of each node of a chain, the blocks that it is in."""
    nodes = chain(names)
    blocks = fold(nodes, [[*filter(None, name.split("/"))][:-1] for name in names])

    def path(place: int) -> str:
        if place < 0:
            return ""
        return "/".join(filter(None, (path(blocks[place].parent), blocks[place].name)))

    return {node.name: path(node.block) for node in nodes}


def test_a_scope_of_several_nodes_is_a_block_in_that_around_it() -> None:
    names = ["a/b/x", "a/b/y", "a/c/x", "a/c/y", "z"]
    assert folded(names) == {
        "a/b/x": "a/b", "a/b/y": "a/b", "a/c/x": "a/c", "a/c/y": "a/c", "z": "",
    }  # fmt: skip


def test_a_scope_of_one_node_is_no_block() -> None:
    assert folded(["conv/x", "relu/x", "pool/x"]) == {"conv/x": "", "relu/x": "", "pool/x": ""}


def test_a_scope_with_nothing_but_another_in_it_is_one_with_it() -> None:
    assert set(folded(["net/layer/x", "net/layer/y", "out"]).values()) == {"net/layer", ""}


def test_a_name_that_repeats_what_is_around_it_is_told_once() -> None:
    names = ["/features/features.0/x", "/features/features.0/y"]
    assert set(folded(names).values()) == {"features.0"}


def test_a_node_with_the_name_of_a_block_is_in_it() -> None:
    assert folded(["conv1", "conv1/bn", "conv1/scale", "pool"]) == {
        "conv1": "conv1", "conv1/bn": "conv1", "conv1/scale": "conv1", "pool": "",
    }  # fmt: skip


def test_what_stands_loose_between_nodes_of_one_block_is_in_it() -> None:
    found = folded(["a/x", "add", "relu6", "a/y", "mul", "b/x", "b/y"])
    assert (found["add"], found["relu6"]) == ("a", "a")
    assert found["mul"] == ""


def test_inputs_and_outputs_are_in_no_block() -> None:
    nodes = chain(["in", "a/x", "a/y", "out"])
    nodes[0].role, nodes[3].role = "input", "output"
    fold(nodes, [(), ("a",), ("a",), ()])
    assert [node.block for node in nodes] == [-1, 0, 0, -1]


def test_many_nodes_without_scopes_are_folded_by_what_neighbours_begin_with() -> None:
    names = [f"res{stage}{part}_{op}" for stage in range(2, 5) for part in "abcdef"
             for op in ("conv1", "bn1", "conv2", "bn2")]  # fmt: skip
    found = folded(names)
    assert found["res2a_conv1"] == found["res2a_bn2"] == "res2a"
    assert len(set(found.values())) == 18


def test_few_nodes_are_not_folded_by_their_names() -> None:
    assert set(folded([f"res2a_{op}" for op in ("conv", "bn", "relu")]).values()) == {""}


def test_thousands_of_nodes_without_names_are_folded_into_runs_that_one_can_look_at() -> None:
    nodes = chain([f"node_{place}" for place in range(4000)])
    blocks = fold(nodes, [()] * 4000)
    beside: dict[int, int] = {}
    for parent in (*(node.block for node in nodes), *(block.parent for block in blocks)):
        beside[parent] = beside.get(parent, 0) + 1
    assert max(beside.values()) <= MOST
    assert min(beside.values()) >= LEAST


def test_runs_hold_neighbours_in_their_order() -> None:
    nodes = chain([f"node_{place}" for place in range(500)])
    fold(nodes, [()] * 500)
    places = [node.block for node in nodes]
    assert places == sorted(places)


def test_a_block_stands_behind_the_one_around_it() -> None:
    names = ["a/b/c/x", "a/b/c/y", "a/b/x", "a/x"]
    nodes = chain(names)
    blocks = fold(nodes, [name.split("/")[:-1] for name in names])
    assert all(block.parent < place for place, block in enumerate(blocks))
