"""Caffemodels, read by protobuf's wire format: layer names, types and blobs, and nothing else.

Forks reuse field numbers for their parameters, so no schema fits all files; the numbers of what is
read here never changed (caffe.proto):

    NetParameter    .layers = 2 (V0 and V1), .layer = 100
    LayerParameter  .name = 1, .type = 2, .blobs = 7
    V1LayerParameter .layer = 1 (V0), .bottom = 2, .name = 4, .type = 5, .blobs = 6
    V0LayerParameter .name = 1, .type = 2, .blobs = 50
    BlobProto       .num = 1, .channels = 2, .height = 3, .width = 4, .data = 5, .shape = 7,
                    .double_data = 8
    BlobShape       .dim = 1

Forks' own: NVCaffe stores half precision in .raw_data_type = 10 and .raw_data = 12; C3D's
BlobProto has .length = 3, .height = 4, .width = 5 and .data = 6.

Arrays are views of the file, which is mapped and not read.
"""

from __future__ import annotations

import functools
import math
import mmap
import os
from collections.abc import Sequence

import numpy as np

from onnxgraft.errors import ModelError
from onnxgraft.files import existing_file
from onnxgraft.files.limits import AXES, NAME_BYTES, TENSORS, shape_fault
from onnxgraft.files.schema import FIELD, Message, Part
from onnxgraft.files.survey import survey
from onnxgraft.files.wire import (
    BYTES,
    FIXED32,
    FIXED64,
    VARINT,
    Field,
    WireError,
    fields,
    read_varint,
)
from onnxgraft.graph.tensors import Array

__all__ = ["read_blob", "read_caffemodel"]

# Values of NVCaffe's enum Type.
_RAW_TYPES: dict[int, np.dtype[np.generic]] = {
    0: np.dtype("<f8"), 1: np.dtype("<f4"), 2: np.dtype("<f2"),
}  # fmt: skip

# What an array and a view of its bytes take, and a number in a list (measured: 330 and 36 bytes).
_OBJECT, _NUMBER = 400, 40

View = memoryview


def read_caffemodel(path: str | os.PathLike[str]) -> dict[str, list[Array]]:
    """Return the blobs of each layer that has any, by layer name; none of a net without weights.

    Arrays are float32 or the file's own type, in the shape that the file gives them.

    Raises:
        ModelError: The file is cut short or damaged, or a blob's shape and data don't fit.
    """
    file = existing_file(path, "the caffemodel")
    with open(file, "rb") as handle:
        mapped = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
    blobs: dict[str, list[Array]] = {}
    net = False
    try:
        survey(memoryview(mapped), _schema(), f"{file}:")
        for entry in fields(memoryview(mapped)):
            net = net or (entry.kind == BYTES and entry.number in (1, 2, 100))
            if entry.kind == BYTES and entry.number in (2, 100):
                name, found = _layer(entry.data) if entry.number == 100 else _v1_layer(entry.data)
                if found:
                    blobs[name] = found
    except (WireError, UnicodeDecodeError) as error:
        raise ModelError(f"{file}: not a readable caffemodel ({error})") from error
    if not net:
        raise ModelError(f"{file}: there is neither a name nor a layer in it; is it a caffemodel?")
    return blobs


def read_blob(path: str | os.PathLike[str]) -> Array:
    """Return the array in a file that holds a single BlobProto, as a mean file does.

    Raises:
        ModelError: The file is cut short or damaged, or its shape and data don't fit.
    """
    file = existing_file(path, "the blob")
    with open(file, "rb") as handle:
        mapped = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
    try:
        survey(memoryview(mapped), _blob_schema(), f"{file}:")
        return _blob(memoryview(mapped), file.name)
    except WireError as error:
        raise ModelError(f"{file}: not a readable BlobProto ({error})") from error


@functools.cache
def _blob_schema() -> Message:
    """Return what the reader makes of a blob."""
    shape = Message("BlobShape", _OBJECT)
    shape.parts = {1 << 3 | VARINT: Part(_NUMBER), 1 << 3 | BYTES: Part(FIELD, number=_NUMBER)}
    blob = Message("BlobProto", _OBJECT, TENSORS)
    blob.parts = {
        5 << 3 | FIXED32: Part(_OBJECT), 5 << 3 | BYTES: Part(_OBJECT),
        8 << 3 | FIXED64: Part(_OBJECT), 8 << 3 | BYTES: Part(_OBJECT),
        7 << 3 | BYTES: Part(_OBJECT, shape),
    }  # fmt: skip
    return blob


