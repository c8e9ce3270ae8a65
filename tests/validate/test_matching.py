"""Two graphs without a name in common: the layer where they part is named all the same."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from onnxgraft.graph.model import Model
from onnxgraft.stages.validate import MatchedGraph, bisect
from tests.conftest import few, model_of
from tests.validate.planted import Healthy, plant, thin

KINDS = ("weight", "pad", "channels", "bias")
TRIALS = 2


@pytest.fixture(scope="module", params=few(["squeezenet", "googlenet", "fcn8s"], 2))
def network(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Healthy]:
    made = thin(request.param, tmp_path_factory.mktemp(request.param))
    yield made
    made.original.close()


def renamed(model: Model) -> Model:
    """Return the model with other names, in another order of the nodes that is as good."""
    copy = model.copy()
    for number, tensor in enumerate(copy.graph.tensors().values()):
        tensor.name = f"t{number}"
    copy.graph.nodes.reverse()
    copy.graph.toposort()
    copy.names = {}
    return copy


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_healthy_network_is_paired_and_no_layer_is_named(
    network: Healthy, precision: str
) -> None:
    other = renamed(getattr(network, precision))
    inside = MatchedGraph(network.fp32, other, network.feeds)
    found = bisect(inside, other, network.feeds)
    assert found is not None
    assert found.divergences == []
    nodes = [n for n in network.fp32.graph.nodes if n.op not in ("Transpose", "Identity")]
    assert len(found.layers) >= (0.95 if precision == "fp32" else 0.8) * len(nodes)


@pytest.mark.parametrize("kind", few(KINDS, 2, 3))
def test_the_layer_with_the_fault_is_named(network: Healthy, kind: str) -> None:
    rng = np.random.default_rng(KINDS.index(kind))
    for _ in range(TRIALS):
        planted = plant(network, kind, rng)
        other = renamed(planted.model)
        found = bisect(MatchedGraph(network.fp32, other, network.feeds), other, network.feeds)
        assert found is not None
        assert found.divergences, planted.node
        assert planted.node in found.divergences[0].nodes, (planted.node, str(found.divergences[0]))
        assert found.divergences[0].own.startswith("t")


def test_memory_is_kept_to_by_parts(network: Healthy) -> None:
    other = renamed(network.fp32)
    whole = MatchedGraph(network.fp32, other, network.feeds)
    parts = MatchedGraph(network.fp32, other, network.feeds, memory=1 << 16)
    assert parts.pairs == whole.pairs


def test_layouts_are_seen_through() -> None:
    text = "net (float[1, 3, 5, 6] x) => (float[1, 2, 5, 6] y) { a = Conv(x, w)  y = Relu(a) }"
    other = """
        net (float[1, 5, 6, 3] image) => (float[1, 5, 6, 2] out) {
          q = MatMul(image, v)  out = Relu(q)
        }
    """
    weights = np.random.default_rng(0).standard_normal((2, 3, 1, 1)).astype(np.float32)
    one = model_of(text, {"w": weights})
    two = model_of(other, {"v": np.ascontiguousarray(weights[:, :, 0, 0].T)})
    feeds = {"x": np.random.default_rng(1).standard_normal((1, 3, 5, 6)).astype(np.float32)}
    inside = MatchedGraph(one, two, feeds)
    assert {name: (s.asked, s.perm) for name, s in inside.pairs.items()} == {
        "q": ("a", (0, 2, 3, 1)), "out": ("y", (0, 2, 3, 1)),
    }  # fmt: skip
    found = bisect(inside, two, feeds)
    assert found is not None
    assert found.divergences == []
    for node in two.graph.nodes:
        if node.op == "Relu":
            node.op = "Abs"
    found = bisect(MatchedGraph(one, two, feeds), two, feeds)
    assert found is not None
    assert [(p.tensor, p.origin, p.own) for p in found.divergences] == [("out", "y", "out")]
    assert isinstance(two.graph, gs.Graph)
