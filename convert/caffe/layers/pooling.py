"""Pooling and SPP.

    out = ceil((in + 2 pad - kernel) / stride) + 1          (floor with round_mode FLOOR)
    if any pad is not 0 and (out - 1) stride >= in + pad:  out -= 1

MAX takes a padded position for minus infinity. AVE divides by the part of the window that lies
before in + pad: padding counts, what the rounding up adds beyond it does not. ONNX has a word for
neither, so windows are laid out by explicit pads, and the averages are corrected by a constant.

Source: Caffe's pooling_layer.cpp, spp_layer.cpp.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from onnxgraft.stages.convert.caffe.layers.emitter import Blob, Emitter
from onnxgraft.stages.convert.caffe.reading.net import Layer
from onnxgraft.stages.convert.caffe.reading.prototxt import Message

__all__ = ["pooling", "spp"]

# Rows or columns of an output; the factors of an average are laid out in memory.
_LONGEST = 1 << 12
_LOWEST = float(np.finfo(np.float32).min)


def pooling(layer: Layer, bottoms: list[Blob], out: Emitter) -> list[Blob]:
    """Convert Pooling; a second top is the mask of a MAX pooling."""
    [x] = bottoms
    parameter = layer.parameter("pooling_param")
    out.check(x.rank >= 3, "its input needs a batch, channels and spatial axes")
    method = {"0": "MAX", "1": "AVE", "2": "STOCHASTIC"}.get(
        parameter.text("pool", "MAX"), parameter.text("pool", "MAX")
    )
    if method not in ("MAX", "AVE"):
        raise out.refuse(f"{method} pooling has no form in ONNX")
    if parameter.flag("global_pooling", False):
        if len(layer.tops) == 1:
            kind = "GlobalMaxPool" if method == "MAX" else "GlobalAveragePool"
            return [out.op(kind, [x], (*x.shape[:2], *[1] * (x.rank - 2)))]
        kernel, stride, pad = list(x.shape[2:]), [1] * (x.rank - 2), [0] * (x.rank - 2)
    else:
        kernel = _sizes(parameter, "kernel_size", "kernel", 0, x.rank - 2)
        stride = _sizes(parameter, "stride", "stride", 1, x.rank - 2)
        pad = _sizes(parameter, "pad", "pad", 0, x.rank - 2)
    sane = min(kernel) >= 1 and min(stride) >= 1 and min(pad) >= 0
    fits = all(p < k for p, k in zip(pad, kernel, strict=True))
    out.check(sane and fits, f"kernel {kernel}, stride {stride} and pad {pad} are impossible")
    rounding = parameter.text("round_mode", "CEIL")
    ceil = rounding in ("CEIL", "0") and parameter.flag("ceil_mode", True)
    if method == "AVE":
        return [_average(x, kernel, stride, pad, ceil, out)]
    return _maximum(x, kernel, stride, pad, ceil, len(layer.tops) > 1, out)


def _sizes(parameter: Message, field: str, short: str, default: int, axes: int) -> list[int]:
    pair = [parameter.integer(f"{short}_{letter}", -1) for letter in ("h", "w")]
    if pair != [-1, -1] and axes == 2:
        return [parameter.integer(field, default) if v < 0 else v for v in pair]
    given = parameter.integers(field) or [default]
    return given * axes if len(given) == 1 else given


def _layout(
    dims: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    pad: Sequence[int],
    ceil: bool,
    out: Emitter,
) -> tuple[list[int], list[int]]:
    """Return the output's size and the pad after the end that makes the windows so."""
    sizes, after = [], []
    round_up = math.ceil if ceil else math.floor
    for i, dim in enumerate(dims):
        size = round_up((dim + 2 * pad[i] - kernel[i]) / stride[i]) + 1
        if any(pad) and (size - 1) * stride[i] >= dim + pad[i]:
            size -= 1
        out.check(size >= 1, f"a kernel of {kernel[i]} does not fit into {dim}")
        out.check(size <= _LONGEST, f"an output of {size} rows is impossible")
        sizes.append(size)
        after.append(max(0, (size - 1) * stride[i] + kernel[i] - dim - pad[i]))
    return sizes, after


