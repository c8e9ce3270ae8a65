"""The shapes of a graph's tensors at batch 1."""

from __future__ import annotations

from onnxgraft.graph.inference import infer
from onnxgraft.graph.model import Model

__all__ = ["shapes_of"]


def shapes_of(model: Model) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor where it is known; free dimensions of inputs become 1."""
    found = infer(model.graph, free=1)
    return {name: kind.sizes for name, kind in found.items() if kind.sizes is not None}
