"""Symbolic shapes: every dimension a number times named unknowns, and the values of shape tensors.

onnx's own inference gives each operator's rule (`onnx.shape_inference.infer_node_outputs`); it
is fed and read with dimensions such as ``N*168960``, and what it can't follow - the arithmetic on
shape tensors, a Reshape whose target is computed - is followed here.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.exporters.onnx_exporter import OnnxExporter

__all__ = ["FOLLOWED", "Dim", "Shape", "Shapes", "target_of"]

# A shape tensor longer than this is data, not a shape.
_MOST_VALUES = 64
_MOST_CONSTANT = 1024


@dataclass(frozen=True)
class Dim:
    """A number times named unknowns: ``N*168960`` is ``Dim(168960, ("N",))``."""

    number: int
    symbols: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return the form in which a dimension is given to onnx's inference."""
        number = [str(self.number)] if self.number != 1 or not self.symbols else []
        return "*".join([*self.symbols, *number])

    @property
    def fixed(self) -> bool:
        """Whether the dimension is a number."""
        return not self.symbols

    def times(self, other: Dim) -> Dim:
        """Return the product."""
        return Dim(self.number * other.number, tuple(sorted(self.symbols + other.symbols)))

    def over(self, other: Dim) -> Dim | None:
        """Return the quotient where it is exact, else None.

        >>> Dim(6, ("H", "N")).over(Dim(3, ("N",)))
        Dim(number=2, symbols=('H',))
        """
        if other.number == 0 or self.number % other.number:
            return None
        left = Counter(self.symbols)
        left.subtract(other.symbols)
        if any(count < 0 for count in left.values()):
            return None
        return Dim(self.number // other.number, tuple(sorted(left.elements())))


Shape = tuple[Dim, ...]
# The elements of an integer tensor of rank 0 or 1; None where an element is not known.
Value = tuple[Dim | None, ...]


class Shapes:
    """The symbolic shape of each tensor of a graph, and the value of each shape tensor."""

    def __init__(self, graph: gs.Graph) -> None:
        """Know the inputs of ``graph``; everything else is inferred when it is asked for.

        What is known of a tensor stays known as long as the tensor lives: graphs may be rewritten
        in between, as long as every tensor keeps its value.
        """
        self._seen: dict[int, gs.Tensor] = {}
        self._shape: dict[int, Shape] = {}
        self._value: dict[int, Value] = {}
        self._dims: dict[str, Dim] = {}
        self._fresh = 0
        self._opset = graph.opset
        self._imports = [onnx.helper.make_opsetid("", graph.opset)]
        self._dtype: dict[int, Any] = {}
        self._inputs = {id(tensor): tensor for tensor in graph.inputs}

    def shape(self, tensor: gs.Tensor) -> Shape | None:
        """Return the tensor's shape, or None where not even its rank is known."""
        if isinstance(tensor, gs.Constant):
            return tuple(Dim(int(dim)) for dim in tensor.shape)
        self._ask(tensor)
        return self._shape.get(id(tensor))

    def value(self, tensor: gs.Tensor) -> Value | None:
        """Return the elements of an integer tensor of rank 0 or 1, or None."""
        if isinstance(tensor, gs.Constant):
            if math.prod(tensor.shape) > _MOST_VALUES or len(tensor.shape) > 1:
                return None
            values = np.asarray(tensor.values)
            if values.dtype.kind not in "iu":
                return None
            return tuple(Dim(int(element)) for element in values.ravel())
        self._ask(tensor)
        return self._value.get(id(tensor))

    def forget(self, *, everything: bool = False) -> None:
        """Infer anew what is not wholly known: rewrites may have made it known."""
        for key in list(self._seen):
            if everything or not self._settled(key):
                for table in (self._seen, self._shape, self._value, self._dtype):
                    table.pop(key, None)

    def _settled(self, key: int) -> bool:
        """Tell whether nothing more can be learnt of a tensor."""
        shape, value = self._shape.get(key), self._value.get(key)
        if shape is None or any(s.startswith("?") for dim in shape for s in dim.symbols):
            return False
        if value is not None:
            return all(
                dim is not None and not any(s.startswith("?") for s in dim.symbols) for dim in value
            )
        dtype = self._dtype.get(key, np.int64)
        return len(shape) > 1 or isinstance(dtype, int) or np.dtype(dtype).kind not in "iu"

    def _ask(self, tensor: gs.Tensor) -> None:
        """Visit the nodes that a tensor depends on, those first that the others depend on."""
        waiting = [tensor]
        while waiting:
            current = waiting[-1]
            if id(current) in self._seen or isinstance(current, gs.Constant) or not current.name:
                waiting.pop()
                continue
            if not current.inputs:
                self._begin(current)
                continue
            node = current.inputs[0]
            before = [*node.inputs, *(t for body in node.subgraphs() for t in body.outputs)]
            missing = [
                t for t in before
                if t.name and id(t) not in self._seen and not isinstance(t, gs.Constant)
            ]  # fmt: skip
            if missing:
                waiting += missing
                continue
            # Before the visit: its rules ask for the node's own outputs too.
            self._seen.update((id(output), output) for output in node.outputs)
            self._visit(node)

    def _begin(self, tensor: gs.Tensor) -> None:
        """Take in a tensor that no node makes; the names of dimensions hold in the main graph."""
        self._seen[id(tensor)] = tensor
        main = id(tensor) in self._inputs
        if tensor.shape is not None:
            self._shape[id(tensor)] = tuple(
                self._dim(dim if main or isinstance(dim, int) else None) for dim in tensor.shape
            )
        if tensor.dtype is not None:
            self._dtype[id(tensor)] = tensor.dtype

    def dtype(self, tensor: gs.Tensor) -> Any:
        """Return the tensor's numpy dtype, or None."""
        if tensor.dtype is not None:
            return tensor.dtype
        self._ask(tensor)
        return self._dtype.get(id(tensor))

    def _dim(self, dim: Any) -> Dim:
        if isinstance(dim, (int, np.integer)) and dim >= 0:
            return Dim(int(dim))
        name = dim if isinstance(dim, str) and dim else ""
        if not name:
            self._fresh += 1
            name = f"?{self._fresh}"
        return self._dims.setdefault(name, Dim(1, (name,)))

    def _visit(self, node: gs.Node) -> None:
        standard = node.domain in (None, "", "ai.onnx")
        rule = _VALUE_RULES.get(node.op) if standard else None
        if rule:
            value = rule(self, node)
            if value is not None and len(value) <= _MOST_VALUES:
                self._value[id(node.outputs[0])] = value
        self._infer(node)
        shape_rule = _SHAPE_RULES.get(node.op) if standard else None
        if shape_rule:
            shape = shape_rule(self, node)
            if shape is not None:
                self._shape[id(node.outputs[0])] = shape

    def _infer(self, node: gs.Node) -> None:
        """Ask onnx for the shapes of the node's outputs."""
        if any(True for _ in node.subgraphs()):
            self._branches(node)
            return
        try:
            schema = onnx.defs.get_schema(node.op, self._opset, node.domain or "")
        except onnx.defs.SchemaError:
            return
        types: dict[str, onnx.TypeProto] = {}
        data: dict[str, onnx.TensorProto] = {}
        for tensor in node.inputs:
            if tensor.name:
                known = self._type(tensor)
                if known is None:
                    return
                types[tensor.name] = known
                if isinstance(tensor, gs.Constant) and math.prod(tensor.shape) <= _MOST_CONSTANT:
                    data[tensor.name] = onnx.numpy_helper.from_array(
                        np.asarray(tensor.values), tensor.name
                    )
        try:
            found = onnx.shape_inference.infer_node_outputs(
                schema, OnnxExporter.export_node(node), types, data,
                opset_imports=self._imports, ir_version=onnx.IR_VERSION,
            )  # fmt: skip
        except Exception:  # its errors have no common base; an unknown shape is no error here
            return
        for tensor in node.outputs:
            kind = found.get(tensor.name)
            if kind is None or not kind.HasField("tensor_type"):
                continue
            if kind.tensor_type.elem_type:
                self._dtype[id(tensor)] = onnx.helper.tensor_dtype_to_np_dtype(
                    kind.tensor_type.elem_type
                )
            if kind.tensor_type.HasField("shape"):
                self._shape[id(tensor)] = tuple(
                    self._dim(d.dim_value if d.HasField("dim_value") else d.dim_param)
                    for d in kind.tensor_type.shape.dim
                )

    def _branches(self, node: gs.Node) -> None:
        """Take what both branches of an If agree on; a Loop's and a Scan's outputs are open."""
        if node.op != "If":
            return
        branches = [body.outputs for body in node.subgraphs()]
        for target, *ends in zip(node.outputs, *branches, strict=False):
            shapes = {self.shape(end) for end in ends}
            if len(shapes) == 1 and (shape := shapes.pop()) is not None:
                self._shape[id(target)] = shape
            types = [self.dtype(end) for end in ends]
            if types[0] is not None:
                self._dtype[id(target)] = types[0]

    def _type(self, tensor: gs.Tensor) -> onnx.TypeProto | None:
        dtype = self.dtype(tensor)
        if dtype is None:
            return None
        element = (
            onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
            if not isinstance(dtype, int)
            else dtype
        )
        shape = self.shape(tensor)
        dims = None if shape is None else [d.number if d.fixed else self._known(d) for d in shape]
        return onnx.helper.make_tensor_type_proto(element, dims)

    def _known(self, dim: Dim) -> str:
        self._dims[str(dim)] = dim
        return str(dim)


def target_of(source: Shape | None, wanted: Shape | None) -> list[int] | None:
    """Return the target with which a Reshape makes ``wanted`` of ``source``, or None.

    A free dimension that stays at its place is 0, one other may be -1.

    >>> target_of((Dim(1, ("N",)), Dim(2), Dim(3)), (Dim(1, ("N",)), Dim(6)))
    [0, 6]
    """
    if source is None or wanted is None or Dim(0) in (*source, *wanted):
        return None
    target = [
        dim.number if dim.fixed else 0 if axis < len(source) and dim == source[axis] else -1
        for axis, dim in enumerate(wanted)
    ]
    return None if target.count(-1) > 1 else target


# The values of shape tensors ----------------------------------------------------------------


def _shape_op(shapes: Shapes, node: gs.Node) -> Value | None:
    shape = shapes.shape(node.inputs[0])
    if shape is None:
        return None
    return tuple(shape[node.attrs.get("start", 0) : node.attrs.get("end")])


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
    if fill.dtype.kind not in "iu" or count > _MOST_VALUES:
        return None
    return (Dim(int(fill.reshape(()))),) * count


def _product(shapes: Shapes, node: gs.Node) -> Value | None:
    value = shapes.value(node.inputs[0])
    if value is None:
        return None
    total = Dim(1)
    for dim in value:
        if dim is None:
            return None
        total = total.times(dim)
    return (total,)


_VALUE_RULES: dict[str, Callable[[Shapes, gs.Node], Value | None]] = {
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
# The operators whose integer results are followed.
FOLLOWED = frozenset(_VALUE_RULES)


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
    if value is None or None in value:
        return None
    return tuple(dim for dim in value if dim is not None)


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
            return None
    return tuple(dims)


_SHAPE_RULES: dict[str, Callable[[Shapes, gs.Node], Shape | None]] = {
    "Reshape": _reshape,
    "ConstantOfShape": _from_value,
    "Expand": _expand,
}
