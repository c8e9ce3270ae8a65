"""Resizing as TensorFlow does it: a matrix of weights for the rows, and one for the columns.

    result (N, H', W', C) = rows (H', H) . image (N, H, W, C) . columns (W', W)^T

The formulas are those of TensorFlow's kernels: resize_area_op.cc, resize_bicubic_op.cc and
scale_and_translate_op.cc, in their order, for a rounding decides where a weight goes. Where all
sizes are known, cleaning makes constants of the matrices.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from onnx import TensorProto

from onnxgraft.errors import NotSupportedError
from onnxgraft.graph.tensors import Array
from onnxgraft.stages.convert.tensorflow.lower.writing import Value, Writer, replace, theirs

__all__ = [
    "resize_area",
    "resize_bicubic",
    "resize_bilinear",
    "resize_nearest",
    "scale_and_translate",
]

_FLOAT = TensorProto.FLOAT
# Steps of a pixel in which TensorFlow's table of cubic weights goes.
_TABLE = 1024
# Beyond any image: what the last pixel reaches to.
_FAR = 1e9

# Of one axis, 0 or 1: the weights (result, image), from both sizes as scalars of float32.
Matrix = Callable[[int, Value, Value], Value]


def _by_matrices(w: Writer, image: Value, size: Value, matrix: Matrix) -> Value:
    """Write the image times the matrices of its rows and of its columns."""
    shape = w.ctx.get_shape(image.name) or [-1] * 4
    known, whole = w.known(size), image.shape()
    weights = []
    for axis in (0, 1):
        before = shape[axis + 1]
        inner = (
            w.const(before, _FLOAT)
            if before > 0
            else whole.rows(axis + 1, axis + 2).squeeze(0).to(_FLOAT)
        )
        outer = (
            w.const(known[axis], _FLOAT)
            if known is not None
            else size.rows(axis, axis + 1).squeeze(0).to(_FLOAT)
        )
        weights.append(matrix(axis, outer, inner))
    planes = image.to(_FLOAT).transpose(0, 3, 1, 2)
    sized = w.op("MatMul", w.op("MatMul", weights[0], planes), weights[1].transpose(1, 0))
    return sized.transpose(0, 2, 3, 1)


def _scale(node: Any, outer: Value, inner: Value) -> Value:
    """Return how many pixels of the image a pixel of the result is wide."""
    if not node.get_attr_value("align_corners", 0):
        return inner / outer
    return (outer > 1).where((inner - 1) / (outer - 1), inner / outer)


def resize_area(ctx: Any, node: Any, name: str, args: Any) -> None:
    """Write the mean over what each pixel of the result covers."""

    def formula(w: Writer, x: Sequence[Value]) -> Value:
        def matrix(axis: int, outer: Value, inner: Value) -> Value:
            scale = _scale(node, outer, inner)
            at, pixel = w.range(outer).unsqueeze(1), w.range(inner).unsqueeze(0)
            # What lies beyond the image is the last pixel once more.
            until = (pixel + 1).equals(inner).where(_FAR, pixel + 1)
            begin = w.op("Max", at * scale, pixel)
            end = w.op("Min", (at + 1) * scale, until)
            return w.op("Max", end - begin, w.const(0, _FLOAT)) / scale

        return _by_matrices(w, x[0], x[1], matrix)

    replace(ctx, node, formula)


def resize_bicubic(ctx: Any, node: Any, name: str, args: Any) -> None:
    """Write cubic interpolation, at places rounded as in TensorFlow's table."""
    centers = bool(node.get_attr_value("half_pixel_centers", 0))

    def formula(w: Writer, x: Sequence[Value]) -> Value:
        def matrix(axis: int, outer: Value, inner: Value) -> Value:
            scale, at = _scale(node, outer, inner), w.range(outer)
            place = (at + 0.5) * scale - 0.5 if centers else at * scale
            floor = w.op("Floor", place)
            step = w.op("Round", (place - floor) * _TABLE) / _TABLE
            four = w.const(np.arange(-1, 3), _FLOAT)
            tap = floor.unsqueeze(1) + four
            pixel = w.op("Min", w.op("Max", tap, w.const(0, _FLOAT)), inner - 1)
            weight = _cubic(w, w.op("Abs", four - step.unsqueeze(1)), -0.5 if centers else -0.75)
            if centers:  # what lies beyond the image weighs nothing
                weight = pixel.equals(tap).where(weight, 0)
                weight = weight / weight.sum(1, keepdims=True)
            every = w.range(inner).unsqueeze(0, 1)
            hits = pixel.unsqueeze(2).equals(every)
            return hits.where(weight.unsqueeze(2), 0).sum(1, keepdims=False)

        return _by_matrices(w, x[0], x[1], matrix)

    replace(ctx, node, formula)


def _cubic(w: Writer, x: Value, a: float) -> Value:
    """Return the cubic kernel of Keys at distances from 0 to 2."""
    near = (x * (a + 2) - (a + 3)) * x * x + 1
    far = ((x * a - 5 * a) * x + 8 * a) * x - 4 * a
    return (x < 1).where(near, far)


def _lanczos(radius: float) -> Callable[[Writer, Value], Value]:
    def kernel(w: Writer, x: Value) -> Value:
        bent = x * np.pi
        value = w.op("Sin", bent) * w.op("Sin", bent / radius) * radius / (bent * bent)
        inside = (x > radius).where(0, value)
        return (x > 1e-3).where(inside, 1)

    return kernel


