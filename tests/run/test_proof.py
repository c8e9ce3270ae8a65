"""An engine that answers without computing is no right engine, however coarse its graph is."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest

from onnxgraft.graph.model import Model, Source
from onnxgraft.graph.tensors import Array, Feeds, Outputs, TensorSpec
from onnxgraft.run import proof as proof_of
from onnxgraft.run.engine import Resource
from onnxgraft.run.exact import exact
from onnxgraft.run.proof import Proof, Reference, trials, wide_trials

X = TensorSpec("x", "float32", ("N", 4))
RNG = np.random.default_rng(0)
FEEDS: list[Feeds] = [{"x": RNG.standard_normal((500, 4)).astype(np.float32)} for _ in range(2)]


class Answering(Resource):
    """An engine that makes something of the right answer."""

    name = "engine"
    inputs = (X,)
    outputs = (TensorSpec("y", "float32", ("N", 4)),)

    def __init__(self, model: Model, answer: Callable[[Array], Array]) -> None:
        self._model, self._answer = model, answer

    def infer(self, feeds: Feeds) -> Outputs:
        with exact(self._model) as session:
            return {"y": self._answer(session.infer(feeds)["y"])}


def coarse(step: float, bias: float = 0.0) -> Model:
    """Return a graph whose activations are multiples of ``step``, for normal numbers."""
    text = f"""<ir_version: 8, opset_import: ["" : 17]>
        g (float[N,4] x) => (float[N,4] y)
        <float s = {{{step}}}, int8 z = {{0}}, float b = {{{bias}}}> {{
        q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) y = Add(d, b) }}"""
    return Model.from_onnx(onnx.parser.parse_model(text), Source("g", "onnx", ""))


def proof(model: Model, answer: Callable[[Array], Array]) -> Proof:
    (found,) = Reference(model, FEEDS).hold(Answering(model, answer))
    return found


@pytest.mark.parametrize("bias", [0.0, 5.0])
@pytest.mark.parametrize("step", [3.0, 4.0])
def test_an_engine_of_a_coarse_graph_passes_where_it_answers_what_the_graph_says(
    step: float, bias: float
) -> None:
    assert proof(coarse(step, bias), lambda right: right).passed


def test_an_engine_that_answers_zeros_is_wrong_though_its_graph_keeps_less_than_a_decibel() -> None:
    found = proof(coarse(4.0), np.zeros_like)
    assert found.exact < 1
    assert not found.passed
    assert "zeros or a constant would keep" in found.reason


def test_an_engine_that_answers_a_constant_is_wrong_though_its_graph_is_no_nearer() -> None:
    found = proof(coarse(4.0, 5.0), lambda right: np.full_like(right, right.mean()))
    assert found.engine > found.exact - 1
    assert not found.passed
    assert "zeros or a constant would keep" in found.reason


def test_an_engine_of_a_coarse_graph_may_round_some_values_otherwise() -> None:
    def answer(right: Array) -> Array:
        moved = right.copy()
        moved.flat[::200] += 4.0
        return moved

    assert proof(coarse(4.0), answer).passed


def test_of_large_answers_few_are_held_and_the_last_one_always(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(proof_of, "KEPT_BYTES", 3 * 4 * 4 - 1)  # three answers of four floats
    feeds: list[Feeds] = [{"x": np.full((1, 4), turn, np.float32)} for turn in range(9)]
    feeds.append({"x": np.full((2, 4), 9, np.float32)})
    held = Reference(coarse(1.0), feeds).feeds
    assert [int(fed["x"][0, 0]) for fed in held] == [0, 1, 2, 9]
    monkeypatch.setattr(proof_of, "KEPT_BYTES", 4 * 4 // 2 - 1)
    assert len(Reference(coarse(1.0), feeds).feeds) == 1


def test_of_large_samples_few_are_tried_and_a_batch_of_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = coarse(1.0)
    assert [len(fed["x"]) for fed in trials(model, (X,))] == [1] * 16 + [4]
    monkeypatch.setattr(proof_of, "KEPT_BYTES", 3 * 4 * 4 - 1)
    assert [len(fed["x"]) for fed in trials(model, (X,))] == [1, 1, 1, 4]


@pytest.mark.parametrize("tf32", [False, True], ids=["on a CPU", "on a GPU"])
def test_tf32_explains_a_difference_only_where_an_engine_may_compute_in_it(tf32: bool) -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]>
        g (float[N,4] x) => (float[N,4] y) { y = Relu(x) }"""
    model = Model.from_onnx(onnx.parser.parse_model(text), Source("g", "onnx", ""))
    rounded = Answering(model, lambda right: right * np.float32(1.001))
    (found,) = Reference(model, FEEDS).hold(rounded, tf32=tf32)
    assert not found.passed
    assert ("TF32 would explain it" in found.reason) is tf32


HALVES = np.random.default_rng(0).integers(-100, 100, (500, 4)) / 100 + 0.005


def rounded(values: Array, steps: int, off: float) -> Proof:
    """Return the proof of an engine that rounds to steps of 1 / ``steps``, and is off at times."""
    text = f"""<ir_version: 8, opset_import: ["" : 17]>
        g (float[N,4] x) => (float[N,4] y) <float step = {{{steps}}}>
        {{ a = Mul(x, step) b = Round(a) y = Div(b, step) }}"""
    model = Model.from_onnx(onnx.parser.parse_model(text), Source("g", "onnx", ""))

    def answer(right: Array) -> Array:
        made = right.copy()
        made.flat[::7] += np.float32(off)
        return made

    reference = Reference(model, [{"x": values.astype(np.float32)}])
    (found,) = reference.hold(Answering(model, answer))
    return found


@pytest.mark.parametrize("off", [0.01, -0.01])
def test_a_value_in_the_middle_of_two_whole_numbers_may_be_rounded_to_either(off: float) -> None:
    assert rounded(HALVES, 100, off).passed


@pytest.mark.parametrize(
    ("values", "steps", "off"),
    [(HALVES, 100, 0.03), (HALVES + 0.003, 100, 0.01), (np.round(HALVES * 5) / 5 + 0.1, 5, 0.2)],
    ids=["three steps off", "nothing near the middle", "steps of a tenth of the range"],
)
def test_an_engine_that_rounding_does_not_explain_is_wrong(
    values: Array, steps: int, off: float
) -> None:
    assert not rounded(values, steps, off).passed


@pytest.mark.parametrize(
    ("graph", "powers"),
    [
        ("g (int32[N,4] x) => (int32[N,4] y) { y = Add(x, x) }", {7, 14, 20, 24, 30}),
        ("g (uint8[N,4] x) => (uint8[N,4] y) { y = Add(x, x) }", {7}),
        ("g (uint8[N,3,4,4] x) => (uint8[N,3,4,4] y) { y = Max(x, x) }", set()),
        ("g (float[N,4] x) => (float[N,4] y) { y = Relu(x) }", set()),
        ("g (int64[N] x) => (float[N] y) <float[2] t = {1,2}> { y = Gather(t, x) }", set()),
        ("g (float[4] x, int64[1] n) => (float[M] y) { y = Expand(x, n) }", set()),
    ],
    ids=["32 bits", "8 bits", "a picture", "floats", "rows of a table", "a size"],
)
def test_large_whole_numbers_are_tried_where_they_are_numbers(graph: str, powers: set[int]) -> None:
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]>\n{graph}')
    model = Model.from_onnx(proto, Source("g", "onnx", ""))
    found = wide_trials(model, model.inputs)
    assert {power for power, _ in found} == powers
    assert all((fed["x"] > 2**power - 4).all() for power, fed in found)
