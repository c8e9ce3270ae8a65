"""Reading and writing ONNX files without holding their weights a second time.

Protobuf can only read and write a whole message in memory, of at most 2 GB. Here the message goes
through it without its large initializers: these are views of the mapped file, and are written
straight from their arrays, as the wire format has them (field numbers of onnx.proto:
ModelProto.graph = 7, GraphProto.initializer = 5, TensorProto.raw_data = 9). What does not fit into
2 GB goes into a file beside the model, as ONNX's external data.
"""

from __future__ import annotations

import contextlib
import functools
import math
import mmap
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from google.protobuf.message import DecodeError

from onnxgraft.errors import ModelError
from onnxgraft.files import atomic
from onnxgraft.files.limits import NODES, TENSORS
from onnxgraft.files.schema import Costs, Message, schema
from onnxgraft.files.survey import survey
from onnxgraft.files.wire import BYTES, WireError, fields
from onnxgraft.graph.demands import (
    check_bodies,
    check_calls,
    check_counts,
    check_declared,
    check_dense,
    check_values,
)
from onnxgraft.graph.external import LARGE, PACKED, ExternalData, view_of
from onnxgraft.graph.foreign import refuse_foreign
from onnxgraft.graph.messages import parts
from onnxgraft.graph.operators import is_own_domain, op_key, op_of
from onnxgraft.graph.programs import reason_against
from onnxgraft.graph.surgeon import OLDEST_IR, is_plain
from onnxgraft.graph.tensors import Array

__all__ = [
    "check",
    "fed",
    "is_known",
    "read_model",
    "reference_to",
    "save_model",
    "split_weights",
    "unmade",
]

# What protobuf's readers take.
MOST_BYTES = (1 << 31) - 1
_UNKNOWN = "onnxgraft.unknown"
# Operators that onnx has withdrawn from opsets in which onnxruntime goes on to run them.
_WITHDRAWN = {"GroupNormalization": range(18, 21)}
_TYPES = frozenset(onnx.TensorProto.DataType.values()) - {onnx.TensorProto.UNDEFINED}
# Attributes of ONNX's operators that are one of them, or 0 where the operator chooses.
_TYPE_ATTRIBUTES = frozenset({
    "dtype",
    "output_datatype",
    "output_dtype",
    "precision",
    "softmax_precision",
    "stash_type",
    "to",
})
# External data begin at multiples of this, so that they can be mapped.
_PAGE = 4096
# Measured: onnx.checker parses a copy, and onnx-graphsurgeon makes objects of what is in a graph.
_COSTS = Costs(
    copies=4,
    limits={"NodeProto": NODES, "TensorProto": TENSORS},
    objects={
        "NodeProto": 1300,
        "NodeProto.input=": 1000,
        "NodeProto.output": 1000,
        "GraphProto": 1500,
        "TensorProto": 1800,
        "ValueInfoProto": 400,
    },
)  # fmt: skip

# Reading --------------------------------------------------------------------------------------


def read_model(path: Path) -> tuple[onnx.ModelProto, dict[str, Array]]:
    """Return the model without its large initializers, and these as views of the mapped files.

    The initializers are still listed in the model, with their shapes and types but no data. Those
    that are listed as inputs too, as files of before 2019 have them, are no inputs any more.

    Raises:
        ModelError: It is no ONNX file, or its external data are missing or not where they may be:
            in the model's folder or below it, in files of their own; or an operator is a program.
    """
    refuse_foreign(path, but=("an engine",))
    with open(path, "rb") as file:
        whole = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    weights: dict[str, Array] = {}
    try:
        survey(whole, _schema(), f"{path}:")
        proto = onnx.ModelProto.FromString(b"".join(_model(whole, weights)))
        _renew(proto, path)
        _check(proto, path, weights)
    except (DecodeError, UnicodeDecodeError, WireError) as error:
        raise ModelError(f"{path}: not a valid ONNX file ({error})") from error
    return proto, weights


