"""Mutations of protobuf messages by their schema: the descriptors say what each field is.

A message becomes a tree of fields, which is changed and written again, so that what comes of it is
a message that nobody's writer makes: fields that are there twice, of other wire types, of numbers
that no field has, messages within themselves, lengths that are wrong, numbers that no enum has.
"""

from __future__ import annotations

import functools
import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool

from onnxgraft.files.wire import BYTES, FIXED32, FIXED64, VARINT, WireError, fields

__all__ = ["caffe_net", "mutated"]

_NUMBERS = (0, 1, 2, 7, 100, 1 << 16, (1 << 31) - 1, 1 << 31, 1 << 40, (1 << 63) - 1, (1 << 64) - 1)
_FLOATS = (0.0, -1.0, 1e-45, 1e38, float("inf"), float("nan"))
_TEXTS = (b"", b"x", b"y", b"^x", b"x:0", b"a/b", b"../../secret", b"/etc/passwd", b"\xff\xfe",
          b"a\nb", b"\x00", b"%s", b"Relu", b"Const", b"ai.onnx", b"n" * 300)  # fmt: skip
_WIRE = {1: FIXED64, 2: FIXED32, 6: FIXED64, 7: FIXED32, 9: BYTES, 11: BYTES, 12: BYTES,
         15: FIXED32, 16: FIXED64}  # fmt: skip
_ENUM, _STRING, _MESSAGE, _BYTES = 14, 9, 11, 12


# What is read of caffe.proto: fields by message, with their numbers, types and labels.
_CAFFE = {
    "BlobShape": [("dim", 1, "INT64", True)],
    "BlobProto": [
        ("num", 1, "INT32", False), ("channels", 2, "INT32", False), ("height", 3, "INT32", False),
        ("width", 4, "INT32", False), ("data", 5, "FLOAT", True), ("shape", 7, "BlobShape", False),
        ("double_data", 8, "DOUBLE", True), ("raw_data_type", 10, "INT32", False),
        ("raw_data", 12, "BYTES", False),
    ],
    "V0LayerParameter": [
        ("name", 1, "STRING", False), ("type", 2, "STRING", False), ("blobs", 50, "BlobProto", True)
    ],
    "V1LayerParameter": [
        ("layer", 1, "V0LayerParameter", False), ("bottom", 2, "STRING", True),
        ("name", 4, "STRING", False), ("type", 5, "INT32", False), ("blobs", 6, "BlobProto", True),
    ],
    "LayerParameter": [
        ("name", 1, "STRING", False), ("type", 2, "STRING", False), ("blobs", 7, "BlobProto", True)
    ],
    "NetParameter": [
        ("name", 1, "STRING", False), ("layers", 2, "V1LayerParameter", True),
        ("layer", 100, "LayerParameter", True),
    ],
}  # fmt: skip


