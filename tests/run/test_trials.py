"""What an engine is run on where there are no samples."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from onnxgraft.errors import InputError
from onnxgraft.graph.model import Model, Source
from onnxgraft.run.proof import Reference, trials

WEIGHTS = np.ones((300, 2), np.float32)
NETWORKS = {
    "a table of two rows": """g (int64[N,4] x) => (float[N,4,2] y)
        <float[2,2] t = {1,2,3,4}> { y = Gather(t, x) }""",
    "a least length": """g (float[N,L] x) => (float[N,M] y)
        <int64[4] p = {0,64,0,0}> { y = Pad<mode = "reflect">(x, p) }""",
    "a length that nothing tells": """g (float[N,L] x) => (float[N,2] y)
        <int64[1] b = {0}, int64[1] e = {300}, int64[1] a = {1}> {
        s = Slice(x, b, e, a) y = MatMul(s, w) }""",
}


@pytest.mark.parametrize("text", NETWORKS.values(), ids=NETWORKS)
def test_the_graph_takes_every_trial(text: str) -> None:
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]>\n{text}')
    proto.graph.initializer.append(onnx.numpy_helper.from_array(WEIGHTS, "w"))
    model = Model.from_onnx(proto, Source("g", "onnx", ""))
    feeds = trials(model, model.inputs)
    assert len(Reference(model, feeds).feeds) == len(feeds) > 1


def test_a_graph_of_text_has_no_trials_and_says_so() -> None:
    text = "g (string[N] x) => (string[N] y) { y = Identity(x) }"
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]>\n{text}')
    model = Model.from_onnx(proto, Source("g", "onnx", ""))
    assert trials(model, model.inputs) == []
    with pytest.raises(InputError, match="can't be fed with random numbers"):
        Reference(model, [])


def test_a_graph_that_takes_no_feeds_has_trials_all_the_same() -> None:
    text = """g (int64[N,4] x) => (float[N,4,2] y) <float[2,2] t = {1,2,3,4}, int64 k = {5}> {
        i = Mul(x, k) n = Add(i, k) y = Gather(t, n) }"""
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]>\n{text}')
    model = Model.from_onnx(proto, Source("g", "onnx", ""))
    feeds = trials(model, model.inputs)
    with pytest.raises(InputError, match="out of data bounds"):
        Reference(model, feeds)


def test_samples_of_several_sizes_are_not_put_into_one_batch() -> None:
    text = "g (float[N,3,H,W] x) => (float[N,3,H,W] y) { y = Relu(x) }"
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]>\n{text}')
    model = Model.from_onnx(proto, Source("g", "onnx", ""))
    rng = np.random.default_rng(0)
    sizes = [(4, 6), (5, 5), (4, 6), (7, 2)]
    samples = [{"x": rng.normal(size=(1, 3, *size)).astype(np.float32)} for size in sizes]
    *single, together = trials(model, model.inputs, samples)
    assert [feeds["x"].shape[2:] for feeds in single] == sizes[: len(single)]
    first, third = samples[0]["x"], samples[2]["x"]
    np.testing.assert_array_equal(together["x"], np.concatenate([first, third] * 2))
