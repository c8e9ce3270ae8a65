"""Layout and preprocessing mistakes are told by what would put them right."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from onnxgraft.graph.tensors import Array, TensorSpec
from onnxgraft.stages.validate import find_mistake
from tests.validate.test_stream import Fake

IMAGE = TensorSpec("image", "float32", ("N", 6, 6, 3))
MADE = TensorSpec("map", "float32", ("N", 6, 6, 3))
MEAN = np.array([109.5, 107.7, 104.4], np.float32)
MIX = np.random.default_rng(3).standard_normal((3, 3)).astype(np.float32)


def network(x: Array) -> dict[str, Array]:
    """Blur along the rows, mix channels, bend: no change of the input leaves it as it is."""
    rows = x + 0.5 * np.roll(x, 1, axis=1) + np.linspace(0, 9, 6, dtype=np.float32)[:, None]
    return {"map": np.maximum(rows @ MIX, 0) + 0.1 * rows}


def feeds() -> dict[str, Array]:
    pixels = np.random.default_rng(4).uniform(0, 255, (1, 6, 6, 3)).astype(np.float32)
    return {"image": pixels - MEAN}


@pytest.mark.parametrize(
    ("prepare", "said"),
    [
        (lambda x: x[..., ::-1], "its channels are reversed (BGR for RGB)"),
        (lambda x: x - MEAN, "the recipe's mean is not subtracted"),
        (lambda x: x + MEAN, "the recipe's mean is subtracted once more"),
        (lambda x: x / np.float32(255), "it is multiplied by 255"),
        (lambda x: x * np.float32(127.5), "it is multiplied by 0.00784314"),
        (lambda x: x.transpose(0, 3, 1, 2).reshape(x.shape), "stored as NCHW"),
        (lambda x: x.swapaxes(1, 2), "height and width are exchanged"),
        (lambda x: x[..., ::-1] / np.float32(255), "(BGR for RGB) and it is multiplied by 255"),
    ],
    ids=["order", "mean_twice", "no_mean", "scale", "unscaled", "layout", "turned", "two_at_once"],
)
@pytest.mark.parametrize("precision", ["float", "lower"])
def test_a_mistake_in_the_input_is_named(
    prepare: Callable[[Array], Array], said: str, precision: str
) -> None:
    original = Fake("original", network, IMAGE, MADE)
    candidate = Fake("candidate", lambda x: network(prepare(x)), IMAGE, MADE)
    tolerance = 1e-4 if precision == "float" else None
    found = find_mistake(original, candidate, feeds(), tolerance, MEAN.tolist())
    assert found is not None
    assert said in found
    assert found.endswith("no layer is to blame")


def test_classes_in_reverse_order_are_named() -> None:
    original = Fake("original", network, IMAGE, MADE)
    candidate = Fake("candidate", lambda x: {"map": network(x)["map"][..., ::-1]}, IMAGE, MADE)
    found = find_mistake(original, candidate, feeds(), 1e-4)
    assert found == "the candidate's output 'map' has its classes in reverse order"


def softmax(x: Array) -> Array:
    powers = np.exp(x.astype(np.float64) - x.max(-1, keepdims=True))
    return np.asarray(powers / powers.sum(-1, keepdims=True), np.float32)


def sigmoid(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-x.astype(np.float64))), np.float32)


@pytest.mark.parametrize("tolerance", [1e-4, None], ids=["float", "lower"])
@pytest.mark.parametrize("activation", [softmax, sigmoid], ids=["softmax", "sigmoid"])
@pytest.mark.parametrize("whose", ["original", "candidate"])
def test_an_output_before_its_activation_is_named(
    whose: str, activation: Callable[[Array], Array], tolerance: float | None
) -> None:
    def behind(x: Array) -> dict[str, Array]:
        return {"map": activation(network(x)["map"] / np.float32(50))}

    def ahead(x: Array) -> dict[str, Array]:
        return {"map": network(x)["map"] / np.float32(50)}

    pair = (behind, ahead) if whose == "original" else (ahead, behind)
    sides = [Fake(name, net, IMAGE, MADE) for name, net in zip("oc", pair, strict=True)]
    found = find_mistake(*sides, feeds(), tolerance)
    kind = activation.__name__
    assert found is not None
    assert found.startswith({
        "original": f"the original's output 'map' is the {kind} of the candidate's: ",
        "candidate": f"the candidate's output 'map' is the {kind} of the original's: ",
    }[whose])  # fmt: skip


@pytest.mark.parametrize("tolerance", [1e-4, None])
def test_a_numeric_fault_is_no_such_mistake(tolerance: float | None) -> None:
    original = Fake("original", network, IMAGE, MADE)

    def wrong(x: Array) -> dict[str, Array]:
        rows = x + 0.5 * np.roll(x, 1, axis=1) + np.linspace(0, 9, 6, dtype=np.float32)[:, None]
        return {"map": np.maximum(rows @ MIX.T, 0) + 0.1 * rows}

    candidate = Fake("candidate", wrong, IMAGE, MADE)
    assert find_mistake(original, candidate, feeds(), tolerance, MEAN.tolist()) is None
