"""Layers of segmentation and detection forks that change the resolution.

Source: SegNet's, MobileNet-YOLO's and yolov5_caffe's upsample_layer.cpp, PSPNet's and DeepLab's
interp_layer.cpp, intel/caffe's reorg_layer.cpp (darknet's indexing).
"""

from __future__ import annotations

import numpy as np

from onnxgraft.stages.convert.caffe.layers.emitter import Blob, Emitter
from onnxgraft.stages.convert.caffe.reading.net import Layer
from onnxgraft.stages.convert.caffe.reading.prototxt import Message

__all__ = ["interp", "reorg", "upsample"]


def upsample(layer: Layer, bottoms: list[Blob], out: Emitter) -> list[Blob]:
    """Convert Upsample: each value goes where the pooling's mask says, the rest is 0.

    Without a mask it repeats values, as some forks have it. With height_scale and width_scale,
    height and width, or a mode, it is yolov5_caffe's: bilinear with aligned corners unless the
    mode is NEAREST, and a second input gives the size.
    """
    x = bottoms[0]
    settings = layer.parameter("upsample_param")
    resizing = ("height_scale", "width_scale", "height", "width", "mode")
    if any(settings.has(name) for name in resizing):
        return [_resized(bottoms, settings, out)]
    both = settings.integer("scale", 2)
    scale = [settings.integer(f"scale_{side}", both) for side in ("h", "w")]
    size = [
        settings.integer(f"upsample_{side}", dim * factor - settings.flag(f"pad_out_{side}", False))
        for side, dim, factor in zip(("h", "w"), x.shape[2:], scale, strict=True)
    ]
    out.check(x.rank == 4 and min(size) >= 1, f"{x.shape} can't become {size}")
    shape = (*x.shape[:2], *size)
    if len(bottoms) == 1:
        return [_nearest(x, size, out)]
    mask = bottoms[1]
    out.check(mask.shape == x.shape, f"a mask of {mask.shape} for values of {x.shape}")
    flat = (*x.shape[:2], x.shape[2] * x.shape[3])
    index = out.op("Cast", [out.reshape(mask, flat)], flat, {"to": 7}, dtype=np.int64)
    planes = (*x.shape[:2], size[0] * size[1])
    # Zeros in the shape of the result, whatever the batch: a plane's first value times 0 would
    # pass NaN on, so its shape is taken.
    batch = out.op("Shape", [x], (1,), {"start": 0, "end": 1}, dtype=np.int64)
    target = out.op("Concat", [batch, np.array(planes[1:], np.int64)], (3,), {"axis": 0},
                    dtype=np.int64)  # fmt: skip
    empty = out.op("Expand", [np.zeros(1, np.float32), target], planes)
    filled = out.op("ScatterElements", [empty, index, out.reshape(x, flat)], planes, {"axis": 2})
    return [out.reshape(filled, shape)]


