"""What reading a protobuf message costs, from the message's own descriptor.

So every field that the installed protobuf knows is known here, those of later versions too; what
it does not know, it keeps as bytes, and that is counted as well.

Measured with protobuf 7.36 (its C core), as the growth of the resident memory while a million of a
thing are parsed (`tests/test_limits.py` measures it again):

    an empty message   40 bytes and its fields: 16 for a string or bytes, else 8 or fewer
                       (an opset 57, a node 153, a tensor 169, an attribute 201)
    a string           33 bytes and its own
    a number of many   twice its width: 8.6 bytes for a float, 16.8 for an int64
    an unknown field   3.5 bytes; the first of a message 64
    any field again    nothing, but 0.2 us to walk over it
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from onnxgraft.files.limits import NAME_BYTES, TENSORS, Limit
from onnxgraft.files.wire import BYTES, FIXED32, FIXED64, VARINT

__all__ = ["FIELD", "Costs", "Message", "Part", "schema"]

# What a field counts at least: walking over 40 million of them takes 10 s.
FIELD = 32
_EMPTY, _STRING = 40, 33
# What a number of many takes outside of tensors: an object of Python's, and a place in a list.
_NUMBER = 64
# FieldDescriptor.TYPE_*: the wire type and the width in memory.
_TYPES = {
    1: (FIXED64, 8), 2: (FIXED32, 4), 3: (VARINT, 8), 4: (VARINT, 8), 5: (VARINT, 4),
    6: (FIXED64, 8), 7: (FIXED32, 4), 8: (VARINT, 1), 9: (BYTES, 16), 11: (BYTES, 8),
    12: (BYTES, 16), 13: (VARINT, 4), 14: (VARINT, 4), 15: (FIXED32, 4), 16: (FIXED64, 8),
    17: (VARINT, 4), 18: (VARINT, 8),
}  # fmt: skip
_STRING_TYPE, _BYTES_TYPE = 9, 12
# Strings that name something: they are printed, and no text.
_NAMES = frozenset({
    "attribute", "configuration_id", "device", "dim_param", "domain", "input", "key", "name", "op",
    "op_type", "output", "overload", "ref_attr_name", "tensor_name", "type",
})  # fmt: skip


class Part(NamedTuple):
    """What a field costs.

    Attributes:
        cost: Of each, in bytes.
        inner: The message that it is.
        byte: What each of its bytes costs beside.
        number: What each of the packed numbers costs that it is.
        longest: Limits its bytes.
        empty: What it costs beside if it is empty.
    """

    cost: int
    inner: Message | None = None
    byte: int = 0
    number: int = 0
    longest: Limit | None = None
    empty: int = 0


@dataclass(eq=False)
class Message:
    """What a type of message costs.

    Attributes:
        name: Of the type.
        cost: Of an empty one, in bytes.
        limit: Of their number.
        unknown: What each byte costs of fields that it does not have.
        parts: Its fields, by tag: the number times 8 and the wire type.
    """

    name: str
    cost: int
    limit: Limit | None = None
    unknown: int = 0
    parts: dict[int, Part] = field(default_factory=dict)


@dataclass(frozen=True)
class Costs:
    """What a reader makes of the messages.

    Attributes:
        copies: How often what was parsed is there at once: as Python's protobuf has it, as a
            library's in C++ has it, and on the way between them.
        limits: Of the number of some messages, by the name of their type. Those that are limited
            as `TENSORS` hold values, which cost nothing but their own bytes.
        objects: What further objects take that the reader makes, by the type of a message or the
            field of a type: ``NodeProto``, ``NodeProto.output``; of a string that is empty, by
            the field and ``=``: ``NodeProto.input=``.
    """

    copies: int
    limits: Mapping[str, Limit] = field(default_factory=dict)
    objects: Mapping[str, int] = field(default_factory=dict)


def schema(descriptor: Any, costs: Costs) -> Message:
    """Return what messages of a type cost, and all that can be in them.

    Args:
        descriptor: Of the type.
        costs: Of the reader.
    """
    kinds = {descriptor.full_name: descriptor}
    left = [descriptor]
    while left:
        for entry in left.pop().fields:
            inner = entry.message_type
            if inner is not None and inner.full_name not in kinds:
                kinds[inner.full_name] = inner
                left.append(inner)
    known = {name: _message(kind, costs) for name, kind in kinds.items()}
    for name, kind in kinds.items():
        value = kind.fields_by_name["value"].message_type if _is_map(kind) else None
        if value is not None:  # there is one for each key, whether it is stored or not
            known[name].cost += known[value.full_name].cost
    for name, kind in kinds.items():
        for entry in kind.fields:
            known[name].parts.update(_parts(entry, known, costs))
    return known[descriptor.full_name]


def _is_map(kind: Any) -> bool:
    return bool(kind.GetOptions().map_entry)


def _message(kind: Any, costs: Costs) -> Message:
    size = sum(8 if _repeated(entry) else _TYPES[entry.type][1] for entry in kind.fields)
    objects = costs.objects.get(kind.name, 0)
    limit = costs.limits.get(kind.name)
    return Message(kind.name, costs.copies * (_EMPTY + size) + objects, limit, costs.copies)


def _parts(entry: Any, known: Mapping[str, Message], costs: Costs) -> dict[int, Part]:
    """Return what a field costs, by the tags that it can have."""
    wire, width = _TYPES[entry.type]
    tag = entry.number << 3
    holder = entry.containing_type.name
    objects = costs.objects.get(f"{holder}.{entry.name}", 0)
    values = costs.limits.get(holder) is TENSORS
    if entry.message_type is not None:
        inner = known[entry.message_type.full_name]
        return {tag | BYTES: Part(inner.cost + objects, inner)}
    if wire == BYTES:
        cost = FIELD + objects + (costs.copies * _STRING if _repeated(entry) else 0)
        if values and entry.type == _BYTES_TYPE and not _repeated(entry):
            return {tag | BYTES: Part(cost)}
        name = entry.type == _STRING_TYPE and entry.name in _NAMES
        empty = costs.objects.get(f"{holder}.{entry.name}=", 0)
        return {tag | BYTES: Part(cost, None, costs.copies, 0, NAME_BYTES if name else None, empty)}
    if not _repeated(entry):
        return {tag | wire: Part(FIELD)}
    number = 2 * width if values else _NUMBER
    if wire == VARINT:
        packed = Part(FIELD, number=number)
    else:
        packed = Part(FIELD, byte=0 if values else number // width)
    return {tag | wire: Part(max(FIELD, number)), tag | BYTES: packed}


def _repeated(entry: Any) -> bool:
    if hasattr(entry, "is_repeated"):
        return bool(entry.is_repeated)
    return bool(entry.label == entry.LABEL_REPEATED)  # of protobuf before 30
