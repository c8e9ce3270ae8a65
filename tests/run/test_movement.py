"""Feeds on which outputs move are looked for without keeping all that was tried."""

from __future__ import annotations

import numpy as np
import pytest

from onnxgraft import commands
from onnxgraft.graph.model import Model
from onnxgraft.graph.tensors import Array, Outputs
from onnxgraft.run import movement
from onnxgraft.run.feeds import MANNERS, PLAIN, Manner
from onnxgraft.run.movement import Movement
from onnxgraft.stages.surgery.running.verify import Verifier
from tests.conftest import model_of


def saturating() -> Model:
    """Return a network whose output plain numbers leave at its ends."""
    return model_of(
        "net (float[N,8] x) => (float[N,8] y) { m = Mul(x, big)  y = Sigmoid(m) }",
        {"big": np.float32(1000)},
    )


def answer(manner: Manner) -> Outputs:
    """Return an output that moves only where small numbers are fed."""
    numbers = manner.scale * np.random.default_rng(manner.draw).standard_normal(64)
    return {"y": np.clip(1000 * numbers, 0, 1).astype(np.float32)}


def fed(model: Model) -> list[Array]:
    verifier = Verifier(model)
    verifier.begin()
    return [feeds["x"] for feeds in verifier._feeds]


def test_the_manners_are_taken_in_which_an_output_moves_most() -> None:
    seen = Movement()
    for manner in MANNERS:
        seen.note(manner, [answer(manner)])
    assert not seen.enough
    assert seen.chosen[0] == PLAIN
    assert [manner.scale for manner in seen.chosen[1:]] == [1 / 256] * 3 + [1 / 16]
    assert not seen.still


def test_an_output_that_moves_in_no_manner_is_named() -> None:
    seen = Movement()
    for manner in MANNERS:
        seen.note(manner, [{"y": np.ones(4, np.float32), "z": np.arange(4, dtype=np.float32)}])
    assert seen.still == ["y"]


@pytest.mark.parametrize("most", [2, 5])
def test_surgery_tries_large_samples_a_few_at_a_time(
    most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two samples of a manner, of batch 1 and 2, and their outputs are 192 bytes."""
    right = fed(saturating())
    monkeypatch.setattr(movement, "KEPT_BYTES", 192 * most)
    found = fed(saturating())
    assert len(found) == 2 * min(most, 5) < len(right) + 1
    assert all(map(np.array_equal, found, right))


def test_a_conversion_is_compared_on_as_many_large_samples_as_are_kept(
    tmp_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = f"{tmp_path}/net.onnx"
    saturating().save(file)
    assert len(commands.convert(file).verdicts) == 10
    monkeypatch.setattr(movement, "KEPT_BYTES", 192 * 2)
    assert len(commands.convert(file).verdicts) == 4
