"""Calls of functions, put in place; with them what a constant decides: If.

Given:  PartitionedCall(x; f)              Result: the nodes of f, fed x
Given:  If(False, x; then: f, else: g)     Result: the nodes of g, fed x

The nodes get the name of the call before theirs, as TensorFlow's own inlining names them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from onnxgraft.stages.convert.tensorflow.names import full_name, node_of

__all__ = ["inline"]

_IFS = frozenset({"If", "StatelessIf"})
_CALLS = frozenset({"PartitionedCall", "StatefulPartitionedCall"})


def inline(graph_def: Any, graph: Any, known: Mapping[str, bool]) -> bool:
    """Put in place the functions that are called; return whether there were any.

    Args:
        graph_def: Is changed.
        graph: The same, imported: it has the functions.
        known: The values of boolean nodes.

    Raises:
        ValueError: A function can't be put in place of the node that calls it.
    """
    library = {function.signature.name: function for function in graph_def.library.function}
    changed = False
    for node in list(graph_def.node):
        called, args = _called(node, known)
        if called in library:
            try:
                _inline(graph_def, graph, node, library[called], args)
            # As TensorFlow's reader of a function raises them, for whatever is wrong in it.
            except (LookupError, RuntimeError, TypeError, ValueError) as error:
                raise ValueError(
                    f"the function {called!r} that {node.name!r} calls is damaged ({error})"
                ) from error
            changed = True
    return changed


def _called(node: Any, known: Mapping[str, bool]) -> tuple[str, list[str]]:
    """Return the function that a node is known to call, if any, and what it is given."""
    data = [name for name in node.input if not name.startswith("^")]
    if node.op in _IFS and node_of(data[0]) in known:
        branch = "then_branch" if known[node_of(data[0])] else "else_branch"
        return node.attr[branch].func.name, data[1:]
    if node.op in _CALLS:
        return node.attr["f"].func.name, data
    return node.op, data  # TensorFlow 1 calls a function by an operator of its name


def _inline(graph_def: Any, graph: Any, node: Any, function: Any, args: list[str]) -> None:
    """Replace a call by the nodes of its function; the node becomes their IdentityN."""
    from tensorflow.python.framework.function_def_to_graph import function_def_to_graph_def

    with graph.as_default():
        body, flat = function_def_to_graph_def(function)
    wanted = function.signature.input_arg
    given = {arg.name: name for arg, name in zip(wanted, args, strict=True)}
    for arg in wanted:
        kind = graph.get_tensor_by_name(full_name(given[arg.name])).dtype
        if arg.type not in (0, kind.as_datatype_enum):
            raise TypeError(f"its argument {arg.name!r} is given {kind.name}")

    prefix, taken = node.name, {other.name for other in graph_def.node}
    while any(f"{prefix}/{inner.name}" in taken for inner in body.node):
        prefix += "_"

    def outside(name: str) -> str:
        inner = node_of(name)
        if inner in given:
            return f"^{node_of(given[inner])}" if name.startswith("^") else given[inner]
        mark = "^" if name.startswith("^") else ""
        return f"{mark}{prefix}/{name.removeprefix('^')}"

    for inner in body.node:
        if inner.name in given:
            continue
        copied = graph_def.node.add()
        copied.CopyFrom(inner)
        copied.name = f"{prefix}/{inner.name}"
        del copied.input[:]
        copied.input.extend(outside(name) for name in inner.input)
    returned = function.signature.output_arg
    results = [outside(flat[function.ret[arg.name]]) for arg in returned]
    types = [arg.type for arg in returned]
    node.ClearField("attr")
    del node.input[:]
    node.input.extend(results)
    if len(results) == 1:
        node.op = "Identity"
        node.attr["T"].type = types[0]
    else:
        node.op = "IdentityN"
        node.attr["T"].list.type.extend(types)
