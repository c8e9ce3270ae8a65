"""Which operators a Transpose can move past, and how they change when it does."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.graph.dims import Dim, Shape, target_of
from onnxgraft.graph.operators import is_op, op_of
from onnxgraft.stages.surgery.running.rewrite import Context, constant

__all__ = ["ELEMENTWISE", "move", "moves_only_ones", "takes", "transposed"]

# One operand of any shape; further ones are scalars.
ELEMENTWISE = frozenset(
    {"Abs", "Cast", "Ceil", "Celu", "Clip", "Cos", "Elu", "Erf", "Exp", "Floor", "Gelu",
     "HardSigmoid", "HardSwish", "IsInf", "IsNaN", "LeakyRelu", "Log", "Mish", "Neg", "Not",
     "Reciprocal", "Relu", "Round", "Selu", "Shrink", "Sigmoid", "Sign", "Sin", "Softplus",
     "Softsign", "Sqrt", "Tanh", "ThresholdedRelu"}
)  # fmt: skip
_UNARY = ELEMENTWISE | {"DequantizeLinear", "Identity", "QuantizeLinear"}
_BROADCAST = frozenset(
    {"Add", "And", "Div", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max",
     "Mean", "Min", "Mod", "Mul", "Or", "PRelu", "Pow", "Sub", "Sum", "Where", "Xor"}
)  # fmt: skip
_SOFTMAX = frozenset({"Hardmax", "LogSoftmax", "Softmax"})
_ARG = frozenset({"ArgMax", "ArgMin"})
_REDUCTIONS = frozenset(
    {"ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean",
     "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare"}
)  # fmt: skip

Perm = Sequence[int]


def transposed(tensor: gs.Tensor, perm: Perm) -> bool:
    """Tell whether the tensor comes from a Transpose by ``perm``."""
    producer = tensor.inputs[0] if tensor.inputs else None
    return bool(
        producer is not None
        and is_op(producer, "Transpose")
        and list(producer.attrs.get("perm", ())) == list(perm)
    )


def moves_only_ones(shape: Shape | None, perm: Perm) -> bool:
    """Tell whether a Transpose only moves axes of size 1: a Reshape does the same."""
    if shape is None or len(shape) != len(perm):
        return False
    kept = [axis for axis in perm if shape[axis] != Dim(1)]
    return kept == sorted(kept)


def takes(node: gs.Node, perm: Perm, context: Context) -> bool:
    """Tell whether a Transpose by ``perm`` can move from a node's inputs to its outputs."""
    rule = _RULES.get(op_of(node))
    return (
        rule is not None
        and all(tensor.name for tensor in node.outputs)
        and rule(node, perm, context) is not None
    )


def move(node: gs.Node, perm: Perm, context: Context) -> list[gs.Node]:
    """Let a node that `takes` work before the Transpose; return the Transposes after it."""
    change = _RULES[op_of(node)](node, perm, context)
    assert change is not None
    for index, tensor in enumerate(node.inputs):
        if transposed(tensor, perm):
            node.inputs[index] = tensor.inputs[0].inputs[0]
    after = change()
    added = []
    for index, target in enumerate(list(node.outputs)):
        if after == list(range(len(after))):
            continue  # what comes out is in order
        inverse = _inverse(after)
        moved = context.variable(f"{target.name}/{node.name}", target)
        if target.shape is not None and len(target.shape) == len(after):
            moved.shape = [target.shape[axis] for axis in inverse]
        context.moved(moved, target, inverse)
        node.outputs[index] = moved
        added.append(
            context.add("Transpose", f"{node.name}/transpose", [moved], [target], perm=after)
        )
    return added


# A rule says how a node changes: it returns None where the Transpose can't pass, and otherwise
# what makes the change, which returns the permutation that follows the node.
Change = Callable[[], list[int]]
Rule = Callable[[gs.Node, Perm, Context], Change | None]


def _inverse(perm: Perm) -> list[int]:
    return [int(axis) for axis in np.argsort(perm)]


def _unary(node: gs.Node, perm: Perm, context: Context) -> Change | None:
    for tensor in node.inputs[1:]:
        value = constant(tensor)
        if tensor.name and (value is None or value.size != 1):
            return None
    return lambda: list(perm)


