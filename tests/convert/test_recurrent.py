"""Recurrent networks against TensorFlow: RNN, GRU and LSTM where the pattern is exact."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from onnxgraft.errors import NotSupportedError
from onnxgraft.graph.model import Model
from onnxgraft.graph.tensors import Array
from onnxgraft.run.session import OnnxRuntime
from onnxgraft.stages import surgery
from onnxgraft.stages.convert import Original
from tests.conftest import few

tf = pytest.importorskip("tensorflow")
keras = pytest.importorskip("keras")
layers = keras.layers

# Two batch sizes and two lengths.
SIZES = ((1, 6), (3, 9))
CELLS = {"LSTM": layers.LSTM, "GRU": layers.GRU, "RNN": layers.SimpleRNN}
RECURRENT = ("GRU", "LSTM", "Loop", "RNN")


def operators(model: Model) -> dict[str, int]:
    """Count the recurrent operators and loops, those within others too."""
    found: Counter[str] = Counter()

    def count(graph: gs.Graph) -> None:
        for node in graph.nodes:
            found[node.op] += 1
            for value in node.attrs.values():
                if isinstance(value, gs.Graph):
                    count(value)

    count(model.graph)
    return {op: found[op] for op in RECURRENT if found[op]}


def agree(path: Path, change: Callable[[Array], Array] | None = None) -> dict[str, int]:
    """Assert that file and ONNX agree, before and after surgery; return what is recurrent in it."""
    model, _ = Original.of(path).lower()
    cleaned, _ = surgery.run(model)
    assert operators(model) == operators(cleaned)
    with Original.of(path).run() as reference:
        for batch, length in SIZES:
            rng = np.random.default_rng(length)
            feeds = {}
            for spec in reference.inputs:
                sizes = [
                    size if isinstance(size, int) else (batch if axis == 0 else length)
                    for axis, size in enumerate(spec.shape)
                ]
                value = rng.standard_normal(sizes).astype(spec.dtype)
                feeds[spec.name] = change(value) if change else value
            expected = reference.infer(feeds)
            for candidate in (model, cleaned):
                with OnnxRuntime(candidate.to_onnx()) as session:
                    actual = session.infer(feeds)
                for name, value in expected.items():
                    # float32 sums of some 20 terms of size 1, through 9 steps that contract.
                    np.testing.assert_allclose(actual[name], value, rtol=0, atol=3e-6)
    return operators(model)


def saved(folder: Path, network: Any, suffix: str = ".keras") -> Path:
    """Save a network with weights that are all different, biases too."""
    rng = np.random.default_rng(1)
    network.set_weights([
        (rng.standard_normal(weight.shape) / 2).astype(np.float32)
        for weight in network.get_weights()
    ])
    path = folder / f"net{suffix}"
    if suffix:
        network.save(path)
    else:
        network.export(path, verbose=False)
    return path


def sequence(*parts: Any, length: int | None = None) -> Any:
    return keras.Sequential([keras.Input((length, 4)), *parts])


OPTIONS: dict[str, dict[str, Any]] = {
    "last": {},
    "sequences": {"return_sequences": True},
    "backwards": {"return_sequences": True, "go_backwards": True},
    "no_bias": {"use_bias": False},
    "relu": {"activation": "relu"},
}


@pytest.mark.parametrize("options", few(OPTIONS.values(), 2, 2), ids=OPTIONS)
@pytest.mark.parametrize("op", CELLS)
def test_a_keras_layer_is_one_operator(tmp_path: Path, op: str, options: dict[str, Any]) -> None:
    network = sequence(CELLS[op](5, **options))
    assert agree(saved(tmp_path, network)) == {op: 1}


@pytest.mark.parametrize("suffix", [".h5", ""], ids=["h5", "saved_model"])
@pytest.mark.parametrize("op", few(CELLS, 1, 1))
def test_every_format_comes_to_the_operator(tmp_path: Path, op: str, suffix: str) -> None:
    assert agree(saved(tmp_path, sequence(CELLS[op](5)), suffix)) == {op: 1}


@pytest.mark.parametrize("op", CELLS)
def test_final_states_are_the_operator_s(tmp_path: Path, op: str) -> None:
    value = keras.Input((None, 4))
    ends = CELLS[op](5, return_sequences=True, return_state=True)(value)
    assert agree(saved(tmp_path, keras.Model(value, ends))) == {op: 1}


@pytest.mark.parametrize("op", CELLS)
def test_initial_states_are_the_operator_s(tmp_path: Path, op: str) -> None:
    value = keras.Input((None, 4))
    states = [keras.Input((5,)) for _ in range(2 if op == "LSTM" else 1)]
    out = CELLS[op](5)(value, initial_state=states)
    assert agree(saved(tmp_path, keras.Model([value, *states], out))) == {op: 1}


@pytest.mark.parametrize("op", few(CELLS, 1, 2))
def test_both_directions_and_layers_above_each_other(tmp_path: Path, op: str) -> None:
    network = sequence(
        layers.Bidirectional(CELLS[op](5, return_sequences=True)), CELLS[op](3), length=None
    )
    found = agree(saved(tmp_path, network))
    assert found in ({op: 3}, {op: 2})  # one of two directions, or one for each


@pytest.mark.parametrize("op", few(CELLS, 1, 1))
def test_a_length_that_is_fixed(tmp_path: Path, op: str) -> None:
    network = sequence(CELLS[op](5, return_sequences=True), CELLS[op](3), length=7)
    assert agree(saved(tmp_path, network)) == {op: 2}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("after", few([True, False], 1, 1))
def test_the_reset_gate_before_and_after_the_product(
    tmp_path: Path, after: bool, bias: bool
) -> None:
    network = sequence(layers.GRU(5, reset_after=after, use_bias=bias, return_sequences=True))
    path = saved(tmp_path, network)
    assert agree(path) == {"GRU": 1}
    (node,) = [n for n in Original.of(path).lower()[0].graph.nodes if n.op == "GRU"]
    assert node.attrs["linear_before_reset"] == int(after)


@pytest.mark.parametrize("activation", few(["hard_sigmoid", "tanh", "relu", "softsign"], 1, 2))
@pytest.mark.parametrize("op", ["LSTM", "GRU"])
def test_gates_with_other_activations(tmp_path: Path, op: str, activation: str) -> None:
    network = sequence(CELLS[op](5, activation="sigmoid", recurrent_activation=activation))
    assert agree(saved(tmp_path, network)) == {op: 1}


def test_an_activation_that_the_operator_does_not_have_stays_a_loop(tmp_path: Path) -> None:
    network = sequence(layers.GRU(5, activation="gelu"))
    assert agree(saved(tmp_path, network)) == {"Loop": 1}


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.parametrize("op", few(CELLS, 1))
def test_a_layer_that_keeps_its_state_is_refused_by_what_it_does(
    tmp_path: Path, op: str, suffix: str
) -> None:
    given = keras.Input(batch_shape=(1, 6, 3))
    network = keras.Model(given, CELLS[op](5, stateful=True)(given))
    with pytest.raises(NotSupportedError, match=r"writes to variables as it runs.*stateful=False"):
        Original.of(saved(tmp_path, network, suffix)).lower()


@pytest.mark.parametrize("op", CELLS)
def test_a_mask_of_any_steps_stays_a_loop(tmp_path: Path, op: str) -> None:
    def hide(value: Array) -> Array:
        value[:, 4:] = 0
        value[0, 1] = 0
        return value

    network = sequence(layers.Masking(0.0), CELLS[op](5, return_sequences=True))
    assert agree(saved(tmp_path, network), hide) == {"Loop": 1}