def _renew(proto: onnx.ModelProto, path: Path) -> None:
    """Give a model of before 2019 the form of today: initializers are no inputs."""
    if proto.HasField("ir_version") and 0 < proto.ir_version < 3:
        raise ModelError(
            f"{path}: a file of ONNX's IR version {proto.ir_version}, of before 2017, does not say "
            "which operators it means; export the network again"
        )
    if proto.ir_version == 3:
        proto.ir_version = OLDEST_IR
    stored = {tensor.name for tensor in proto.graph.initializer}
    stored |= {tensor.values.name for tensor in proto.graph.sparse_initializer}
    inputs = [entry for entry in proto.graph.input if entry.name not in stored]
    if len(inputs) < len(proto.graph.input):
        del proto.graph.input[:]
        proto.graph.input.extend(inputs)


def _check(proto: onnx.ModelProto, path: Path, weights: dict[str, Array]) -> None:
    """Take in what is stored in other files, and raise ModelError for what may not be."""
    data = ExternalData(path)
    for tensor in proto.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            value = data.take(tensor, mapped=bool(tensor.name) and tensor.name not in weights)
            if value is not None:
                weights[tensor.name] = value
        if tensor.name not in weights:
            check_values(tensor, path)
    dense = 0
    _make_readable(proto, "producer_name", "producer_version")
    for entry in proto.metadata_props:
        _make_readable(entry, "key", "value")
    for function in proto.functions:
        _make_readable(function, "doc_string")
    _check_texts(_texts_of_model(proto), path)
    for part in parts(proto):
        _check_texts(_texts(part), path)
        if isinstance(part, onnx.NodeProto):
            reason = reason_against(part)
            if reason is not None:
                raise ModelError(
                    f"{path}: {_called(part)!r} is of the type {op_of(part)}, which {reason}; "
                    "take the graph without it"
                )
        elif isinstance(part, onnx.TensorProto):
            if part.data_location == onnx.TensorProto.EXTERNAL:
                data.take(part, mapped=False)
            check_values(part, path)
        elif isinstance(part, onnx.GraphProto):
            _make_readable(part, "doc_string")
            check_declared(part, path)
        else:
            dense += math.prod(max(dim, 0) for dim in part.dims)
            check_dense(dense, path)
    check_bodies(proto, path, weights)
    check_counts(proto, path)
    check_calls(proto, path)


def _make_readable(message: Any, *texts: str) -> None:
    """Replace what is no UTF-8 in texts that only people read, as in comments of older tools."""
    for name in texts:
        text: str | bytes = getattr(message, name)
        if isinstance(text, bytes):
            setattr(message, name, text.decode(errors="replace"))


def _check_texts(texts: Iterable[str | bytes], path: Path) -> None:
    """Raise ModelError for what is no UTF-8: protobuf returns bytes where it has a text."""
    for text in texts:
        if isinstance(text, bytes):
            raise ModelError(f"{path}: not a valid ONNX file (the name {text[:100]!r} is no UTF-8)")


def _texts_of_model(proto: onnx.ModelProto) -> Iterator[str | bytes]:
    yield from (entry.domain for entry in proto.opset_import)
    yield from (tensor.name for tensor in proto.graph.initializer)
    for function in proto.functions:
        yield from (function.name, function.domain, *function.input, *function.output)
        yield from (*function.attribute, *(entry.name for entry in function.attribute_proto))
        yield from (entry.domain for entry in function.opset_import)


def _texts(part: Any) -> Iterator[str | bytes]:
    """Yield the names in a node, a tensor or a graph."""
    if isinstance(part, onnx.NodeProto):
        yield from (part.name, *op_key(part), *part.input, *part.output)
        for attribute in part.attribute:
            yield from (attribute.name, attribute.ref_attr_name)
    elif isinstance(part, onnx.GraphProto):
        yield part.name
        for value in (*part.input, *part.output, *part.value_info):
            yield value.name
            yield from (dim.dim_param for dim in value.type.tensor_type.shape.dim)
    elif isinstance(part, onnx.TensorProto):
        yield part.name


