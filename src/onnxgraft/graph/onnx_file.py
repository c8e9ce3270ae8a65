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
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from google.protobuf.message import DecodeError

from onnxgraft.errors import ModelError
from onnxgraft.files import atomic
from onnxgraft.files.limits import AXES, NODES, TENSOR_VALUES, TENSORS
from onnxgraft.files.schema import Costs, Message, schema
from onnxgraft.files.survey import survey
from onnxgraft.files.wire import BYTES, WireError, fields
from onnxgraft.graph.tensors import (
    Array,
)

__all__ = [
    "check",
    "fed",
    "read_model",
    "reference_to",
    "save_model",
    "split_weights",
    "unmade",
]

# Smaller initializers stay in the message.
LARGE = 1 << 16
# What protobuf's readers take.
MOST_BYTES = (1 << 31) - 1
_UNKNOWN = "onnxgraft.unknown"
# External data begin at multiples of this, so that they can be mapped.
_PAGE = 4096
# Operators that are programs, by domain and type, and what each does.
_PROGRAMS = {
    ("com.microsoft", "EPContext"): "holds or names an engine that was compiled, native code",
    ("com.microsoft", "Snpe"): "holds an engine that was compiled, native code",
    ("com.microsoft", "PythonOp"): "runs Python code",
    ("com.microsoft", "PythonOpGrad"): "runs Python code",
    ("ai.onnx.contrib", "PyOp"): "runs Python code",
}
# Types that pack two elements into a byte: they stay in the message.
_PACKED = frozenset({"INT4", "UINT4", "FLOAT4E2M1", "INT2", "UINT2"})


# Measured: onnx.checker parses a copy, and onnx-graphsurgeon makes objects of what is in a graph.
_COSTS = Costs(
    copies=4,
    limits={"NodeProto": NODES, "TensorProto": TENSORS},
    objects={"NodeProto": 1300, "NodeProto.input": 1000, "NodeProto.output": 1000, "GraphProto": 1500, "TensorProto": 1800, "ValueInfoProto": 400},
)

# Reading --------------------------------------------------------------------------------------


def read_model(path: Path) -> tuple[onnx.ModelProto, dict[str, Array]]:
    """Return the model without its large initializers, and these as views of the mapped files.

    The initializers are still listed in the model, with their shapes and types but no data.

    Raises:
        ModelError: It is no ONNX file, or its external data are missing or not where they may be:
            in the model's folder or below it, in files of their own; or an operator is a program.
    """
    with open(path, "rb") as file:
        whole = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    weights: dict[str, Array] = {}
    try:
        survey(whole, _schema(), f"{path}:")
        proto = onnx.ModelProto.FromString(b"".join(_model(whole, weights)))
        for node in _nodes(proto):
            reason = _PROGRAMS.get((node.domain, node.op_type))
            if reason is not None:
                raise ModelError(
                    f"{path}: {_called(node)!r} is of the type {node.op_type}, which {reason}; "
                    "take the graph without it"
                )
        for tensor in _stored(proto):
            if tensor.data_location == onnx.TensorProto.EXTERNAL:
                _external(tensor, path, weights)
            if tensor.name not in weights:
                _check_values(tensor, path)
        _check_declared(proto, path)
    except (DecodeError, UnicodeDecodeError, WireError) as error:
        raise ModelError(f"{path}: not a valid ONNX file ({error})") from error
    return proto, weights


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
    value = _view(tensor, raw)
    if value is None or not tensor.name or tensor.name in weights:
        return None
    weights[tensor.name] = value
    return head


def _view(tensor: onnx.TensorProto, raw: memoryview) -> Array | None:
    """Return the bytes of a tensor as an array; None where they are not as many as they must."""
    try:
        kind = onnx.TensorProto.DataType.Name(tensor.data_type)
        dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type))
    except (KeyError, TypeError, ValueError):
        return None
    if kind in _PACKED or dtype.hasobject or any(dim < 0 for dim in tensor.dims):
        return None
    if math.prod(tensor.dims) * dtype.itemsize != len(raw):
        return None
    return np.frombuffer(raw, dtype.newbyteorder("<")).reshape(tensor.dims).view(dtype)


