"""Writing ONNX files without holding their weights a second time.

Protobuf can only serialize a whole message in memory. Here the message is serialized without its
large initializers, and these are written straight from their arrays, as the wire format has them
(field numbers of onnx.proto: ModelProto.graph = 7, GraphProto.initializer = 5,
TensorProto.raw_data = 9).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import BinaryIO

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnxgraft.errors import InputError
from onnxgraft.runtime import Array

__all__ = ["check", "reference_to", "split_weights", "write_model"]

# Smaller initializers stay in the message.
LARGE = 1 << 16
# What protobuf's readers take.
_MOST_BYTES = (1 << 31) - 1


def split_weights(graph: gs.Graph) -> tuple[gs.Graph, dict[str, Array]]:
    """Return a copy of the graph whose large constants are empty, and the constants by name."""
    light = graph.copy()
    weights: dict[str, Array] = {}
    for tensor in light.tensors().values():
        if isinstance(tensor, gs.Constant) and np.asarray(tensor.values).nbytes >= LARGE:
            weights[tensor.name] = np.asarray(tensor.values)
            tensor.values = np.zeros(0, tensor.values.dtype)
    return light, weights


def reference_to(name: str, value: Array, location: str = "weights") -> onnx.TensorProto:
    """Return an initializer whose data are elsewhere: in the file ``location``, or in memory."""
    element = onnx.helper.np_dtype_to_tensor_dtype(value.dtype)
    tensor = onnx.TensorProto(name=name, data_type=element, dims=value.shape)
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    return tensor


def check(model: onnx.ModelProto, weights: Mapping[str, Array]) -> None:
    """Run onnx.checker on a model whose large initializers are in ``weights``.

    They are declared as inputs instead, of the right types and shapes.
    """
    whole = onnx.ModelProto()
    whole.CopyFrom(model)
    small = [entry for entry in whole.graph.initializer if entry.name not in weights]
    del whole.graph.initializer[:]
    whole.graph.initializer.extend(small)
    for name, value in weights.items():
        element = onnx.helper.np_dtype_to_tensor_dtype(value.dtype)
        whole.graph.input.append(onnx.helper.make_tensor_value_info(name, element, value.shape))
    onnx.checker.check_model(whole)


def write_model(file: BinaryIO, model: onnx.ModelProto, weights: Mapping[str, Array]) -> None:
    """Write ``model`` with ``weights`` for its large initializers, which are left out of it.

    Raises:
        InputError: The file would be larger than protobuf's readers take.
    """
    graph = onnx.GraphProto()
    graph.CopyFrom(model.graph)
    small = [entry for entry in graph.initializer if entry.name not in weights]
    del graph.initializer[:]
    graph.initializer.extend(small)
    rest = graph.SerializeToString()
    heads = {name: _head(name, value) for name, value in weights.items()}
    sizes = {name: len(heads[name]) + value.nbytes for name, value in weights.items()}
    total = len(rest) + sum(len(_tag(5)) + len(_varint(s)) + s for s in sizes.values())
    if total > _MOST_BYTES:
        raise InputError(
            f"the ONNX file would have {total / 1e9:.1f} GB; more than 2 GB can't be written yet"
        )
    outer = onnx.ModelProto()
    outer.CopyFrom(model)
    outer.ClearField("graph")
    file.write(outer.SerializeToString())
    file.write(_tag(7) + _varint(total) + rest)
    for name, value in weights.items():
        file.write(_tag(5) + _varint(sizes[name]) + heads[name])
        for piece in _pieces(value):
            file.write(piece)


def _head(name: str, value: Array) -> bytes:
    """Return a TensorProto up to its data."""
    element = onnx.helper.np_dtype_to_tensor_dtype(value.dtype)
    tensor = onnx.TensorProto(name=name, data_type=element, dims=value.shape)
    return bytes(tensor.SerializeToString()) + _tag(9) + _varint(value.nbytes)


def _pieces(value: Array) -> Iterator[memoryview]:
    """Yield the array's bytes, little-endian and in C order."""
    flat = np.ascontiguousarray(value, value.dtype.newbyteorder("<")).reshape(-1)
    yield flat.view(np.uint8).data


def _tag(number: int) -> bytes:
    return _varint(number << 3 | 2)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])