@functools.cache
def _schema() -> Message:
    return schema(onnx.ModelProto.DESCRIPTOR, _COSTS)


def _model(data: memoryview, weights: dict[str, Array]) -> Iterator[bytes | memoryview]:
    done = 0
    for field in fields(data):
        if field.number == 7 and field.kind == BYTES:
            yield data[done : field.start]
            graph = b"".join(_graph(field.data, weights))
            yield _tag(7) + _varint(len(graph)) + graph
            done = field.end
    yield data[done:]


def _graph(data: memoryview, weights: dict[str, Array]) -> Iterator[bytes | memoryview]:
    done = 0
    for field in fields(data):
        if field.number != 5 or field.kind != BYTES or len(field.data) < LARGE:
            continue
        light = _initializer(field.data, weights)
        if light is not None:
            yield data[done : field.start]
            yield _tag(5) + _varint(len(light)) + light
            done = field.end
    yield data[done:]


def _initializer(data: memoryview, weights: dict[str, Array]) -> bytes | None:
    """Take the data out of a large initializer; None where it has to stay as it is."""
    raw: memoryview | None = None
    parts: list[memoryview] = []
    for field in fields(data):
        if field.number == 9 and field.kind == BYTES:
            if raw is not None:
                return None
            raw = field.data
            parts = [data[: field.start], data[field.end :]]
        elif field.end - field.start >= LARGE:
            return None  # its data are in another field
    if raw is None:
        return None
    head = b"".join(parts)
    tensor = onnx.TensorProto.FromString(head)
    value = view_of(tensor, raw)
    if value is None or not tensor.name or tensor.name in weights:
        return None
    weights[tensor.name] = value
    return head


# Writing --------------------------------------------------------------------------------------


def split_weights(graph: gs.Graph, *, plain: bool = False) -> tuple[gs.Graph, dict[str, Array]]:
    """Return a copy of the graph whose large constants are empty, and the constants by name.

    Strings, and types that share bytes between elements, stay in the graph.

    Args:
        graph: Is not changed.
        plain: Leave all types that numpy itself does not have in the graph.
    """
    light = graph.copy()
    weights: dict[str, Array] = {}
    for tensor in light.tensors().values():
        if not isinstance(tensor, gs.Constant) or tensor._values.nbytes < LARGE:
            continue
        value = np.asarray(tensor.values)
        if is_plain(value.dtype) if plain else _is_whole(value.dtype):
            weights[tensor.name] = value
            tensor.values = np.zeros(0, value.dtype)
    return light, weights


def _is_whole(dtype: np.dtype[Any]) -> bool:
    """Tell whether each element of a type is stored in bytes of its own, as in memory."""
    if dtype.hasobject:
        return False
    element = onnx.helper.np_dtype_to_tensor_dtype(dtype)
    return onnx.TensorProto.DataType.Name(element) not in PACKED


def reference_to(name: str, value: Array, location: str = "weights") -> onnx.TensorProto:
    """Return an initializer whose data are elsewhere: in the file ``location``, or in memory."""
    element = onnx.helper.np_dtype_to_tensor_dtype(value.dtype)
    tensor = onnx.TensorProto(name=name, data_type=element, dims=value.shape)
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    return tensor


def fed(model: onnx.ModelProto, weights: Mapping[str, Array]) -> onnx.ModelProto:
    """Return a copy of ``model`` that gets the initializers in ``weights`` as further inputs."""
    whole = onnx.ModelProto()
    whole.CopyFrom(model)
    small = [entry for entry in whole.graph.initializer if entry.name not in weights]
    del whole.graph.initializer[:]
    whole.graph.initializer.extend(small)
    for name, value in weights.items():
        element = onnx.helper.np_dtype_to_tensor_dtype(value.dtype)
        whole.graph.input.append(onnx.helper.make_tensor_value_info(name, element, value.shape))
    return whole


