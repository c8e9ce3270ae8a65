"""Operators on colours and boxes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from onnxgraft.errors import NotSupportedError
from onnxgraft.stages.convert.tensorflow.lower.writing import Value, Writer, theirs

__all__ = [
    "adjust_saturation",
    "crop_and_resize",
    "hsv_to_rgb",
    "non_max_suppression",
    "rgb_to_hsv",
]


def _extremes(w: Writer, image: Value) -> tuple[Value, Value]:
    """Return the largest and the least of the channels."""
    return w.reduce("ReduceMax", image, -1), w.reduce("ReduceMin", image, -1)


def adjust_saturation(w: Writer, x: Sequence[Value]) -> Value:
    """Write v - (v - colour) ratio: the hue and the value stay, the distance to grey changes."""
    value, least = _extremes(w, x[0])
    spread = value - least
    zero = w.const(0, spread.dtype)
    wanted = w.op("Min", w.op("Max", spread * x[1], zero), w.op("Max", value, zero))
    ratio = spread.equals(0).where(0, wanted / spread)
    return value - (value - x[0]) * ratio


def rgb_to_hsv(w: Writer, x: Sequence[Value]) -> Value:
    """Write the hue by the largest channel, the saturation and the value."""
    red, green, blue = (w.op("Gather", x[0], w.longs(channel), axis=-1) for channel in range(3))
    value, least = _extremes(w, x[0])
    spread = value - least
    sixth = w.const(1 / 6, spread.dtype) / spread
    others = green.equals(value).where((blue - red) * sixth + 2 / 6, (red - green) * sixth + 4 / 6)
    turned = red.equals(value).where((green - blue) * sixth, others)
    hue = (spread > 0).where(turned, 0)
    hue = (hue < 0).where(hue + 1, hue)
    saturation = (value > 0).where(spread / value, 0)
    return w.op("Concat", hue, saturation, value, axis=-1)


def hsv_to_rgb(w: Writer, x: Sequence[Value]) -> Value:
    """Write v (1 - s + s t), where t goes from 0 to 1 and back as the hue turns."""
    hue, saturation, value = (
        w.op("Gather", x[0], w.longs(channel), axis=-1) for channel in range(3)
    )
    away = w.op("Abs", hue * 6 - w.const(np.array([3, 2, 4]), hue.dtype))
    turned = away * w.const(np.array([1, -1, -1]), hue.dtype)
    shifted = turned + w.const(np.array([-1, 2, 2]), hue.dtype)
    one, zero = w.const(1, hue.dtype), w.const(0, hue.dtype)
    part = w.op("Min", w.op("Max", shifted, zero), one)
    return (one - saturation + saturation * part) * value


def crop_and_resize(ctx: Any, node: Any, name: str, args: Any) -> None:
    """Let tf2onnx write its loop, which rounds ties up as TensorFlow does."""
    theirs(ctx, node)
    for made in ctx.get_nodes():
        if made.name == node.name and made.type == "Loop":
            for inner in made.get_body_graphs()["body"].get_nodes():
                if inner.type == "Resize":
                    inner.set_attr("nearest_mode", "round_prefer_ceil")


def non_max_suppression(ctx: Any, node: Any, name: str, args: Any) -> None:
    """Let tf2onnx write it, unless scores are lowered instead of boxes left out."""
    sigma = Writer(ctx, node)
    if sigma.known(sigma.value(node.input[5])) != 0:
        raise NotSupportedError(
            f"{node.type} ({node.name}) lowers the scores of boxes that overlap (soft_nms_sigma), "
            "for which ONNX has no operator; cut the graph before it with --outputs"
        )
    theirs(ctx, node)
