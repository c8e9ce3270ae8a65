"""What a TensorFlow graph must not do: a graph is a program, and it comes from a stranger.

TensorFlow's own words: "TensorFlow models are programs" (SECURITY.md). What may run is a list of
operators that compute and do nothing else (`operators.COMPUTING`); any other one that TensorFlow
has is refused, wherever it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from onnxgraft.errors import ModelError
from onnxgraft.stages.convert.tensorflow.reading.operators import reason_against

__all__ = ["check_operators", "check_restore"]

# What restoring variables takes; their files are the checkpoint's own.
_RESTORING = frozenset({
    "Assign", "AssignVariableOp", "Const", "Identity", "NoOp", "Placeholder",
    "PlaceholderWithDefault", "ReadVariableOp", "Reshape", "RestoreV2", "ShardedFilename",
    "VarHandleOp", "VarIsInitializedOp", "Variable", "VariableV2", "AutoReloadVariable",
})  # fmt: skip
_SAVING = frozenset({"MergeV2Checkpoints", "RestoreV2", "SaveV2"})


def check_operators(
    path: str, graph_def: Any, ends: Iterable[str] = (), fed: Iterable[str] = ()
) -> None:
    """Raise ModelError if an operator that would run reaches out of the graph.

    Args:
        path: Of the file, for the message.
        graph_def: The GraphDef.
        ends: The nodes that are fetched; none stands for a graph that is loaded as a whole, with
            operators that save and restore its variables.
        fed: The nodes in whose place values are fed.
    """
    ends = list(ends)
    nodes = _before(graph_def, ends, set(fed)) if ends else graph_def.node
    functions = [node for f in graph_def.library.function for node in f.node_def]
    own = {f.signature.name for f in graph_def.library.function}
    for node in (*nodes, *functions):
        if not ends and node.op in _SAVING:
            continue
        reason = reason_against(node.op, own)
        if reason is not None and not _harmless(node):
            raise ModelError(
                f"{path}: {node.name!r} is a {node.op}, which {reason}; a network has no need of "
                "it: cut it off, and freeze the graph again"
            )


def check_restore(path: str, graph_def: Any, operation: str) -> None:
    """Raise ModelError if restoring variables does anything else."""
    for node in _before(graph_def, [operation], set()):
        if node.op not in _RESTORING:
            raise ModelError(
                f"{path}: restoring its variables would run {node.name!r}, a {node.op}; save the "
                "checkpoint again with tf.compat.v1.train.Saver"
            )


def _harmless(node: Any) -> bool:
    """Tell whether a node that prints does it to the screen, as left-over debugging does."""
    if node.op == "Print":
        return True
    if node.op != "PrintV2":
        return False
    stream = node.attr["output_stream"].s if "output_stream" in node.attr else b"stderr"
    return stream in (b"stderr", b"stdout", b"log(info)", b"log(warning)", b"log(error)")


def _before(graph_def: Any, ends: Iterable[str], fed: set[str]) -> Iterator[Any]:
    """Yield the nodes that run when ``ends`` are fetched."""
    nodes = {node.name: node for node in graph_def.node}
    left, seen = list(ends), set(fed)
    while left:
        name = left.pop().lstrip("^").partition(":")[0]
        if name not in seen and name in nodes:
            seen.add(name)
            yield nodes[name]
            left += nodes[name].input
