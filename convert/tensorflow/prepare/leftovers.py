"""What training leaves in a frozen graph: flags, keep probabilities, batch norms in training mode.

A placeholder is set for inference. A constant and an attribute are what the graph computes: they
stay, with a note, unless the user overrides it.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from onnxgraft.errors import InputError, nearest
from onnxgraft.graph.tensor_option import Value
from onnxgraft.graph.training import is_training_flag
from onnxgraft.stages.convert.tensorflow.running import tensorflow

__all__ = [
    "PLACEHOLDER_OPS",
    "bake",
    "choose_values",
    "freeze_batchnorm",
    "training_constants",
    "training_flags",
    "training_lines",
    "training_notes",
]

PLACEHOLDER_OPS = frozenset({"Placeholder", "PlaceholderV2", "PlaceholderWithDefault"})
_KEEP = re.compile(r"(?:^|[/_])keep_?prob(?:ability)?(?:_\d+)?(?:$|/)", re.IGNORECASE)
_DROP = re.compile(r"(?:^|[/_])drop(?:out)?_?(?:rate|prob)(?:_\d+)?(?:$|/)", re.IGNORECASE)
# Values that a flag or a probability may have; it is one, or one for each layer or sample.
_MOST = 1 << 16
_RANDOM = re.compile(r"(Stateless)?(Random(Uniform|StandardNormal)|TruncatedNormal)(Int)?(V2)?")


def choose_values(
    path: str | os.PathLike[str],
    graph_def: Any,
    asked: Mapping[str, Value],
    fed: Sequence[str],
    notes: list[str],
) -> dict[str, Any]:
    """Return the value of each placeholder and constant that inference sets, in its shape.

    Args:
        path: What messages call the graph.
        graph_def: The graph.
        asked: What the user sets.
        fed: The placeholders that are inputs, whatever they are called.
        notes: Gets a sentence for each.

    Raises:
        InputError: The graph has nothing of a name that is asked for.
    """
    placeholders = {node.name for node in graph_def.node if node.op in PLACEHOLDER_OPS}
    scalars = {node.name for node in graph_def.node if _is_scalar(node)}
    trained = training_constants(graph_def)
    for name in asked:
        if name not in placeholders | scalars:
            hint = nearest(name, [*placeholders, *trained])
            raise InputError(
                f"{path}: --set {name}: no placeholder and no scalar constant has that name; {hint}"
            )
    chosen = dict(asked)
    notes.extend(f"{name} was set to {value} as requested" for name, value in asked.items())
    for name, value in training_flags(graph_def).items():
        if name not in chosen and name not in fed:
            chosen[name] = value
            notes.append(f"{name} was frozen to {value} for inference")
    notes.extend(
        f"the constant {name} is {told}, as in training, and was left unchanged; "
        f"--set {name}={value} overrides it"
        for name, (told, value) in trained.items()
        if name not in chosen
    )
    nodes = {node.name: node for node in graph_def.node}
    return {name: _shaped(path, nodes[name], value) for name, value in chosen.items()}


def _shaped(path: str | os.PathLike[str], node: Any, value: Value) -> Any:
    """Return ``value`` in the shape that a placeholder records; without one it is a scalar."""
    tf = tensorflow()
    if _size(node) > _MOST:
        raise InputError(
            f"{path}: --set {node.name}: it has {_size(node):,} values, at most {_MOST:,} are set"
        )
    shape = tf.TensorShape(node.attr["shape"].shape if "shape" in node.attr else None)
    if not shape.is_fully_defined():
        shape = tf.TensorShape([])
    return np.full(shape.as_list(), value, tf.as_dtype(node.attr["dtype"].type).as_numpy_dtype)


def _size(node: Any) -> int:
    """Return how many values a placeholder has by its recorded shape; what is free counts as 1."""
    dims = node.attr["shape"].shape.dim if "shape" in node.attr else ()
    return math.prod(max(dim.size, 1) for dim in dims)


def bake(graph_def: Any, values: Mapping[str, Any]) -> None:
    """Make constants of the nodes that ``values`` names."""
    tf = tensorflow()
    for node in graph_def.node:
        if node.name in values:
            node.op = "Const"
            del node.input[:]
            for key in [key for key in node.attr if key != "dtype"]:
                del node.attr[key]
            node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(values[node.name]))


def training_flags(graph_def: Any) -> dict[str, Value]:
    """Return the placeholders that tell training from inference, and inference's value of each."""
    flags: dict[str, Value] = {}
    for node in graph_def.node:
        if node.op in PLACEHOLDER_OPS:
            value = _inference_value(node)
            if value is not None and _size(node) <= _MOST:
                flags[node.name] = value
    return flags


