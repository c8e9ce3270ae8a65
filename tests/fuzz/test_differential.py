"""A few random networks of each framework; many with `python -m tests.fuzz.differential`."""

from __future__ import annotations

import importlib

import pytest

from onnxgraft.errors import OnnxgraftError
from tests.conftest import CI, only_ci
from tests.fuzz.differential import KINDS, differences

NEEDS = {"tensorflow": "tensorflow", "caffe": "cv2", "onnx": "onnxruntime"}
COUNT = 20 if CI else 4


@pytest.mark.parametrize("kind", KINDS)
def test_a_random_network_is_the_same_or_refused(kind: str) -> None:
    pytest.importorskip(NEEDS[kind])
    refused = 0
    for seed in range(COUNT):
        try:
            assert not differences(kind, seed), (kind, seed)
        except OnnxgraftError:
            refused += 1
    assert refused <= COUNT // 4


@pytest.mark.parametrize(
    ("kind", "seed"),
    [("onnx", 31398), ("tensorflow", 1653)],
    ids=["a_border_below_all_values_is_no_value", "a_relu6_of_small_values_is_measured"],
)
def test_what_was_different_is_so_no_more(kind: str, seed: int) -> None:
    pytest.importorskip(NEEDS[kind])
    assert not differences(kind, seed)


def test_a_difference_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    fuzz = importlib.import_module("tests.fuzz.differential")
    made = fuzz.of_onnx(0)

    def wrong(seed: int) -> object:
        for answer in made.expected:
            for name in answer:
                answer[name] = answer[name] * 1.01
        return made

    monkeypatch.setitem(KINDS, "onnx", wrong)
    assert differences("onnx", 0)


@pytest.mark.parametrize("explained", [0.0, float("nan")])
def test_an_int8_graph_that_keeps_too_little_is_seen(
    explained: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    fuzz = importlib.import_module("tests.fuzz.differential")
    monkeypatch.setattr(fuzz, "KEPT_DECIBELS", 1000.0)
    monkeypatch.setattr(fuzz, "_explained", lambda *_: explained)
    assert any("keeps" in line for line in differences("onnx", 1))  # it has layers in INT8


@only_ci
def test_a_process_that_tries_many_refuses_none_that_is_sound() -> None:
    fuzz = importlib.import_module("tests.fuzz.differential")
    assert [found for _, found, _ in fuzz._all("onnx", range(2), 1)] == ["same", "same"]
