"""Branches of a TensorFlow graph that a constant decides: selects, If, and Switch with Merge.

Given:  Select(False, a, b)                                       Result: b
Given:  Merge(f(Switch(x, False):0), g(Switch(x, False):1))       Result: f(x)

A branch that is not taken is gone, whatever it holds; nothing is rewritten as arithmetic.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from onnxgraft.stages.convert.tensorflow.names import full_name, node_of
from onnxgraft.stages.convert.tensorflow.prepare.calls import inline
from onnxgraft.stages.convert.tensorflow.prepare.conditionals import lead_through_switches
from onnxgraft.stages.convert.tensorflow.prepare.dropout import resolve_dropouts
from onnxgraft.stages.convert.tensorflow.running import import_graph, tensorflow

__all__ = ["resolve_branches"]

# Merge and Switch mean something else in the frames of a loop.
_LOOPS = frozenset({"Enter", "Exit", "NextIteration", "RefEnter", "RefExit"})


def resolve_branches(path: str, graph_def: Any) -> None:
    """Resolve in place what constants decide, and drop all order between nodes.

    Calls of functions are put in place on the way.

    Args:
        path: Of the file, for errors.
        graph_def: Is changed.

    Raises:
        NotSupportedError: Nothing tells which branch of a conditional is which.
    """
    known: dict[str, bool] = {}
    changed = True
    while changed:
        graph = import_graph(graph_def)
        masks = resolve_dropouts(graph_def, _make_identity)
        changed = inline(graph_def, graph, known)
        known |= masks
        while _evaluate(graph_def, known) or _resolve_selects(graph_def, graph, known, masks):
            changed = True
    if not any(node.op in _LOOPS for node in graph_def.node):
        _resolve_switches(graph_def, known)
    lead_through_switches(path, graph_def)
    for node in graph_def.node:
        # Order between nodes that have no side effects means nothing, and the nodes of a training
        # branch would be kept alive by it.
        _set_inputs(node, [name for name in node.input if not name.startswith("^")])


def _evaluate(graph_def: Any, known: dict[str, bool]) -> bool:
    """Evaluate boolean scalars one step further; return whether there were any."""
    boolean = tensorflow().bool.as_datatype_enum
    changed = False
    for node in graph_def.node:
        if node.name in known:
            continue
        terms = [known.get(node_of(name)) for name in node.input if not name.startswith("^")]
        value: bool | None = None
        if node.op == "Const" and node.attr["dtype"].type == boolean:
            array = tensorflow().make_ndarray(node.attr["value"].tensor)
            value = bool(array) if array.ndim == 0 else None
        elif node.op in ("Identity", "Squeeze", "Reshape"):  # of one element, all of them
            value = terms[0]
        elif node.op == "LogicalNot" and terms[0] is not None:
            value = not terms[0]
        elif node.op == "LogicalAnd":
            value = False if False in terms else (True if terms == [True, True] else None)
        elif node.op == "LogicalOr":
            value = True if True in terms else (False if terms == [False, False] else None)
        if value is not None:
            known[node.name] = value
            changed = True
    return changed


def _resolve_selects(
    graph_def: Any, graph: Any, known: Mapping[str, bool], masks: Mapping[str, bool]
) -> bool:
    """Make an Identity of each select that is decided; return whether there were any.

    Args:
        graph_def: Is changed.
        graph: What it was, imported, for static shapes.
        known: The values of boolean nodes.
        masks: Those that are no scalars.
    """
    changed = False
    for node in graph_def.node:
        flag = node_of(node.input[0]) if node.op in ("Select", "SelectV2") else ""
        if flag not in known:
            continue
        taken, other = node.input[1:3] if known[flag] else node.input[2:0:-1]
        broadcast_to = [other, flag] if flag in masks else [other]
        if node.op == "Select" or _same_shape(graph, taken, *broadcast_to):
            _make_identity(node, taken)
            changed = True
    return changed


def _same_shape(graph: Any, taken: str, *others: str) -> bool:
    """Tell whether a SelectV2 passes ``taken`` on without broadcasting it to ``others``.

    A dimension that is unknown in all is taken for the same: the batch. Should a graph broadcast
    a batch of 1 to another, the comparison with TensorFlow at batch 2 tells.
    """
    try:
        mine, *theirs = (
            graph.get_tensor_by_name(full_name(name)).shape for name in (taken, *others)
        )
    except KeyError:  # was inlined since, and is looked at again
        return False
    if mine.rank is None or any(shape.rank is None or shape.rank > mine.rank for shape in theirs):
        return False
    return all(
        dim == own or dim == 1
        for shape in theirs
        for own, dim in zip(mine.as_list()[::-1], shape.as_list()[::-1], strict=False)
    )


def _resolve_switches(graph_def: Any, known: dict[str, bool]) -> None:
    """Join each decided Switch with what hangs on its live side, and each Merge with its one."""
    live: dict[str, str] = {}
    dead: set[str] = set()
    for node in graph_def.node:
        if node.op == "Switch" and node_of(node.input[1]) in known:
            alive = int(known[node_of(node.input[1])])
            live[f"{node.name}:{alive}"] = node.input[0]
            dead.add(f"{node.name}:{1 - alive}")
    if not live:
        return
    while _spread(graph_def, dead):
        pass
    for node in graph_def.node:
        if node.op == "Merge":
            left = [name for name in node.input if not name.startswith("^") and not _in(name, dead)]
            if len(left) == 1:
                _make_identity(node, left[0])
    for node in graph_def.node:
        _set_inputs(node, [_followed(name, live) for name in node.input])


def _spread(graph_def: Any, dead: set[str]) -> bool:
    """Mark the outputs of nodes that read what is dead; a Merge is dead if all it reads is."""
    size = len(dead)
    for node in graph_def.node:
        flags = [_in(name, dead) for name in node.input]
        if flags and (all(flags) if node.op == "Merge" else any(flags)):
            dead.add(f"{node.name}:*")
    return len(dead) > size


def _in(name: str, dead: set[str]) -> bool:
    return f"{node_of(name)}:*" in dead or (not name.startswith("^") and full_name(name) in dead)


def _followed(name: str, live: dict[str, str]) -> str:
    while not name.startswith("^") and full_name(name) in live:
        name = live[full_name(name)]
    return name


def _set_inputs(node: Any, names: list[str]) -> None:
    del node.input[:]
    node.input.extend(names)


def _make_identity(node: Any, source: str) -> None:
    dtype = node.attr["T"].type
    node.op = "Identity"
    node.ClearField("attr")
    node.attr["T"].type = dtype
    _set_inputs(node, [source])
