"""For TensorRT: write poolings that it does not take otherwise.

Given:  y, i = MaxPool(x), i read by nobody           Result: y = MaxPool(x)
Given:  AveragePool(x), dilated, that pads nothing    Result: Conv(x, 1/k, group=C), dilated
        or counts what is padded
Given:  MaxPool(x), dilated, of images of known size  Result: Max(Slice(x'), Slice(x'), ...)
        along one axis after the other, x' padded with the lowest value

TensorRT's parser takes one output of a MaxPool and no dilations of poolings (11.4: "does not
support dilations other than 1").
"""

from __future__ import annotations

import math

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.graph.operators import is_op, nodes_of, op_of, set_op
from onnxgraft.stages.surgery.passes.tensorrt._build import Builder
from onnxgraft.stages.surgery.running.rewrite import Context, Result


def apply(graph: gs.Graph, context: Context) -> Result:
    """Rewrite the poolings that TensorRT does not take."""
    result = Result()
    for node in nodes_of(graph, "AveragePool", "MaxPool"):
        if len(node.outputs) > 1:
            indices = node.outputs[1]
            if indices.name and (indices.outputs or context.is_output(indices)):
                result.refuse(node, "TensorRT gives no indices of a MaxPool, and they are read")
                continue
            del node.outputs[1]
            result.did(node, "its indices, which nobody reads, are left out")
        if all(step == 1 for step in node.attrs.get("dilations", ())):
            continue
        rewrite = _average if is_op(node, "AveragePool") else _maximum
        reason = rewrite(node, context)
        if reason is None:
            result.did(node, f"the dilated {op_of(node)} is written otherwise")
        else:
            result.refuse(node, f"TensorRT takes no dilated pooling, and {reason}")
    return result


def _settings(node: gs.Node) -> tuple[list[int], list[int], list[int], list[int]] | None:
    """Return kernel, strides, dilations and pads; None where the size decides the pads."""
    auto = node.attrs.get("auto_pad", "NOTSET")
    if auto not in ("NOTSET", "VALID", b"NOTSET", b"VALID") or node.attrs.get("ceil_mode", 0):
        return None
    kernel = list(node.attrs["kernel_shape"])
    ones = [1] * len(kernel)
    return (
        kernel,
        list(node.attrs.get("strides", ones)),
        list(node.attrs.get("dilations", ones)),
        list(node.attrs.get("pads", [0] * 2 * len(kernel))),
    )


def _average(node: gs.Node, context: Context) -> str | None:
    found, shape = _settings(node), context.shapes.shape(node.inputs[0])
    if found is None or shape is None or not shape[1].fixed:
        return "the number of channels or the padding is not known"
    kernel, strides, dilations, pads = found
    if any(pads) and not node.attrs.get("count_include_pad", 0):
        return "this one leaves what is padded out of its averages"
    channels, dtype = shape[1].number, np.dtype(context.shapes.dtype(node.inputs[0]))
    weights = np.full((channels, 1, *kernel), 1 / math.prod(kernel), dtype)
    set_op(node, "Conv")
    node.attrs.clear()
    node.attrs.update(kernel_shape=kernel, strides=strides, dilations=dilations, pads=pads,
                      group=channels)  # fmt: skip
    node.inputs.append(context.constant(f"{node.name}/weights", weights))
    return None


def _maximum(node: gs.Node, context: Context) -> str | None:
    found, shape = _settings(node), context.shapes.shape(node.inputs[0])
    sizes = [] if shape is None else [dim.number for dim in shape[2:] if dim.fixed]
    if found is None or shape is None or len(sizes) < len(shape) - 2:
        return "the size of the image or the padding is not known"
    kernel, strides, dilations, pads = found
    dtype = np.dtype(context.shapes.dtype(node.inputs[0]))
    if dtype.kind != "f":
        return "this one is of integers"
    rank = len(kernel)
    build = Builder(context, node)
    x = build.inputs[0]
    if any(pads):
        amounts = build.integers("pads", 0, 0, *pads[:rank], 0, 0, *pads[rank:])
        x = build.add("Pad", x, amounts, build.constant("lowest", np.array(-np.inf, dtype)))
    for axis in range(rank):
        size = sizes[axis] + pads[axis] + pads[axis + rank]
        count = (size - dilations[axis] * (kernel[axis] - 1) - 1) // strides[axis] + 1
        taps = []
        for tap in range(kernel[axis]):
            start = tap * dilations[axis]
            end = start + (count - 1) * strides[axis] + 1
            ends = [("start", start), ("end", end), ("axis", axis + 2), ("step", strides[axis])]
            taps.append(build.add("Slice", x, *(build.integers(what, n) for what, n in ends)))
        x = build.add("Max", *taps, output=build.outputs[0] if axis == rank - 1 else None)
    return None