@functools.cache
def caffe_net() -> Any:
    """Return a descriptor of Caffe's NetParameter, as far as it is read."""
    file = descriptor_pb2.FileDescriptorProto(name="caffe.proto", package="caffe", syntax="proto2")
    for name, entries in _CAFFE.items():
        message = file.message_type.add(name=name)
        for entry, number, kind, many in entries:
            field = message.field.add(name=entry, number=number, label=3 if many else 1)
            if kind in _CAFFE:
                field.type, field.type_name = _MESSAGE, f".caffe.{kind}"
            else:
                field.type = getattr(descriptor_pb2.FieldDescriptorProto, f"TYPE_{kind}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return pool.FindMessageTypeByName("caffe.NetParameter")


@dataclass
class Field:
    """A field as it is written.

    Attributes:
        number: In the schema.
        wire: Its wire type.
        value: A number, bytes, or the fields of a message.
        kind: Its descriptor, if the schema has the number.
        longer: How much more the length says than there is.
    """

    number: int
    wire: int
    value: Any
    kind: Any = None
    longer: int = 0


def mutated(data: bytes, descriptor: Any, most: int, seed: int) -> bytes | None:
    """Return a message with one to four things changed; None if it is no message."""
    rng = random.Random(seed)
    try:
        tree = _read(memoryview(data), descriptor, 0)
    except WireError:
        return None
    for _ in range(rng.randint(1, 4)):
        _change(tree, descriptor, rng)
    made = _written(tree)
    return made if len(made) <= most else None


def _read(data: memoryview, descriptor: Any, depth: int) -> list[Field]:
    tree = []
    for entry in fields(data):
        kind = descriptor.fields_by_number.get(entry.number)
        value: Any = entry.value if entry.kind == VARINT else bytes(entry.data)
        if kind is not None and kind.message_type and entry.kind == BYTES and depth < 60:
            try:
                value = _read(entry.data, kind.message_type, depth + 1)
            except WireError:
                pass
        tree.append(Field(entry.number, entry.kind, value, kind))
    return tree


def _written(tree: list[Field]) -> bytes:
    parts = []
    for field in tree:
        parts.append(_varint(field.number << 3 | field.wire))
        if field.wire == VARINT:
            parts.append(_varint(field.value if isinstance(field.value, int) else 1))
            continue
        value = field.value
        data = _written(value) if isinstance(value, list) else value
        data = data if isinstance(data, bytes) else _varint(data)
        if field.wire == BYTES:
            parts.append(_varint(max(len(data) + field.longer, 0)))
            parts.append(data)
        else:
            parts.append(data[:8].ljust(8, b"\0")[: 8 if field.wire == FIXED64 else 4])
    return b"".join(parts)


def _varint(value: int) -> bytes:
    value, out = value & 0xFFFF_FFFF_FFFF_FFFF, bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _lists(tree: list[Field], descriptor: Any) -> Iterator[tuple[list[Field], Any]]:
    """Yield the fields of each message in a tree, with its descriptor."""
    yield tree, descriptor
    for field in tree:
        if isinstance(field.value, list):
            yield from _lists(field.value, field.kind.message_type)


def _change(tree: list[Field], descriptor: Any, rng: random.Random) -> None:
    """Change one thing."""
    places = list(_lists(tree, descriptor))
    inside, kind = rng.choice(places)
    what = rng.randrange(9)
    if (what == 0 or not inside) and kind.fields:
        inside.insert(rng.randint(0, len(inside)), _made(rng.choice(kind.fields), rng))
        return
    if not inside:
        return
    at = rng.randrange(len(inside))
    field = inside[at]
    if what <= 3:
        field.value = _other(field, rng)
    elif what == 4:
        inside[at:at] = [field] * rng.choice((1, 1, 2, 50))
    elif what == 5:
        del inside[at : at + rng.choice((1, 1, 3))]
    elif what == 6:  # another message of the same type, or one that this one is in
        same = [place for place, other in places if place is not inside and other is kind]
        if same:
            inside[:] = _copy(rng.choice(same))
    elif what == 7:
        field.wire = rng.choice((VARINT, FIXED32, FIXED64, BYTES))
    elif rng.random() < 0.5:
        field.longer = rng.choice((-1, 1, 5, 1 << 20, 1 << 40))
    else:
        field.number = rng.choice((field.number + 1, 15, 16, 1000, 1 << 28))


def _copy(tree: list[Field]) -> list[Field]:
    return [
        Field(f.number, f.wire, _copy(f.value) if isinstance(f.value, list) else f.value, f.kind)
        for f in tree
    ]


def _made(kind: Any, rng: random.Random) -> Field:
    """Return a field that may not have been there."""
    wire = _WIRE.get(kind.type, VARINT)
    field = Field(kind.number, wire, [] if kind.message_type else 0, kind)
    field.value = _other(field, rng)
    return field


def _other(field: Field, rng: random.Random) -> Any:
    """Return another value, by the type of a field."""
    kind = field.kind
    if isinstance(field.value, list):
        return [] if rng.random() < 0.3 else field.value
    if field.wire == VARINT:
        if kind is not None and kind.type == _ENUM and rng.random() < 0.6:
            numbers = [value.number for value in kind.enum_type.values]
            return rng.choice([*numbers, max(numbers) + 1, 1 << 31])
        return rng.choice(_NUMBERS)
    if field.wire in (FIXED32, FIXED64):
        code = "<f" if field.wire == FIXED32 else "<d"
        return struct.pack(code, rng.choice(_FLOATS))
    old = field.value if isinstance(field.value, bytes) else b""
    if kind is not None and kind.type == _STRING:
        return rng.choice((*_TEXTS, old + old, old[:-1]))
    if kind is not None and kind.type not in (_BYTES, _MESSAGE):  # packed numbers
        return old + b"".join(_varint(rng.choice(_NUMBERS)) for _ in range(rng.randint(1, 3)))
    return rng.choice((b"", old[: len(old) // 2], old + b"\x01", rng.randbytes(rng.randint(1, 16))))
