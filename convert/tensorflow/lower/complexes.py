"""Complex numbers, which ONNX has in no operator: their real and imaginary parts are kept apart.

A node that makes complex numbers writes both parts and is left as it is; what reads it takes the
parts. So a reader that is not written here still reads the node itself, which is then refused by
its name, as ONNX has no such operator.

The Fourier transform of n values is a product with matrices of cosines and sines.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from onnx import TensorProto

from onnxgraft.errors import NotSupportedError
from onnxgraft.graph.tensors import Array
from onnxgraft.stages.convert.tensorflow.lower.writing import (
    Handler,
    Value,
    Writer,
    replace,
    theirs,
)

__all__ = [
    "angle",
    "complex_cast",
    "complex_layout",
    "complex_of",
    "complex_sum",
    "conjugate",
    "fourier",
    "imaginary_part",
    "inverse_fourier",
    "magnitude",
    "real_part",
]

_COMPLEX = {TensorProto.COMPLEX64: TensorProto.FLOAT, TensorProto.COMPLEX128: TensorProto.DOUBLE}
# The two parts; the imaginary one is None where it is 0.
Parts = tuple[Value, Value | None]


def _put(ctx: Any, node: Any, parts: Parts) -> None:
    """Note the parts of what a node makes."""
    if not hasattr(ctx, "complex_parts"):
        ctx.complex_parts = {}
    ctx.complex_parts[node.output[0]] = parts


def _parts(w: Writer, name: str) -> Parts:
    """Return the parts of a complex tensor, or a real one as it is."""
    if name not in getattr(w.ctx, "complex_parts", {}):
        node = w.ctx.get_node_by_output(name)
        if w.ctx.get_dtype(name) not in _COMPLEX:
            return w.value(name), None
        if node is not None and node.is_const():
            values, kind = node.get_tensor_value(as_list=False), _COMPLEX[w.ctx.get_dtype(name)]
            return w.const(values.real, kind), w.const(values.imag, kind)
        if node is None or node.type not in ("Cast", "Identity"):
            what = "an input" if node is None else f"{node.type} ({node.name})"
            raise NotSupportedError(
                f"{what} makes complex numbers, which ONNX has not; cut the graph before it with "
                "--outputs"
            )
        real, imaginary = _parts(w, node.input[0])
        kind = _COMPLEX[w.ctx.get_dtype(name)]
        return real.to(kind), None if imaginary is None else imaginary.to(kind)
    found: Parts = w.ctx.complex_parts[name]
    return found


def _imaginary(w: Writer, parts: Parts) -> Value:
    return parts[0] * 0 if parts[1] is None else parts[1]


def complex_of(ctx: Any, node: Any, name: str, args: Any) -> None:
    """Note both parts."""
    w = Writer(ctx, node)
    _put(ctx, node, (w.value(node.input[0]), w.value(node.input[1])))


def conjugate(ctx: Any, node: Any, name: str, args: Any) -> None:
    """Negate the imaginary part."""
    w = Writer(ctx, node)
    real, imaginary = _parts(w, node.input[0])
    _put(ctx, node, (real, None if imaginary is None else w.op("Neg", imaginary)))


def _of_parts(formula: Callable[[Writer, Parts], Value]) -> Handler:
    def handler(ctx: Any, node: Any, name: str, args: Any) -> None:
        replace(ctx, node, lambda w, x: formula(w, _parts(w, x[0].name)))

    return handler


def _root(w: Writer, parts: Parts) -> Value:
    real, imaginary = parts
    if imaginary is None:
        return w.op("Abs", real)
    return w.op("Sqrt", real * real + imaginary * imaginary)


def _turn(w: Writer, parts: Parts) -> Value:
    """Return atan2(y, x): the half angle, which has no steps: 2 atan(y / (|z| + x)), pi behind."""
    real, y = parts[0], _imaginary(w, parts)
    length = _root(w, (real, y))
    zero = w.const(0, real.dtype)
    front = w.op("Atan", y / (length + real)) * 2
    side = (y < 0).where(w.const(-np.pi, real.dtype), np.pi)
    # Behind, length + x cancels.
    behind = side - w.op("Atan", y / (length - real)) * 2
    turned = (real < 0).where(behind, front)
    return length.equals(0).where(zero, turned)


real_part = _of_parts(lambda w, parts: parts[0])
imaginary_part = _of_parts(_imaginary)
magnitude = _of_parts(_root)
angle = _of_parts(_turn)


def complex_sum(ctx: Any, node: Any, name: str, args: Any) -> None:
    """Add, subtract or multiply complex numbers; others are tf2onnx's."""
    if ctx.get_dtype(node.output[0]) not in _COMPLEX:
        theirs(ctx, node)
        return
    w = Writer(ctx, node)
    a, b = (_parts(w, tensor) for tensor in node.input)
    if node.type == "Mul":
        real, imaginary = a[0] * b[0], None
        if a[1] is not None and b[1] is not None:
            real = real - a[1] * b[1]
        cross = [x * y for x, y in ((a[0], b[1]), (b[0], a[1])) if y is not None]
        if cross:
            imaginary = cross[0] if len(cross) == 1 else cross[0] + cross[1]
        _put(ctx, node, (real, imaginary))
        return
    kind = "Sub" if node.type == "Sub" else "Add"
    _put(ctx, node, (w.op(kind, a[0], b[0]), w.op(kind, _imaginary(w, a), _imaginary(w, b))))


