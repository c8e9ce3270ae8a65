"""Messages between two processes over pipes: an object of JSON, with arrays or bytes behind it.

Nothing in a message is executed, and the reader says how much of it is taken: who sends it may be a
machine that is not one's own.
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Mapping
from typing import IO, Any

import numpy as np

from onnxgraft.errors import InputError, printable
from onnxgraft.files import parse_json
from onnxgraft.files.limits import AXES, DOCUMENT_BYTES, Limit
from onnxgraft.graph.tensors import Array

__all__ = ["arrays", "read", "send"]

# How many bytes the JSON has, and how many follow it.
_SIZES = struct.Struct("<IQ")
# The types of arrays that are sent: plain numbers, in the order of bytes that most machines have.
# numpy takes many other words for a type, and for some of them asks Python's parser.
_KIND = re.compile(r"[<|][biuf]\d{1,2}")


def send(
    pipe: IO[bytes], message: Mapping[str, Any], data: Mapping[str, Array] | bytes = b""
) -> None:
    """Write a message.

    Args:
        pipe: Is flushed.
        message: Plain values.
        data: Arrays by name, or bytes.
    """
    parts: list[memoryview | bytes] = []
    if not isinstance(data, bytes):
        told = []
        for name, value in data.items():
            plain = np.ascontiguousarray(value, value.dtype.newbyteorder("<"))
            told.append([name, plain.dtype.str, list(value.shape)])
            parts.append(plain.reshape(-1).view(np.uint8).data)
        message = {**message, "arrays": told}
    elif data:
        parts.append(data)
    text = json.dumps(message).encode()
    pipe.write(_SIZES.pack(len(text), sum(len(part) for part in parts)) + text)
    for part in parts:
        pipe.write(part)
    pipe.flush()


def read(pipe: IO[bytes], most: Limit) -> tuple[dict[str, Any], bytes] | None:
    """Return the next message with what follows it; None where the other side ended.

    Raises:
        InputError: It is no message, or larger than it may be.
    """
    head = pipe.read(_SIZES.size)
    if len(head) < _SIZES.size:
        return None
    length, size = _SIZES.unpack(head)
    DOCUMENT_BYTES.check(length, "a message")
    most.check(size, "a message")
    text, data = pipe.read(length), pipe.read(size) if size else b""
    if len(text) < length or len(data) < size:
        return None
    try:
        message = parse_json(text)
    except ValueError as error:
        raise InputError(f"a message is no JSON ({printable(str(error), 200)})") from error
    if not isinstance(message, dict):
        raise InputError("a message is JSON, but no object")
    return message, data


def arrays(message: Mapping[str, Any], data: bytes) -> dict[str, Array]:
    """Return the arrays of a message.

    Raises:
        InputError: What it tells of them is not so.
    """
    found: dict[str, Array] = {}
    at = 0
    try:
        for name, kind, shape in message.get("arrays", []):
            if _KIND.fullmatch(str(kind)) is None or len(shape) > AXES.most:
                raise ValueError(f"an array of {kind}")
            dtype = np.dtype(kind)
            if not all(type(axis) is int and axis >= 0 for axis in shape):
                raise ValueError(f"a shape of {shape}")
            count = math.prod(shape)
            if dtype.itemsize * count > len(data) - at:
                raise ValueError("fewer bytes than it tells of")
            value = np.frombuffer(data, dtype, count, at).reshape(shape)
            found[str(name)] = value.astype(dtype.newbyteorder("="), copy=False)
            at += dtype.itemsize * count
        if at != len(data):
            raise ValueError("more bytes than it tells of")
    except (OverflowError, TypeError, ValueError) as error:
        raise InputError(f"a message has damaged arrays ({printable(str(error), 200)})") from error
    return found
