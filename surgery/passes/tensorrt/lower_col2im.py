"""For TensorRT: write a Col2Im as a ConvTranspose.

Given:  Col2Im(x, image, block), x (N, C K, L), K the places of a block
Result: ConvTranspose(Reshape(x, [0, C K, L1, L2]), w, group=C)
        w (C K, 1, k1, k2): the k-th of a channel's K filters is 1 at the block's k-th place, else 0

Both add up what overlapping blocks say of a place. TensorRT has no Col2Im.
https://onnx.ai/onnx/operators/onnx__Col2Im.html
"""

from __future__ import annotations

import math

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.graph.operators import nodes_of
from onnxgraft.stages.surgery.passes.tensorrt._build import Builder
from onnxgraft.stages.surgery.running.rewrite import Context, Result, constant


def apply(graph: gs.Graph, context: Context) -> Result:
    """Rewrite every Col2Im of known sizes."""
    result = Result()
    for node in nodes_of(graph, "Col2Im"):
        shape, dtype = context.shapes.shape(node.inputs[0]), context.shapes.dtype(node.inputs[0])
        image, block = (constant(tensor) for tensor in node.inputs[1:3])
        if image is None or block is None or shape is None or not shape[1].fixed or dtype is None:
            result.refuse(node, "TensorRT has no Col2Im, and the sizes of this one are not known")
            continue
        sizes = [int(n) for n in image], [int(n) for n in block]
        _rewrite(Builder(context, node), shape[1].number, *sizes, np.dtype(dtype))
        result.did(node, "a ConvTranspose by ones")
    return result


def _rewrite(
    build: Builder, channels: int, image: list[int], block: list[int], dtype: np.dtype[np.generic]
) -> None:
    rank, places = len(block), math.prod(block)
    ones = [1] * rank
    strides = list(build.attrs.get("strides", ones))
    dilations = list(build.attrs.get("dilations", ones))
    pads = list(build.attrs.get("pads", [0] * 2 * rank))
    counts, over = [], []
    for size, reach, step, before, after in zip(
        image, (d * (k - 1) + 1 for d, k in zip(dilations, block, strict=True)), strides,
        pads[:rank], pads[rank:], strict=True,
    ):  # fmt: skip
        counts.append((size + before + after - reach) // step + 1)
        # What no block reaches at the end of an axis.
        over.append(size - ((counts[-1] - 1) * step + reach - before - after))
    x = build.add("Reshape", build.inputs[0], build.integers("shape", 0, channels, *counts))
    weights = np.tile(np.eye(places, dtype=dtype), (channels // places, 1))
    build.add(
        "ConvTranspose", x, build.constant("places", weights.reshape(channels, 1, *block)),
        output=build.outputs[0], kernel_shape=block, strides=strides, dilations=dilations,
        pads=pads, output_padding=over, group=channels // places,
    )  # fmt: skip