def _broadcast(node: gs.Node, perm: Perm, context: Context) -> Change | None:
    if context.opset < 7 and not all(transposed(tensor, perm) for tensor in node.inputs):
        return None  # it broadcast otherwise: by an attribute, PRelu along axis 1
    rank, inverse = len(perm), _inverse(perm)
    reshaped: dict[int, list[int]] = {}
    for index, tensor in enumerate(node.inputs):
        value = constant(tensor)
        if transposed(tensor, perm):
            continue
        if value is not None:
            if value.ndim > rank:
                return None
            continue
        shape = context.shapes.shape(tensor)
        if shape is None or len(shape) > rank:
            return None
        if len(shape) == 0:
            continue
        full = (Dim(1),) * (rank - len(shape)) + shape
        target = target_of(shape, tuple(full[axis] for axis in inverse))
        if target is None or not moves_only_ones(full, inverse):
            return None
        reshaped[index] = target

    def change() -> list[int]:
        for index, tensor in enumerate(list(node.inputs)):
            value = constant(tensor)
            if value is not None and value.size > 1:
                full = value.reshape((1,) * (rank - value.ndim) + value.shape)
                node.inputs[index] = context.constant(
                    f"{tensor.name}/{node.name}", full.transpose(inverse)
                )
            elif index in reshaped:
                node.inputs[index] = _reshape(tensor, reshaped[index], node, context)
        return list(perm)

    return change


def _reshape(tensor: gs.Tensor, target: list[int], node: gs.Node, context: Context) -> gs.Tensor:
    made = context.variable(f"{tensor.name}/{node.name}", tensor)
    shape = context.constant(f"{made.name}/target", np.array(target, np.int64))
    context.add("Reshape", f"{made.name}/reshape", [tensor, shape], [made])
    return made


def _concat(node: gs.Node, perm: Perm, context: Context) -> Change | None:
    rank, inverse = len(perm), _inverse(perm)
    reshaped: dict[int, list[int]] = {}
    for index, tensor in enumerate(node.inputs):
        value = constant(tensor)
        if transposed(tensor, perm) or (value is not None and value.ndim == rank):
            continue
        shape = context.shapes.shape(tensor)
        if not moves_only_ones(shape, inverse) or shape is None:
            return None
        target = target_of(shape, tuple(shape[axis] for axis in inverse))
        if target is None:
            return None
        reshaped[index] = target

    def change() -> list[int]:
        for index, tensor in enumerate(list(node.inputs)):
            value = constant(tensor)
            if value is not None:
                node.inputs[index] = context.constant(
                    f"{tensor.name}/{node.name}", value.transpose(inverse)
                )
            elif index in reshaped:
                node.inputs[index] = _reshape(tensor, reshaped[index], node, context)
        node.attrs["axis"] = perm[node.attrs["axis"] % rank]
        return list(perm)

    return change


def _one_axis(default: int) -> Rule:
    def rule(node: gs.Node, perm: Perm, context: Context) -> Change | None:
        if is_op(node, *_SOFTMAX) and context.opset < 13:
            return None  # it flattened its operand at the axis

        def change() -> list[int]:
            node.attrs["axis"] = perm[node.attrs.get("axis", default) % len(perm)]
            return list(perm)

        return change

    return rule


def _split(node: gs.Node, perm: Perm, context: Context) -> Change | None:
    def change() -> list[int]:
        node.attrs["axis"] = perm[node.attrs.get("axis", 0) % len(perm)]
        return list(perm)

    return change


def _gather(node: gs.Node, perm: Perm, context: Context) -> Change | None:
    indices = context.shapes.shape(node.inputs[1])
    if not transposed(node.inputs[0], perm) or indices is None or len(indices) > 1:
        return None
    axis = node.attrs.get("axis", 0) % len(perm)

    def change() -> list[int]:
        node.attrs["axis"] = perm[axis]
        return list(perm) if len(indices) == 1 else _without(perm, [axis])

    return change


def _without(perm: Perm, dropped: Sequence[int]) -> list[int]:
    """Return the permutation of what is left when the axes ``dropped`` of the result go."""
    left = [source for axis, source in enumerate(perm) if axis not in dropped]
    return [sorted(left).index(source) for source in left]


def _axes(node: gs.Node, rank: int) -> list[int] | None:
    """Return the axes that a node names, as attribute or as constant; None: neither."""
    axes = node.attrs.get("axes")
    if axes is None and len(node.inputs) > 1 and node.inputs[1].name:
        axes = constant(node.inputs[1])
    return None if axes is None else [int(axis) % rank for axis in np.asarray(axes).ravel()]


