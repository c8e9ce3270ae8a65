"""Protobuf's wire format, walked over without building anything of it.

A message of two bytes becomes an object of two hundred, so what a file holds is counted first:
`survey` descends where a message can be, steps over values, and stops at the first limit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from onnxgraft.errors import ModelError
from onnxgraft.files.limits import DEPTH, NAME_BYTES, NODES, STRUCTURE_BYTES, TENSORS, Limit

__all__ = [
    "BYTES", "FIXED32", "FIXED64", "VARINT", "Field", "Schema", "Survey", "WireError", "fields",
    "read_varint", "survey",
]  # fmt: skip

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
# Messages up to this long count as structure as a whole.
_SMALL = 256
# What a message counts beside its bytes: even an empty one becomes an object.
_OBJECT = 16


class WireError(Exception):
    """The bytes are no protobuf message."""


class Field(NamedTuple):
    """A field of a message.

    Attributes:
        number: In the schema.
        kind: The wire type.
        value: Of a number.
        data: The bytes of anything else; a view.
        start: Where its tag begins.
        end: Where it ends.
    """

    number: int
    kind: int
    value: int
    data: memoryview
    start: int
    end: int


def fields(data: memoryview) -> Iterator[Field]:
    """Walk over the fields of a message.

    Raises:
        WireError: It is no message, or ends in the middle of a field.
    """
    at, size = 0, len(data)
    while at < size:
        start = at
        tag, at = read_varint(data, at)
        kind = tag & 7
        value = length = 0
        if kind == BYTES:
            length, at = read_varint(data, at)
        elif kind == VARINT:
            value, at = read_varint(data, at)
        elif kind in (FIXED64, FIXED32):
            length = 8 if kind == FIXED64 else 4
        else:
            raise WireError(f"byte {start} begins no field")
        if tag >> 3 == 0:
            raise WireError(f"byte {start} begins a field with the number 0")
        if length > size - at:
            raise WireError(f"the field at byte {start} ends beyond the message; it is cut short")
        yield Field(tag >> 3, kind, value, data[at : at + length], start, at + length)
        at += length


def read_varint(data: memoryview, at: int) -> tuple[int, int]:
    """Return the number that begins at ``at``, below 2 to the 64, and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            break
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, at
    raise WireError(f"the number at byte {at} has no end; it is cut short")


# For each message that can hold messages: the messages that its fields are.
Schema = Mapping[str, Mapping[int, str]]


@dataclass
class Survey:
    """What a message holds.

    Attributes:
        counts: Of each kind of message that is longer than a few bytes, or directly in a graph.
        structure: Bytes that are not values of tensors.
        depth: Of messages in each other.
    """

    counts: Counter[str] = field(default_factory=Counter)
    structure: int = 0
    depth: int = 0


def survey(data: memoryview, schema: Schema, root: str, where: str) -> Survey:
    """Count what a message holds, and stop at the first limit.

    Args:
        data: The message.
        schema: Of it; fields that it does not know are stepped over. ``Node`` and ``Tensor`` are
            limited by their number, ``Name`` and ``Text`` are strings, of which the former are
            limited in length.
        root: What the message is.
        where: Begins the sentence of a refusal.

    Raises:
        WireError: It is no message.
        ModelError: It holds more than is read.
    """
    found = Survey()
    stack = [(root, data, 1)]
    while stack:
        kind, message, depth = stack.pop()
        inner = schema.get(kind, {})
        found.structure += _OBJECT
        if depth > found.depth:
            found.depth = depth
            _check(DEPTH, depth, where)
        for entry in fields(message):
            child = inner.get(entry.number) if entry.kind == BYTES else None
            length = len(entry.data)
            if found.structure > STRUCTURE_BYTES.most:
                raise ModelError(f"{where} {STRUCTURE_BYTES.refusal(found.structure)}")
            if child is None or child == "Text":
                # A value or a text of any length is stored as it is.
                found.structure += min(length, _SMALL) + 2
                continue
            if child == "Name":
                _check(NAME_BYTES, length, where)
                found.structure += length + 2
                continue
            if child in ("Node", "Tensor"):
                found.counts[child] += 1
                _check(NODES if child == "Node" else TENSORS, found.counts[child], where)
            if length <= _SMALL and child not in ("Graph", "Node"):
                found.structure += length + _OBJECT
            else:
                stack.append((child, entry.data, depth + 1))
    return found


def _check(limit: Limit, count: int, where: str) -> None:
    if count > limit.most:
        raise ModelError(f"{where} {limit.refusal(count)}")
