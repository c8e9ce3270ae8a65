"""Pooling and SPP.

    out = ceil((in + 2 pad - kernel) / stride) + 1          (floor with round_mode FLOOR)
    if any pad is not 0 and (out - 1) stride >= in + pad:  out -= 1

MAX takes a padded position for minus infinity. AVE divides by the part of the window that lies
before in + pad: padding counts, what the rounding up adds beyond it does not. ONNX has a word for
neither, so windows are laid out by explicit pads, and the averages are corrected by a constant.

Source: Caffe's pooling_layer.cpp, spp_layer.cpp; synopsys-caffe's pooling_layer.cpp (AVE_EXC_PAD,
pads of each side); C3D's pool3d_layer.cpp.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from onnxgraft.stages.convert.caffe.layers.emitter import Blob, Emitter
from onnxgraft.stages.convert.caffe.layers.sides import side_pads
from onnxgraft.stages.convert.caffe.reading.net import Layer
from onnxgraft.stages.convert.caffe.reading.prototxt import Message

__all__ = ["pooling", "pooling_3d", "spp"]

# Rows or columns of an output; the factors of an average are laid out in memory.
_LONGEST = 1 << 12
_LOWEST = float(np.finfo(np.float32).min)


@dataclass(frozen=True)
class _Windows:
    """Where the windows lie: for each spatial axis, how large, how far apart, and how many.

    Attributes:
        dims: Of the input.
        kernel: Of a window.
        stride: From one window to the next.
        before: The pad before the input.
        counted: The pad behind it that an AVE window counts.
        sizes: Of the output.
    """

    dims: list[int]
    kernel: list[int]
    stride: list[int]
    before: list[int]
    counted: list[int]
    sizes: list[int]

    @property
    def begun(self) -> _Windows:
        """Those that begin within the input; the last one of an axis may begin behind it."""
        sizes = [
            size - ((size - 1) * s - low >= dim)
            for size, s, dim, low in zip(
                self.sizes, self.stride, self.dims, self.before, strict=True
            )
        ]
        return replace(self, sizes=sizes)

    @property
    def attrs(self) -> dict[str, list[int]]:
        """As ONNX wants them: the pads behind the input make so many windows."""
        after = [
            max(0, (size - 1) * s + k - dim - low)
            for size, s, k, dim, low in zip(
                self.sizes, self.stride, self.kernel, self.dims, self.before, strict=True
            )
        ]
        return {"kernel_shape": self.kernel, "strides": self.stride, "pads": [*self.before, *after]}

    def lengths(self, padded: bool) -> list[NDArray[np.int64]]:
        """How many positions each window divides by, along each axis."""
        found = []
        for i, dim in enumerate(self.dims):
            start = np.arange(self.sizes[i]) * self.stride[i] - self.before[i]
            end = np.minimum(start + self.kernel[i], dim + self.counted[i])
            if not padded:
                start, end = np.maximum(start, 0), np.minimum(end, dim)
            found.append(end - start)
        return found


def pooling(layer: Layer, bottoms: list[Blob], out: Emitter) -> list[Blob]:
    """Convert Pooling; a second top is the mask of a MAX pooling."""
    [x] = bottoms
    parameter = layer.parameter("pooling_param")
    out.check(x.rank >= 3, "its input needs a batch, channels and spatial axes")
    method = _method(parameter, out)
    dims, axes = list(x.shape[2:]), x.rank - 2
    if parameter.flag("global_pooling", False):
        if len(layer.tops) == 1:
            kind = "GlobalMaxPool" if method == "MAX" else "GlobalAveragePool"
            return [out.op(kind, [x], (*x.shape[:2], *[1] * axes))]
        kernel, stride, pad = dims, [1] * axes, [0] * axes
    else:
        kernel = _sizes(parameter, "kernel_size", "kernel", 0, axes)
        stride = _sizes(parameter, "stride", "stride", 1, axes)
        pad = _sizes(parameter, "pad", "pad", 0, axes)
    sane = min(kernel) >= 1 and min(stride) >= 1 and min(pad) >= 0
    fits = all(p < k for p, k in zip(pad, kernel, strict=True))
    out.check(sane and fits, f"kernel {kernel}, stride {stride} and pad {pad} are impossible")
    before, after = side_pads(parameter, dims, kernel, stride, pad, out)
    inside = all(0 <= p < k for p, k in zip([*before, *after], kernel * 2, strict=True))
    out.check(inside, f"pads of {before} and {after} are impossible for a kernel of {kernel}")
    rounding = parameter.choice("round_mode", "CEIL", ("CEIL", "FLOOR"))
    ceil = rounding == "CEIL" and parameter.flag("ceil_mode", True)
    if parameter.integer("pad_type") == 1:
        sizes = [math.ceil(dim / step) for dim, step in zip(dims, stride, strict=True)]
    else:
        sizes = _count(dims, kernel, stride, before, after, ceil)
    return _pooled(x, method, _windows(dims, kernel, stride, before, after, sizes, out), out)


def pooling_3d(layer: Layer, bottoms: list[Blob], out: Emitter) -> list[Blob]:
    """Convert C3D's Pooling3D: kernel_depth and temporal_stride along time, rounding up."""
    [x] = bottoms
    parameter = layer.parameter("pooling_param")
    out.check(x.rank == 5, "its input needs a batch, channels, time, height and width")
    method = _method(parameter, out)
    side, step = parameter.integer("kernel_size"), parameter.integer("stride", 1)
    kernel = [parameter.integer("kernel_depth"), side, side]
    stride = [parameter.integer("temporal_stride", 1), step, step]
    pad = [0, *[parameter.integer("pad")] * 2]
    out.check(method == "AVE" or not any(pad), "only an average can be padded")
    sane = min(kernel) >= 1 and min(stride) >= 1 and 0 <= pad[1] < side
    out.check(sane, f"kernel {kernel}, stride {stride} and pad {pad} are impossible")
    dims = list(x.shape[2:])
    # C3D does not clip the last window.
    sizes = [
        math.ceil((dim + 2 * p - k) / s) + 1
        for dim, k, s, p in zip(dims, kernel, stride, pad, strict=True)
    ]
    return _pooled(x, method, _windows(dims, kernel, stride, pad, pad, sizes, out), out)


