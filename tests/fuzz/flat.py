"""Mutations of TFLite's FlatBuffers by their schema, as TensorFlow's generated classes have it.

The tables of a file are walked as the classes read them, and what is found is changed in place:
numbers, by their width; unions' types; lengths of lists; offsets, which then share another table or
list, lead to the table itself, or out of the file; and tables of fields (vtables).
"""

from __future__ import annotations

import functools
import random
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["mutated"]

_MOST_TABLES = 2000
_FORMATS = {"Bool": "B", "Int8": "b", "Uint8": "B", "Int16": "h", "Uint16": "H", "Int32": "i",
            "Uint32": "I", "Int64": "q", "Uint64": "Q", "Float32": "f", "Float64": "d"}  # fmt: skip
_NUMBERS = (0, 1, -1, 2, 3, 127, 255, 1 << 15, 1 << 16, (1 << 31) - 1, -(1 << 31), 1 << 40,
            (1 << 63) - 1)  # fmt: skip


@dataclass(frozen=True)
class Slot:
    """A field of a table: its place in the vtable, its form, and what it leads to."""

    place: int
    form: str  # number, text, list, table, tables, union
    inner: str = ""


@dataclass(frozen=True)
class Place:
    """Something in the bytes that can be changed: where, how wide, and what it is."""

    at: int
    code: str
    what: str  # number, length, offset, vtable


@functools.cache
def schema() -> Any:
    """Return TensorFlow's classes."""
    from tensorflow.lite.python import schema_py_generated

    return schema_py_generated


@functools.cache
def _sources() -> dict[str, str]:
    """Return the source of each class, by its name."""
    parts = re.split(r"(?m)^class (\w+)\(object\):$", Path(schema().__file__).read_text())
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@functools.cache
def slots(name: str) -> tuple[Slot, ...]:
    """Return the fields of a table, from the source of the class that reads it."""
    found = []
    for method in re.split(r"\n    def ", _sources()[name])[1:]:
        place = re.search(r"self\._tab\.Offset\((\d+)\)", method)
        if place is None or re.match(r"\w+(AsNumpy|Length|IsNone)\(", method):
            continue
        inner = re.search(r"obj = (\w+)\(\)", method)
        number = re.search(r"self\._tab\.Get\(flatbuffers\.number_types\.(\w+)Flags", method)
        if "Union(" in method:
            form, name_in = "union", ""
        elif inner is not None:
            form, name_in = ("tables" if "Vector(o)" in method else "table"), inner[1]
        elif "Vector(o)" in method:
            form, name_in = "list", number[1] if number else ""
        elif "String(" in method:
            form, name_in = "text", ""
        else:
            form, name_in = "number", number[1] if number else "Int32"
        found.append(Slot(int(place[1]), form, name_in))
    return tuple(found)


def mutated(data: bytes, most: int, seed: int) -> bytes | None:
    """Return a TFLite file with one to four things changed; None if it can't be walked."""
    rng = random.Random(seed)
    if len(data) < 8:
        return None
    places = list(_places(data))
    made = bytearray(data)
    offsets = [place for place in places if place.what == "offset"]
    for _ in range(rng.randint(1, 4)):
        kind = rng.choice(("number", "number", "length", "offset", "offset", "vtable"))
        of_kind = [place for place in places if place.what == kind] or places
        place = rng.choice(of_kind)
        if place.what == "offset":
            other = rng.choice(offsets).at
            distance = int.from_bytes(data[other : other + 4], "little")
            target = rng.choice((
                other + distance, place.at, rng.randrange(len(data)), len(data) + 4, place.at - 4,
            ))  # fmt: skip
            value = target - place.at
        else:
            value = rng.choice(_NUMBERS)
        struct.pack_into(f"<{place.code}", made, place.at, *_fitting(value, place.code))
    if rng.random() < 0.1:
        del made[rng.randrange(len(made)) :]
    return bytes(made[:most])


def _fitting(value: int, code: str) -> tuple[float]:
    if code in "fd":
        return (float(value),)
    bits = 8 * struct.calcsize(f"<{code}")
    value &= (1 << bits) - 1
    return (value - (1 << bits) if code.islower() and value >> (bits - 1) else value,)


def _places(data: bytes) -> Iterator[Place]:
    """Walk over the tables; what leads out of the file ends there."""
    yield Place(0, "I", "offset")
    left, seen = [(0, "Model")], set[tuple[int, str]]()
    while left and len(seen) < _MOST_TABLES:
        pointer, name = left.pop()
        try:
            table = pointer + struct.unpack_from("<I", data, pointer)[0]
            if (table, name) in seen:
                continue
            seen.add((table, name))
            yield from _of_table(data, table, name, left)
        except struct.error:
            continue


def _of_table(data: bytes, table: int, name: str, left: list[tuple[int, str]]) -> Iterator[Place]:
    vtable = table - struct.unpack_from("<i", data, table)[0]
    if not 0 <= vtable < len(data):
        return
    (size,) = struct.unpack_from("<H", data, vtable)
    yield Place(vtable, "H", "vtable")
    for slot in slots(name):
        if slot.place + 2 > size:
            continue
        (within,) = struct.unpack_from("<H", data, vtable + slot.place)
        yield Place(vtable + slot.place, "H", "vtable")
        if not within:
            continue
        at = table + within
        if slot.form == "number":
            code = _FORMATS.get(slot.inner, "i")
            struct.unpack_from(f"<{code}", data, at)
            yield Place(at, code, "number")
            continue
        (distance,) = struct.unpack_from("<I", data, at)
        yield Place(at, "I", "offset")
        if slot.form == "table":
            left.append((at, slot.inner))
        elif slot.form in ("list", "text", "tables"):
            (count,) = struct.unpack_from("<I", data, at + distance)
            yield Place(at + distance, "I", "length")
            first = at + distance + 4
            for index in range(min(count, 16)):
                if slot.form == "tables":
                    struct.unpack_from("<I", data, first + 4 * index)
                    yield Place(first + 4 * index, "I", "offset")
                    left.append((first + 4 * index, slot.inner))
                elif slot.form == "list":
                    code = _FORMATS.get(slot.inner, "B")
                    place = first + struct.calcsize(f"<{code}") * index
                    struct.unpack_from(f"<{code}", data, place)
                    yield Place(place, code, "number")
