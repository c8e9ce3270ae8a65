"""Normalizations, and the Scale and Bias that follow them.

Source: Caffe's lrn_layer.cpp, batch_norm_layer.cpp, scale_layer.cpp, bias_layer.cpp, mvn_layer.cpp;
SSD's normalize_layer.cpp; SegNet's and PSPNet's bn_layer.cpp.
"""

from __future__ import annotations

import numpy as np

from onnxgraft.graph.tensors import Array
from onnxgraft.stages.convert.caffe.layers.emitter import FREE, Blob, Emitter, Shape, axis_of
from onnxgraft.stages.convert.caffe.reading.net import Layer
from onnxgraft.stages.convert.caffe.reading.prototxt import Message

__all__ = ["batch_norm", "bias", "bn", "lrn", "mvn", "normalize", "scale"]


def lrn(layer: Layer, bottoms: list[Blob], out: Emitter) -> list[Blob]:
    """Convert LRN.

    ACROSS_CHANNELS: x (k + alpha / n sum x^2)^-beta over n channels
    WITHIN_CHANNEL:  x (1 + alpha avg x^2)^-beta over n x n positions, padding counted; no k
    """
    [x] = bottoms
    parameter = layer.parameter("lrn_param")
    size = parameter.integer("local_size", 5)
    alpha, beta = parameter.number("alpha", 1.0), parameter.number("beta", 0.75)
    out.check(size >= 1 and size % 2 == 1, f"local_size {size} is not odd")
    if parameter.text("norm_region", "ACROSS_CHANNELS") in ("ACROSS_CHANNELS", "0"):
        k = parameter.number("k", 1.0)
        return [out.unary("LRN", x, size=size, alpha=alpha, beta=beta, bias=k)]
    window = {"kernel_shape": [size] * 2, "strides": [1, 1], "pads": [(size - 1) // 2] * 4}
    squares = out.binary("Mul", x, x)
    mean = out.op("AveragePool", [squares], x.shape, {**window, "count_include_pad": 1})
    inner = out.binary("Add", out.binary("Mul", mean, alpha), 1.0)
    return [out.binary("Mul", x, out.binary("Pow", inner, -beta))]


def batch_norm(layer: Layer, bottoms: list[Blob], out: Emitter) -> list[Blob]:
    """Convert BatchNorm: (x - mean) / sqrt(var + eps), with no affine part.

    The stored mean and variance are divided by the third blob; if that is 0 both are 0. With
    ``use_global_stats: false`` it uses the batch's own even at inference.
    """
    [x] = bottoms
    parameter = layer.parameter("batch_norm_param")
    eps = parameter.number("eps", 1e-5)
    channels = x.shape[1] if x.rank > 1 else 1
    if not parameter.flag("use_global_stats", True):
        axes = [axis for axis in range(x.rank) if axis != 1]
        centred, spread = _centred(x, axes, out)
        return [out.binary("Div", centred, out.unary("Sqrt", out.binary("Add", spread, eps)))]
    factor = float(out.weight(2, (1,), what="scale factor")[0])
    mean, var = (
        out.weight(i, (channels,), what=what).astype(np.float64) * (1 / factor if factor else 0.0)
        for i, what in enumerate(("means", "variances"))
    )
    ones, zeros = np.ones(channels, np.float32), np.zeros(channels, np.float32)
    stored = [ones, zeros, mean.astype(np.float32), var.astype(np.float32)]
    return [out.op("BatchNormalization", [x, *stored], x.shape, {"epsilon": eps})]


def bn(layer: Layer, bottoms: list[Blob], out: Emitter) -> list[Blob]:
    """Convert the forks' BN, told apart by their number of blobs.

    2 (SegNet, ENet): a x + b
    4 (PSPNet):       slope (x - mean) / sqrt(var + eps) + bias
    """
    [x] = bottoms
    channels = x.shape[1]
    parameter = layer.parameter("bn_param")
    if len(layer.blobs) == 4:
        names = ("slopes", "biases", "means", "variances")
        stored = [out.weight(i, (channels,), what=name) for i, name in enumerate(names)]
        eps = parameter.number("eps", 1e-5)
        return [out.op("BatchNormalization", [x, *stored], x.shape, {"epsilon": eps})]
    if parameter.text("bn_mode") == "LEARN":
        raise out.refuse("it is in LEARN mode: compute its statistics first (bn_mode INFERENCE)")
    tail = [1] * (x.rank - 2)
    a = out.weight(0, (channels,), "scale_filler", what="scales").reshape(-1, *tail)
    b = out.weight(1, (channels,), "shift_filler", what="shifts").reshape(-1, *tail)
    return [out.binary("Add", out.binary("Mul", x, a), b)]


def scale(layer: Layer, bottoms: list[Blob], out: Emitter) -> list[Blob]:
    """Convert Scale: x times a blob or a second bottom, broadcast from ``axis`` on, plus a bias."""
    x = bottoms[0]
    parameter = layer.parameter("scale_param")
    axis, shape = _operand(layer, parameter, bottoms)
    if len(bottoms) > 1:
        y = _broadcast(out, "Mul", x, _aligned(bottoms[1], axis, x.rank, out))
    else:
        y = out.binary("Mul", x, _tail(out.weight(0, shape, "filler", what="scales"), axis, x.rank))
    if not parameter.flag("bias_term", False):
        return [y]
    shift = out.weight(len(bottoms) == 1, shape, "bias_filler", what="biases")
    return [out.binary("Add", y, _tail(shift, axis, x.rank))]


def bias(layer: Layer, bottoms: list[Blob], out: Emitter) -> list[Blob]:
    """Convert Bias: x plus a blob or a second bottom, broadcast from ``axis`` on."""
    x = bottoms[0]
    axis, shape = _operand(layer, layer.parameter("bias_param"), bottoms)
    if len(bottoms) > 1:
        return [_broadcast(out, "Add", x, _aligned(bottoms[1], axis, x.rank, out))]
    shift = out.weight(0, shape, "filler", what="biases")
    return [out.binary("Add", x, _tail(shift, axis, x.rank))]


def mvn(layer: Layer, bottoms: list[Blob], out: Emitter) -> list[Blob]:
    """Convert MVN: (x - mean) / (sqrt(var) + eps), over positions or over channels too."""
    [x] = bottoms
    parameter = layer.parameter("mvn_param")
    first = 1 if parameter.flag("across_channels", False) else 2
    centred, var = _centred(x, list(range(first, x.rank)), out)
    if not parameter.flag("normalize_variance", True):
        return [centred]
    eps = parameter.number("eps", 1e-9)
    return [out.binary("Div", centred, out.binary("Add", out.unary("Sqrt", var), eps))]


def normalize(layer: Layer, bottoms: list[Blob], out: Emitter) -> list[Blob]:
    """Convert SSD's Normalize: scale x / sqrt(sum x^2 + eps), over channels or over all."""
    [x] = bottoms
    parameter = layer.parameter("norm_param")
    everywhere = parameter.flag("across_spatial", True)
    axes = list(range(1, x.rank)) if everywhere else [1]
    total = out.reduce("ReduceSum", out.binary("Mul", x, x), axes)
    norm = out.unary("Sqrt", out.binary("Add", total, parameter.number("eps", 1e-10)))
    channels = 1 if parameter.flag("channel_shared", True) else x.shape[1]
    gain = out.weight(0, (channels,), "scale_filler", what="scales")
    return [out.binary("Mul", out.binary("Div", x, norm), _tail(gain, 1, x.rank))]


def _centred(x: Blob, axes: list[int], out: Emitter) -> tuple[Blob, Blob]:
    """Return x - mean and the variance, over ``axes``."""
    centred = out.binary("Sub", x, out.reduce("ReduceMean", x, axes))
    return centred, out.reduce("ReduceMean", out.binary("Mul", centred, centred), axes)


def _operand(layer: Layer, parameter: Message, bottoms: list[Blob]) -> tuple[int, Shape]:
    """Return the axis and the shape of a Scale's or Bias's operand."""
    x = bottoms[0]
    axis = axis_of(layer, parameter.integer("axis", 1), x.rank)
    if len(bottoms) > 1:
        return axis, bottoms[1].shape
    axes = parameter.integer("num_axes", 1)
    return axis, x.shape[axis:] if axes == -1 else x.shape[axis : axis + axes]


def _tail(value: Array, axis: int, rank: int) -> Array:
    """Return a constant with axes of 1 behind, so that it broadcasts from ``axis`` on."""
    return value.reshape(*value.shape, *[1] * (rank - axis - value.ndim))


def _aligned(blob: Blob, axis: int, rank: int, out: Emitter) -> Blob:
    return out.reshape(blob, (*blob.shape, *[1] * (rank - axis - blob.rank)))


def _broadcast(out: Emitter, kind: str, x: Blob, other: Blob) -> Blob:
    out.check(
        all(
            b in (1, FREE) or a == b for a, b in zip(x.shape[::-1], other.shape[::-1], strict=False)
        ),
        f"{other.shape} does not broadcast to {x.shape}",
    )
    return out.binary(kind, x, other)
