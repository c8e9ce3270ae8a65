"""A writer of caffemodel files: layer names, types and blobs, by the wire format of protobuf.

Field numbers are those of caffe.proto: NetParameter.name = 1 and .layer = 100; LayerParameter.name
= 1, .type = 2 and .blobs = 7; BlobProto.shape = 7, .data = 5; BlobShape.dim = 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["Blobs", "caffemodel"]

# The type of a layer, and its blobs in Caffe's order.
Blobs = tuple[str, Sequence[NDArray[np.float32]]]

_BYTES = 2  # the wire type of strings, messages and packed arrays


def caffemodel(layers: Mapping[str, Blobs], name: str = "net") -> bytes:
    """Return the bytes of a caffemodel with these layers, by name."""
    parts = [_field(1, name.encode())]
    for layer, (kind, blobs) in layers.items():
        body = _field(1, layer.encode()) + _field(2, kind.encode())
        body += b"".join(_field(7, _blob(np.asarray(blob, np.float32))) for blob in blobs)
        parts.append(_field(100, body))
    return b"".join(parts)


def _blob(array: NDArray[np.float32]) -> bytes:
    shape = _field(1, b"".join(_varint(dim) for dim in array.shape))
    return _field(7, shape) + _field(5, array.astype("<f4").tobytes())


def _field(number: int, payload: bytes) -> bytes:
    return _varint(number << 3 | _BYTES) + _varint(len(payload)) + payload


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
