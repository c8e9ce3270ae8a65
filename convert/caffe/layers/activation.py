"""Layers that work value by value, and the softmax.

Source: Caffe's layer sources of the same names; Swish, Clip and ReLU6 are of later versions and
forks; synopsys-caffe's hard_swish_layer.cpp, mish_layer.cpp and selu_layer.cpp.
"""

from __future__ import annotations

import math

import numpy as np

from onnxgraft.stages.convert.caffe.layers.emitter import Blob, Emitter, axis_of
from onnxgraft.stages.convert.caffe.reading.net import Layer

__all__ = [
    "absval", "bnll", "clip", "dropout", "elu", "exp", "hard_swish", "identity", "log", "mish",
    "power", "prelu", "python", "relu", "relu6", "selu", "sigmoid", "softmax", "swish", "tanh",
    "threshold",
]  # fmt: skip


def identity(layer: Layer, bottoms: list[Blob], out: Emitter) -> list[Blob]:
    """Convert Split, which passes its input on to several tops."""
    [x] = bottoms
    return [out.unary("Identity", x) for _ in layer.tops]


def dropout(layer: Layer, bottoms: list[Blob], out: Emitter) -> list[Blob]:
    """Convert Dropout, which does nothing; with ``scale_train: false`` it scales at inference."""
    [x] = bottoms
    parameter = layer.parameter("dropout_param")
    if parameter.flag("sample_weights_test", False):
        raise out.refuse("it drops at random at inference too (Bayesian SegNet)")
    if parameter.flag("scale_train", True):
        return [out.unary("Identity", x)]
    return [out.binary("Mul", x, 1.0 - parameter.number("dropout_ratio", 0.5))]


def python(layer: Layer, bottoms: list[Blob], out: Emitter) -> list[Blob]:
    """Convert a Python layer that is a dropout; what any other computes is not in the net."""
    settings = layer.parameter("python_param")
    name = settings.text("layer")
    if "dropout" not in name.lower():
        raise out.refuse(f"it runs Python code ({settings.text('module')}.{name})")
    return [out.unary("Identity", bottoms[0])]


def relu(layer: Layer, bottoms: list[Blob], out: Emitter) -> list[Blob]:
    """Convert ReLU: max(0, x) + negative_slope min(0, x)."""
    slope = layer.parameter("relu_param").number("negative_slope", 0.0)
    if slope == 0.0:
        return [out.unary("Relu", bottoms[0])]
    return [out.unary("LeakyRelu", bottoms[0], alpha=slope)]


def relu6(layer: Layer, bottoms: list[Blob], out: Emitter) -> list[Blob]:
    """Convert ReLU6: min(max(0, x), 6)."""
    limits = [np.array(value, np.float32) for value in (0, 6)]
    return [out.op("Clip", [bottoms[0], *limits], bottoms[0].shape)]


def clip(layer: Layer, bottoms: list[Blob], out: Emitter) -> list[Blob]:
    """Convert Clip: min(max(min, x), max)."""
    parameter = layer.parameter("clip_param")
    out.check(parameter.has("min") and parameter.has("max"), "it needs min and max")
    limits = [np.array(parameter.number(name, 0), np.float32) for name in ("min", "max")]
    return [out.op("Clip", [bottoms[0], *limits], bottoms[0].shape)]


def prelu(layer: Layer, bottoms: list[Blob], out: Emitter) -> list[Blob]:
    """Convert PReLU: max(0, x) + slope min(0, x), a slope per channel or one for all."""
    [x] = bottoms
    shared = layer.parameter("prelu_param").flag("channel_shared", False)
    channels = 1 if shared else x.shape[1]
    slope = out.weight(0, (channels,), "filler", what="slopes")
    return [out.op("PRelu", [x, slope.reshape(-1, *[1] * (x.rank - 2))], x.shape)]


def elu(layer: Layer, bottoms: list[Blob], out: Emitter) -> list[Blob]:
    """Convert ELU: x where x > 0, alpha (e^x - 1) elsewhere."""
    alpha = layer.parameter("elu_param").number("alpha", 1.0)
    return [out.unary("Elu", bottoms[0], alpha=alpha)]


def sigmoid(layer: Layer, bottoms: list[Blob], out: Emitter) -> list[Blob]:
    """Convert Sigmoid."""
    return [out.unary("Sigmoid", bottoms[0])]


def tanh(layer: Layer, bottoms: list[Blob], out: Emitter) -> list[Blob]:
    """Convert TanH."""
    return [out.unary("Tanh", bottoms[0])]


def absval(layer: Layer, bottoms: list[Blob], out: Emitter) -> list[Blob]:
    """Convert AbsVal."""
    return [out.unary("Abs", bottoms[0])]


def bnll(layer: Layer, bottoms: list[Blob], out: Emitter) -> list[Blob]:
    """Convert BNLL: log(1 + e^x)."""
    return [out.unary("Softplus", bottoms[0])]


