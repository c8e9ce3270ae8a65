"""What ONNX's operators compute, as a textbook has it: numpy, float64, one loop after another.

For the tests of the exact reference alone. Every tensor is an array of real numbers (float64), or
of integers where QuantizeLinear made it.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

Numbers = NDArray[Any]


def run(model: onnx.ModelProto, feeds: Mapping[str, Numbers]) -> dict[str, Numbers]:
    """Return every tensor of a graph, by name."""
    values: dict[str, Numbers] = {
        entry.name: onnx.numpy_helper.to_array(entry) for entry in model.graph.initializer
    }
    values |= {name: np.asarray(value, np.float64) for name, value in feeds.items()}
    for node in model.graph.node:
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        inputs = [values[name] if name else None for name in node.input]
        values[node.output[0]] = OPERATORS[node.op_type](*inputs, **attributes)
    return values


def along(value: Numbers, axis: int, rank: int) -> Numbers:
    return value.reshape(-1, *(1,) * (rank - 1 - axis % rank)) if value.size > 1 else value


def dequantize(q: Numbers, scale: Numbers, zero: Numbers | None = None, axis: int = 1) -> Numbers:
    zero = np.zeros(1, np.int64) if zero is None else zero.astype(np.int64)
    shift = along(zero, axis, q.ndim) if q.ndim else zero
    factor = along(scale.astype(np.float64), axis, q.ndim) if q.ndim else scale.astype(np.float64)
    return (q.astype(np.int64) - shift) * factor


def unrounded(x: Numbers, scale: Numbers, axis: int = 1) -> Numbers:
    """Return what QuantizeLinear rounds, before the zero point."""
    return np.asarray(x / along(scale.astype(np.float64), axis, x.ndim))


def quantize(x: Numbers, scale: Numbers, zero: Numbers, axis: int = 1) -> Numbers:
    limits = np.iinfo(zero.dtype)
    rounded = np.rint(unrounded(x, scale, axis)) + along(zero.astype(np.int64), axis, x.ndim)
    return np.clip(rounded, limits.min, limits.max).astype(zero.dtype)


def conv(
    x: Numbers, w: Numbers, b: Numbers | None = None, *, pads: Any = None, strides: Any = None,
    dilations: Any = None, group: int = 1, kernel_shape: Any = None,
) -> Numbers:  # fmt: skip
    axes = x.ndim - 2
    pads, strides = pads or [0] * 2 * axes, strides or [1] * axes
    dilations = dilations or [1] * axes
    around = [(0, 0), (0, 0), *((pads[i], pads[i + axes]) for i in range(axes))]
    x = np.pad(x, around)
    reach = [(k - 1) * d + 1 for k, d in zip(w.shape[2:], dilations, strict=True)]
    size = [(n - r) // s + 1 for n, r, s in zip(x.shape[2:], reach, strides, strict=True)]
    y = np.zeros((len(x), len(w), *size))
    width, outputs = w.shape[1], len(w) // group
    for at in itertools.product(*map(range, size)):
        begin = [a * s for a, s in zip(at, strides, strict=True)]
        window = tuple(slice(b, b + r, d) for b, r, d in zip(begin, reach, dilations, strict=True))
        for channel in range(len(w)):
            first = channel // outputs * width
            part = x[(slice(None), slice(first, first + width), *window)]
            y[(slice(None), channel, *at)] = (part * w[channel]).reshape(len(x), -1).sum(1)
    return y if b is None else y + b.reshape(-1, *(1,) * axes)


def conv_transpose(
    x: Numbers, w: Numbers, b: Numbers | None = None, *, pads: Any = None, strides: Any = None,
    group: int = 1, kernel_shape: Any = None,
) -> Numbers:  # fmt: skip
    axes = x.ndim - 2
    pads, strides = pads or [0] * 2 * axes, strides or [1] * axes
    inputs, outputs = w.shape[0] // group, w.shape[1]
    size = [(n - 1) * s + k for n, s, k in zip(x.shape[2:], strides, w.shape[2:], strict=True)]
    y = np.zeros((len(x), outputs * group, *size))
    for at in itertools.product(*map(range, x.shape[2:])):
        window = tuple(
            slice(a * s, a * s + k) for a, s, k in zip(at, strides, w.shape[2:], strict=True)
        )
        for channel in range(x.shape[1]):
            first = channel // inputs * outputs
            place = (slice(None), slice(first, first + outputs), *window)
            y[place] += x[(slice(None), channel, *at)].reshape(-1, 1, *(1,) * axes) * w[channel]
    kept = tuple(slice(pads[i], n - pads[i + axes]) for i, n in enumerate(size))
    y = y[(slice(None), slice(None), *kept)]
    return y if b is None else y + b.reshape(-1, *(1,) * axes)


def gemm(a: Numbers, b: Numbers, c: Numbers | None = None, *, transB: int = 0) -> Numbers:
    y = a @ (b.T if transB else b)
    return y if c is None else y + c


def max_pool(x: Numbers, *, kernel_shape: Any, strides: Any) -> Numbers:
    size = [(n - k) // s + 1 for n, k, s in zip(x.shape[2:], kernel_shape, strides, strict=True)]
    y = np.zeros((*x.shape[:2], *size))
    for at in itertools.product(*map(range, size)):
        window = tuple(
            slice(a * s, a * s + k) for a, s, k in zip(at, strides, kernel_shape, strict=True)
        )
        y[(..., *at)] = x[(..., *window)].reshape(*x.shape[:2], -1).max(-1)
    return y


OPERATORS: dict[str, Any] = {
    "Add": lambda a, b: a + b,
    "Concat": lambda *parts, axis: np.concatenate(parts, axis),
    "Conv": conv,
    "ConvTranspose": conv_transpose,
    "DequantizeLinear": dequantize,
    "Flatten": lambda x, axis=1: x.reshape(int(np.prod(x.shape[:axis])), -1),
    "Gemm": gemm,
    "MatMul": lambda a, b: a @ b,
    "MaxPool": max_pool,
    "QuantizeLinear": quantize,
    "Relu": lambda x: np.maximum(x, 0),
    "Transpose": lambda x, perm: x.transpose(perm),
}
