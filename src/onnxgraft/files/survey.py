"""A walk over the bytes of a message, before anything is built of it.

A message of two bytes becomes an object of two hundred, so what reading it would take is added up
first, by a `Message` that says what each of its parts costs, and the walk stops at the first limit.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NoReturn

from onnxgraft.errors import ModelError
from onnxgraft.files.limits import DEPTH, FIELDS, STRUCTURE_BYTES, Limit
from onnxgraft.files.schema import Message
from onnxgraft.files.wire import BYTES, FIXED32, FIXED64, VARINT, WireError, read_varint

__all__ = ["Survey", "survey"]

# Packed numbers are counted by the million, which are copied.
_CHUNK = 1 << 20
# All bytes but those that end a number.
_GOES_ON = bytes(range(128, 256))
# What the first field that its type does not have costs a message, beside its bytes.
_UNKNOWN = 64
_BEYOND = "the field at byte {} ends beyond its message; it is cut short"
_CURE = "export the network again, in parts if it is as large as that"


@dataclass
class Survey:
    """What a message holds.

    Attributes:
        taken: Bytes of memory that reading it takes, beside the values of tensors.
        counts: How many messages of each type there are.
    """

    taken: int
    counts: dict[Message, int] = field(default_factory=dict)


def survey(data: memoryview, root: Message, where: str) -> Survey:
    """Count what a message holds, and stop at the first limit.

    Args:
        data: The message.
        root: Its type.
        where: Begins the sentence of a refusal.

    Raises:
        WireError: It is no message.
        ModelError: It holds more than is read.
    """
    found = Survey(root.cost, {root: 1})
    try:
        _walk(data, root, where, found)
    except IndexError:
        raise WireError("it is cut short") from None
    return found


def _walk(data: memoryview, message: Message, where: str, found: Survey) -> None:
    # One loop for all levels, on local names: a graph has hundreds of thousands of fields.
    counts, taken, most = found.counts, found.taken, STRUCTURE_BYTES.most
    parts, at, end, number = message.parts, 0, len(data), 0
    above: list[tuple[Message, int]] = []
    odd = -1  # where the message ends that was the last to have a field unknown to its type
    while True:
        if taken > most or number > FIELDS.most:
            _too_much(taken, number, message, counts, where)
        if at >= end:
            if not above:
                break
            message, end = above.pop()
            parts = message.parts
            continue
        number += 1
        start = at
        tag = data[at]
        at += 1
        if tag > 127:
            tag, at = read_varint(data, start)
        if tag < 8:
            raise WireError(f"byte {start} begins a field with the number 0")
        wire = tag & 7
        part = parts.get(tag)
        if wire == BYTES:
            length = data[at]
            at += 1
            if length > 127:
                length, at = read_varint(data, at - 1)
            stop = at + length
            if stop > end:
                raise WireError(
                    f"the field at byte {start} ends beyond its message; it is cut short"
                )
            if part is None:
                taken += message.unknown * length
                if odd != end:
                    odd, taken = end, taken + message.unknown * _UNKNOWN
                at = stop
                continue
            cost, inner, byte, packed, longest, empty = part
            taken += cost
            if inner is not None:
                count = counts[inner] = counts.get(inner, 0) + 1
                if inner.limit is not None and count > inner.limit.most:
                    _refuse(inner.limit, count, where)
                above.append((message, end))
                if len(above) >= DEPTH.most:
                    _refuse(DEPTH, len(above) + 1, where)
                message, parts, end = inner, inner.parts, stop
                continue
            if byte:
                taken += byte * length
            elif packed:
                taken += packed * _numbers(data[at:stop])
            if not length:
                taken += empty
            elif longest is not None and length > longest.most:
                _refuse(longest, length, where)
            at = stop
            continue
        if part is not None:
            taken += part.cost
        elif odd != end:
            odd, taken = end, taken + message.unknown * _UNKNOWN
        if wire == VARINT:
            last = at + 10
            while data[at] > 127:
                at += 1
                if at == last:
                    raise WireError(f"the number at byte {start} has no end")
            at += 1
        elif wire == FIXED32:
            at += 4
        elif wire == FIXED64:
            at += 8
        else:
            raise WireError(f"byte {start} begins no field")
        if at > end:
            raise WireError(_BEYOND.format(start))
    found.taken = taken


def _numbers(data: memoryview) -> int:
    """Return how many numbers are packed in ``data``, at most, as each ends with a byte of its own.

    Those of a fixed width are fewer, which costs nothing but a lower limit.
    """
    if len(data) <= _CHUNK >> 8:
        return len(data)
    chunks = (bytes(data[at : at + _CHUNK]) for at in range(0, len(data), _CHUNK))
    return sum(len(chunk.translate(None, _GOES_ON)) for chunk in chunks)


def _refuse(limit: Limit, count: int, where: str) -> NoReturn:
    raise ModelError(f"{where} {limit.refusal(count)}; {_CURE}")


def _too_much(
    taken: int, number: int, message: Message, counts: dict[Message, int], where: str
) -> NoReturn:
    """Say what takes the most: one type of messages, or the fields of the one that was walked."""
    most = max(counts, key=lambda kind: kind.cost * counts[kind])
    mostly = f"in {message.name}"
    if 2 * most.cost * counts[most] > taken:
        mostly = f"for {counts[most]:,} {most.name}"
    if number > FIELDS.most:
        raise ModelError(f"{where} {FIELDS.refusal(number)}, most of them {mostly}; {_CURE}")
    raise ModelError(f"{where} {STRUCTURE_BYTES.refusal(taken)}, most of it {mostly}; {_CURE}")
