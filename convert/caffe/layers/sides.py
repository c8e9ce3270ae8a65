"""The pads of each side that synopsys-caffe has for convolutions and poolings.

Source: synopsys-caffe's conv_layer.cpp and pooling_layer.cpp.
"""

from __future__ import annotations

from collections.abc import Sequence

from onnxgraft.stages.convert.caffe.layers.emitter import Emitter
from onnxgraft.stages.convert.caffe.reading.prototxt import Message

__all__ = ["side_pads"]


def side_pads(
    parameter: Message,
    dims: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    pad: Sequence[int],
    out: Emitter,
) -> tuple[list[int], list[int]]:
    """Return the pads before and after each axis: ``pad``, or what other fields say.

    pad_t, pad_b, pad_l, pad_r: of each side.
    pad_type 1: TensorFlow's SAME, the smaller half before.
    """
    sides = [parameter.integer(f"pad_{side}") for side in "tlbr"]
    kind = parameter.integer("pad_type")
    if not any(sides) and kind == 0:
        return list(pad), list(pad)
    out.check(kind in (0, 1), f"the pad_type {kind} is unknown")
    out.check(len(dims) == 2, "pads of each side and pad_type are for two axes")
    out.check(not any(pad) and not (any(sides) and kind), "it has pads of two kinds")
    if any(sides):
        return sides[:2], sides[2:]
    total = [max(0, k - (dim % s or s)) for dim, k, s in zip(dims, kernel, stride, strict=True)]
    before = [pads // 2 for pads in total]
    return before, [pads - low for pads, low in zip(total, before, strict=True)]