def complex_layout(ctx: Any, node: Any, name: str, args: Any) -> None:
    """Let tf2onnx write the node, once for each part where the numbers are complex."""
    kind = ctx.get_dtype(node.output[0])
    if kind not in _COMPLEX:
        theirs(ctx, node)
        return
    w = Writer(ctx, node)
    inputs = {name: _parts(w, name) for name in node.input if ctx.get_dtype(name) in _COMPLEX}
    made: list[Value | None] = []
    for which in (0, 1):
        if which and all(parts[1] is None for parts in inputs.values()):
            made.append(None)
            continue
        taken = {
            name: (_imaginary(w, parts) if which else parts[0]).name
            for name, parts in inputs.items()
        }
        copy = ctx.make_node(
            node.type, [taken.get(name, name) for name in node.input], attr=node.attr,
            op_name_scope=node.name, shapes=node.output_shapes, dtypes=[_COMPLEX[kind]],
        )  # fmt: skip
        # tf2onnx may give what it writes another name, where it is read.
        read = ctx.make_node(
            "Identity", copy.output, op_name_scope=node.name, shapes=node.output_shapes,
            dtypes=[_COMPLEX[kind]],
        )  # fmt: skip
        theirs(ctx, copy)
        made.append(w.value(read.output[0]))
    assert made[0] is not None
    _put(ctx, node, (made[0], made[1]))


def complex_cast(ctx: Any, node: Any, name: str, args: Any) -> None:
    """Take the real part, as TensorFlow does; other casts are tf2onnx's.

    One to complex numbers is left as it is: what reads them looks behind it.
    """
    before, after = ctx.get_dtype(node.input[0]), ctx.get_dtype(node.output[0])
    if before not in _COMPLEX:
        if after not in _COMPLEX:
            theirs(ctx, node)
    elif after not in _COMPLEX:
        replace(ctx, node, lambda w, x: _parts(w, x[0].name)[0].to(after))


def _waves(rows: int, columns: int, period: int) -> tuple[Array, Array]:
    """Return cosines and sines of 2 pi row column / period."""
    turns = np.outer(np.arange(rows), np.arange(columns)) % period * (2 * np.pi / period)
    return np.round(np.cos(turns), 15), np.round(np.sin(turns), 15)  # 0 where it is 0


def _along(w: Writer, value: Value, matrix: Array, axis: int) -> Value:
    """Return the product of a matrix with what lies along the last axis, or the one before it."""
    made = w.const(matrix if axis == -1 else matrix.T, value.dtype)
    return w.op("MatMul", value, made) if axis == -1 else w.op("MatMul", made, value)