def _inference_value(node: Any) -> Value | None:
    dtype = tensorflow().as_dtype(node.attr["dtype"].type)
    if dtype.is_bool:
        return False if is_training_flag(node.name) else None
    if _KEEP.search(node.name):
        return 1.0
    return 0.0 if dtype.is_floating and _DROP.search(node.name) else None


def training_constants(graph_def: Any) -> dict[str, tuple[Value, str]]:
    """Return the constants that hold a graph in training: their value, and inference's."""
    tf = tensorflow()
    found: dict[str, tuple[Value, str]] = {}
    used = {  # by more than a placeholder, whose default it may be
        name.split(":")[0]
        for node in graph_def.node
        if node.op not in PLACEHOLDER_OPS
        for name in node.input
    }
    for node in graph_def.node:
        if not _is_scalar(node) or node.name not in used:
            continue
        value: Any = tf.make_ndarray(node.attr["value"].tensor).item()
        if value is True and is_training_flag(node.name):
            found[node.name] = (value, "false")
        elif isinstance(value, float) and 0 < value < 1:
            if _KEEP.search(node.name):
                found[node.name] = (round(value, 6), "1")
            elif _DROP.search(node.name):
                found[node.name] = (round(value, 6), "0")
    return found


def training_notes(prepared: Any) -> list[str]:
    """Return a sentence for each kind of training operator that inference still runs."""
    own = [node.name for node in prepared.node if _trains(node)]
    drawn = [node.name for node in prepared.node if _RANDOM.fullmatch(node.op)]
    notes = []
    if own:
        notes.append(
            f"{len(own)} batch normalization(s) run in training mode, on the batch's own "
            f"statistics, as in TensorFlow ({_some(own)}); --freeze-batchnorm runs them "
            "with those that they store"
        )
    if drawn:
        notes.append(
            f"{len(drawn)} operator(s) draw random numbers, so that no two runs agree "
            f"({_some(drawn)}); if it is a dropout, set its probability with --set"
        )
    return notes


def training_lines(graph_def: Any) -> list[str]:
    """Return a line for each thing that training left in a graph, for the lint."""
    lines = [
        f"{name}: a placeholder, {value} at inference"
        for name, value in training_flags(graph_def).items()
    ]
    lines += [
        f"{name}: a constant, {told} (inference has {value})"
        for name, (told, value) in training_constants(graph_def).items()
    ]
    lines += [f"{n.name}: {n.op} in training mode" for n in graph_def.node if _trains(n)]
    lines += [f"{n.name}: {n.op}" for n in graph_def.node if _RANDOM.fullmatch(n.op)]
    return lines


def freeze_batchnorm(prepared: Any, original: Any, notes: list[str]) -> None:
    """Let batch normalizations in training mode run with the statistics that they store.

    Args:
        prepared: What is converted: changed where statistics are stored.
        original: The reference: the same nodes are changed, also within its functions.
        notes: Gets a sentence about those that were frozen, and those that store none.
    """
    nodes = {node.name: node for node in prepared.node}
    frozen, empty = [], []
    for node in prepared.node:
        if not _trains(node):
            continue
        if all(_stores(nodes, node.input[index]) for index in (3, 4)):
            node.attr["is_training"].b = False
            frozen.append(node.name)
        else:
            empty.append(node.name)
    for node in original.node:
        if node.name in frozen:
            node.attr["is_training"].b = False
    # A node of a function was put in place under the name of the call before its own.
    for function in original.library.function:
        for node in function.node_def:
            if _trains(node) and any(name.endswith(f"/{node.name}") for name in frozen):
                node.attr["is_training"].b = False
    if frozen:
        notes.append(
            f"{len(frozen)} batch normalization(s) were in training mode and run with their stored "
            f"statistics, as requested ({_some(frozen)}); so they do in the original that the "
            "result is compared with"
        )
    if empty:
        notes.append(
            f"{len(empty)} batch normalization(s) stay in training mode: they store no statistics "
            f"({_some(empty)})"
        )


def _trains(node: Any) -> bool:
    return bool(node.op.startswith("FusedBatchNorm") and node.attr["is_training"].b)


def _stores(nodes: Mapping[str, Any], name: str) -> bool:
    """Tell whether a mean or variance is a constant with values; in training it may be empty."""
    node = nodes.get(name.split(":")[0])
    while node is not None and node.op == "Identity":
        node = nodes.get(node.input[0].split(":")[0])
    if node is None or node.op != "Const":
        return False
    return all(dim.size > 0 for dim in node.attr["value"].tensor.tensor_shape.dim)


def _is_scalar(node: Any) -> bool:
    return node.op == "Const" and not node.attr["value"].tensor.tensor_shape.dim


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
