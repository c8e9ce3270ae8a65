"""onnxruntime as a target: the engine is the graph as onnxruntime optimized it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from onnxgraft.engine.passport import Passport
from onnxgraft.files import atomic
from onnxgraft.model import Model
from onnxgraft.optional import optional
from onnxgraft.reference import OnnxRuntime
from onnxgraft.runtime import Engine

__all__ = ["build", "load"]


def build(model: Model, path: Path, shapes: Mapping[str, Sequence[int]]) -> dict[str, str]:
    """Write the optimized graph to ``path``; ``shapes`` makes no difference to it."""
    with optional("Building for onnxruntime", "onnxruntime"):
        import onnxruntime as ort
    with atomic(path) as temporary:
        OnnxRuntime(model.to_onnx(), name=path.name, save_optimized=temporary).close()
    return {"onnxruntime": ort.__version__}


def load(path: Path, passport: Passport) -> Engine:
    """Return the engine at ``path``."""
    return OnnxRuntime(path, name=f"onnxruntime {passport.precision}")
