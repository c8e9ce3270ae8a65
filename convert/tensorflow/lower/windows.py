"""Operators on windows of an image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import TensorProto

from onnxgraft.errors import NotSupportedError
from onnxgraft.stages.convert.tensorflow.lower.writing import Value, Writer, replace, theirs

__all__ = ["extract_image_patches", "max_pool_with_argmax"]

_INT64 = TensorProto.INT64
# What MaxPool has of itself, and what holds the other types exactly.
_POOLED = (
    TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.INT8, TensorProto.UINT8,
)  # fmt: skip
_EXACT = {TensorProto.INT32: TensorProto.DOUBLE, TensorProto.UINT32: TensorProto.DOUBLE}
_TOO_LONG = (TensorProto.INT64, TensorProto.UINT64)


def max_pool_with_argmax(ctx: Any, node: Any, name: str, args: Any) -> None:
    """Write MaxPool with its indices, in a type that ONNX pools and that holds all values."""
    kind, places = (ctx.get_dtype(tensor) for tensor in (node.input[0], node.output[1]))
    if kind in _TOO_LONG:
        raise NotSupportedError(
            f"MaxPoolWithArgmax ({node.name}) pools whole numbers of 64 bits, which no operator of "
            "ONNX does; cast them to int32"
        )
    for index, dtype in enumerate((kind, places)):
        pooled = _INT64 if index else kind if kind in _POOLED else _EXACT.get(kind, 1)
        if dtype == pooled:
            continue
        cast = ctx.insert_new_node_on_output("Cast", node.output[index], to=dtype)
        ctx.copy_shape(node.output[index], cast.output[0])
        ctx.set_dtype(cast.output[0], dtype)
        ctx.set_dtype(node.output[index], pooled)
        if not index:
            made = Writer(ctx, node).value(node.input[0]).to(pooled)
            ctx.copy_shape(node.input[0], made.name)
            ctx.replace_input(node, node.input[0], made.name, 0)
    theirs(ctx, node)


def extract_image_patches(ctx: Any, node: Any, name: str, args: Any) -> None:
    """Write two Gathers, of the rows and of the columns that are in each patch.

        image (N, H, W, C) -> (N, H', kh, W, C) -> (N, H', kh, W', kw, C) -> (N, H', W', kh kw C)

    Nothing is multiplied, so that any type and what is not finite come through.
    """
    sizes, strides, rates = (
        node.get_attr_value(key)[1:3] for key in ("ksizes", "strides", "rates")
    )
    same = node.get_attr_str("padding") == "SAME"

    def formula(w: Writer, x: Sequence[Value]) -> Value:
        image = x[0]
        shape = ctx.get_shape(image.name) or [-1] * 4
        pads = [w.longs(0)] * 8
        places = []
        for axis in (0, 1):
            static = shape[axis + 1]
            whole = w.longs(static) if static > 0 else image.shape().rows(axis + 1, axis + 2)
            reach, stride = rates[axis] * (sizes[axis] - 1) + 1, strides[axis]
            zero = w.longs(0)
            if same:
                count = (whole + (stride - 1)) / stride
                missing = w.op("Max", (count - 1) * stride + reach - whole, zero)
                pads[axis + 1] = missing / 2
                pads[axis + 5] = missing - pads[axis + 1]
            else:
                count = w.op("Max", (whole - reach) / stride + 1, zero)
            begin = w.range(count.squeeze(0)) * stride
            within = w.longs(*(np.arange(sizes[axis]) * rates[axis]).tolist())
            places.append(begin.unsqueeze(1) + within)
        if same:
            image = w.op("Pad", image, w.op("Concat", *pads, axis=0))
        rows = w.op("Gather", image, places[0], axis=1)
        both = w.op("Gather", rows, places[1], axis=3)
        return both.transpose(0, 1, 3, 2, 4, 5).reshape(0, 0, 0, -1)

    replace(ctx, node, formula)
