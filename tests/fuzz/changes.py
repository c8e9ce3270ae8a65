"""One thing changed in a sound graph, as exporters and people get it wrong: the rest stays whole.

A byte that is damaged hardly ever makes another number of an attribute, a constant of another size
or a node without its last input. These do nothing else.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnxgraft.graph.messages import bodies

__all__ = ["onnx_changed", "tensorflow_changed"]

# Numbers at which lists, products and signs go wrong.
_INTEGERS = (2**31 - 1, 2**40, 10**9, 10**6, 0, -1, -(2**31))
_FLOATS = (float("nan"), float("inf"), 0.0, -1e30)
_TEXTS = (b"", b"other", b"NCHW", b"SAME", b"VALID", b"EXPLICIT")
# Changes that are drawn before one is found that can be made.
_TRIES = 50


def onnx_changed(data: bytes, rng: random.Random) -> bytes | None:
    """Return an ONNX model with one thing changed; None if nothing can be."""
    return _changed(onnx.ModelProto.FromString(data), rng, _change_onnx)


def tensorflow_changed(data: bytes, rng: random.Random) -> bytes | None:
    """Return a GraphDef with one thing changed; None if nothing can be."""
    from tensorflow.core.framework.graph_pb2 import GraphDef

    return _changed(GraphDef.FromString(data), rng, _change_tensorflow)


def _changed(
    model: Any, rng: random.Random, change: Callable[[Any, random.Random], bool]
) -> bytes | None:
    before = model.SerializeToString(deterministic=True)
    for _ in range(_TRIES):
        if change(model, rng):
            made = bytes(model.SerializeToString(deterministic=True))
            if made != before:
                return made
    return None


# ONNX -----------------------------------------------------------------------------------------


def _change_onnx(model: onnx.ModelProto, rng: random.Random) -> bool:
    """Change a node, a stored value or what is declared of an input; tell whether that was done."""
    graphs = list(_graphs(model.graph))
    graph = rng.choice(graphs)
    kind = rng.randrange(10)
    if kind == 0 and graph.initializer:
        tensor = rng.choice(graph.initializer)
        value = _other_value(numpy_helper.to_array(tensor), rng)
        if value is not None:
            tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
        return value is not None
    if kind == 1 and graph.input:
        return _change_shape(rng.choice(graph.input).type.tensor_type, rng)
    if kind == 2 and graph is not graphs[0]:
        ends = rng.choice((graph.input, graph.output))
        return _drop(ends, rng)
    return bool(graph.node) and _change_node(rng.choice(graph.node), rng)


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for body in bodies(attribute):
                yield from _graphs(body)


def _change_node(node: onnx.NodeProto, rng: random.Random) -> bool:
    inputs = rng.random() < 0.5
    names = node.input if inputs else node.output
    if rng.random() < 0.3 or not node.attribute:
        how = rng.randrange(4)
        if how == 0:
            names.append(rng.choice(names) if inputs and names else "more")
        elif how == 1:
            return _drop(names, rng)
        elif names:
            names[rng.randrange(len(names))] = "" if how == 2 else rng.choice(names)
        return how == 0 or bool(names)
    place = rng.randrange(len(node.attribute))
    attribute = node.attribute[place]
    if rng.random() < 0.1:
        del node.attribute[place]
        return True
    if rng.random() < 0.1:
        attribute.CopyFrom(helper.make_attribute(attribute.name, rng.choice((1, 2.0, "a", [1, 2]))))
        return True
    if attribute.type == onnx.AttributeProto.INT:
        attribute.i = rng.choice(_INTEGERS)
    elif attribute.type == onnx.AttributeProto.FLOAT:
        attribute.f = rng.choice(_FLOATS)
    elif attribute.type == onnx.AttributeProto.STRING:
        attribute.s = rng.choice(_TEXTS)
    elif attribute.type == onnx.AttributeProto.INTS:
        return _change_list(attribute.ints, rng, _INTEGERS)
    else:
        return False
    return True


def _change_shape(kind: onnx.TypeProto.Tensor, rng: random.Random) -> bool:
    dims, how = kind.shape.dim, rng.randrange(5)
    if how == 0:
        kind.elem_type = rng.choice((1, 7, 9, 10))
    elif how == 1:
        kind.ClearField("shape")
    elif how == 2:
        dims.add().dim_value = rng.choice((3, *_INTEGERS))
    elif how == 3:
        return _drop(dims, rng)
    elif dims:
        rng.choice(dims).dim_value = rng.choice(_INTEGERS)
    return how < 3 or bool(dims)


# TensorFlow -----------------------------------------------------------------------------------


def _change_tensorflow(graph: Any, rng: random.Random) -> bool:
    """Change a node of a graph or of a function; tell whether that was done."""
    nodes = [*graph.node, *(node for f in graph.library.function for node in f.node_def)]
    node = rng.choice(nodes)
    if rng.random() < 0.15 and node.input:
        if rng.random() < 0.5:
            return _drop(node.input, rng)
        node.input[rng.randrange(len(node.input))] = rng.choice(nodes).name
        return True
    names = [name for name in node.attr if not name.startswith("_")]
    if not names:
        return False
    name = rng.choice(names)
    if rng.random() < 0.05:
        del node.attr[name]
        return True
    functions = [function.signature.name for function in graph.library.function]
    return _change_value(node.attr[name], rng, functions)


def _change_value(value: Any, rng: random.Random, functions: list[str]) -> bool:
    kind = value.WhichOneof("value")
    if kind == "i":
        value.i = rng.choice(_INTEGERS)
    elif kind == "f":
        value.f = rng.choice(_FLOATS)
    elif kind == "b":
        value.b = not value.b
    elif kind == "s":
        value.s = rng.choice(_TEXTS)
    elif kind == "type":
        value.type = rng.randrange(1, 24)
    elif kind == "func":
        value.func.name = rng.choice([*functions, "none"])
    elif kind == "shape":
        return _change_dims(value.shape, rng)
    elif kind == "list":
        return _change_list(value.list.i, rng, _INTEGERS) or _drop(value.list.type, rng)
    elif kind == "tensor":
        return _change_tensor(value.tensor, rng)
    return kind is not None


def _change_dims(shape: Any, rng: random.Random) -> bool:
    how = rng.randrange(3)
    if how == 0:
        shape.dim.add().size = rng.choice((2, *_INTEGERS))
    elif how == 1:
        return _drop(shape.dim, rng)
    elif shape.dim:
        rng.choice(shape.dim).size = rng.choice(_INTEGERS)
    return how == 0 or bool(shape.dim)


def _change_tensor(tensor: Any, rng: random.Random) -> bool:
    import tensorflow as tf

    if rng.random() < 0.2:
        return _change_dims(tensor.tensor_shape, rng)
    value = _other_value(tf.make_ndarray(tensor), rng)
    if value is not None:
        tensor.CopyFrom(tf.make_tensor_proto(value))
    return value is not None


# Both -----------------------------------------------------------------------------------------


def _drop(entries: Any, rng: random.Random) -> bool:
    """Take one of several out, mostly the last; tell whether there was one."""
    if entries:
        del entries[rng.choice((-1, -1, rng.randrange(len(entries))))]
        return True
    return False


def _change_list(entries: Any, rng: random.Random, others: tuple[Any, ...]) -> bool:
    """Change a list of numbers; tell whether there was one."""
    if not entries:
        return False
    how = rng.randrange(3)
    if how == 0:
        entries.append(rng.choice(others))
    elif how == 1:
        return _drop(entries, rng)
    else:
        entries[rng.randrange(len(entries))] = rng.choice(others)
    return True


def _other_value(value: Any, rng: random.Random) -> Any | None:
    """Return a stored value with one of its elements, or its shape, changed; None of text."""
    if value.dtype.kind not in "iuf":
        return None
    if rng.random() < 0.3 or not value.size:
        shaped = (value.reshape(-1), value[None], value.reshape(-1)[:0], value.reshape(-1)[:1])
        return np.ascontiguousarray(rng.choice(shaped))
    made = value.copy()
    if value.dtype.kind == "f":
        made.flat[rng.randrange(value.size)] = rng.choice(_FLOATS[:3])
    else:
        limits = np.iinfo(value.dtype)
        fitting = [each for each in _INTEGERS if limits.min <= each <= limits.max]
        made.flat[rng.randrange(value.size)] = rng.choice(fitting)
    return made
