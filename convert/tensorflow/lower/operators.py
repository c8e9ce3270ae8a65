"""TensorFlow's operators that tf2onnx leaves or gets wrong, written as ONNX has them.

One function an operator, here or in the file of its family; `OPERATORS` at the end is the table.
tf2onnx calls these handlers in place of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import TensorProto

from onnxgraft.stages.convert.tensorflow.lower.indexing import (
    one_hot,
    scatter_nd,
    tensor_scatter_max,
    tensor_scatter_min,
)
from onnxgraft.stages.convert.tensorflow.lower.resizing import (
    resize_area,
    resize_bicubic,
    resize_bilinear,
    resize_nearest,
    scale_and_translate,
)
from onnxgraft.stages.convert.tensorflow.lower.segments import (
    segment_max,
    segment_mean,
    segment_min,
    segment_prod,
    segment_sum,
    unsorted_segment_max,
    unsorted_segment_min,
    unsorted_segment_prod,
    unsorted_segment_sum,
)
from onnxgraft.stages.convert.tensorflow.lower.windows import (
    einsum,
    extract_image_patches,
    max_pool_with_argmax,
)
from onnxgraft.stages.convert.tensorflow.lower.writing import Handler, Value, Writer, by, replace

__all__ = ["OPERATORS", "Operator", "handlers"]


@dataclass(frozen=True)
class Operator:
    """A line of the table.

    Attributes:
        handler: Writes the operator in a graph of tf2onnx.
        written: What it becomes, for the docs.
    """

    handler: Handler
    written: str


def handlers() -> dict[str, tuple[Handler, list[Any]]]:
    """Return the handlers in the form that tf2onnx takes."""
    return {name: (operator.handler, []) for name, operator in OPERATORS.items()}


def _select(ctx: Any, node: Any, name: str, args: Any) -> None:
    from tf2onnx.onnx_opset.controlflow import Select

    node.set_attr("handles_nan", True)  # tf2onnx then writes a Where
    Select.version_9(ctx, node)


def _erfc(w: Writer, x: Sequence[Value]) -> Value:
    return w.const(1, x[0].dtype) - w.op("Erf", x[0])


def _expm1(w: Writer, x: Sequence[Value]) -> Value:
    return w.op("Tanh", x[0] * 0.5) * (w.op("Exp", x[0]) + 1)


def _floor_div(w: Writer, x: Sequence[Value]) -> Value:
    """Write floor(a / b); whole numbers, which ONNX divides towards 0, as (a - a mod b) / b."""
    a, b = x
    return (a - w.op("Mod", a, b)) / b if a.whole else w.op("Floor", a / b)


def _floor_mod(w: Writer, x: Sequence[Value]) -> Value:
    """Write a - b floor(a / b); of whole numbers that is ONNX's Mod, with the sign of b."""
    a, b = x
    return w.op("Mod", a, b) if a.whole else a - b * w.op("Floor", a / b)


def _rank(w: Writer, x: Sequence[Value]) -> Value:
    """Write the number of dimensions: the size of the shape."""
    return w.op("Size", x[0].shape()).to(TensorProto.INT32)


def _tfl_gelu(ctx: Any, node: Any, name: str, args: Any) -> None:
    """Write TFLite's Gelu: x / 2 (1 + erf(x / sqrt 2)), or its tanh approximation."""
    approximate = bool(node.get_attr_value("approximate", 0))

    def formula(w: Writer, inputs: Sequence[Value]) -> Value:
        x = inputs[0]
        if approximate:
            gate = w.op("Tanh", (x + x * x * x * 0.044715) * np.sqrt(2 / np.pi))
        else:
            gate = w.op("Erf", x * np.sqrt(0.5))
        return x * 0.5 * (gate + 1)

    replace(ctx, node, formula)


def _log1p(w: Writer, x: Sequence[Value]) -> Value:
    near = w.op("Abs", x[0]) < 0.5
    small = w.op("Atanh", x[0] / (x[0] + 2)) * 2
    return near.where(small, w.op("Log", x[0] + 1))


def _xdivy(w: Writer, x: Sequence[Value]) -> Value:
    return x[0].equals(0).where(0, x[0] / x[1])


def _xlogy(w: Writer, x: Sequence[Value]) -> Value:
    return x[0].equals(0).where(0, x[0] * w.op("Log", x[1]))


