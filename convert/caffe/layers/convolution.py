"""Convolution, Deconvolution and Im2col, over any number of spatial axes.

Convolution:   out = floor((in + 2 pad - (dilation (kernel - 1) + 1)) / stride) + 1
Deconvolution: out = stride (in - 1) + dilation (kernel - 1) + 1 - 2 pad

Source: Caffe's base_conv_layer.cpp, conv_layer.cpp, deconv_layer.cpp; DeepLab's and
synopsys-caffe's base_conv_layer.cpp (hole; pads of each side); C3D's convolution3d_layer.cpp.

Weights are (out, in / group, kernel...) and, of a Deconvolution, (in, out / group, kernel...).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onnxgraft.errors import ModelError
from onnxgraft.stages.convert.caffe.layers.emitter import Blob, Emitter
from onnxgraft.stages.convert.caffe.layers.sides import side_pads
from onnxgraft.stages.convert.caffe.reading.net import Layer
from onnxgraft.stages.convert.caffe.reading.prototxt import Message

__all__ = ["convolution", "convolution_3d", "deconvolution", "im2col"]

# Values of the kernels that Im2col becomes.
_MOST_PICKS = 1 << 24
_LETTERS = ("h", "w")


@dataclass(frozen=True)
class _Window:
    """Kernel, stride, pads and dilation, each with a value for every spatial axis."""

    kernel: list[int]
    stride: list[int]
    pad: list[int]
    after: list[int]
    dilation: list[int]

    @property
    def attrs(self) -> dict[str, list[int]]:
        """As ONNX wants them."""
        return {
            "kernel_shape": self.kernel,
            "strides": self.stride,
            "pads": [*self.pad, *self.after],
            "dilations": self.dilation,
        }

    def extent(self, axis: int) -> int:
        """How many positions the dilated kernel spans."""
        return self.dilation[axis] * (self.kernel[axis] - 1) + 1

    def sizes(self, dims: Sequence[int]) -> list[int]:
        """The size of a convolution's result."""
        return [
            (dim + self.pad[i] + self.after[i] - self.extent(i)) // self.stride[i] + 1
            for i, dim in enumerate(dims)
        ]


def _window(layer: Layer, parameter: Message, dims: Sequence[int], out: Emitter) -> _Window:
    axes = len(dims)

    def values(field: str, short: str, default: int) -> list[int]:
        """Return the field's values, or those of its height and width."""
        pair = [parameter.integers(f"{short}_{letter}")[-1:] for letter in _LETTERS]
        if any(pair):
            out.check(axes == 2, f"{short}_h and {short}_w are for two axes")
            return [value[0] if value else default for value in pair]
        given = parameter.integers(field) or [default]
        out.check(len(given) in (1, axes), f"{len(given)} values of {field} for {axes} axes")
        return given * axes if len(given) == 1 else given

    kernel = values("kernel_size", "kernel", 0)
    out.check(max(kernel) > 0, "it has no kernel_size")
    stride, pad = values("stride", "stride", 1), values("pad", "pad", 0)
    # DeepLab's name for it.
    holes = any(parameter.has(name) for name in ("hole", "hole_h", "hole_w"))
    dilation = values("hole", "hole", 1) if holes else values("dilation", "dilation", 1)
    same = parameter.integer("pad_type") == 1
    out.check(not same or max(dilation) == 1, "pad_type and dilation do not go together")
    before, after = side_pads(parameter, dims, kernel, stride, pad, out)
    window = _Window(kernel, stride, before, after, dilation)
    small = min([*kernel, *stride, *dilation])
    if small < 1 or min([*before, *after]) < 0:
        raise ModelError(
            f"{layer}: kernel {kernel}, stride {stride}, pad {[*before, *after]} or dilation "
            f"{dilation} is impossible"
        )
    return window


