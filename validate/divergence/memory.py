"""How much memory is free, and how much the tensors of a graph take."""

from __future__ import annotations

import math
from collections.abc import Mapping

import onnx

from onnxgraft.graph.tensors import (
    Array,
)

__all__ = ["available_memory", "tensor_sizes"]

# Where the system does not tell.
_UNKNOWN = 4 << 30


def available_memory() -> int:
    """Return the bytes that can be taken without swapping, by Linux's own estimate."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            line = next(line for line in file if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return _UNKNOWN
    return int(line.split()[1]) * 1024


def tensor_sizes(proto: onnx.ModelProto, feeds: Mapping[str, Array]) -> dict[str, int]:
    """Return the bytes of each tensor for ``feeds``, as far as ONNX's inference knows them."""
    fixed = onnx.ModelProto()
    fixed.CopyFrom(proto)
    fixed.graph.ClearField("value_info")
    for value in fixed.graph.input:
        if value.name in feeds:
            shape = value.type.tensor_type.shape
            shape.ClearField("dim")
            for size in feeds[value.name].shape:
                shape.dim.add().dim_value = size
    for value in fixed.graph.output:
        value.type.tensor_type.ClearField("shape")
    try:
        inferred = onnx.shape_inference.infer_shapes(fixed, data_prop=True).graph
    except (onnx.shape_inference.InferenceError, ValueError):
        return {}
    sizes = {}
    for value in (*inferred.value_info, *inferred.output):
        kind = value.type.tensor_type
        if not kind.HasField("shape"):
            continue
        dims = [dim.dim_value for dim in kind.shape.dim]
        try:
            width = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type).itemsize
        except KeyError:
            continue
        sizes[value.name] = math.prod(dims) * width
    return sizes
