"""What a TensorFlow graph must not do: a graph is a program, and it comes from a stranger.

TensorFlow's own words: "TensorFlow models are programs" (SECURITY.md). What may run is a list of
operators that compute and do nothing else (`operators.COMPUTING`); any other one that TensorFlow
has is refused, wherever it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from onnxgraft.errors import ModelError
from onnxgraft.files.calls import check_calls as check_all_calls
from onnxgraft.files.limits import AXES, CONSTANT_BYTES, TENSOR_VALUES
from onnxgraft.stages.convert.tensorflow.reading.operators import reason_against
from onnxgraft.stages.convert.tensorflow.running import tensorflow

__all__ = [
    "check_calls",
    "check_constants",
    "check_operators",
    "check_restore",
]

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


def check_constants(path: str, graph_def: Any) -> None:
    """Raise ModelError for constants that are larger than what is stored of them, or smaller."""
    total = 0
    functions = [node for f in graph_def.library.function for node in f.node_def]
    for node in (*graph_def.node, *functions):
        for key in ("value", "shape"):
            if key not in node.attr:
                continue
            value = node.attr[key]
            shape = value.tensor.tensor_shape if value.HasField("tensor") else value.shape
            dims = [dim.size for dim in shape.dim]
            if len(dims) > AXES.most:
                raise ModelError(f"{path}: {node.name!r} {AXES.refusal(len(dims))}")
            count = 1
            for dim in dims:
                count *= max(dim, 1)
            if count > TENSOR_VALUES.most:
                raise ModelError(f"{path}: {node.name!r} {TENSOR_VALUES.refusal(count)}")
            if not value.HasField("tensor"):
                continue
            fault = _fault(value.tensor, 0 if 0 in dims else count)
            if fault is not None:
                raise ModelError(f"{path}: the constant {node.name!r} is damaged: {fault}")
            if not value.tensor.tensor_content:
                total += 8 * count  # of at most 8 bytes each
    if total > CONSTANT_BYTES.most:
        raise ModelError(f"{path}: {CONSTANT_BYTES.refusal(total)}")


def _fault(tensor: Any, count: int) -> str | None:
    """Return what is wrong with the values of a constant of ``count`` elements.

    TensorFlow repeats the last one where there are too few, and looks at the bytes of a constant
    only where it runs; ``make_ndarray`` ends with whatever error NumPy has.
    """
    try:
        dtype = tensorflow().as_dtype(tensor.dtype)
    except TypeError:
        return f"it is of a type that has the number {tensor.dtype}"
    if tensor.tensor_shape.unknown_rank or any(dim.size < 0 for dim in tensor.tensor_shape.dim):
        return "its shape is not known"
    if tensor.tensor_content:
        wanted, stored = count * dtype.size, len(tensor.tensor_content)
        if dtype == "string" or stored != wanted:
            return f"{count:,} values of {dtype.name} are no {stored:,} bytes"
        return None
    lists = [value for field, value in tensor.ListFields() if field.name.endswith("_val")]
    stored = sum(map(len, lists)) // (2 if dtype.is_complex else 1)
    return f"it has {stored:,} values in the place of {count:,}" if stored > count else None


def check_calls(path: str, graph_def: Any) -> None:
    """Raise ModelError if a graph's functions come to too many nodes once they are inlined."""
    functions = {f.signature.name: _called(f.node_def) for f in graph_def.library.function}
    if functions:
        check_all_calls(_called(graph_def.node), functions, f"{path}:")


def _called(nodes: Iterable[Any]) -> list[str]:
    """Return the operators that nodes are, and the functions that they are given."""
    found = []
    for node in nodes:
        found.append(node.op)
        for value in node.attr.values():
            if value.HasField("func"):
                found.append(value.func.name)
            elif value.HasField("list"):
                found += [function.name for function in value.list.func]
    return found


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