def _xlog1py(w: Writer, x: Sequence[Value]) -> Value:
    return x[0].equals(0).where(0, x[0] * _log1p(w, x[1:]))


OPERATORS = {
    "Einsum": Operator(
        einsum, "Einsum with a letter for each dimension that ... stands for, aligned at the right"
    ),
    "Erfc": Operator(by(_erfc), "1 - erf(x)"),
    "Expm1": Operator(by(_expm1), "tanh(x / 2) (e^x + 1), which does not cancel near 0"),
    "ExtractImagePatches": Operator(
        extract_image_patches, "two Gathers, of the rows and of the columns in each patch"
    ),
    "FloorDiv": Operator(
        by(_floor_div), "floor(a / b); of whole numbers (a - Mod(a, b)) / b, for ONNX rounds to 0"
    ),
    "FloorMod": Operator(by(_floor_mod), "a - b floor(a / b); of whole numbers Mod"),
    "Log1p": Operator(by(_log1p), "2 atanh(x / (2 + x)) for abs(x) < 1/2, else log(1 + x)"),
    "MaxPoolWithArgmax": Operator(
        max_pool_with_argmax, "MaxPool with indices, of float32 or float64 where ONNX has no other"
    ),
    "OneHot": Operator(
        one_hot,
        "Equal of the indices and 0, 1, 2 ...; ONNX's OneHot counts negative indices from the end",
    ),
    "Rank": Operator(by(_rank), "the size of the shape"),
    "ResizeArea": Operator(
        resize_area, "two MatMuls, with how much of each pixel lies within each pixel of the result"
    ),
    "ResizeBicubic": Operator(
        resize_bicubic, "two MatMuls, with TensorFlow's weights, which it rounds to 1/1024 pixel"
    ),
    "ResizeBilinear": Operator(resize_bilinear, "Resize of float32, whatever the image's type"),
    "ResizeNearestNeighbor": Operator(
        resize_nearest, "Resize, or two Gathers where it would round a tie otherwise"
    ),
    "ScaleAndTranslate": Operator(
        scale_and_translate, "two MatMuls, with the weights of the kernel, antialiased or not"
    ),
    "ScatterNd": Operator(
        scatter_nd, "ScatterND into zeros, adding up where an index may come twice"
    ),
    "SegmentMax": Operator(segment_max, "as UnsortedSegmentMax, and 0 where a segment is empty"),
    "SegmentMean": Operator(segment_mean, "the sum by the count, and 0 where a segment is empty"),
    "SegmentMin": Operator(segment_min, "as UnsortedSegmentMin, and 0 where a segment is empty"),
    "SegmentProd": Operator(segment_prod, "ScatterND that multiplies"),
    "SegmentSum": Operator(segment_sum, "ScatterND that adds up"),
    "Select": Operator(_select, "Where; tf2onnx's c x + (1 - c) y lets a NaN of y through"),
    "SelectV2": Operator(_select, "Where, likewise"),
    "TFL_GELU": Operator(_tfl_gelu, "x / 2 (1 + erf(x / sqrt 2)), or its tanh approximation"),
    "TensorScatterMax": Operator(
        tensor_scatter_max, "ScatterND that takes the largest, which ONNX has from opset 18 on"
    ),
    "TensorScatterMin": Operator(tensor_scatter_min, "ScatterND that takes the least, likewise"),
    "UnsortedSegmentMax": Operator(
        unsorted_segment_max, "ScatterND that takes the largest, negative ids left out"
    ),
    "UnsortedSegmentMin": Operator(
        unsorted_segment_min, "ScatterND that takes the least, negative ids left out"
    ),
    "UnsortedSegmentProd": Operator(
        unsorted_segment_prod, "ScatterND that multiplies, negative ids left out"
    ),
    "UnsortedSegmentSum": Operator(unsorted_segment_sum, "ScatterND that adds up, negative ids left out"),
    "Xdivy": Operator(by(_xdivy), "x / y, and 0 where x is 0"),
    "Xlog1py": Operator(by(_xlog1py), "x log(1 + y), and 0 where x is 0"),
    "Xlogy": Operator(by(_xlogy), "x log(y), and 0 where x is 0"),
}