def _write_axes(node: gs.Node, axes: Sequence[int], context: Context) -> None:
    if "axes" in node.attrs:
        node.attrs["axes"] = list(axes)
    else:
        node.inputs[1] = context.constant(f"{node.name}/axes", np.array(axes, np.int64))


def _reduce(node: gs.Node, perm: Perm, context: Context) -> Change | None:
    axes = _axes(node, len(perm))
    # Without axes it reduces over all, or over none: it has no use for a Transpose before it.
    if not axes or not transposed(node.inputs[0], perm):
        return None

    def change() -> list[int]:
        _write_axes(node, [perm[axis] for axis in axes], context)
        return list(perm) if node.attrs.get("keepdims", 1) else _without(perm, axes)

    return change


def _squeeze(node: gs.Node, perm: Perm, context: Context) -> Change | None:
    axes = _axes(node, len(perm))
    if axes is None:
        return None

    def change() -> list[int]:
        _write_axes(node, sorted(perm[axis] for axis in axes), context)
        return _without(perm, axes)

    return change


def _unsqueeze(node: gs.Node, perm: Perm, context: Context) -> Change | None:
    count = len(_axes(node, 1) or ())
    rank = len(perm) + count
    axes = _axes(node, rank)
    if not axes or not transposed(node.inputs[0], perm):
        return None
    places = [axis for axis in range(rank) if axis not in axes]

    def change() -> list[int]:
        return [axis if axis in axes else places[perm[places.index(axis)]] for axis in range(rank)]

    return change


def _arg(node: gs.Node, perm: Perm, context: Context) -> Change | None:
    axis = node.attrs.get("axis", 0) % len(perm)

    def change() -> list[int]:
        node.attrs["axis"] = perm[axis]
        return list(perm) if node.attrs.get("keepdims", 1) else _without(perm, [axis])

    return change


def _slice(node: gs.Node, perm: Perm, context: Context) -> Change | None:
    if len(node.inputs) < 3 or not transposed(node.inputs[0], perm):
        return None
    given = node.inputs[3] if len(node.inputs) > 3 else None
    starts = context.shapes.shape(node.inputs[1])
    axes = None if given is None else constant(given)
    if given is None or not given.name:
        if starts is None or len(starts) != 1 or not starts[0].fixed:
            return None
        axes = np.arange(starts[0].number)
    if axes is None:
        return None

    def change() -> list[int]:
        # Of one type with the starts and ends.
        kind = np.dtype(context.shapes.dtype(node.inputs[1]) or np.int64)
        moved = np.array([perm[int(axis) % len(perm)] for axis in axes], kind)
        tensor = context.constant(f"{node.name}/axes", moved)
        if len(node.inputs) > 3:
            node.inputs[3] = tensor
        else:
            node.inputs.append(tensor)
        return list(perm)

    return change


def _pad(node: gs.Node, perm: Perm, context: Context) -> Change | None:
    pads = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    if pads is None or (len(node.inputs) > 3 and node.inputs[3].name):
        return None
    rank = len(perm)

    def change() -> list[int]:
        halves = np.asarray(pads).reshape(2, rank)
        moved = np.zeros_like(halves)
        moved[:, list(perm)] = halves
        node.inputs[1] = context.constant(f"{node.name}/pads", moved.ravel())
        return list(perm)

    return change


def _resize(node: gs.Node, perm: Perm, context: Context) -> Change | None:
    if "axes" in node.attrs or len(node.inputs) < 3:
        return None
    roi = constant(node.inputs[1]) if node.inputs[1].name else np.zeros(0)
    if roi is None or roi.size or not transposed(node.inputs[0], perm):
        return None
    sizes = [
        (index, constant(tensor)) for index, tensor in enumerate(node.inputs)
        if index >= 2 and tensor.name
    ]  # fmt: skip
    if not sizes or any(value is None for _, value in sizes):
        return None
    if not _resizes(node, perm, context):
        return None

    def change() -> list[int]:
        for index, value in sizes:
            assert value is not None
            if value.size:
                moved = value[_inverse(perm)]
                node.inputs[index] = context.constant(f"{node.name}/size", moved)
        return list(perm)

    return change


