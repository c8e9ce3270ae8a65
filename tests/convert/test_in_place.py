"""tf2onnx works on its graph itself; where a step of its fails, the graph is converted without."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from onnxgraft.errors import ModelError
from onnxgraft.stages.convert import Original
from onnxgraft.stages.convert.tensorflow.lower.in_place import in_place
from tests.convert.graphs import assert_equal_to_tensorflow, conv, image

NAME = "TF2ONNX_CATCH_ERRORS"


def network() -> None:
    """Build two convolutions, whose transposes tf2onnx pushes together."""
    conv(conv(image(), 4, "conv1"), 2, "conv2")


@pytest.fixture
def model(pb: Callable[..., Path]) -> Path:
    """Return the network as a frozen graph."""
    return pb(network)


def copied(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Return the list to which each graph comes that tf2onnx copies before a step."""
    from tf2onnx import optimizer
    from tf2onnx.graph import Graph

    found: list[object] = []

    def deepcopy(value: Any) -> Any:
        found.extend([value] * isinstance(value, Graph))
        return copy.deepcopy(value)

    monkeypatch.setattr(optimizer, "copy", SimpleNamespace(deepcopy=deepcopy))
    return found


def test_no_step_copies_the_graph(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = copied(monkeypatch)
    assert_equal_to_tensorflow(model, outputs="conv2/Relu:0")
    assert not found


def test_a_step_that_fails_is_left_out(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tf2onnx.optimizer.transpose_optimizer import TransposeOptimizer

    def fail(self: object, graph: object) -> None:
        raise KeyError("a fault of the step")

    monkeypatch.setattr(TransposeOptimizer, "_optimize", fail)
    found = copied(monkeypatch)
    converted = assert_equal_to_tensorflow(model, outputs="conv2/Relu:0")
    assert found
    assert converted.operators()["Transpose"] > 2


def test_what_fails_twice_is_told(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tf2onnx

    def fail(*words: object, **how: object) -> None:
        raise KeyError("conv1/Conv2D")

    monkeypatch.setattr(tf2onnx.convert, "from_graph_def", fail)
    with pytest.raises(ModelError, match="tf2onnx can't convert Conv2D"):
        Original.of(model, outputs="conv2/Relu:0").lower()


@pytest.mark.parametrize("before", [None, "", "true"])
def test_the_environment_is_as_before(before: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if before is None:
        monkeypatch.delenv(NAME, raising=False)
    else:
        monkeypatch.setenv(NAME, before)
    assert in_place(lambda: os.environ[NAME]) == "false"
    assert os.environ.get(NAME) == before
