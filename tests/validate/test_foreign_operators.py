"""Operators of other domains, where the first wrong layer is looked for."""

from __future__ import annotations

from onnxgraft.graph.model import Model
from onnxgraft.run.feeds import random_feeds
from onnxgraft.stages.validate import find_divergence
from onnxgraft.stages.validate.divergence.forced import ForcedGraph
from onnxgraft.stages.validate.divergence.matching import MatchedGraph
from tests.conftest import model_of
from tests.foreign import foreign, microsoft
from tests.quantize.networks import pair


def test_onnxruntime_s_own_quantizers_are_quantizers() -> None:
    graph = ForcedGraph(microsoft())
    assert [(q.node, q.tensor) for q in graph.quantizers] == [("q", "r")]
    assert graph.segment("y", {"r"}).given == {"r"}


def test_a_foreign_quantizer_is_no_quantizer() -> None:
    model = model_of(
        "g (float[N,4] x) => (float[N,4] y) {"
        " s = Constant<value_float = 0.1>() z = Constant<value = uint8 {0}>()"
        " [q] q = QuantizeLinear(x, s, z) [dq] y = DequantizeLinear(q, s, z) }"
    )
    assert ForcedGraph(model).segment("y", set()).precision == "int8"
    assert ForcedGraph(foreign(model, "q")).segment("q", set()).precision == "fp32"


def wrong(model: Model, layer: str) -> Model:
    """Return the model with larger weights in one layer."""
    changed = model.copy()
    (node,) = (node for node in changed.graph.nodes if node.name == layer)
    node.inputs[1].values = node.inputs[1].values * 1.5
    return changed


def test_a_foreign_layer_is_named_with_its_domain() -> None:
    original = pair()
    candidate = wrong(foreign(original, "second"), "second")
    found = find_divergence(original, candidate, random_feeds(original.inputs, 1))
    assert found is not None
    assert (found.tensor, found.operator) == ("d", "acme.Conv")


def test_a_foreign_identity_is_not_looked_through() -> None:
    model = model_of(
        "g (float[N,4] x) => (float[N,4] y) { [a] a = Relu(x) [it] b = Identity(a) y = Exp(b) }"
    )
    feeds = random_feeds(model.inputs, 1)
    assert "b" not in MatchedGraph(model, model, feeds).pairs
    other = foreign(model, "it")
    assert "b" in MatchedGraph(other, other, feeds).pairs