def _method(parameter: Message, out: Emitter) -> str:
    method = parameter.choice("pool", "MAX", ("MAX", "AVE", "STOCHASTIC"))
    method = {"AVE_TF": "AVE_EXC_PAD"}.get(method, method)
    if method not in ("MAX", "AVE", "AVE_EXC_PAD"):
        raise out.refuse(f"{method} pooling has no form in ONNX")
    return method


def _sizes(parameter: Message, field: str, short: str, default: int, axes: int) -> list[int]:
    pair = [parameter.integer(f"{short}_{letter}", -1) for letter in ("h", "w")]
    if pair != [-1, -1] and axes == 2:
        return [parameter.integer(field, default) if v < 0 else v for v in pair]
    given = parameter.integers(field) or [default]
    return given * axes if len(given) == 1 else given


def _count(
    dims: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    before: Sequence[int],
    after: Sequence[int],
    ceil: bool,
) -> list[int]:
    """Return how many windows there are along each axis."""
    round_up = math.ceil if ceil else math.floor
    sizes = []
    for i, dim in enumerate(dims):
        size = round_up((dim + before[i] + after[i] - kernel[i]) / stride[i]) + 1
        clipped = any([*before, *after]) and (size - 1) * stride[i] >= dim + before[i]
        sizes.append(size - clipped)
    return sizes


