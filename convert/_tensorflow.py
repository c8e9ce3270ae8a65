"""TensorFlow itself: imported quietly, and running a graph as the original."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxgraft.convert._quiet import quiet
from onnxgraft.errors import ModelError
from onnxgraft.optional import optional
from onnxgraft.runtime import Feeds, Outputs, Resource, check_feeds

if TYPE_CHECKING:
    from onnxgraft.convert._graphdef import FrozenGraph

__all__ = ["TensorFlow", "tensorflow"]


def tensorflow() -> Any:
    """Import and return TensorFlow, on the CPU and without its start-up messages."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
    with optional("Reading a TensorFlow graph", "tensorflow"), quiet():
        import tensorflow as tf
    tf.get_logger().setLevel(logging.ERROR)
    return tf


class TensorFlow(Resource):
    """A frozen graph in a TensorFlow session: the judge of everything made from it.

    The graph runs as it was read, grappler off, with the frozen placeholders fed.
    """

    name = "tensorflow"

    def __init__(self, frozen: FrozenGraph) -> None:
        """Import the graph and open a session."""
        tf = tensorflow()
        from tensorflow.core.protobuf import rewriter_config_pb2

        config = tf.compat.v1.ConfigProto()
        config.graph_options.rewrite_options.disable_meta_optimizer = True
        config.graph_options.rewrite_options.constant_folding = (
            rewriter_config_pb2.RewriterConfig.OFF
        )
        self.inputs = frozen.inputs
        self.outputs = frozen.outputs
        graph = tf.Graph()
        with graph.as_default():
            tf.import_graph_def(frozen.original, name="")
        self._fixed = {f"{name}:0": value for name, value in frozen.values.items()}
        with quiet():
            self._session: Any = tf.compat.v1.Session(graph=graph, config=config)
        self._feeds = dict(zip((s.name for s in frozen.inputs), frozen.fed, strict=True))
        self._fetches = list(frozen.fetched)
        self._error = tf.errors.OpError

    def infer(self, feeds: Feeds) -> Outputs:
        """Return the outputs, by name, for ``feeds``, by name."""
        checked = check_feeds(self.name, self.inputs, feeds)
        try:
            fed = {self._feeds[name]: value for name, value in checked.items()}
            values = self._session.run(self._fetches, {**fed, **self._fixed})
        except self._error as error:
            raise ModelError(f"TensorFlow can't run the graph: {error.message}") from error
        names = [spec.name for spec in self.outputs]
        return dict(zip(names, map(np.asarray, values), strict=True))

    def close(self) -> None:
        """Close the session."""
        self._session.close()
