"""What onnx's inference can't follow: values of shape tensors, and shapes computed from them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnxgraft.graph.dims import Dim, Shape, Value
from onnxgraft.graph.operators import constant_value

if TYPE_CHECKING:
    from onnxgraft.graph.shapes import Shapes

__all__ = ["FOLLOWED", "MOST_VALUES", "SHAPE_RULES", "VALUE_RULES"]

# A shape tensor longer than this is data, not a shape.
MOST_VALUES = 64

# The values of shape tensors ----------------------------------------------------------------


def _shape_op(shapes: Shapes, node: gs.Node) -> Value | None:
    shape = shapes.shape(node.inputs[0])
    if shape is None:
        return None
    return tuple(shape[node.attrs.get("start", 0) : node.attrs.get("end")])


def _constant(shapes: Shapes, node: gs.Node) -> Value | None:
    value = constant_value(node)
    if value is None or value.ndim > 1 or value.size > MOST_VALUES or value.dtype.kind not in "iu":
        return None
    return tuple(Dim(int(element)) for element in value.ravel())


def _pass_on(shapes: Shapes, node: gs.Node) -> Value | None:
    return shapes.value(node.inputs[0])


def _cast(shapes: Shapes, node: gs.Node) -> Value | None:
    kind = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(int(node.attrs["to"]))).kind
    return shapes.value(node.inputs[0]) if kind in "iu" else None


def _gather(shapes: Shapes, node: gs.Node) -> Value | None:
    value, indices = shapes.value(node.inputs[0]), shapes.value(node.inputs[1])
    if value is None or indices is None or node.attrs.get("axis", 0) != 0:
        return None
    picked: list[Dim | None] = []
    for index in indices:
        if index is None or not index.fixed or not -len(value) <= index.number < len(value):
            return None
        picked.append(value[index.number])
    return tuple(picked)


def _slice(shapes: Shapes, node: gs.Node) -> Value | None:
    value = shapes.value(node.inputs[0])
    ends = [shapes.value(tensor) for tensor in node.inputs[1:]]
    if value is None or len(ends) < 2:
        return None
    numbers = []
    for end in ends:
        if end is None or len(end) != 1 or end[0] is None or not end[0].fixed:
            return None
        numbers.append(end[0].number)
    start, stop = numbers[:2]
    axis, step = numbers[2] if len(numbers) > 2 else 0, numbers[3] if len(numbers) > 3 else 1
    if axis not in (0, -1) or step == 0:
        return None
    if step > 0:
        return value[start:stop:step]
    # Backwards ONNX clamps the start to the first element, and a stop before it means "to the
    # beginning"; Python would take both for something else.
    first = max(start + len(value) if start < 0 else start, 0)
    return value[first::step] if stop < -len(value) else value[first:stop:step]


def _concat(shapes: Shapes, node: gs.Node) -> Value | None:
    joined: list[Dim | None] = []
    for tensor in node.inputs:
        value = shapes.value(tensor)
        if value is None:
            return None
        joined.extend(value)
    return tuple(joined)


def _binary(combine: Callable[[Dim, Dim], Dim | None]) -> Callable[[Shapes, gs.Node], Value | None]:
    def rule(shapes: Shapes, node: gs.Node) -> Value | None:
        if len(node.inputs) != 2:
            return None
        left, right = (shapes.value(tensor) for tensor in node.inputs)
        if left is None or right is None or not (left and right):
            return None
        if len(left) != len(right) and 1 not in (len(left), len(right)):
            return None
        size = max(len(left), len(right))
        pairs = zip(_stretch(left, size), _stretch(right, size), strict=True)
        return tuple(None if a is None or b is None else combine(a, b) for a, b in pairs)

    return rule


def _stretch(value: Value, size: int) -> Value:
    return value * size if len(value) == 1 else value


def _sum(a: Dim, b: Dim) -> Dim | None:
    return Dim(a.number + b.number, a.symbols) if a.symbols == b.symbols else None


def _difference(a: Dim, b: Dim) -> Dim | None:
    return Dim(a.number - b.number, a.symbols) if a.symbols == b.symbols else None


def _larger(a: Dim, b: Dim) -> Dim | None:
    return a if a == b else Dim(max(a.number, b.number)) if a.fixed and b.fixed else None


def _smaller(a: Dim, b: Dim) -> Dim | None:
    return a if a == b else Dim(min(a.number, b.number)) if a.fixed and b.fixed else None


def _filled(shapes: Shapes, node: gs.Node) -> Value | None:
    size, value = shapes.value(node.inputs[0]), node.attrs.get("value")
    if size is None or len(size) > 1 or not all(dim and dim.fixed for dim in size):
        return None
    fill = np.zeros(1, np.float32) if value is None else np.asarray(value.values)
    count = math.prod(dim.number for dim in size if dim is not None)
    if fill.dtype.kind not in "iu" or count > MOST_VALUES:
        return None
    return (Dim(int(fill.reshape(()))),) * count


def _product(shapes: Shapes, node: gs.Node) -> Value | None:
    value = shapes.value(node.inputs[0])
    if value is None or node.attrs.get("noop_with_empty_axes", 0):
        return None
    total = Dim(1)
    for dim in value:
        if dim is None:
            return None
        total = total.times(dim)
    return (total,)


VALUE_RULES: dict[str, Callable[[Shapes, gs.Node], Value | None]] = {
    "Constant": _constant,
    "Shape": _shape_op,
    "Identity": _pass_on,
    "Squeeze": _pass_on,
    "Unsqueeze": lambda s, n: v if (v := s.value(n.inputs[0])) and len(v) == 1 else None,
    "Reshape": lambda s, n: v if (v := s.value(n.inputs[0])) and len(v) == 1 else None,
    "Cast": _cast,
    "Gather": _gather,
    "Slice": _slice,
    "Concat": _concat,
    "Mul": _binary(Dim.times),
    "Div": _binary(Dim.over),
    "Add": _binary(_sum),
    "Sub": _binary(_difference),
    "Max": _binary(_larger),
    "Min": _binary(_smaller),
    "ConstantOfShape": _filled,
    "ReduceProd": _product,
}
# The operators that compute integers which are followed.
FOLLOWED = frozenset(VALUE_RULES) - {"Constant"}


# The shapes that onnx's inference can't follow ------------------------------------------------


def _reshape(shapes: Shapes, node: gs.Node) -> Shape | None:
    shape, target = shapes.shape(node.inputs[0]), shapes.value(node.inputs[1])
    if target is None or node.attrs.get("allowzero", 0):
        return None
    dims: list[Dim | None] = []
    for axis, dim in enumerate(target):
        if dim == Dim(0):
            dim = shape[axis] if shape is not None and axis < len(shape) else None
        dims.append(dim)
    free = [axis for axis, dim in enumerate(dims) if dim is None or dim == Dim(-1)]
    if not free:
        return tuple(dim for dim in dims if dim is not None)
    if len(free) > 1 or shape is None:
        return None
    left: Dim | None = _multiply(shape)
    for axis, dim in enumerate(dims):
        if axis not in free and dim is not None and left is not None:
            left = left.over(dim)
    if left is None:
        return None
    dims[free[0]] = left
    return tuple(dim for dim in dims if dim is not None)


def _multiply(shape: Sequence[Dim]) -> Dim:
    total = Dim(1)
    for dim in shape:
        total = total.times(dim)
    return total


def _from_value(shapes: Shapes, node: gs.Node) -> Shape | None:
    value = shapes.value(node.inputs[0])
    return None if value is None else tuple(dim or shapes.unknown() for dim in value)


def _expand(shapes: Shapes, node: gs.Node) -> Shape | None:
    shape, target = shapes.shape(node.inputs[0]), shapes.value(node.inputs[1])
    if shape is None or target is None:
        return None
    rank = max(len(shape), len(target))
    ones = (Dim(1),)
    dims = []
    for have, want in zip(
        ones * (rank - len(shape)) + shape, ones * (rank - len(target)) + tuple(target), strict=True
    ):
        if want == Dim(1) or want == have:
            dims.append(have)
        elif want is not None and have == Dim(1):
            dims.append(want)
        else:
            dims.append(shapes.unknown())
    return tuple(dims)


def _scaled(shapes: Shapes, node: gs.Node) -> Shape | None:
    """Return the shape of a Resize by scales; a size that rounding decides is not known.

    It is floor(size * scale), which onnx computes in double precision and onnxruntime in single: of
    11 by 7/11 in float32, the one makes 6 and the other 7.
    """
    shape = shapes.shape(node.inputs[0])
    tensor = node.inputs[2 if len(node.inputs) > 2 else 1] if len(node.inputs) in (2, 3) else None
    made_by = tensor.inputs[0] if tensor is not None and tensor.inputs else None
    if isinstance(tensor, gs.Constant):
        scales = np.asarray(tensor.values)
    else:
        found = None if made_by is None else constant_value(made_by)
        scales = np.zeros(0) if found is None else np.asarray(found)
    if shape is None or "axes" in node.attrs or scales.size != len(shape):
        return None
    dims = []
    for dim, scale in zip(shape, scales.astype(np.float32), strict=True):
        single = math.floor(np.float32(dim.number) * scale)
        known = dim.fixed and single == math.floor(dim.number * float(scale))
        dims.append(dim if scale == 1 else Dim(single) if known else shapes.unknown())
    return tuple(dims)


SHAPE_RULES: dict[str, Callable[[Shapes, gs.Node], Shape | None]] = {
    "Reshape": _reshape,
    "ConstantOfShape": _from_value,
    "Expand": _expand,
    "Resize": _scaled,
    "Upsample": _scaled,
}