def _gaussian(w: Writer, x: Value) -> Value:
    return (x < 1.5).where(w.op("Exp", x * x * -2), 0)  # sigma is a third of the radius


def _box(w: Writer, x: Value) -> Value:
    return (x < 0.5).where(1, x.equals(0.5).where(w.const(0.5, _FLOAT), 0))


def _triangle(w: Writer, x: Value) -> Value:
    return w.op("Max", w.const(1, _FLOAT) - x, w.const(0, _FLOAT))


def _keys_cubic(w: Writer, x: Value) -> Value:
    return (x < 2).where(_cubic(w, x, -0.5), 0)


def _mitchell_cubic(w: Writer, x: Value) -> Value:
    near = (x * (7 / 6) - 2) * x * x + 8 / 9
    far = ((x * (-7 / 18) + 2) * x - 10 / 3) * x + 16 / 9
    return (x < 2).where((x < 1).where(near, far), 0)


_KERNELS = {
    "lanczos1": _lanczos(1),
    "lanczos3": _lanczos(3),
    "lanczos5": _lanczos(5),
    "gaussian": _gaussian,
    "box": _box,
    "triangle": _triangle,
    "keyscubic": _keys_cubic,
    "mitchellcubic": _mitchell_cubic,
}


def scale_and_translate(ctx: Any, node: Any, name: str, args: Any) -> None:
    """Write what tf.image.resize with antialiasing, and its other kernels, compute."""
    kind = node.get_attr_value("kernel_type", b"lanczos3").decode()
    if kind not in _KERNELS:
        raise NotSupportedError(f"ScaleAndTranslate ({node.name}) has an unknown kernel: {kind}")
    smooth = bool(node.get_attr_value("antialias", 1))

    def formula(w: Writer, x: Sequence[Value]) -> Value:
        def matrix(axis: int, outer: Value, inner: Value) -> Value:
            inverse = w.const(1, _FLOAT) / x[2].rows(axis, axis + 1)
            shift = inverse * x[3].rows(axis, axis + 1)
            place = ((w.range(outer) + 0.5) * inverse - shift).unsqueeze(1)
            distance = w.op("Abs", w.range(inner).unsqueeze(0) + 0.5 - place)
            if smooth:
                distance = distance / w.op("Max", inverse, w.const(1, _FLOAT))
            weight = _KERNELS[kind](w, distance)
            total = weight.sum(1, keepdims=True)
            # What is taken from beyond the image is 0.
            return (place < 0).where(0, (place > inner).where(0, weight / total))

        return _by_matrices(w, x[0], x[1], matrix)

    replace(ctx, node, formula)


def resize_bilinear(ctx: Any, node: Any, name: str, args: Any) -> None:
    """Write a Resize of float32, which the result is in TensorFlow whatever the image is."""
    _as_float(ctx, node)
    theirs(ctx, node)


def _as_float(ctx: Any, node: Any) -> None:
    if ctx.get_dtype(node.input[0]) != _FLOAT:
        cast = Writer(ctx, node).value(node.input[0]).to(_FLOAT)
        ctx.copy_shape(node.input[0], cast.name)
        ctx.replace_input(node, node.input[0], cast.name, 0)


def resize_nearest(ctx: Any, node: Any, name: str, args: Any) -> None:
    """Write a Resize, or Gathers where TensorFlow's rounding takes another pixel than ONNX's."""
    size = Writer(ctx, node).known(Writer(ctx, node).value(node.input[1]))
    shape = ctx.get_shape(node.input[0])
    if size is None or shape is None or min(shape[1:3]) < 1:
        theirs(ctx, node)
        return
    picked = [_nearest(node, int(o), i) for o, i in zip(size, shape[1:3], strict=True)]
    if all(_as_resize_does(node, taken, i) for taken, i in zip(picked, shape[1:3], strict=True)):
        theirs(ctx, node)
        return

    def formula(w: Writer, x: Sequence[Value]) -> Value:
        rows = w.op("Gather", x[0], w.longs(*picked[0].tolist()), axis=1)
        return w.op("Gather", rows, w.longs(*picked[1].tolist()), axis=2)

    replace(ctx, node, formula)


def _nearest(node: Any, outer: int, inner: int) -> Array:
    """Return the pixels that TensorFlow takes, in its float32."""
    one = np.float32(1)
    corners = node.get_attr_value("align_corners", 0) and outer > 1
    scale = (inner - one) / (outer - one) if corners else inner * one / outer
    at = np.arange(outer, dtype=np.float32)
    place = (
        (at + np.float32(0.5)) * scale
        if node.get_attr_value("half_pixel_centers", 0)
        else (at * scale)
    )
    taken = np.floor(place + np.float32(0.5)) if corners else np.floor(place)
    return np.asarray(np.clip(taken, 0, inner - 1), np.int64)


def _as_resize_does(node: Any, taken: Array, inner: int) -> bool:
    """Tell whether tf2onnx's Resize takes the same pixels, in exact numbers and in float32."""
    outer = len(taken)
    half = bool(node.get_attr_value("half_pixel_centers", 0))
    if node.get_attr_value("align_corners", 0):
        return True
    at = np.arange(outer) + (0.5 if half else 0)
    exact = np.array([int(2 * place) * inner // (2 * outer) for place in at])
    scale = np.float32(outer) / np.float32(inner)
    single = np.floor(at.astype(np.float32) / scale).astype(np.int64)
    return bool(
        np.array_equal(taken, exact) and np.array_equal(taken, np.clip(single, 0, inner - 1))
    )
