"""The door to onnx-graphsurgeon: graphs go in and out here with nothing of them lost.

onnx-graphsurgeon leaves out attributes of types that it does not know, can't write empty lists,
reads sparse tensors as float64, and writes strings, packed types (INT4 and the like) and some
FLOAT8 wrongly. Sparse tensors become dense ones of the same values here.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.ir.tensor import LazyValues, SparseValues
from onnx_graphsurgeon.util.misc import convert_from_onnx_attr_type

from onnxgraft.errors import NotSupportedError
from onnxgraft.graph.messages import parts as message_parts
from onnxgraft.graph.node import own
from onnxgraft.graph.operators import op_of
from onnxgraft.graph.tensors import Array
from onnxgraft.graph.walk import every_node, parts

__all__ = ["OLDEST_IR", "graph_of", "is_plain", "is_reference", "proto_of"]

# Before it, initializers had to be inputs too.
OLDEST_IR = 4
_ATTRIBUTE = onnx.AttributeProto
# The fields of attributes that onnx-graphsurgeon leaves out; `onnx.helper` writes them again.
_LEFT_OUT = {
    _ATTRIBUTE.TENSORS: "tensors",
    _ATTRIBUTE.SPARSE_TENSOR: "sparse_tensor",
    _ATTRIBUTE.SPARSE_TENSORS: "sparse_tensors",
    _ATTRIBUTE.TYPE_PROTO: "tp",
    _ATTRIBUTE.TYPE_PROTOS: "type_protos",
}
_LISTS = (_ATTRIBUTE.TENSORS, _ATTRIBUTE.SPARSE_TENSORS, _ATTRIBUTE.TYPE_PROTOS)


class _Empty(list[Any], gs.Node.AttributeRef):  # type: ignore[misc]
    """An attribute that is an empty list: it knows of what.

    onnx-graphsurgeon writes the type of what refers to an attribute of a function, and its name,
    which is taken out afterwards.
    """

    def __init__(self, kind: int) -> None:
        gs.Node.AttributeRef.__init__(self, "", convert_from_onnx_attr_type(kind))


def is_reference(value: object) -> bool:
    """Tell whether a node in a function takes the attribute ``value`` from its caller."""
    return isinstance(value, gs.Node.AttributeRef) and not isinstance(value, _Empty)


def is_plain(dtype: np.dtype[Any]) -> bool:
    """Tell whether numpy itself has a type, with values side by side in memory.

    >>> is_plain(np.dtype(np.float16)), is_plain(np.dtype(object))
    (True, False)
    """
    return dtype.isbuiltin == 1 and not dtype.hasobject


def graph_of(proto: onnx.ModelProto) -> gs.Graph:
    """Return an ONNX model as a graph; inputs that are initializers too are no inputs of it.

    Raises:
        NotSupportedError: An attribute or a function can't be kept.
    """
    for function in proto.functions:
        if function.overload:
            raise NotSupportedError(
                f"the function {function.name!r} is overloaded ({function.overload!r}): functions "
                "are told apart by name and domain here; inline them"
            )
    proto = _tensors_alone(proto)
    graph = gs.import_onnx(proto)
    graph.ir_version = max(graph.ir_version, OLDEST_IR)
    _complete(graph, proto.graph, within=False)
    for part, function in zip(graph.functions, proto.functions, strict=True):
        _complete(part, function, within=True)
    for node in every_node(graph):
        own(node)
    for tensor in _constants(graph):
        if isinstance(tensor._values, SparseValues):
            tensor._values = LazyValues(_dense(tensor._values.tensor))
    return graph


def proto_of(graph: gs.Graph, *, do_type_check: bool = True) -> onnx.ModelProto:
    """Return the ONNX model of a graph, which stays as it is.

    Args:
        graph: The graph.
        do_type_check: Whether inputs and outputs must have types.
    """
    with _as_stored(_tensors(graph)):
        proto: onnx.ModelProto = gs.export_onnx(graph, do_type_check=do_type_check)
    values = (value for node in every_node(graph) for value in node.attrs.values())
    if any(isinstance(value, _Empty) for value in values):
        nodes = (part for part in message_parts(proto) if isinstance(part, onnx.NodeProto))
        for attribute in (attribute for node in nodes for attribute in node.attribute):
            if not attribute.ref_attr_name:
                attribute.ClearField("ref_attr_name")
    return proto


@contextlib.contextmanager
def _as_stored(tensors: Iterable[gs.Tensor]) -> Iterator[None]:
    """Give tensors the form that onnx has for them, as long as the block lasts.

    Those of types that numpy does not have; and it has no shape without a type.
    """
    before: list[tuple[Any, str, Any]] = []
    for tensor in tensors:
        if isinstance(tensor, gs.Constant):
            value = tensor._values
            if isinstance(value, np.ndarray) and not is_plain(value.dtype):
                before.append((tensor, "_values", value))
                tensor._values = LazyValues(onnx.numpy_helper.from_array(value, tensor.name))
        elif isinstance(tensor.dtype, np.dtype) and tensor.dtype.isbuiltin == 2:
            before.append((tensor, "dtype", tensor.dtype))
            tensor.dtype = int(onnx.helper.np_dtype_to_tensor_dtype(tensor.dtype))
        elif tensor.dtype is None and tensor.shape is not None:
            before.append((tensor, "shape", tensor.shape))
            tensor.shape = None
    try:
        yield
    finally:
        for tensor, name, value in reversed(before):
            setattr(tensor, name, value)


def _tensors_alone(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model that says types of tensors only: those of sequences and others are inferred.

    onnx-graphsurgeon makes tensors of sequences when it copies a graph, and takes no optionals.
    """
    if not any(_others(graph, graph is proto.graph) for graph in _graphs(proto)):
        return proto
    plain = onnx.ModelProto()
    plain.CopyFrom(proto)
    for graph in _graphs(plain):
        for entry in _others(graph, graph is plain.graph):
            entry.ClearField("type")
    return plain