@functools.cache
def _schema() -> Message:
    """Return what the reader makes of each message."""
    name = Part(FIELD, byte=1, longest=NAME_BYTES)
    blob = _blob_schema()
    oldest = Message("V0LayerParameter", _OBJECT)
    oldest.parts = {1 << 3 | BYTES: name, 50 << 3 | BYTES: Part(_OBJECT, blob)}
    old = Message("V1LayerParameter", _OBJECT)
    old.parts = {
        1 << 3 | BYTES: Part(_OBJECT, oldest), 4 << 3 | BYTES: name,
        6 << 3 | BYTES: Part(_OBJECT, blob),
    }  # fmt: skip
    layer = Message("LayerParameter", _OBJECT)
    layer.parts = {1 << 3 | BYTES: name, 7 << 3 | BYTES: Part(_OBJECT, blob)}
    net = Message("NetParameter", _OBJECT)
    net.parts = {2 << 3 | BYTES: Part(_OBJECT, old), 100 << 3 | BYTES: Part(_OBJECT, layer)}
    return net


def _layer(data: View) -> tuple[str, list[Array]]:
    name, blobs = "", []
    for entry in fields(data):
        if entry.number == 1 and entry.kind == BYTES:
            name = bytes(entry.data).decode()
        elif entry.number == 7 and entry.kind == BYTES:
            blobs.append(_blob(entry.data, name))
    return name, blobs


def _v1_layer(data: View) -> tuple[str, list[Array]]:
    name, blobs = "", []
    for entry in fields(data):
        if entry.kind != BYTES:
            continue
        if entry.number == 4:
            name = bytes(entry.data).decode()
        elif entry.number == 6:
            blobs.append(_blob(entry.data, name))
        elif entry.number == 1:
            for inner in fields(entry.data):
                if inner.number == 1 and inner.kind == BYTES:
                    name = bytes(inner.data).decode()
                elif inner.number == 50 and inner.kind == BYTES:
                    blobs.append(_blob(inner.data, name))
    return name, blobs


def _blob(data: View, layer: str) -> Array:
    shape: list[int] | None = None
    legacy: dict[int, int] = {}
    pieces: list[Array] = []
    raw: View | None = None
    raw_type = 1
    entries = list(fields(data))
    if any(entry.number == 5 and entry.kind == VARINT for entry in entries):
        return _c3d_blob(entries, layer)
    for entry in entries:
        if entry.number == 7 and entry.kind == BYTES:
            shape = _dims(entry.data)
        elif entry.number in (5, 8):
            pieces.append(_values(entry, "<f4" if entry.number == 5 else "<f8"))
        elif entry.number in (1, 2, 3, 4) and entry.kind == VARINT:
            legacy[entry.number] = entry.value
        elif entry.number == 10 and entry.kind == VARINT:
            raw_type = entry.value
        elif entry.number == 12 and entry.kind == BYTES:
            raw = entry.data
    if raw is not None:
        dtype = _RAW_TYPES.get(raw_type)
        if dtype is None or len(raw) % dtype.itemsize:
            raise WireError(f"a blob of {layer!r} has raw data of an unknown type {raw_type}")
        pieces = [np.frombuffer(raw, dtype)]
    values = pieces[0] if len(pieces) == 1 else np.concatenate([np.empty(0, np.float32), *pieces])
    if shape is None:
        shape = [legacy.get(n, 1) for n in (1, 2, 3, 4)] if legacy else [values.size]
    return _shaped(values, shape, layer)


def _c3d_blob(entries: Sequence[Field], layer: str) -> Array:
    """Return a blob of five axes, as C3D stores all of its."""
    sizes = {entry.number: entry.value for entry in entries if entry.kind == VARINT}
    pieces = [_values(entry, "<f4") for entry in entries if entry.number == 6]
    shape = [sizes.get(number, 1) for number in (1, 2, 3, 4, 5)]
    values = np.concatenate([np.empty(0, np.float32), *pieces])
    return _shaped(values, shape, layer)


def _shaped(values: Array, shape: Sequence[int], layer: str) -> Array:
    """Return the values in a shape that they fit; one with an empty axis can still be too large."""
    if any(not 0 <= dim < 1 << 31 for dim in shape) or math.prod(shape) != values.size:
        raise WireError(
            f"a blob of {layer!r} says the shape {_signed(shape)} and holds {values.size} values"
        )
    fault = shape_fault(shape)
    if fault is not None:
        raise WireError(f"a blob of {layer!r} {fault}")
    return values.reshape(shape)


def _values(entry: Field, dtype: str) -> Array:
    """Return the values of a repeated field, packed or one by one."""
    size = np.dtype(dtype).itemsize
    if entry.kind == VARINT or len(entry.data) % size:
        raise WireError(f"{len(entry.data)} bytes are no list of {dtype} values")
    return np.frombuffer(entry.data, dtype)


def _dims(data: View) -> list[int]:
    dims: list[int] = []
    for entry in fields(data):
        if entry.number == 1 and entry.kind == VARINT:
            dims.append(entry.value)
        elif entry.number == 1 and entry.kind == BYTES:
            at = 0
            while at < len(entry.data):
                value, at = read_varint(entry.data, at)
                dims.append(value)
        if len(dims) > AXES.most:
            raise WireError(f"a blob has more than {AXES.most} axes")
    return dims


def _signed(dims: Sequence[int]) -> list[int]:
    return [dim - (1 << 64) if dim >= 1 << 63 else dim for dim in dims]
