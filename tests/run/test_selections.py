"""Indices are compared by what they select: ties are no difference, other choices are."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from onnxgraft.graph.model import Model
from onnxgraft.graph.tensors import Array, Outputs
from onnxgraft.run.selections import Selector, selecting
from onnxgraft.run.session import OnnxRuntime
from onnxgraft.run.verdicts import hold
from tests.conftest import model_of

ARGMAX = (
    "net (float[N, 4, 8, 8] x) => (int32[N, 8, 8] y)"
    " { s = Mul(x, two) a = ArgMax<axis = 1, keepdims = 0>(s) y = Cast<to = 6>(a) }"
)
TOPK = (
    "net (float[N, 20] x) => (float[N, 5] best, int64[N, 5] y)"
    " { s = Mul(x, two) best, y = TopK<axis = 1>(s, five) }"
)
NMS = (
    "net (float[1, 6, 4] boxes, float[1, 1, 6] x) => (int64[K, 3] y)"
    " { s = Mul(x, two) y = NonMaxSuppression(boxes, s, most, overlap, least) }"
)
CONSTANTS: dict[str, Array] = {
    "two": np.array(2, np.float32), "five": np.array([5], np.int64),
    "most": np.array([4], np.int64), "overlap": np.array([0.5], np.float32),
    "least": np.array([0.1], np.float32),
}  # fmt: skip
BOXES = np.array(
    [[0, 0, 9, 9], [0, 0, 9, 9.1], [20, 20, 29, 29], [20, 20, 29, 29.2], [40, 40, 49, 49],
     [60, 60, 69, 69]], np.float32,
)[None]  # fmt: skip


def network(text: str) -> Model:
    used = {name: value for name, value in CONSTANTS.items() if name in text}
    return model_of(text, used)


def run(model: Model, feeds: Mapping[str, Array]) -> Outputs:
    with OnnxRuntime(model.to_onnx(), optimize=False) as session:
        return session.infer(feeds)


def held(model: Model, feeds: Mapping[str, Array], actual: Array) -> bool:
    expected = {"y": run(model, feeds)["y"]}
    with Selector(model) as selector:
        chosen = selector.at(feeds, expected)
    return hold(expected, {"y": actual}, chosen=chosen)[0].passed


@pytest.mark.parametrize(
    ("text", "operator"),
    [(ARGMAX, "ArgMax"), (TOPK, "TopK"), (NMS, "NonMaxSuppression")],
    ids=["argmax", "topk", "nms"],
)
def test_an_output_of_indices_is_known_by_its_operator(text: str, operator: str) -> None:
    found = selecting(network(text))
    assert list(found) == ["y"]
    assert (found["y"].operator, found["y"].scores) == (operator, "s")


def test_an_operator_of_another_domain_selects_nothing() -> None:
    model = network(ARGMAX)
    next(node for node in model.graph.nodes if node.op == "ArgMax").domain = "acme"
    assert selecting(model) == {}


def test_either_class_of_a_tie_is_right_and_any_other_is_not() -> None:
    x = np.zeros((1, 4, 8, 8), np.float32)
    x[:, 1] = x[:, 3] = 1.0
    x[:, 3] += np.float32(1e-7)
    x[:, 0] = 0.9
    model = network(ARGMAX)
    for kind, right in ((1, True), (3, True), (0, False), (2, False)):
        assert held(model, {"x": x}, np.full((1, 8, 8), kind, np.int32)) is right


def test_equal_scores_may_change_places_in_a_top_k() -> None:
    x = np.arange(20, dtype=np.float32)[None]
    x[0, 18] = x[0, 19]
    model = network(TOPK)
    best = run(model, {"x": x})["y"]
    assert best.tolist() == [[18, 19, 17, 16, 15]]
    assert held(model, {"x": x}, best[:, [1, 0, 2, 3, 4]])
    assert not held(model, {"x": x}, best[:, [0, 2, 1, 3, 4]])
    assert not held(model, {"x": x}, best + 1)
    assert not held(model, {"x": x}, np.zeros_like(best))


def test_boxes_are_the_same_where_they_overlap_and_score_alike() -> None:
    x = np.array([0.8, 0.8, 0.6, 0.6, 0.4, 0.03], np.float32).reshape(1, 1, 6)
    model, feeds = network(NMS), {"boxes": BOXES, "x": x}
    assert run(model, feeds)["y"][:, 2].tolist() == [0, 2, 4]
    for boxes, right in (
        ([0, 2, 4], True), ([1, 3, 4], True), ([2, 0, 4], True), ([0, 2], False),
        ([0, 2, 5], False), ([0, 2, 4, 5], False), ([], False),
    ):  # fmt: skip
        rows = np.array([[0, 0, box] for box in boxes], np.int64).reshape(-1, 3)
        assert held(model, feeds, rows) is right, boxes


def test_indices_beyond_the_scores_are_wrong() -> None:
    x = np.random.default_rng(0).standard_normal((1, 20)).astype(np.float32)
    model = network(TOPK)
    assert not held(model, {"x": x}, run(model, {"x": x})["y"] + 1000)


def test_a_graph_that_chooses_otherwise_than_the_original_is_no_witness() -> None:
    x = np.random.default_rng(0).standard_normal((1, 4, 8, 8)).astype(np.float32)
    model = network(ARGMAX)
    expected = {"y": run(model, {"x": -x})["y"]}
    with Selector(model) as selector:
        assert selector.at({"x": x}, expected).pair("y", expected["y"]) is None


def test_a_box_at_the_least_score_may_be_selected_or_not() -> None:
    x = np.array([0.8, 0.1, 0.6, 0.1, 0.05, 0.03], np.float32).reshape(1, 1, 6)
    model, feeds = network(NMS), {"boxes": BOXES, "x": x}
    assert run(model, feeds)["y"][:, 2].tolist() == [0, 2]
    assert held(model, feeds, np.array([[0, 0, 0], [0, 0, 2], [0, 0, 4]]))
    assert not held(model, feeds, np.array([[0, 0, 0], [0, 0, 2], [0, 0, 5]]))