def _graphs(proto: onnx.ModelProto) -> list[onnx.GraphProto]:
    return [part for part in message_parts(proto) if isinstance(part, onnx.GraphProto)]


def _others(graph: onnx.GraphProto, outermost: bool) -> list[onnx.ValueInfoProto]:
    """Return what a graph declares that is no tensor; the ends of the outermost are looked at.

    A type of no kind, or of undefined elements, is among it: onnx-graphsurgeon would keep it.
    """
    found = []
    for entries, end in ((graph.value_info, False), (graph.input, True), (graph.output, True)):
        for entry in entries:
            kind = entry.type.WhichOneof("value")
            whole = kind == "tensor_type" and entry.type.tensor_type.elem_type
            empty = kind is None and entry.HasField("type")
            if empty or (kind is not None and not whole and not (end and outermost)):
                found.append(entry)
    return found


def _complete(part: Any, holder: onnx.GraphProto | onnx.FunctionProto, *, within: bool) -> None:
    """Add the attributes that were left out to the nodes of a graph or function and its bodies.

    Those of nodes ``within`` a function may stand for one that the call brings.
    """
    for node, proto in zip(part.nodes, holder.node, strict=True):
        called = f"{op_of(node)} {proto.name or ', '.join(map(str, proto.output))!r}"
        if proto.overload:
            raise NotSupportedError(f"{called} calls an overloaded function; inline the functions")
        for attribute in proto.attribute:
            if attribute.ref_attr_name and not within:
                raise NotSupportedError(
                    f"the attribute {attribute.name!r} of {called} stands for an attribute of a "
                    f"function ({attribute.ref_attr_name!r}), and {called} is in none; write its "
                    "value instead"
                )
            if attribute.type == _ATTRIBUTE.GRAPH and not attribute.ref_attr_name:
                _complete(node.attrs[attribute.name], attribute.g, within=within)
            elif attribute.name in node.attrs:
                known = node.attrs[attribute.name]
                if isinstance(known, list) and not known:
                    node.attrs[attribute.name] = _Empty(attribute.type)
            elif attribute.type not in _LEFT_OUT or attribute.ref_attr_name:
                kind = _ATTRIBUTE.AttributeType.Name(attribute.type)
                raise NotSupportedError(
                    f"the attribute {attribute.name!r} of {called} is of the type {kind}, which "
                    "can't be kept; export the network without it"
                )
            elif attribute.name == "sparse_value":
                node.attrs["value"] = gs.Constant("", LazyValues(_dense(attribute.sparse_tensor)))
            else:
                value = getattr(attribute, _LEFT_OUT[attribute.type])
                if attribute.type in _LISTS:
                    value = list(value) or _Empty(attribute.type)
                node.attrs[attribute.name] = value


def _dense(sparse: onnx.SparseTensorProto) -> onnx.TensorProto:
    """Return a sparse tensor with its zeros."""
    values = onnx.numpy_helper.to_array(sparse.values)
    places = onnx.numpy_helper.to_array(sparse.indices)
    if places.ndim == 2:
        places = np.ravel_multi_index(tuple(places.T), tuple(sparse.dims))
    zero: Any = "" if values.dtype.hasobject else 0
    flat: Array = np.full(math.prod(sparse.dims), zero, values.dtype)
    flat[places] = values
    return onnx.numpy_helper.from_array(flat.reshape(sparse.dims), sparse.values.name)


def _tensors(graph: gs.Graph) -> Iterator[gs.Tensor]:
    """Yield the tensors of a graph, its bodies and functions, those in attributes included.

    Each comes at least once.
    """
    for part in parts(graph):
        yield from (*part.inputs, *part.outputs)
        for node in part.nodes:
            yield from (*node.inputs, *node.outputs)
            yield from (value for value in node.attrs.values() if isinstance(value, gs.Tensor))


def _constants(graph: gs.Graph) -> Iterator[gs.Constant]:
    return (tensor for tensor in _tensors(graph) if isinstance(tensor, gs.Constant))