def _transform(w: Writer, parts: Parts, size: int, count: int, axis: int, sign: int) -> Parts:
    """Return the sums of the values times e^(sign i 2 pi j k / size), for k below ``count``."""
    cosines, sines = _waves(size, count, size)
    real, imaginary = parts
    across, up = _along(w, real, cosines, axis), _along(w, real, sign * sines, axis)
    if imaginary is None:
        return across, up
    return (
        across - _along(w, imaginary, sign * sines, axis),
        up + _along(w, imaginary, cosines, axis),
    )


def _sized(w: Writer, node: Any, parts: Parts, axis: int, size: int) -> Parts:
    """Cut an axis to a size, or fill it up with zeros."""
    return tuple(part and _fit(w, node, part, axis, size) for part in parts)  # type: ignore[return-value]


def _fit(w: Writer, node: Any, value: Value, axis: int, size: int) -> Value:
    shape = w.ctx.get_shape(node.input[0])
    rank = w.ctx.get_rank(node.input[0])
    before = shape[axis] if shape else -1
    if before == size:
        return value
    if rank is None:
        raise NotSupportedError(f"{node.type} ({node.name}) transforms a tensor of unknown rank")
    if before < 0 or before < size:
        pads = [0] * (2 * rank)
        pads[rank + axis % rank] = size if before < 0 else size - before
        value = w.op("Pad", value, w.longs(*pads))
    if before < 0 or before > size:
        value = w.op("Slice", value, w.longs(0), w.longs(size), w.longs(axis))
    return value


def _sizes(w: Writer, node: Any) -> list[int]:
    """Return how many values are transformed, of each axis from the last on."""
    axes = 2 if node.type.endswith("2D") else 1
    if len(node.input) > 1:
        known = w.known(w.value(node.input[1]))
        found = None if known is None else [int(size) for size in known.reshape(-1)[::-1]]
    else:
        shape = w.ctx.get_shape(node.input[0])
        found = shape[::-1][:axes] if shape else None
    if not found or min(found) < 1:
        raise NotSupportedError(
            f"{node.type} ({node.name}) transforms as many values as its input has, which is not "
            "fixed; give the input a shape with --inputs"
        )
    return found


def fourier(ctx: Any, node: Any, name: str, args: Any) -> None:
    """Note both parts of the transform; of real values, those up to half the frequencies."""
    w = Writer(ctx, node)
    parts = _parts(w, node.input[0])
    for axis, size in enumerate(_sizes(w, node), 1):
        half = node.type.startswith("R") and axis == 1
        parts = _sized(w, node, parts, -axis, size)
        parts = _transform(w, parts, size, size // 2 + 1 if half else size, -axis, -1)
    _put(ctx, node, parts)


def inverse_fourier(ctx: Any, node: Any, name: str, args: Any) -> None:
    """Note both parts of what is transformed back, or write it where it is real."""
    w = Writer(ctx, node)
    parts = _parts(w, node.input[0])
    sizes = _sizes(w, node)
    real = node.type.startswith("IR")
    for axis, size in reversed(list(enumerate(sizes, 1))):
        parts = _sized(w, node, parts, -axis, size // 2 + 1 if real and axis == 1 else size)
        if real and axis == 1:
            parts = _from_half(w, parts, size)
        else:
            parts = _transform(w, parts, size, size, -axis, 1)
            scale = 1 / size
            parts = (parts[0] * scale, None if parts[1] is None else parts[1] * scale)
    if real:
        replace(ctx, node, lambda w, x: parts[0])
    else:
        _put(ctx, node, parts)


def _from_half(w: Writer, parts: Parts, size: int) -> Parts:
    """Return the real values whose frequencies up to the half are given: the others mirror them."""
    count = size // 2 + 1
    cosines, sines = _waves(count, size, size)
    twice = np.full((count, 1), 2.0)
    twice[0] = 1
    if size % 2 == 0:
        twice[-1] = 1
    real = _along(w, parts[0], twice * cosines / size, -1)
    return real - _along(w, _imaginary(w, parts), twice * sines / size, -1), None
