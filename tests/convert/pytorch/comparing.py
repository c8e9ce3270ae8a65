"""What PyTorch makes of a function, and what its conversion does."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest

from onnxgraft import commands
from onnxgraft.graph.tensors import Array
from onnxgraft.run.session import OnnxRuntime

torch = pytest.importorskip("torch")

__all__ = ["both", "module"]


def module(call: Callable[..., Any]) -> Any:
    class Made(torch.nn.Module):  # type: ignore[misc, name-defined]
        def forward(self, x: Any, y: Any) -> Any:
            found = call(x, y)
            return tuple(found) if isinstance(found, list) else found

    return Made().eval()


def both(call: Callable[..., Any], *feeds: Array) -> tuple[list[Array], list[Array]]:
    """Return what PyTorch computes of two arrays, and what the converted graph does."""
    net = module(call)
    given = tuple(torch.from_numpy(feed) for feed in feeds)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        done = commands.convert((net, given))
    assert done.passed
    assert done.verdicts
    with OnnxRuntime(done.model.to_onnx()) as session:
        fed = {spec.name: feed for spec, feed in zip(session.inputs, feeds, strict=False)}
        found = [*session.infer(fed).values()]
    with torch.no_grad():
        wanted = net(*given)
    return [one.numpy() for one in (wanted if isinstance(wanted, tuple) else (wanted,))], found