def _resizes(node: gs.Node, perm: Perm, context: Context) -> bool:
    """Tell whether onnxruntime resizes what a node is to resize before the Transpose.

    It interpolates along the last two axes, and linearly along those between first and last too.
    """
    mode = node.attrs.get("mode", "nearest")
    mode = mode.decode() if isinstance(mode, bytes) else mode
    if mode == "nearest":
        return True
    rank = len(perm)
    scales = constant(node.inputs[2])
    if scales is not None and scales.size:
        kept = [scale == 1 for scale in scales]
    else:
        shape, sizes = context.shapes.shape(node.inputs[0]), constant(node.inputs[3])
        if shape is None or sizes is None:
            return False
        kept = [dim == Dim(int(size)) for dim, size in zip(shape, sizes, strict=True)]
    changed = {perm[axis] for axis in range(rank) if not kept[axis]}
    between = mode == "linear" and rank == 4 and changed <= {1, 2}
    return changed <= {rank - 2, rank - 1} or between


def _along_axes(node: gs.Node, perm: Perm, context: Context) -> Change | None:
    """The repeats of a Tile, the shape of an Expand: one number an axis."""
    value = constant(node.inputs[1])
    if value is None or value.shape != (len(perm),) or not transposed(node.inputs[0], perm):
        return None

    def change() -> list[int]:
        node.inputs[1] = context.constant(f"{node.name}/axes", value[_inverse(perm)])
        return list(perm)

    return change


def _regroup(node: gs.Node, perm: Perm, context: Context) -> Change | None:
    """A Reshape that joins or splits axes which the Transpose leaves together."""
    if not transposed(node.inputs[0], perm) or not isinstance(node.inputs[1], gs.Constant):
        return None
    source = context.shapes.shape(node.inputs[0].inputs[0].inputs[0])
    wanted = context.shapes.shape(node.outputs[0])
    if source is None or wanted is None or len(source) != len(perm):
        return None
    groups = _groups(tuple(source[axis] for axis in perm), wanted)
    if groups is None:
        return None
    blocks: list[tuple[list[int], list[int]]] = []
    for before, after in groups:
        axes = [perm[axis] for axis in before]
        if axes != list(range(axes[0], axes[0] + len(axes))):
            return None
        blocks.append((axes, after))
    # The axes of the new result in the order of x, and where each stands in what was wanted.
    order = [axis for _, after in sorted(blocks) for axis in after]
    target = target_of(source, tuple(wanted[axis] for axis in order))
    if target is None:
        return None

    def change() -> list[int]:
        node.inputs[1] = context.constant(f"{node.name}/target", np.array(target, np.int64))
        node.attrs.pop("allowzero", None)
        return _inverse(order)

    return change


def _groups(source: Shape, wanted: Shape) -> list[tuple[list[int], list[int]]] | None:
    """Return runs of axes of both shapes that hold the same elements, each as short as can be."""
    groups: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(source) and j < len(wanted):
        before, after = [i], [j]
        left, right = source[i], wanted[j]
        i, j = i + 1, j + 1
        while left != right:
            if not (left.symbols == right.symbols):
                return None
            if left.number < right.number and i < len(source):
                left = left.times(source[i])
                before.append(i)
                i += 1
            elif j < len(wanted) and left.number > right.number:
                right = right.times(wanted[j])
                after.append(j)
                j += 1
            else:
                return None
        groups.append((before, after))
    # Axes of size 1 that are left over belong to the last run.
    if not groups or any(source[axis] != Dim(1) for axis in range(i, len(source))):
        return None
    if i < len(source) or any(wanted[axis] != Dim(1) for axis in range(j, len(wanted))):
        return None
    groups[-1][1].extend(range(j, len(wanted)))
    return groups


_RULES: dict[str, Rule] = {
    **dict.fromkeys(_UNARY, _unary),
    **dict.fromkeys(_BROADCAST, _broadcast),
    **dict.fromkeys(_SOFTMAX, _one_axis(-1)),
    **dict.fromkeys(_ARG, _arg),
    **dict.fromkeys(_REDUCTIONS, _reduce),
    "Concat": _concat,
    "Expand": _along_axes,
    "Gather": _gather,
    "Pad": _pad,
    "Reshape": _regroup,
    "Resize": _resize,
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _squeeze,
    "Tile": _along_axes,
    "Unsqueeze": _unsqueeze,
}