def _stored(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Yield all tensors that a model stores, in its graphs, bodies and functions."""
    for graph in _graphs(model):
        yield from graph.initializer
        yield from _sparse(graph.sparse_initializer)
    for attribute in _attributes(model):
        if attribute.HasField("t"):
            yield attribute.t
        yield from attribute.tensors
        if attribute.HasField("sparse_tensor"):
            yield from _sparse([attribute.sparse_tensor])
        yield from _sparse(attribute.sparse_tensors)


def _sparse(tensors: Iterable[onnx.SparseTensorProto]) -> Iterator[onnx.TensorProto]:
    for tensor in tensors:
        yield from (tensor.values, tensor.indices)


def _graphs(model: onnx.ModelProto) -> Iterator[onnx.GraphProto]:
    yield model.graph
    yield from _training(model)
    for attribute in _attributes(model):
        yield from _bodies(attribute)


def _training(model: onnx.ModelProto) -> Iterator[onnx.GraphProto]:
    for training in model.training_info:
        for name in ("initialization", "algorithm"):
            if training.HasField(name):
                yield getattr(training, name)


def _nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Yield all nodes, in graphs, bodies and functions."""
    left = [node for graph in (model.graph, *_training(model)) for node in graph.node]
    left += [node for function in model.functions for node in function.node]
    while left:
        node = left.pop()
        yield node
        for attribute in node.attribute:
            left += [inner for body in _bodies(attribute) for inner in body.node]


def _attributes(model: onnx.ModelProto) -> Iterator[onnx.AttributeProto]:
    """Yield the attributes of all nodes, and of functions."""
    for function in model.functions:
        yield from function.attribute_proto
    for node in _nodes(model):
        yield from node.attribute


def _bodies(attribute: onnx.AttributeProto) -> Iterator[onnx.GraphProto]:
    if attribute.HasField("g"):
        yield attribute.g
    yield from attribute.graphs


def _check_values(tensor: onnx.TensorProto, model: Path) -> None:
    """Raise ModelError unless a tensor stores as many values as its dimensions say."""
    name = tensor.name or "a constant"
    dims = list(tensor.dims)
    if len(dims) > AXES.most:
        raise ModelError(f"{model}: {name!r} {AXES.refusal(len(dims))}")
    count = math.prod(dims)
    stored = sum(
        len(getattr(tensor, field))
        for field in ("float_data", "int32_data", "int64_data", "double_data", "uint64_data",
                      "string_data")
    )  # fmt: skip
    kind = tensor.data_type
    if tensor.raw_data:
        try:
            width = 8 * onnx.helper.tensor_dtype_to_np_dtype(kind).itemsize
            kind_name = onnx.TensorProto.DataType.Name(kind)
        except (KeyError, TypeError, ValueError):
            return  # the checker has a sentence for it
        if kind_name in _PACKED:
            width = 2 if kind_name.endswith("INT2") else 4
        fits = len(tensor.raw_data) == (count * width + 7) // 8
    elif kind in (onnx.TensorProto.COMPLEX64, onnx.TensorProto.COMPLEX128):
        fits = stored == 2 * count
    else:
        fits = stored == count or 0 < stored < count <= 8 * stored  # several in a number
    if min(dims, default=0) < 0 or not fits:
        raise ModelError(
            f"{model}: {name!r} does not store as many values as the declared shape and type have "
            f"({dims})"
        )


def _check_declared(model: onnx.ModelProto, path: Path) -> None:
    """Raise ModelError if a tensor is declared that no machine holds."""
    for graph in _graphs(model):
        for value in (*graph.input, *graph.output, *graph.value_info):
            dims = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
            if len(dims) > AXES.most:
                raise ModelError(f"{path}: {value.name!r} {AXES.refusal(len(dims))}")
            count = math.prod(dim for dim in dims if dim > 0)
            if count > TENSOR_VALUES.most:
                raise ModelError(f"{path}: {value.name!r} {TENSOR_VALUES.refusal(count)}")


def _external(tensor: onnx.TensorProto, model: Path, weights: dict[str, Array]) -> None:
    """Take in a tensor that is stored in a file of its own."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    name = tensor.name or "a constant"
    try:
        offset, length = int(entries.get("offset", 0)), int(entries.get("length", -1))
    except ValueError as error:
        raise ModelError(f"{model}: the external data of {name!r} are not at a place") from error
    location: str | bytes = entries.get("location", "")
    if isinstance(location, bytes):  # protobuf's way with what is no UTF-8
        raise ModelError(f"{model}: the external data of {name!r} are not at a place")
    data = _mapped(model, location, name)
    end = len(data) if length < 0 else offset + length
    if not 0 <= offset <= end <= len(data):
        raise ModelError(
            f"{model}: {name!r} lies beyond the end of its file {entries['location']!r} "
            f"({len(data)} bytes)"
        )
    raw = data[offset:end]
    value = _view(tensor, raw)
    del tensor.external_data[:]
    tensor.ClearField("data_location")
    if value is not None and len(raw) >= LARGE and tensor.name and tensor.name not in weights:
        weights[tensor.name] = value
    else:
        tensor.raw_data = bytes(raw)  # the checker holds it against the shape and type


def _mapped(model: Path, location: str, name: str) -> memoryview:
    """Map a file of external data, if it is one that the model may refer to."""
    folder = model.resolve().parent
    parts = Path(location).parts
    wrong = None
    if not parts or Path(location).is_absolute() or ".." in parts:
        wrong = "is not in the model's folder"
    path = folder
    for part in parts if wrong is None else ():
        path /= part
        if path.is_symlink():
            wrong = "is a link"
            break
    if wrong is None:
        try:
            found = path.stat()
        except (OSError, ValueError):
            wrong = "does not exist"
        else:
            if not stat.S_ISREG(found.st_mode):
                wrong = "is no file"
            elif found.st_nlink > 1:
                wrong = "is a hard link, which other files share"
            elif found.st_size == 0:
                wrong = "is empty"
    if wrong is not None:
        raise ModelError(
            f"{model}: the external data of {name!r} are refused: {location!r} {wrong}; keep the "
            "file beside the model"
        )
    with open(path, "rb") as file:
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


# Writing --------------------------------------------------------------------------------------


def split_weights(graph: gs.Graph) -> tuple[gs.Graph, dict[str, Array]]:
    """Return a copy of the graph whose large constants are empty, and the constants by name."""
    light = graph.copy()
    weights: dict[str, Array] = {}
    for tensor in light.tensors().values():
        if isinstance(tensor, gs.Constant) and np.asarray(tensor.values).nbytes >= LARGE:
            weights[tensor.name] = np.asarray(tensor.values)
            tensor.values = np.zeros(0, tensor.values.dtype)
    return light, weights


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


def check(model: onnx.ModelProto, weights: Mapping[str, Array]) -> None:
    """Run onnx.checker on a model whose large initializers are in ``weights``.

    They are declared as inputs instead, of the right types and shapes. Operators and opsets that
    this version of onnx does not know are not checked: they may be right.
    """
    whole = fed(model, weights)
    functions = {(function.domain, function.name) for function in whole.functions}
    newest = onnx.defs.onnx_opset_version()
    for entry in whole.opset_import:
        if entry.domain in ("", "ai.onnx"):
            entry.version = min(entry.version, newest)
    if _hide_unknown(whole.graph, functions):
        whole.opset_import.add(domain=_UNKNOWN, version=1)
    onnx.checker.check_model(whole)


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
                    f"the {node.op_type} {_called(node)!r} reads {name!r}, which no node makes: "
                    "its initializer is missing"
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
    return f"a cycle: the {node.op_type} {_called(node)!r} can never run"


def _called(node: onnx.NodeProto) -> str:
    return node.name or ", ".join(map(str, node.output))


def _hide_unknown(graph: onnx.GraphProto, functions: set[tuple[str, str]]) -> bool:
    """Move operators that onnx does not have to a domain that its checker passes over."""
    hidden = False
    for node in graph.node:
        ours = (node.domain, node.op_type) in functions
        if node.domain in ("", "ai.onnx") and not onnx.defs.has(node.op_type) and not ours:
            node.domain = _UNKNOWN
            hidden = True
        for attribute in node.attribute:
            for body in (*((attribute.g,) if attribute.HasField("g") else ()), *attribute.graphs):
                hidden = _hide_unknown(body, functions) or hidden
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
