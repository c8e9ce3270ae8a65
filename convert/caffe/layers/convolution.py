"""Convolution, Deconvolution and Im2col, over any number of spatial axes.

Convolution:   out = floor((in + 2 pad - (dilation (kernel - 1) + 1)) / stride) + 1
Deconvolution: out = stride (in - 1) + dilation (kernel - 1) + 1 - 2 pad

Source: Caffe's base_conv_layer.cpp, conv_layer.cpp, deconv_layer.cpp. Weights are
(out, in / group, kernel...) and, of a Deconvolution, (in, out / group, kernel...).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnxgraft.errors import ModelError
from onnxgraft.stages.convert.caffe.layers.emitter import Blob, Emitter
from onnxgraft.stages.convert.caffe.reading.net import Layer
from onnxgraft.stages.convert.caffe.reading.prototxt import Message

__all__ = ["convolution", "deconvolution", "im2col"]

# Values of the kernels that Im2col becomes.
_MOST_PICKS = 1 << 24
_LETTERS = ("h", "w")


@dataclass(frozen=True)
class _Window:
    """Kernel, stride, pad and dilation, each with a value for every spatial axis."""

    kernel: list[int]
    stride: list[int]
    pad: list[int]
    dilation: list[int]

    @property
    def attrs(self) -> dict[str, list[int]]:
        """As ONNX wants them."""
        return {
            "kernel_shape": self.kernel,
            "strides": self.stride,
            "pads": [*self.pad, *self.pad],
            "dilations": self.dilation,
        }

    def extent(self, axis: int) -> int:
        """How many positions the dilated kernel spans."""
        return self.dilation[axis] * (self.kernel[axis] - 1) + 1


def _window(layer: Layer, parameter: Message, axes: int) -> _Window:
    def values(field: str, short: str, default: int | None) -> list[int]:
        pair = [parameter.integers(f"{short}_{letter}")[-1:] for letter in _LETTERS]
        if any(pair):
            if not all(pair) or axes != 2:
                raise ModelError(f"{layer}: {short}_h and {short}_w go together, over two axes")
            return [value[0] for value in pair]
        given = parameter.integers(field)
        if not given and default is None:
            raise ModelError(f"{layer}: it has no kernel_size")
        given = given or [int(default or 0)]
        if len(given) not in (1, axes):
            raise ModelError(f"{layer}: {len(given)} values of {field} for {axes} spatial axes")
        return given * axes if len(given) == 1 else given

    window = _Window(
        values("kernel_size", "kernel", None),
        values("stride", "stride", 1),
        values("pad", "pad", 0),
        values("dilation", "dilation", 1),
    )
    small = min([*window.kernel, *window.stride, *window.dilation])
    if small < 1 or min(window.pad) < 0:
        raise ModelError(f"{layer}: kernel, stride, pad or dilation is impossible: {window}")
    return window


def convolution(layer: Layer, bottoms: list[Blob], out: Emitter) -> list[Blob]:
    """Convert Convolution, and the forks' ConvolutionDepthwise, whose group is its channels."""
    parameter = layer.parameter("convolution_param")
    x = bottoms[0]
    out.check(x.rank >= 3 and parameter.integer("axis", 1) in (1, 1 - x.rank), _BAD_INPUT)
    window = _window(layer, parameter, x.rank - 2)
    channels, filters = x.shape[1], parameter.integer("num_output")
    depthwise = layer.type in ("ConvolutionDepthwise", "DepthwiseConvolution")
    group = channels if depthwise else parameter.integer("group", 1)
    filters = filters or (channels if depthwise else 0)
    _check_groups(out, group, channels, filters)
    weight = out.weight(0, (filters, channels // group, *window.kernel), "weight_filler")
    biased = parameter.flag("bias_term", True)
    bias = out.weight(1, (filters,), "bias_filler", what="biases") if biased else None
    size = [
        (dim + 2 * window.pad[i] - window.extent(i)) // window.stride[i] + 1
        for i, dim in enumerate(x.shape[2:])
    ]
    out.check(min(size) >= 1, f"the kernel does not fit into {x.shape[2:]}")
    attrs = {**window.attrs, "group": group}
    return [
        out.op("Conv", [bottom, weight, bias], (bottom.shape[0], filters, *size), attrs)
        for bottom in bottoms
    ]


def deconvolution(layer: Layer, bottoms: list[Blob], out: Emitter) -> list[Blob]:
    """Convert Deconvolution."""
    parameter = layer.parameter("convolution_param")
    x = bottoms[0]
    out.check(x.rank >= 3 and parameter.integer("axis", 1) in (1, 1 - x.rank), _BAD_INPUT)
    window = _window(layer, parameter, x.rank - 2)
    channels, filters = x.shape[1], parameter.integer("num_output")
    depthwise = layer.type in ("DeconvolutionDepthwise", "DepthwiseDeconvolution")
    group = channels if depthwise else parameter.integer("group", 1)
    _check_groups(out, group, channels, filters)
    weight = out.weight(0, (channels, filters // group, *window.kernel), "weight_filler")
    biased = parameter.flag("bias_term", True)
    bias = out.weight(1, (filters,), "bias_filler", what="biases") if biased else None
    size = [
        window.stride[i] * (dim - 1) + window.extent(i) - 2 * window.pad[i]
        for i, dim in enumerate(x.shape[2:])
    ]
    out.check(min(size) >= 1, f"the pad leaves nothing of {x.shape[2:]}")
    attrs = {**window.attrs, "group": group}
    return [
        out.op("ConvTranspose", [bottom, weight, bias], (bottom.shape[0], filters, *size), attrs)
        for bottom in bottoms
    ]


def im2col(layer: Layer, bottoms: list[Blob], out: Emitter) -> list[Blob]:
    """Convert Im2col: a convolution whose kernels each pick one position of one channel."""
    [x] = bottoms
    window = _window(layer, layer.parameter("convolution_param"), x.rank - 2)
    positions = int(np.prod(window.kernel))
    out.check(positions * positions * x.shape[1] <= _MOST_PICKS, "the kernel is too large")
    picks = np.eye(positions, dtype=np.float32).reshape(positions, 1, *window.kernel)
    weight = np.tile(picks, (x.shape[1], *[1] * (x.rank - 1)))
    size = [
        (dim + 2 * window.pad[i] - window.extent(i)) // window.stride[i] + 1
        for i, dim in enumerate(x.shape[2:])
    ]
    out.check(min(size) >= 1, f"the kernel does not fit into {x.shape[2:]}")
    shape = (x.shape[0], x.shape[1] * positions, *size)
    return [out.op("Conv", [x, weight], shape, {**window.attrs, "group": x.shape[1]})]


_BAD_INPUT = "its input needs a batch, channels on axis 1 and spatial axes"


def _check_groups(out: Emitter, group: int, channels: int, filters: int) -> None:
    fits = group >= 1 and filters >= 1 and channels % group == 0 and filters % group == 0
    out.check(fits, f"{channels} channels and {filters} filters do not make {group} groups")
