"""Calls of tf2onnx: of what turns a graph into ONNX and makes it smaller, and of nothing before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx

from onnxgraft.optional import optional
from onnxgraft.stages.convert.tensorflow.running import tensorflow

__all__ = ["by_tf2onnx"]


def by_tf2onnx(definition: Any | None, before: Callable[[], None], **how: Any) -> onnx.ModelProto:
    """Return what tf2onnx makes of a graph, as `tf2onnx.convert` has it but for two things.

    TensorFlow's own optimizer (grappler) does not see the graph: it ends the process on sound ones
    (docs/decisions/0033-without-grappler.md), and tf2onnx computes constants itself.

    Its steps work on its graph itself. `tf2onnx.convert` copies the graph before each, so as to go
    on without one that fails. The copies take much of the time, and hardly any step fails: where
    one does, or anything else, all is done again with them.

    Args:
        definition: A GraphDef; None where ``how`` names a TFLite file.
        before: Is called before each attempt.
        how: Arguments of ``tf2onnx.tfonnx.process_tf_graph``.

    Raises:
        DependencyError: TensorFlow or tf2onnx is not installed.
        Exception: Whatever tf2onnx meets.
    """
    with optional("Converting a network of TensorFlow's", "tensorflow"):
        tf = tensorflow()
        from tf2onnx.optimizer import optimize_graph
        from tf2onnx.tfonnx import process_tf_graph

    def converted(copies: bool) -> onnx.ModelProto:
        before()
        with tf.device("/cpu:0"), tf.Graph().as_default() as graph:
            if definition is not None:
                tf.import_graph_def(definition, name="")
            made = process_tf_graph(graph, continue_on_error=True, **how)
            proto = optimize_graph(made, catch_errors=copies).make_model("a network")
        assert isinstance(proto, onnx.ModelProto)
        return proto

    try:
        return converted(copies=False)
    except Exception:  # whatever a step raises
        return converted(copies=True)
