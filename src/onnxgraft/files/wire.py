"""Protobuf's wire format, walked over without building anything of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

__all__ = ["BYTES", "FIXED32", "FIXED64", "VARINT", "Field", "WireError", "fields", "read_varint"]

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


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