def swish(layer: Layer, bottoms: list[Blob], out: Emitter) -> list[Blob]:
    """Convert Swish: x sigmoid(beta x)."""
    [x] = bottoms
    beta = layer.parameter("swish_param").number("beta", 1.0)
    gate = out.unary("Sigmoid", x if beta == 1.0 else out.binary("Mul", x, beta))
    return [out.binary("Mul", x, gate)]


def hard_swish(layer: Layer, bottoms: list[Blob], out: Emitter) -> list[Blob]:
    """Convert HardSwish: x min(max(x + 3, 0), 6) / 6."""
    [x] = bottoms
    return [out.binary("Mul", x, out.unary("HardSigmoid", x, alpha=1 / 6, beta=0.5))]


def mish(layer: Layer, bottoms: list[Blob], out: Emitter) -> list[Blob]:
    """Convert Mish: x tanh(log(1 + e^x))."""
    [x] = bottoms
    return [out.binary("Mul", x, out.unary("Tanh", out.unary("Softplus", x)))]


def selu(layer: Layer, bottoms: list[Blob], out: Emitter) -> list[Blob]:
    """Convert SELU: lambda x where x > 0, lambda alpha (e^x - 1) elsewhere."""
    parameter = layer.parameter("selu_param")
    alpha = parameter.number("alpha", 1.6732632423543772)
    gamma = parameter.number("lambda", 1.0507009873554805)
    return [out.unary("Selu", bottoms[0], alpha=alpha, gamma=gamma)]


def power(layer: Layer, bottoms: list[Blob], out: Emitter) -> list[Blob]:
    """Convert Power: (shift + scale x)^power; scale or power 0 makes a constant."""
    [x] = bottoms
    parameter = layer.parameter("power_param")
    exponent = parameter.number("power", 1.0)
    scale, shift = parameter.number("scale", 1.0), parameter.number("shift", 0.0)
    if exponent == 0.0 or scale == 0.0:
        return [_filled(x, 1.0 if exponent == 0.0 else shift**exponent, out)]
    y = _affine(x, scale, shift, out)
    return [y if exponent == 1.0 else out.binary("Pow", y, exponent)]


def exp(layer: Layer, bottoms: list[Blob], out: Emitter) -> list[Blob]:
    """Convert Exp: base^(shift + scale x); base -1 means e."""
    parameter = layer.parameter("exp_param")
    base = parameter.number("base", -1.0)
    out.check(base > 0 or base == -1.0, f"base {base} is neither positive nor -1")
    factor = 1.0 if base == -1.0 else math.log(base)
    scale, shift = parameter.number("scale", 1.0), parameter.number("shift", 0.0)
    return [out.unary("Exp", _affine(bottoms[0], factor * scale, factor * shift, out))]


def log(layer: Layer, bottoms: list[Blob], out: Emitter) -> list[Blob]:
    """Convert Log: the logarithm of shift + scale x to a base; base -1 means e."""
    parameter = layer.parameter("log_param")
    base = parameter.number("base", -1.0)
    out.check((base > 0 and base != 1) or base == -1.0, f"base {base} has no logarithm")
    scale, shift = parameter.number("scale", 1.0), parameter.number("shift", 0.0)
    y = out.unary("Log", _affine(bottoms[0], scale, shift, out))
    return [y if base == -1.0 else out.binary("Mul", y, 1 / math.log(base))]


def threshold(layer: Layer, bottoms: list[Blob], out: Emitter) -> list[Blob]:
    """Convert Threshold: 1 where x > threshold, 0 elsewhere."""
    [x] = bottoms
    limit = np.array(layer.parameter("threshold_param").number("threshold", 0.0), np.float32)
    above = out.op("Greater", [x, limit], x.shape, dtype=np.bool_)
    return [out.op("Cast", [above], x.shape, {"to": 1})]


def softmax(layer: Layer, bottoms: list[Blob], out: Emitter) -> list[Blob]:
    """Convert Softmax over one axis, 1 by default: of a 4-D blob, at each position."""
    [x] = bottoms
    axis = axis_of(layer, layer.parameter("softmax_param").integer("axis", 1), x.rank)
    return [out.unary("Softmax", x, axis=axis)]


def _affine(x: Blob, scale: float, shift: float, out: Emitter) -> Blob:
    if scale != 1.0:
        x = out.binary("Mul", x, scale)
    return x if shift == 0.0 else out.binary("Add", x, shift)


def _filled(x: Blob, value: float, out: Emitter) -> Blob:
    """Return ``value`` in the shape of ``x``, whatever ``x`` holds."""
    shape = out.op("Shape", [x], (x.rank,), dtype=np.int64)
    return out.op("Expand", [np.array(value, np.float32), shape], x.shape)
