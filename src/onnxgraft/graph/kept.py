"""Whether a graph as it was read is what its file says.

What comes later is compared with the graph as it was read, so that no comparison shows what reading
lost. Hence the file's nodes are held against those that the graph would be written with.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import onnx

from onnxgraft.graph.operators import op_key, op_of
from onnxgraft.graph.tensors import Array

__all__ = ["lost", "same_values"]

_Holder = onnx.GraphProto | onnx.FunctionProto
_Weights = Mapping[str, Array]


def lost(file: onnx.ModelProto, graph: onnx.ModelProto, weights: _Weights) -> str | None:
    """Return what a graph lacks, or has otherwise, of the file that it was read from.

    Args:
        file: The model of the file; large initializers have no data.
        graph: As it would be written, but for ``weights``.
        weights: Large initializers of the graph, by name; their bytes are those of the file.
    """
    found = _graph(file.graph, graph.graph, weights)
    written = {(function.domain, function.name): function for function in graph.functions}
    for function in file.functions:
        other = written.get((function.domain, function.name))
        if found is None:
            missing = f"the function {function.name!r}"
            found = missing if other is None else _nodes(function, other, weights)
    return found


def _graph(file: onnx.GraphProto, graph: onnx.GraphProto, weights: _Weights) -> str | None:
    stored = {tensor.name: tensor for tensor in file.initializer}
    there = {tensor.name: tensor for tensor in graph.initializer}
    for side, ends, others in (
        ("input", file.input, graph.input), ("output", file.output, graph.output)
    ):  # fmt: skip
        if [end.name for end in ends] != [end.name for end in others]:
            return f"the {side}s of {file.name!r}"
    read = {name for node in file.node for name in node.input}
    for name in read.union(end.name for end in file.output).intersection(stored):
        if name in weights:
            same = tuple(stored[name].dims) == weights[name].shape
        else:
            same = name in there and same_values(stored[name], there[name])
        if not same:
            return f"the initializer {name!r}"
    return _nodes(file, graph, weights)


def _nodes(file: _Holder, graph: _Holder, weights: _Weights) -> str | None:
    if len(file.node) != len(graph.node):
        return f"{len(file.node)} nodes of {file.name!r}"
    for node, other in zip(file.node, graph.node, strict=True):
        called = f"{op_of(node)} {node.name or ', '.join(node.output)!r}"
        if op_key(node) != op_key(other):
            return called
        for side, names, others in (
            ("inputs", node.input, other.input), ("outputs", node.output, other.output)
        ):  # fmt: skip
            if _names(names) != _names(others):
                return f"the {side} of {called}"
        there = {attribute.name: attribute for attribute in other.attribute}
        for attribute in node.attribute:
            if attribute.name == "sparse_value":  # is read as what it stands for
                continue
            found = _attribute(attribute, there.get(attribute.name), weights)
            if found is not None:
                return found or f"the attribute {attribute.name!r} of {called}"
    return None


def _names(names: Iterable[str]) -> list[str]:
    """Return names without those that are left out at the end."""
    kept = list(names)
    while kept and not kept[-1]:
        kept.pop()
    return kept


def _attribute(
    one: onnx.AttributeProto, other: onnx.AttributeProto | None, weights: _Weights
) -> str | None:
    """Return None if two attributes are the same; else what of their bodies differs, if known."""
    if other is None or one.ref_attr_name != other.ref_attr_name or one.type != other.type:
        return ""
    if one.type == onnx.AttributeProto.GRAPH and not one.ref_attr_name:
        return _graph(one.g, other.g, weights)
    if one.type == onnx.AttributeProto.TENSOR and not one.ref_attr_name:
        return None if same_values(one.t, other.t) else ""
    return None if _values(one) == _values(other) else ""


def _values(attribute: onnx.AttributeProto) -> bytes:
    """Return what an attribute holds, as bytes: a NaN equals itself."""
    if attribute.HasField("doc_string") or attribute.HasField("ref_attr_name"):
        whole, attribute = attribute, onnx.AttributeProto()
        attribute.CopyFrom(whole)
        attribute.ClearField("doc_string")
        attribute.ClearField("ref_attr_name")  # which may stand there, and be empty
    return bytes(attribute.SerializeToString(deterministic=True))


def same_values(one: onnx.TensorProto, other: onnx.TensorProto) -> bool:
    """Tell whether two tensors are of the same type, shape and values, to the bit."""
    if one.data_type != other.data_type or list(one.dims) != list(other.dims):
        return False
    if one.raw_data and other.raw_data:
        return bool(one.raw_data == other.raw_data)
    if one.string_data or other.string_data:
        return list(one.string_data) == list(other.string_data)
    arrays = [onnx.numpy_helper.to_array(tensor) for tensor in (one, other)]
    return bool(arrays[0].tobytes() == arrays[1].tobytes())