def interp(layer: Layer, bottoms: list[Blob], out: Emitter) -> list[Blob]:
    """Convert Interp: bilinear, corners aligned.

    shrink: (in - 1) / s + 1      zoom: in + (in - 1) (z - 1)      both: shrink, then zoom
    or height and width, or the size of a second input. pad_beg and pad_end, 0 or negative, crop
    first.
    """
    x = bottoms[0]
    settings = layer.parameter("interp_param")
    kind = settings.text("interp_type", "bilinear")
    if kind != "bilinear":
        raise out.refuse(f"interp_type: {kind!r} is not converted, only 'bilinear'")
    beg, end = settings.integer("pad_beg"), settings.integer("pad_end")
    out.check(beg <= 0 and end <= 0, "pads above 0 are nothing that Interp has")
    source = x
    for axis in (2, 3):
        if beg or end:
            source = out.slice(source, axis, -beg, x.shape[axis] + end)
    if len(bottoms) > 1:
        size = list(bottoms[1].shape[2:])
    elif settings.has("height") and settings.has("width"):
        size = [settings.integer("height"), settings.integer("width")]
    else:
        shrink, zoom = settings.integer("shrink_factor", 1), settings.integer("zoom_factor", 1)
        out.check(shrink >= 1 and zoom >= 1, "a factor below 1 is impossible")
        size = [(dim - 1) // shrink + 1 for dim in source.shape[2:]]
        size = [dim + (dim - 1) * (zoom - 1) for dim in size]
    out.check(min(size) >= 1, f"{source.shape} can't become {size}")
    return [_bilinear(source, size, out)]


def _resized(bottoms: list[Blob], settings: Message, out: Emitter) -> Blob:
    """Return yolov5_caffe's Upsample."""
    x = bottoms[0]
    out.check(x.rank == 4, f"{x.shape} has no height and width")
    if len(bottoms) > 1:
        size = list(bottoms[1].shape[2:])
    elif settings.has("height") and settings.has("width"):
        size = [settings.integer("height"), settings.integer("width")]
    else:
        scale = [settings.integer("height_scale"), settings.integer("width_scale")]
        size = [dim * factor for dim, factor in zip(x.shape[2:], scale, strict=True)]
    out.check(min(size) >= 1, "it needs height and width, or height_scale and width_scale")
    mode = settings.text("mode", "BILINEAR")
    out.check(mode in ("BILINEAR", "NEAREST"), f"the mode {mode} is unknown")
    return _bilinear(x, size, out) if mode == "BILINEAR" else _nearest(x, size, out)


def _bilinear(x: Blob, size: list[int], out: Emitter) -> Blob:
    """Return ``x`` resized with aligned corners."""
    factors = [_exact(s, d) for s, d in zip(size, x.shape[2:], strict=True)]
    attrs = {"mode": "linear", "coordinate_transformation_mode": "align_corners"}
    scales = np.array([1, 1, *factors], np.float32)
    return out.op("Resize", [x, None, scales], (*x.shape[:2], *size), attrs)


def _nearest(x: Blob, size: list[int], out: Emitter) -> Blob:
    """Return the value at floor(i in / out) for each position."""
    shape = (*x.shape[:2], *size)
    if all(s % d == 0 for s, d in zip(size, x.shape[2:], strict=True)):
        factors = [s // d for s, d in zip(size, x.shape[2:], strict=True)]
        attrs = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric",
                 "nearest_mode": "floor"}  # fmt: skip
        return out.op("Resize", [x, None, np.array([1, 1, *factors], np.float32)], shape, attrs)
    # A factor in float32 may miss the position; indices do not.
    for axis, length in zip((2, 3), size, strict=True):
        index = np.arange(length, dtype=np.int64) * x.shape[axis] // length
        cut = [*x.shape[:axis], length, *x.shape[axis + 1 :]]
        x = out.op("Gather", [x, index], cut, {"axis": axis})
    return x


def _exact(size: int, dim: int) -> np.float32:
    """Return the factor for which floor(dim * factor) is ``size``, in float32 and in float64."""
    factor = np.float32(size / dim)
    while dim * float(factor) < size:
        factor = np.nextafter(factor, np.float32(np.inf))
    return factor


def reorg(layer: Layer, bottoms: list[Blob], out: Emitter) -> list[Blob]:
    """Convert Reorg: darknet's space to depth.

    The buffer is seen as (C / s^2, H s, W s), its s x s blocks become planes, and the result is
    seen as (C s^2, H / s, W / s): not what SpaceToDepth does.
    """
    [x] = bottoms
    settings = layer.parameter("reorg_param")
    out.check(not settings.flag("reverse", False), "reverse can't be converted")
    step = settings.integer("stride", 2)
    batch, channels, height, width = x.shape
    fits = channels % step**2 == 0 and height % step == 0 and width % step == 0
    out.check(step >= 1 and fits, f"{x.shape} does not divide by a stride of {step}")
    depth = channels // step**2
    blocks = out.reshape(x, (batch, depth, height, step, width, step))
    moved = out.transpose(blocks, [0, 3, 5, 1, 2, 4])
    shape = (batch, channels * step**2, height // step, width // step)
    return [out.reshape(moved, shape)]