def is_known(model: onnx.ModelProto) -> bool:
    """Tell whether onnx knows all operators of a model, and their opset."""
    functions = {("" if is_own_domain(f.domain) else f.domain, f.name) for f in model.functions}
    newest = onnx.defs.onnx_opset_version()
    if any(is_own_domain(e.domain) and e.version > newest for e in model.opset_import):
        return False
    keys = {op_key(part) for part in parts(model) if isinstance(part, onnx.NodeProto)}
    return all(key in functions or (not key[0] and onnx.defs.has(key[1])) for key in keys)


def check(model: onnx.ModelProto, weights: Mapping[str, Array]) -> None:
    """Run onnx.checker on a model whose large initializers are in ``weights``.

    They are declared as inputs instead, of the right types and shapes. Operators and opsets that
    this version of onnx does not know are not checked: they may be right. What it has withdrawn and
    onnxruntime runs is checked as its next form. An output needs no shape, and no type.
    """
    whole = fed(model, weights)
    for output in whole.graph.output:
        kind = output.type.tensor_type
        if output.type.HasField("tensor_type") or not output.type.WhichOneof("value"):
            kind.elem_type = kind.elem_type or onnx.TensorProto.FLOAT
            kind.shape.SetInParent()
    functions = {(function.domain, function.name) for function in whole.functions}
    newest = onnx.defs.onnx_opset_version()
    opset = newest
    for entry in whole.opset_import:
        if is_own_domain(entry.domain):
            opset = entry.version = min(entry.version, newest)
    if _hide_unknown(whole.graph, functions, opset):
        whole.opset_import.add(domain=_UNKNOWN, version=1)
    onnx.checker.check_model(whole)
    _check_types(whole)


def _check_types(model: onnx.ModelProto) -> None:
    """Raise ValueError if an attribute that is a type of values is a number that no type has."""
    for node in parts(model):
        if not isinstance(node, onnx.NodeProto) or not is_own_domain(node.domain):
            continue
        for attribute in node.attribute if op_of(node) in _typed() else ():
            known = attribute.i in _TYPES or (attribute.i == 0 and attribute.name != "to")
            if attribute.name in _TYPE_ATTRIBUTES and not attribute.ref_attr_name and not known:
                raise ValueError(
                    f"the {attribute.name!r} of {op_of(node)} {_called(node)!r} is {attribute.i}, "
                    "which is no type"
                )


@functools.cache
def _typed() -> frozenset[str]:
    """Return the operators that have such an attribute."""
    return frozenset(
        schema.name for schema in onnx.defs.get_all_schemas_with_history()
        if is_own_domain(schema.domain) and not _TYPE_ATTRIBUTES.isdisjoint(schema.attributes)
    )  # fmt: skip


def unmade(graph: onnx.GraphProto, weights: Mapping[str, Array]) -> str | None:
    """Say what a graph reads that nothing makes, or that is made of what depends on it."""
    known = {"", *weights, *(entry.name for entry in graph.input)}
    known |= {tensor.name for tensor in graph.initializer}
    known |= {tensor.values.name for tensor in graph.sparse_initializer}
    made = {name for node in graph.node for name in node.output}
    readers: dict[str, list[int]] = {}  # of what is not known yet
    missing: list[int] = []  # how many such inputs each node has
    for index, node in enumerate(graph.node):
        unknown = set(node.input) - known
        missing.append(len(unknown))
        for name in unknown:
            if name not in made:
                return (
                    f"the {op_of(node)} {_called(node)!r} reads {name!r}, which no node makes, and "
                    "which is no input and no initializer"
                )
            readers.setdefault(name, []).append(index)
    ready = [index for index, count in enumerate(missing) if count == 0]
    for index in ready:
        for name in graph.node[index].output:
            for reader in readers.pop(name, ()):
                missing[reader] -= 1
                if missing[reader] == 0:
                    ready.append(reader)
    if len(ready) == len(missing):
        return None
    node = graph.node[next(index for index, count in enumerate(missing) if count)]
    return f"a cycle: the {op_of(node)} {_called(node)!r} can never run"


def _called(node: onnx.NodeProto) -> str:
    return node.name or ", ".join(map(str, node.output))


