"""What PyTorch makes of a function, and what its conversion does."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from onnxgraft import commands
from onnxgraft.graph.tensors import Array
from onnxgraft.run.session import OnnxRuntime

torch = pytest.importorskip("torch")

__all__ = ["both", "module", "of_program"]


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
    return _outputs((net, given), net, given)


def of_program(program: Any, file: Path, *feeds: Array) -> tuple[list[Array], list[Array]]:
    """Return the same of a program, which is written to a file."""
    torch.export.save(program, file)
    return _outputs(file, program.module(), tuple(torch.from_numpy(feed) for feed in feeds))


def _outputs(model: Any, net: Any, given: tuple[Any, ...]) -> tuple[list[Array], list[Array]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        done = commands.convert(model)
    assert done.passed
    assert done.verdicts
    with OnnxRuntime(done.model.to_onnx()) as session:
        fed = {s.name: value.numpy() for s, value in zip(session.inputs, given, strict=False)}
        found = [*session.infer(fed).values()]
    with torch.no_grad():
        wanted = net(*given)
    return [one.numpy() for one in (wanted if isinstance(wanted, tuple) else (wanted,))], found
