"""Layers that work on each value alone, by their definitions."""

from __future__ import annotations

import math

import numpy as np

from onnxgraft.graph.tensors import Array


def relu(x: Array, negative_slope: float = 0.0) -> Array:
    return np.where(x > 0, x, negative_slope * x)


def relu6(x: Array) -> Array:
    return np.clip(x, 0, 6)


def prelu(x: Array, slope: Array) -> Array:
    """``slope`` has one value for each channel, or one for all."""
    slopes = np.broadcast_to(slope.astype(np.float64).ravel(), (x.shape[1],))
    return np.where(x > 0, x, x * slopes.reshape(-1, *[1] * (x.ndim - 2)))


def elu(x: Array, alpha: float = 1.0) -> Array:
    return np.where(x > 0, x, alpha * (np.exp(np.minimum(x, 0)) - 1))


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def swish(x: Array, beta: float = 1.0) -> Array:
    return x * sigmoid(beta * x)


def hard_swish(x: Array) -> Array:
    """synopsys-caffe's hard_swish_layer.cpp."""
    return x * np.minimum(np.maximum(x + 3, 0), 6) / 6


def mish(x: Array) -> Array:
    """synopsys-caffe's mish_layer.cpp."""
    return x * np.tanh(bnll(x))


def selu(x: Array, alpha: float = 1.6732632, scale: float = 1.0507009) -> Array:
    """synopsys-caffe's selu_layer.cpp."""
    return scale * elu(x, alpha)


def bnll(x: Array) -> Array:
    return np.log1p(np.exp(-abs(x))) + np.maximum(x, 0)


def power(x: Array, power: float = 1.0, scale: float = 1.0, shift: float = 0.0) -> Array:
    """``(shift + scale * x) ^ power``; a constant where x has no part in it."""
    if power * scale == 0:
        return np.full_like(x, 1.0 if power == 0 else shift**power)
    return (shift + scale * x) ** power


def exp(x: Array, base: float = -1.0, scale: float = 1.0, shift: float = 0.0) -> Array:
    """``base ^ (shift + scale * x)``; -1 stands for e."""
    return (math.e if base == -1 else base) ** (shift + scale * x)


def log(x: Array, base: float = -1.0, scale: float = 1.0, shift: float = 0.0) -> Array:
    """``log_base(shift + scale * x)``; -1 stands for e."""
    return np.log(shift + scale * x) / (1 if base == -1 else math.log(base))


def threshold(x: Array, threshold: float = 0.0) -> Array:
    return (x > threshold).astype(np.float64)
