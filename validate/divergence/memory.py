"""How much memory is free, and how much the tensors of a graph take."""

from __future__ import annotations

from collections.abc import Mapping

from onnxgraft.graph.inference import infer
from onnxgraft.graph.model import Model
from onnxgraft.graph.tensors import Array

__all__ = ["available_memory", "tensor_sizes"]

# Where the system does not tell.
_UNKNOWN = 4 << 30


def available_memory() -> int:
    """Return the bytes that can be taken without swapping, by Linux's own estimate."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            line = next(line for line in file if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return _UNKNOWN
    return int(line.split()[1]) * 1024


def tensor_sizes(model: Model, feeds: Mapping[str, Array]) -> dict[str, int]:
    """Return the bytes of each tensor for ``feeds``, where they are known."""
    found = infer(model.graph, {name: value.shape for name, value in feeds.items()})
    return {name: kind.nbytes for name, kind in found.items() if kind.nbytes is not None}