def _windows(
    dims: list[int],
    kernel: list[int],
    stride: list[int],
    before: list[int],
    after: list[int],
    sizes: list[int],
    out: Emitter,
) -> _Windows:
    for dim, length, size in zip(dims, kernel, sizes, strict=True):
        out.check(size >= 1, f"a kernel of {length} does not fit into {dim}")
        out.check(size <= _LONGEST, f"an output of {size} rows is impossible")
    return _Windows(dims, kernel, stride, before, after, sizes)


def _pooled(x: Blob, method: str, windows: _Windows, out: Emitter) -> list[Blob]:
    if method == "MAX":
        return _maximum(x, windows, out.tops > 1, out)
    return [_average(x, windows, method == "AVE", out)]


def _maximum(x: Blob, windows: _Windows, mask: bool, out: Emitter) -> list[Blob]:
    inner = windows.begun
    shape = (*x.shape[:2], *inner.sizes)
    if not mask:
        y = out.op("MaxPool", [x], shape, inner.attrs)
        return [_with_empty(y, windows, _LOWEST, out)]
    pooled = out.op("MaxPool", [x], shape, inner.attrs, outputs=2)
    # ONNX counts over all planes, Caffe within each.
    plane = np.array(math.prod(x.shape[2:]), np.int64)
    within = out.op("Mod", [out.second(pooled, shape), plane], shape, dtype=np.int64)
    places = out.op("Cast", [within], shape, {"to": 1})
    return [_with_empty(pooled, windows, _LOWEST, out), _with_empty(places, windows, -1.0, out)]


def _average(x: Blob, windows: _Windows, padding_counts: bool, out: Emitter) -> Blob:
    inner = windows.begun
    attrs = {**inner.attrs, "count_include_pad": 1}
    mean = out.op("AveragePool", [x], (*x.shape[:2], *inner.sizes), attrs)
    mean = _with_empty(mean, windows, 0.0, out)
    divisor = np.ones((), np.float64)
    for lengths in windows.lengths(padding_counts):
        divisor = np.multiply.outer(divisor, lengths)
    if (divisor == math.prod(windows.kernel)).all():
        return mean
    with np.errstate(divide="ignore"):
        factor = (math.prod(windows.kernel) / divisor).astype(np.float32)
    return out.op("Mul", [mean, factor[np.newaxis, np.newaxis]], mean.shape)


def _with_empty(y: Blob, windows: _Windows, value: float, out: Emitter) -> Blob:
    """Return the pooled values with ``value`` for the windows that begin behind the input."""
    lacking = [size - y.shape[2 + i] for i, size in enumerate(windows.sizes)]
    return out.pad(y, [0] * y.rank, [0, 0, *lacking], value) if any(lacking) else y


def spp(layer: Layer, bottoms: list[Blob], out: Emitter) -> list[Blob]:
    """Convert SPP: poolings into 1, 2x2, 4x4 ... bins, flattened and joined."""
    [x] = bottoms
    parameter = layer.parameter("spp_param")
    method = _method(parameter, out)
    parts = []
    for level in range(parameter.integer("pyramid_height", 1)):
        bins = 2**level
        kernel = [math.ceil(dim / bins) for dim in x.shape[2:]]
        pad = [(k * bins - dim + 1) // 2 for k, dim in zip(kernel, x.shape[2:], strict=True)]
        fits = all(p < k for p, k in zip(pad, kernel, strict=True))
        out.check(fits, f"{x.shape[2:]} is too small for {bins} x {bins} bins")
        dims = list(x.shape[2:])
        sizes = _count(dims, kernel, kernel, pad, pad, True)
        [pooled] = _pooled(x, method, _windows(dims, kernel, kernel, pad, pad, sizes, out), out)
        if layer.parameter("spp_param").integer("pyramid_height", 1) == 1:
            return [pooled]  # as Caffe has it: a single level is not flattened
        parts.append(out.reshape(pooled, (x.shape[0], math.prod(pooled.shape[1:]))))
    width = sum(part.shape[1] for part in parts)
    return [out.op("Concat", parts, (x.shape[0], width), {"axis": 1})]
