"""A graph of one operator, computed by TensorFlow and by what it is converted to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from onnxgraft.graph.tensors import Array
from onnxgraft.run.session import OnnxRuntime
from onnxgraft.stages.convert import Original
from onnxgraft.stages.convert.tensorflow.running import tensorflow

__all__ = ["outputs", "x"]


def outputs(folder: Path, build: Callable[[], Any], **feeds: Array) -> tuple[Array, Array]:
    """Return what TensorFlow and the converted graph compute of ``build``."""
    tf = tensorflow()
    with tf.Graph().as_default() as graph:
        tf.identity(build(), name="out")
        (folder / "x.pb").write_bytes(graph.as_graph_def().SerializeToString())
    named = {f"{name}:0": value for name, value in feeds.items()}
    model, _ = Original.of(folder / "x.pb").lower()
    with Original.of(folder / "x.pb").run() as reference, OnnxRuntime(model.to_onnx()) as session:
        return reference.infer(named)["out:0"], session.infer(named)["out:0"]


def x(*shape: int | None, dtype: Any = None, name: str = "x") -> Any:
    """Return a placeholder."""
    tf = tensorflow()
    return tf.compat.v1.placeholder(dtype or tf.float32, shape, name)
