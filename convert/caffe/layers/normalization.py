"""Normalizations, and the Scale and Bias that follow them.

Source: Caffe's lrn_layer.cpp, batch_norm_layer.cpp, scale_layer.cpp, bias_layer.cpp, mvn_layer.cpp;
SSD's normalize_layer.cpp, happynear/caffe-windows' of the same name; NVIDIA/caffe's and
synopsys-caffe's batch_norm_layer.cpp; SegNet's and PSPNet's bn_layer.cpp.
"""

from __future__ import annotations

import numpy as np

from onnxgraft.graph.tensors import Array
from onnxgraft.stages.convert.caffe.layers.emitter import (
    FREE,
    BatchIsFixed,
    Blob,
    Emitter,
    Shape,
    axis_of,
)
from onnxgraft.stages.convert.caffe.reading.net import Layer
from onnxgraft.stages.convert.caffe.reading.prototxt import Message

__all__ = ["batch_norm", "bias", "bn", "lrn", "mvn", "normalize", "scale"]

_REGIONS = ("ACROSS_CHANNELS", ("ACROSS_CHANNELS", "WITHIN_CHANNEL"))


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
    if parameter.choice("norm_region", *_REGIONS) == "ACROSS_CHANNELS":
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
    ``use_global_stats: false`` it uses the batch's own even at inference. NVCaffe's has a scale
    and a bias (`_nv_batch_norm`); Synopsys' ``add_eps_before_sqrt: false`` divides by
    sqrt(var) + eps.
    """
    [x] = bottoms
    parameter = layer.parameter("batch_norm_param")
    eps = parameter.number("eps", 1e-5)
    inside = parameter.flag("add_eps_before_sqrt", True)
    channels = x.shape[1] if x.rank > 1 else 1
    affine = any(parameter.has(name) for name in ("scale_filler", "bias_filler"))
    if affine or parameter.flag("scale_bias", len(layer.blobs) == 5):
        return [_nv_batch_norm(x, channels, eps, out)]
    if not parameter.flag("use_global_stats", True):
        out.read.update(range(3))
        axes = [axis for axis in range(x.rank) if axis != 1]
        centred, spread = _centred(x, axes, out)
        return [out.binary("Div", centred, _deviation(spread, eps, inside, out))]
    factor = float(out.weight(2, (1,), what="scale factor")[0])
    mean, var = (
        out.weight(i, (channels,), what=what).astype(np.float64) * (1 / factor if factor else 0.0)
        for i, what in enumerate(("means", "variances"))
    )
    if not inside:
        var, eps = (np.sqrt(var) + eps) ** 2, 0.0
    ones, zeros = np.ones(channels, np.float32), np.zeros(channels, np.float32)
    stored = [ones, zeros, mean.astype(np.float32), var.astype(np.float32)]
    return [out.op("BatchNormalization", [x, *stored], x.shape, {"epsilon": eps})]


def _nv_batch_norm(x: Blob, channels: int, eps: float, out: Emitter) -> Blob:
    """Return NVCaffe's: blob 4 (x - blob 1) / sqrt(blob 2 + eps) + blob 5, eps at least 1e-5.

    Its third blob is 1 and not read, and at inference it never uses the batch's own statistics.
    """
    out.read.add(2)
    mean, var = (out.weight(i, (channels,), what=w) for i, w in enumerate(("means", "variances")))
    gain = out.weight(3, (channels,), "scale_filler", what="scales", default=1.0)
    shift = out.weight(4, (channels,), "bias_filler", what="biases")
    attrs = {"epsilon": max(eps, 1e-5)}
    return out.op("BatchNormalization", [x, gain, shift, mean, var], x.shape, attrs)


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
        eps = _pspnet_epsilon(parameter, out)
        return [out.op("BatchNormalization", [x, *stored], x.shape, {"epsilon": eps})]
    mode = parameter.choice("bn_mode", "LEARN", ("LEARN", "INFERENCE"))
    if mode != "INFERENCE":
        raise out.refuse(
            f"it is in {mode} mode, which normalizes by the statistics of its batch; compute those "
            "of the training data and set bn_mode: INFERENCE"
        )
    tail = [1] * (x.rank - 2)
    a = out.weight(0, (channels,), "scale_filler", what="scales").reshape(-1, *tail)
    b = out.weight(1, (channels,), "shift_filler", what="shifts").reshape(-1, *tail)
    return [out.binary("Add", out.binary("Mul", x, a), b)]


def _pspnet_epsilon(parameter: Message, out: Emitter) -> float:
    """Return the epsilon of PSPNet's BN, of which there are an earlier and a later form.

    The earlier (`scale_filler`, `var_eps`) uses its stored statistics only by `moving_average`.
    """
    if parameter.integer("axis", 1) != 1:
        raise out.refuse(f"axis: {parameter.integer('axis', 1)} is not converted, only axis: 1")
    earlier = any(parameter.has(name) for name in ("shift_filler", "var_eps", "moving_average"))
    if earlier and not parameter.flag("moving_average", False):
        raise out.refuse(
            "it normalizes by the statistics of its batch; set moving_average: true to use those "
            "that are stored"
        )
    return parameter.number("eps", parameter.number("var_eps", 1e-10 if earlier else 1e-5))


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
    inside = parameter.flag("add_eps_before_sqrt", False)
    return [out.binary("Div", centred, _deviation(var, parameter.number("eps", 1e-9), inside, out))]


def normalize(layer: Layer, bottoms: list[Blob], out: Emitter) -> list[Blob]:
    """Convert SSD's Normalize, and that of face recognition nets, which has a normalize_type.

    SSD:   scale x / sqrt(sum x^2 + eps), over channels or over all
    L2:    x / sqrt(sum x^2 + 1e-6) over channels        L1: x / (sum |x| + 1e-6)
    """
    [x] = bottoms
    typed = layer.parameter("normalize_param").has("normalize_type")
    if typed or not (layer.blobs or layer.message.has("norm_param") or out.weightless):
        return [_to_length_one(layer, x, out)]
    parameter = layer.parameter("norm_param")
    everywhere = parameter.flag("across_spatial", True)
    axes = list(range(1, x.rank)) if everywhere else [1]
    total = out.reduce("ReduceSum", out.binary("Mul", x, x), axes)
    norm = out.unary("Sqrt", out.binary("Add", total, parameter.number("eps", 1e-10)))
    channels = 1 if parameter.flag("channel_shared", True) else x.shape[1]
    gain = out.weight(0, (channels,), "scale_filler", what="scales", default=1.0)
    return [out.binary("Mul", out.binary("Div", x, norm), _tail(gain, 1, x.rank))]


def _to_length_one(layer: Layer, x: Blob, out: Emitter) -> Blob:
    kind = layer.parameter("normalize_param").text("normalize_type", "L2")
    out.check(kind in ("L1", "L2"), f"the normalize_type {kind} is unknown")
    if kind == "L1":
        total = out.reduce("ReduceSum", out.unary("Abs", x), [1])
        return out.binary("Div", x, out.binary("Add", total, 1e-6))
    total = out.reduce("ReduceSum", out.binary("Mul", x, x), [1])
    return out.binary("Div", x, out.unary("Sqrt", out.binary("Add", total, 1e-6)))


def _centred(x: Blob, axes: list[int], out: Emitter) -> tuple[Blob, Blob]:
    """Return x - mean and the variance, over ``axes``."""
    centred = out.binary("Sub", x, out.reduce("ReduceMean", x, axes))
    return centred, out.reduce("ReduceMean", out.binary("Mul", centred, centred), axes)


def _deviation(var: Blob, eps: float, inside: bool, out: Emitter) -> Blob:
    """Return the root of a variance, with eps inside the root or outside."""
    if inside:
        return out.unary("Sqrt", out.binary("Add", var, eps))
    return out.binary("Add", out.unary("Sqrt", var), eps)


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
    fits = all(
        b in (1, FREE) or a == b for a, b in zip(x.shape[::-1], other.shape[::-1], strict=False)
    )
    if not fits and FREE in x.shape:
        raise BatchIsFixed
    out.check(fits, f"{other.shape} does not broadcast to {x.shape}")
    return out.binary(kind, x, other)
