"""TensorFlow itself: imported quietly, and running a graph as the original."""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxgraft.errors import ModelError, reason_in
from onnxgraft.graph.tensors import Array, Feeds, Outputs
from onnxgraft.graph.wants import Wants
from onnxgraft.optional import optional
from onnxgraft.run.demand import bounded, limited
from onnxgraft.run.engine import Resource, check_feeds
from onnxgraft.stages.convert.tensorflow.quiet import quiet

if TYPE_CHECKING:
    from onnxgraft.stages.convert.tensorflow.reading.graphdef import FrozenGraph

__all__ = [
    "TensorFlow", "graph_of_function", "import_graph", "import_into", "reason_of", "refusing",
    "tensorflow",
]  # fmt: skip

# Lines of its messages that lead up to the one that counts.
_SCENERY = re.compile(
    r"Graph execution error|Detected at node|Node: |\[\[|File \"|.*errors? found\.|\(\d+\) .*: $"
)


def tensorflow() -> Any:
    """Import and return TensorFlow, on the CPU and without its start-up messages."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
    with optional("Reading a TensorFlow graph", "tensorflow"), quiet():
        import tensorflow as tf
    tf.get_logger().setLevel(logging.ERROR)
    return tf


def reason_of(error: BaseException) -> str:
    """Return the line of an error of TensorFlow's that says what is wrong."""
    return reason_in(error, _SCENERY)


def import_graph(graph_def: Any) -> Any:
    """Return the tf.Graph of a GraphDef; its tensors have static shapes."""
    graph = tensorflow().Graph()
    with graph.as_default():
        import_into(graph_def)
    return graph


def import_into(graph_def: Any, fed: Mapping[str, Any] | None = None) -> None:
    """Import a GraphDef into the graph at hand, with other tensors in the place of ``fed``."""
    with bounded(graph_def.ByteSize()):
        tensorflow().import_graph_def(graph_def, input_map=fed, name="")


def graph_of_function(function: Any, shapes: Sequence[Any]) -> Any:
    """Return the graph of a FunctionDef whose arguments have shapes, as TensorShapeProtos."""
    from tensorflow.python.framework.function_def_to_graph import function_def_to_graph

    with bounded(function.ByteSize()):
        return function_def_to_graph(function, input_shapes=list(shapes))


@contextlib.contextmanager
def refusing(path: str | os.PathLike[str], *more: type[Exception]) -> Iterator[None]:
    """Raise as ModelError what TensorFlow raises of a graph, and ``more``."""
    try:
        yield
    except (ValueError, TypeError, tensorflow().errors.OpError, *more) as error:
        raise ModelError(f"{path}: TensorFlow refuses the graph: {reason_of(error)}") from error


class TensorFlow(Resource):
    """A frozen graph in a TensorFlow session: the reference of everything made from it.

    The graph runs as it was read, grappler off, with the frozen placeholders fed.

    Args:
        frozen: The graph.
        frugal: Feed the weights instead of keeping several copies of them, at the cost of speed.
    """

    name = "tensorflow"

    def __init__(self, frozen: FrozenGraph, *, frugal: bool = False) -> None:
        from onnxgraft.stages.convert.tensorflow.lower.weights import put_back
        from onnxgraft.stages.convert.tensorflow.sizes import check_sizes

        tf = tensorflow()
        from tensorflow.core.protobuf import rewriter_config_pb2

        config = tf.compat.v1.ConfigProto()
        config.graph_options.rewrite_options.disable_meta_optimizer = True
        config.graph_options.rewrite_options.constant_folding = (
            rewriter_config_pb2.RewriterConfig.OFF
        )
        self.inputs = frozen.inputs
        self.outputs = frozen.outputs
        held = frozen.weights if frugal else {}
        full = frozen.original if frugal else put_back(frozen.original, frozen.weights)
        graph = import_graph(full)
        del full
        if limited():
            check_sizes(
                frozen.source.path,
                frozen.original,
                dict(zip(frozen.fed, frozen.inputs, strict=True)),
                frozen.fetched,
                frozen.weight_bytes,
            )
        fixed: dict[str, Any] = {**held, **frozen.values}
        self._fixed = {f"{name}:0": value for name, value in fixed.items()}
        with graph.as_default():
            self._nothing = tf.no_op()
        with quiet():
            self._session: Any = tf.compat.v1.Session(graph=graph, config=config)
        self._feeds = dict(zip((s.name for s in frozen.inputs), frozen.fed, strict=True))
        self._fetches = list(frozen.fetched)
        self._error = tf.errors.OpError

    def infer(self, feeds: Feeds) -> Outputs:
        """Return the outputs, by name, for ``feeds``, by name."""
        values = self._run(self._fetches, feeds)
        return dict(zip((spec.name for spec in self.outputs), values, strict=True))

    def probe(self, tensors: Sequence[str], feeds: Feeds) -> Outputs:
        """Return those of ``tensors`` that the graph has, by name."""
        known = [name for name in tensors if self._has(name)]
        return dict(zip(known, self._run(known, feeds), strict=True))

    def wants(self) -> Wants:
        """Return what the graph says of its inputs."""
        from onnxgraft.stages.convert.tensorflow.wants import wants_of_tensorflow

        return wants_of_tensorflow(self._session.graph, self._feeds)

    def _has(self, tensor: str) -> bool:
        try:
            return bool(
                self._session.graph.is_fetchable(self._session.graph.get_tensor_by_name(tensor))
            )
        except (KeyError, ValueError):
            return False

    def _run(self, tensors: Sequence[str], feeds: Feeds) -> list[Array]:
        checked = check_feeds(self.name, self.inputs, feeds)
        fed = {self._feeds[name]: value for name, value in checked.items()}
        try:
            values = self._session.run(list(tensors), {**fed, **self._fixed})
        except self._error as error:
            raise ModelError(f"TensorFlow can't run the graph: {reason_of(error)}") from error
        return list(map(np.asarray, values))

    def close(self) -> None:
        """Close the session."""
        # TensorFlow holds what a run was fed until the next one begins. A graph that it can't take
        # ran nothing.
        with contextlib.suppress(self._error):
            self._session.run(self._nothing)
        self._session.close()
        self._fixed = {}