def _padded(
    x: Blob, kernel: list[int], pad: list[int], after: list[int], value: float, out: Emitter
) -> tuple[Blob, list[int]]:
    """Return the input and ONNX's pads; pads as large as the kernel need a Pad of their own."""
    if all(p < k and a < k for p, a, k in zip(pad, after, kernel, strict=True)):
        return x, [*pad, *after]
    return out.pad(x, [0, 0, *pad], [0, 0, *after], value), [0] * (2 * len(pad))


def _maximum(
    x: Blob,
    kernel: list[int],
    stride: list[int],
    pad: list[int],
    ceil: bool,
    mask: bool,
    out: Emitter,
) -> list[Blob]:
    sizes, after = _layout(x.shape[2:], kernel, stride, pad, ceil, out)
    shape = (*x.shape[:2], *sizes)
    source, pads = _padded(x, kernel, pad, after, _LOWEST, out)
    attrs = {"kernel_shape": kernel, "strides": stride, "pads": pads}
    if not mask:
        return [out.op("MaxPool", [source], shape, attrs)]
    if source is not x:
        raise out.refuse("the mask of windows that lie beyond the input has no form in ONNX")
    pooled = out.op("MaxPool", [x], shape, attrs, outputs=2)
    # ONNX counts over all planes, Caffe within each.
    plane = np.array(math.prod(x.shape[2:]), np.int64)
    within = out.op("Mod", [out.second(pooled, shape), plane], shape, dtype=np.int64)
    return [pooled, out.op("Cast", [within], shape, {"to": 1})]


def _average(
    x: Blob, kernel: list[int], stride: list[int], pad: list[int], ceil: bool, out: Emitter
) -> Blob:
    sizes, after = _layout(x.shape[2:], kernel, stride, pad, ceil, out)
    shape = (*x.shape[:2], *sizes)
    source, pads = _padded(x, kernel, pad, after, 0.0, out)
    attrs = {"kernel_shape": kernel, "strides": stride, "pads": pads, "count_include_pad": 1}
    mean = out.op("AveragePool", [source], shape, attrs)
    inside = [
        np.minimum(np.arange(size) * stride[i] - pad[i] + kernel[i], dim + pad[i])
        - (np.arange(size) * stride[i] - pad[i])
        for i, (size, dim) in enumerate(zip(sizes, x.shape[2:], strict=True))
    ]
    divisor = np.ones((), np.float64)
    for lengths in inside:
        divisor = np.multiply.outer(divisor, lengths)
    if (divisor == math.prod(kernel)).all():
        return mean
    with np.errstate(divide="ignore"):
        factor = (math.prod(kernel) / divisor).astype(np.float32)
    return out.op("Mul", [mean, factor[np.newaxis, np.newaxis]], shape)


def spp(layer: Layer, bottoms: list[Blob], out: Emitter) -> list[Blob]:
    """Convert SPP: poolings into 1, 2x2, 4x4 ... bins, flattened and joined."""
    [x] = bottoms
    parameter = layer.parameter("spp_param")
    method = parameter.text("pool", "MAX")
    if method not in ("MAX", "AVE", "0", "1"):
        raise out.refuse(f"{method} pooling has no form in ONNX")
    parts = []
    for level in range(parameter.integer("pyramid_height", 1)):
        bins = 2**level
        kernel = [math.ceil(dim / bins) for dim in x.shape[2:]]
        pad = [(k * bins - dim + 1) // 2 for k, dim in zip(kernel, x.shape[2:], strict=True)]
        fits = all(p < k for p, k in zip(pad, kernel, strict=True))
        out.check(fits, f"{x.shape[2:]} is too small for {bins} x {bins} bins")
        if method in ("AVE", "1"):
            pooled = _average(x, kernel, kernel, pad, True, out)
        else:
            [pooled] = _maximum(x, kernel, kernel, pad, True, False, out)
        if layer.parameter("spp_param").integer("pyramid_height", 1) == 1:
            return [pooled]  # as Caffe has it: a single level is not flattened
        parts.append(out.reshape(pooled, (x.shape[0], math.prod(pooled.shape[1:]))))
    width = sum(part.shape[1] for part in parts)
    return [out.op("Concat", parts, (x.shape[0], width), {"axis": 1})]
