"""TensorFlow's messages as text.

Protobuf's parser of text is written in Python, with patterns that take a hundred bytes for each
character of a line (measured); so the values of tensors, which are long lines, are read here.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from typing import Any

from google.protobuf import text_encoding, text_format

from onnxgraft.errors import InputError, ModelError
from onnxgraft.files.limits import (
    TEXT_GRAPH_BYTES,
    TEXT_GRAPH_LINE,
    TEXT_GRAPH_MESSAGES,
    TEXT_GRAPH_VALUES,
)
from onnxgraft.stages.convert.tensorflow.reading.survey import is_message

__all__ = ["check_text_size", "parse_graph", "parse_text"]

_CONTENT = re.compile(rb'(\btensor_content\s{0,9}:\s{0,9})"((?:[^"\\\n]|\\.)*+)"')
_CURE = "save it as binary"
# Shorter ones stay where they are.
_LONG = 1 << 12
# What takes protobuf's parser the square of their number.
_ESCAPES = b"\\" * (1 << 12)


def parse_graph(data: bytes, graph: Any, where: str) -> None:
    """Parse a GraphDef from text.

    Args:
        data: The text.
        graph: The GraphDef, which is empty.
        where: Begins the sentence of a refusal.

    Raises:
        InputError: It would take too long, or too much memory, or holds more than is read.
        UnicodeDecodeError: It is no text.
        text_format.ParseError: It is no GraphDef.
    """
    TEXT_GRAPH_BYTES.check(len(data), where, _CURE)
    mark = secrets.token_hex(16).encode()
    long: dict[bytes, bytes] = {}

    def shorten(found: re.Match[bytes]) -> bytes:
        if len(found[2]) < _LONG:
            return found[0]
        key = b"%s%d" % (mark, len(long))
        long[key] = found[2]
        return b'%s"%s"' % (found[1], key)

    parse_text(_CONTENT.sub(shorten, data), graph, where)
    for tensor in _tensors(graph):
        text = long.pop(tensor.tensor_content, None)
        if text is not None:
            _check_escapes(text, where)
            tensor.tensor_content = text_encoding.CUnescape(text.decode())
    if long:
        raise ModelError(f"{where} has values that are no constant's; export the graph as binary")


def parse_text(data: bytes, message: Any, where: str) -> None:
    """Parse any message from text, as `parse_graph` does."""
    check_text_size(data, where)
    text_format.Parse(data.decode(), message)
    is_message(message.SerializeToString(), message, where)  # what becomes of it, too


def check_text_size(data: bytes, where: str) -> None:
    """Raise InputError if protobuf's text format would take too long, or too much memory."""
    TEXT_GRAPH_BYTES.check(len(data), where, _CURE)
    TEXT_GRAPH_MESSAGES.check(data.count(b"{") + data.count(b"<"), where, _CURE)
    TEXT_GRAPH_VALUES.check(data.count(b":") + data.count(b","), where, _CURE)
    _check_escapes(data, where)
    begin = 0
    while len(data) - begin > TEXT_GRAPH_LINE.most:
        end = data.find(b"\n", begin)
        end = len(data) if end < 0 else end
        TEXT_GRAPH_LINE.check(end - begin, where, _CURE)
        begin = end + 1


def _check_escapes(data: bytes, where: str) -> None:
    if _ESCAPES in data:
        raise InputError(f"{where} has thousands of backslashes in a row, which no export writes")


def _tensors(graph: Any) -> Iterator[Any]:
    functions = [node for f in graph.library.function for node in f.node_def]
    for node in (*graph.node, *functions):
        for value in node.attr.values():
            if value.HasField("tensor"):
                yield value.tensor
            elif value.HasField("list"):
                yield from value.list.tensor