def convolution(layer: Layer, bottoms: list[Blob], out: Emitter) -> list[Blob]:
    """Convert Convolution, and the forks' ConvolutionDepthwise, whose group is its channels."""
    parameter = layer.parameter("convolution_param")
    x = bottoms[0]
    out.check(x.rank >= 3 and parameter.integer("axis", 1) in (1, 1 - x.rank), _BAD_INPUT)
    window = _window(layer, parameter, x.shape[2:], out)
    channels, filters = x.shape[1], parameter.integer("num_output")
    depthwise = layer.type in ("ConvolutionDepthwise", "DepthwiseConvolution")
    group = channels if depthwise else parameter.integer("group", 1)
    filters = filters or (channels if depthwise else 0)
    _check_groups(out, group, channels, filters)
    weight = out.weight(0, (filters, channels // group, *window.kernel), "weight_filler")
    biased = parameter.flag("bias_term", True)
    bias = out.weight(1, (filters,), "bias_filler", what="biases") if biased else None
    size = window.sizes(x.shape[2:])
    out.check(min(size) >= 1, f"the kernel does not fit into {x.shape[2:]}")
    attrs = {**window.attrs, "group": group}
    return [
        out.op("Conv", [bottom, weight, bias], (bottom.shape[0], filters, *size), attrs)
        for bottom in bottoms
    ]


def convolution_3d(layer: Layer, bottoms: list[Blob], out: Emitter) -> list[Blob]:
    """Convert C3D's Convolution3D: kernel_depth, temporal_stride and temporal_pad along time.

    Its filter_group saves memory and changes nothing.
    """
    [x] = bottoms
    parameter = layer.parameter("convolution_param")
    out.check(x.rank == 5, "its input needs a batch, channels, time, height and width")
    out.check(parameter.integer("group", 1) == 1, "it has no groups")

    def values(time: str, side: str, default: int) -> list[int]:
        return [parameter.integer(time, default), *[parameter.integer(side, default)] * 2]

    pad = values("temporal_pad", "pad", 0)
    kernel = values("kernel_depth", "kernel_size", 0)
    window = _Window(kernel, values("temporal_stride", "stride", 1), pad, pad, [1, 1, 1])
    filters, size = parameter.integer("num_output"), window.sizes(x.shape[2:])
    sane = min([*kernel, *window.stride, *size, filters]) >= 1 and min(pad) >= 0
    out.check(sane, f"num_output, kernel, stride or pad is impossible: {window}")
    weight = out.weight(0, (filters, x.shape[1], *kernel), "weight_filler")
    biased = parameter.flag("bias_term", True)
    bias = out.weight(1, (filters,), "bias_filler", what="biases") if biased else None
    return [out.op("Conv", [x, weight, bias], (x.shape[0], filters, *size), window.attrs)]


def deconvolution(layer: Layer, bottoms: list[Blob], out: Emitter) -> list[Blob]:
    """Convert Deconvolution."""
    parameter = layer.parameter("convolution_param")
    x = bottoms[0]
    out.check(x.rank >= 3 and parameter.integer("axis", 1) in (1, 1 - x.rank), _BAD_INPUT)
    out.check(not parameter.has("pad_type"), "pad_type says nothing of a Deconvolution")
    window = _window(layer, parameter, x.shape[2:], out)
    channels, filters = x.shape[1], parameter.integer("num_output")
    depthwise = layer.type in ("DeconvolutionDepthwise", "DepthwiseDeconvolution")
    group = channels if depthwise else parameter.integer("group", 1)
    _check_groups(out, group, channels, filters)
    weight = out.weight(0, (channels, filters // group, *window.kernel), "weight_filler")
    biased = parameter.flag("bias_term", True)
    bias = out.weight(1, (filters,), "bias_filler", what="biases") if biased else None
    size = [
        window.stride[i] * (dim - 1) + window.extent(i) - window.pad[i] - window.after[i]
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
    window = _window(layer, layer.parameter("convolution_param"), x.shape[2:], out)
    positions = int(np.prod(window.kernel))
    out.check(positions * positions * x.shape[1] <= _MOST_PICKS, "the kernel is too large")
    picks = np.eye(positions, dtype=np.float32).reshape(positions, 1, *window.kernel)
    weight = np.tile(picks, (x.shape[1], *[1] * (x.rank - 1)))
    size = window.sizes(x.shape[2:])
    out.check(min(size) >= 1, f"the kernel does not fit into {x.shape[2:]}")
    shape = (x.shape[0], x.shape[1] * positions, *size)
    return [out.op("Conv", [x, weight], shape, {**window.attrs, "group": x.shape[1]})]


_BAD_INPUT = "its input needs a batch, channels on axis 1 and spatial axes"


def _check_groups(out: Emitter, group: int, channels: int, filters: int) -> None:
    fits = group >= 1 and filters >= 1 and channels % group == 0 and filters % group == 0
    out.check(fits, f"{channels} channels and {filters} filters do not make {group} groups")
