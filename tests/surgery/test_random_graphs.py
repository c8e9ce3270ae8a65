"""Random graphs: whatever the passes make of them, every named tensor keeps its value."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxgraft.graph.model import Model
from onnxgraft.graph.tensors import Array
from onnxgraft.run.feeds import random_feeds
from onnxgraft.stages.surgery import PASSES, run
from onnxgraft.stages.surgery.running.history import Change, History, Point
from onnxgraft.stages.surgery.running.rewrite import Context, Pass, Result
from tests.conftest import CI, DEEP
from tests.random_networks.choices import Drawn
from tests.random_networks.onnx_graphs import onnx_graph
from tests.surgery.helpers import infer, tensor_values

# A graph has up to ten layers, each of which rounds to some 1e-6 of its values' size, and sums and
# a softmax may magnify that; a wrong weight, axis or permutation is off by the values' own size.
TOLERANCE = 1e-4
many = settings(max_examples=1000 if DEEP else 150 if CI else 40)


@st.composite
def models(draw: st.DrawFn) -> Model:
    """A random graph."""
    return onnx_graph(Drawn(draw))


def assert_close(expected: Array, actual: Array, what: str) -> None:
    assert actual.shape == expected.shape, what
    limit = TOLERANCE * max(1.0, float(np.abs(expected).max()))
    assert float(np.abs(actual - expected).max()) <= limit, what


@many
@given(models())
def test_a_cleaned_random_graph_computes_the_same(before: Model) -> None:
    after, report = run(before)
    assert not [entry.rolled_back for entry in report.passes if entry.rolled_back]
    onnx.checker.check_model(after.to_onnx(), full_check=True)
    assert after.inputs == before.inputs
    assert [(s.name, s.dtype) for s in after.outputs] == [(s.name, s.dtype) for s in before.outputs]
    assert report.after.get("Transpose", 0) <= report.before.get("Transpose", 0)
    for batch in (1, 3):
        feeds = random_feeds(before.inputs, batch)
        expected, actual = infer(before, feeds), infer(after, feeds)
        for name, value in expected.items():
            assert_close(value, actual[name], f"output {name} at batch {batch}")


@many
@given(models())
def test_a_cleaned_random_graph_knows_its_tensors_by_name(before: Model) -> None:
    after, _ = run(before)
    names = list(after.names)
    assert set(names) <= set(after.graph.tensors())
    feeds = random_feeds(before.inputs, 3)
    found = tensor_values(after, names, feeds)
    origins = sorted({origin.name for origin in after.names.values()})
    wanted = tensor_values(before, origins, feeds)
    for name, origin in after.names.items():
        value = wanted[origin.name]
        held = value if origin.perm is None else np.transpose(value, origin.perm)
        assert_close(held, found[name], f"tensor {name}")


def shift() -> Pass:
    """Return a pass that adds 1 to an output of the graph, once."""
    fired: list[str] = []

    def apply(graph: gs.Graph, context: Context) -> Result:
        result = Result()
        output = graph.outputs[0]
        if fired or not output.inputs:
            return result
        node = output.inputs[0]
        fired.append(node.name)
        before = context.variable("before_the_shift", output)
        for consumer in list(output.outputs):
            consumer.inputs = [before if t is output else t for t in consumer.inputs]
        node.outputs = [before if t is output else t for t in node.outputs]
        one = context.constant("one", np.ones((), np.float32))
        context.add("Add", "shift", [before, one], [output])
        result.did(node, "shifted")
        return result

    return Pass("shift", apply)


def text_of(model: Model) -> str:
    return str(onnx.printer.to_text(model.to_onnx()))


@many
@given(models(), st.integers(0, len(PASSES)))
def test_a_wrong_pass_leaves_no_trace_in_a_random_graph(before: Model, place: int) -> None:
    expected, _ = run(before)
    states: list[tuple[str, Point]] = []

    class Watched(History):
        def add(self, change: Change) -> None:
            assert change.before is not None
            if len(self.changes) % 3 == 0:  # writing a graph takes as long as what is tried
                states.append((text_of(self._model), Point(self._model, self._context)))
            super().add(change)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("onnxgraft.stages.surgery.running.runner.History", Watched)
        patch.setattr(
            "onnxgraft.stages.surgery.running.runner.PASSES",
            (*PASSES[:place], shift(), *PASSES[place:]),
        )
        after, report = run(before, verify=True)
    assert [entry.name for entry in report.passes if entry.rolled_back] == ["shift"]
    assert text_of(after) == text_of(expected)
    assert after.names == expected.names
    # The states that were passed through can be gone back to, in any order.
    for text, point in (states[0], states[-1], states[len(states) // 2], states[0]):
        point.restore()
        assert text_of(after) == text