def _hide_unknown(graph: onnx.GraphProto, functions: set[tuple[str, str]], opset: int) -> bool:
    """Move operators that onnx does not have to a domain that its checker passes over."""
    hidden = False
    for node in graph.node:
        domain, kind = op_key(node)
        unknown = not onnx.defs.has(kind) and (domain, kind) not in functions
        withdrawn = opset in _WITHDRAWN.get(kind, ())
        if withdrawn and not domain:  # its next form has the same inputs and attributes
            later = onnx.checker.C.CheckerContext()
            later.ir_version, later.opset_imports = onnx.IR_VERSION, {"": _WITHDRAWN[kind].stop}
            onnx.checker.check_node(node, later)
        if not domain and (unknown or withdrawn):
            node.domain = _UNKNOWN
            hidden = True
        for attribute in node.attribute:
            for body in (*((attribute.g,) if attribute.HasField("g") else ()), *attribute.graphs):
                hidden = _hide_unknown(body, functions, opset) or hidden
    return hidden


def save_model(
    path: Path, model: onnx.ModelProto, weights: Mapping[str, Array], data: str | None = None
) -> None:
    """Write ``model`` with ``weights`` for its large initializers, which are left out of it.

    Args:
        path: Where to write the model.
        model: Its initializers that are in ``weights`` are ignored.
        weights: The large initializers.
        data: What to call the file beside the model that takes the weights if the model would be
            larger than protobuf's readers take; ``NAME.onnx.data`` if None.
    """
    rest = onnx.GraphProto()
    rest.CopyFrom(model.graph)
    small = [entry for entry in rest.initializer if entry.name not in weights]
    del rest.initializer[:]
    rest.initializer.extend(small)
    outer = onnx.ModelProto()
    outer.CopyFrom(model)
    outer.ClearField("graph")
    heads = {name: _head(name, value) for name, value in weights.items()}
    sizes = {name: len(heads[name]) + value.nbytes for name, value in weights.items()}
    total = rest.ByteSize() + sum(len(_tag(5)) + len(_varint(s)) + s for s in sizes.values())
    if total + outer.ByteSize() + 16 > MOST_BYTES:
        _save_external(path, outer, rest, weights, data or f"{path.name}.data")
        return
    with atomic(path) as temporary, open(temporary, "wb") as file:
        file.write(outer.SerializeToString())
        file.write(_tag(7) + _varint(total) + rest.SerializeToString())
        for name, value in weights.items():
            file.write(_tag(5) + _varint(sizes[name]) + heads[name])
            _write(file, value)


def _save_external(
    path: Path, outer: onnx.ModelProto, graph: onnx.GraphProto, weights: Mapping[str, Array],
    data: str,
) -> None:  # fmt: skip
    with contextlib.ExitStack() as both:
        # The model is put into its place first, when the block ends, and the data last.
        there = both.enter_context(atomic(path.with_name(data)))
        here = both.enter_context(atomic(path))
        with open(there, "wb") as file:
            for name, value in weights.items():
                file.write(bytes(-file.tell() % _PAGE))
                entry = reference_to(name, value, data)
                entry.external_data.add(key="offset", value=str(file.tell()))
                entry.external_data.add(key="length", value=str(value.nbytes))
                graph.initializer.append(entry)
                _write(file, value)
        outer.graph.CopyFrom(graph)
        here.write_bytes(outer.SerializeToString())


def _head(name: str, value: Array) -> bytes:
    """Return a TensorProto up to its data."""
    element = onnx.helper.np_dtype_to_tensor_dtype(value.dtype)
    tensor = onnx.TensorProto(name=name, data_type=element, dims=value.shape)
    return bytes(tensor.SerializeToString()) + _tag(9) + _varint(value.nbytes)


def _write(file: BinaryIO, value: Array) -> None:
    """Write the array's bytes, little-endian and in C order."""
    flat = np.ascontiguousarray(value, value.dtype.newbyteorder("<")).reshape(-1)
    file.write(flat.view(np.uint8).data)


def _tag(number: int) -> bytes:
    return _varint(number << 3 | 2)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])
