"""Operators that are told places by numbers: TensorFlow and ONNX differ in what those may be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from onnx import TensorProto

from onnxgraft.errors import NotSupportedError
from onnxgraft.stages.convert.tensorflow.lower.complexes import complex_layout
from onnxgraft.stages.convert.tensorflow.lower.writing import (
    NewerOpset,
    Value,
    Writer,
    replace,
    theirs,
)

__all__ = [
    "compared",
    "dense_bincount",
    "gather",
    "invert_permutation",
    "one_hot",
    "picked_entropy",
    "reverse_sequence",
    "scatter",
    "scatter_nd",
    "tensor_scatter_max",
    "tensor_scatter_min",
    "top_k",
]

_INT64 = TensorProto.INT64
# What onnxruntime compares.
_COMPARED = (TensorProto.INT32, _INT64)


def gather(ctx: Any, node: Any, name: str, args: Any) -> None:
    """Count an axis and batch axes from the front, for tf2onnx's Gather and GatherND."""
    axis = Writer(ctx, node).known(Writer(ctx, node).value(node.input[2]))
    rank, batches = ctx.get_rank(node.input[0]), node.get_attr_value("batch_dims", 0)
    if batches < 0:
        indices = ctx.get_rank(node.input[1])
        if indices is None:
            raise NotSupportedError(f"{node.type} ({node.name}) has indices of unknown rank")
        node.set_attr("batch_dims", batches + indices)
    if axis is not None and axis < 0 and rank is not None:
        front = Writer(ctx, node).const(axis + rank, TensorProto.INT32)
        ctx.replace_input(node, node.input[2], front.name, 2)
    complex_layout(ctx, node, name, args)


def one_hot(ctx: Any, node: Any, name: str, args: Any) -> None:
    """Write where the indices are 0, 1, 2 ...; any other index is nowhere.

    ONNX's OneHot counts negative indices from the end, so it is written only of what an ArgMax
    gives.
    """
    axis = node.get_attr_value("axis", -1)
    rank = ctx.get_rank(node.input[0])
    if ctx.get_dtype(node.output[0]) == TensorProto.FLOAT and _of_argmax(node.inputs[0]):
        theirs(ctx, node)
        return

    def formula(w: Writer, x: Sequence[Value]) -> Value:
        indices, depth, on, off = x
        if indices.dtype not in _COMPARED:
            indices = indices.to(_INT64)
        steps = w.range(depth.to(indices.dtype))
        if axis != -1:
            assert rank is not None  # TensorFlow wants an axis within it
            steps = steps.unsqueeze(*range(1, rank - axis + 1)) if axis < rank else steps
        hits = indices.unsqueeze(axis).equals(steps)
        ends = [w.known(value) for value in (on, off)]
        if ends[0] == 1 and ends[1] == 0:
            return hits.to(on.dtype)
        return hits.where(on, off)

    replace(ctx, node, formula)


def _of_argmax(node: Any) -> bool:
    while node.type in ("Cast", "Identity"):
        node = node.inputs[0]
    return node.type in ("ArgMax", "ArgMin")


def scatter_nd(ctx: Any, node: Any, name: str, args: Any) -> None:
    """Write ScatterND into zeros; TensorFlow adds up what comes to the same place."""

    def formula(w: Writer, x: Sequence[Value]) -> Value:
        indices, updates, shape = x
        known = w.known(indices)
        once = known is not None and len({*map(tuple, known.reshape(-1, known.shape[-1]))}) == (
            known[..., 0].size
        )
        kind = updates.dtype
        if kind == TensorProto.BOOL:
            updates = updates.to(TensorProto.INT32)
        zeros = w.op("Expand", w.const(0, updates.dtype), shape.to(_INT64))
        made = scatter(w, node, zeros, indices, updates, "none" if once else "add")
        return made.to(kind)

    replace(ctx, node, formula)


def scatter(
    w: Writer, node: Any, data: Value, indices: Value, updates: Value, reduction: str
) -> Value:
    """Return ``data`` with ``updates`` at ``indices``.

    Args:
        w: Writes it.
        node: Of TensorFlow, for the message.
        data: What it is put into.
        indices: Rows of indices.
        updates: What is put there.
        reduction: How several at the same place are taken together: none, add, mul, max or min.

    Raises:
        NewerOpset: ONNX has this reduction from a later opset on.
    """
    since = {"none": 0, "add": 16, "mul": 16, "max": 18, "min": 18}[reduction]
    if w.ctx.opset < since:
        raise NewerOpset(f"{node.type} ({node.name})", since)
    if reduction == "none":
        return w.op("ScatterND", data, indices.to(_INT64), updates)
    kind = TensorProto.FLOAT if data.dtype == TensorProto.FLOAT16 else data.dtype
    made = w.op(
        "ScatterND", data.to(kind), indices.to(_INT64), updates.to(kind), reduction=reduction
    )
    return made.to(data.dtype)


def _reduced(reduction: str) -> Any:
    def handler(ctx: Any, node: Any, name: str, args: Any) -> None:
        replace(ctx, node, lambda w, x: scatter(w, node, x[0], x[1], x[2], reduction))

    return handler


tensor_scatter_max = _reduced("max")
tensor_scatter_min = _reduced("min")


def invert_permutation(ctx: Any, node: Any, name: str, args: Any) -> None:
    """Write 0, 1, 2 ... to the places that the permutation names."""

    def formula(w: Writer, x: Sequence[Value]) -> Value:
        steps = w.range(w.size(x[0], 0).to(x[0].dtype))
        return w.op("ScatterElements", x[0], x[0].to(_INT64), steps, axis=0)

    replace(ctx, node, formula)


def reverse_sequence(ctx: Any, node: Any, name: str, args: Any) -> None:
    """Write ReverseSequence with the batch and the steps in front, as ONNX has them."""
    axes = [int(node.get_attr_value(key, 0)) for key in ("batch_dim", "seq_dim")]
    if set(axes) == {0, 1}:
        theirs(ctx, node)
        return
    rank = ctx.get_rank(node.input[0])
    if rank is None:
        raise NotSupportedError(
            f"{node.type} ({node.name}) can't be converted: its rank is not known; cut the graph "
            "before it with --outputs"
        )
    there = [*axes, *(axis for axis in range(rank) if axis not in axes)]

    def formula(w: Writer, x: Sequence[Value]) -> Value:
        turned, lengths = x[0].transpose(*there), x[1].to(_INT64)
        made = w.op("ReverseSequence", turned, lengths, batch_axis=0, time_axis=1)
        return made.transpose(*(there.index(axis) for axis in range(rank)))

    replace(ctx, node, formula)


# The type that holds every value of those that onnxruntime does not compare.
_HELD: dict[int, int] = {
    TensorProto.FLOAT16: TensorProto.FLOAT,
    TensorProto.BFLOAT16: TensorProto.FLOAT,
    TensorProto.INT8: TensorProto.INT32,
    TensorProto.INT16: TensorProto.INT32,
    TensorProto.UINT8: TensorProto.INT32,
    TensorProto.UINT16: TensorProto.INT32,
    TensorProto.UINT32: _INT64,
}


def top_k(ctx: Any, node: Any, name: str, args: Any) -> None:
    """Write TopK of a type that holds every value; tf2onnx sorts floats."""
    w = Writer(ctx, node)
    given, k = (w.value(tensor) for tensor in node.input)
    outputs = list(node.output)
    told = [(ctx.get_shape(output), ctx.get_dtype(output)) for output in outputs]
    in_order = int(node.get_attr_value("sorted", 1))
    sorts = _HELD.get(given.dtype, given.dtype)
    ctx.remove_node(node.name)
    made = ctx.make_node(
        "TopK", [given.to(sorts).name, k.to(_INT64).reshape(1).name], output_count=2,
        attr={"sorted": in_order}, dtypes=[sorts, _INT64],
    )  # fmt: skip
    for source, kind, output, (shape, dtype) in zip(
        made.output, (sorts, _INT64), outputs, told, strict=True
    ):
        value = Value(w, str(source), kind).to(dtype)
        ctx.make_node("Identity", [value.name], outputs=[output], shapes=[shape], dtypes=[dtype])


def compared(ctx: Any, node: Any, name: str, args: Any) -> None:
    """Write the comparison of a type that holds every value; tf2onnx compares floats.

    It also gives a loop's counter, which TensorFlow has in 32 bits, the 64 of ONNX's, later on.
    """
    kind = node.type

    def formula(w: Writer, x: Sequence[Value]) -> Value:
        if x[0].whole and x[0].dtype != TensorProto.UINT64:
            a, b = (w.op("Cast", value, dtype=_INT64, to=_INT64) for value in x)
        else:
            a, b = (value.to(_HELD.get(value.dtype, value.dtype)) for value in x)
        return w.op(kind, a, b, dtype=TensorProto.BOOL)

    replace(ctx, node, formula)


def picked_entropy(ctx: Any, node: Any, name: str, args: Any) -> None:
    """Write -log softmax(x) of the labelled class, where it is far from the largest too."""
    gradient = node.output[1]
    if gradient in ctx.outputs or ctx.find_output_consumers(gradient):
        raise NotSupportedError(
            f"{node.type} ({node.name}) can't be converted: its gradient is read; cut the graph "
            "before it with --outputs"
        )

    def formula(w: Writer, x: Sequence[Value]) -> Value:
        logs = w.op("LogSoftmax", x[0], axis=-1)
        labels = x[1].to(_INT64).unsqueeze(-1)
        return w.op("Neg", w.op("GatherElements", logs, labels, axis=-1).squeeze(-1))

    replace(ctx, node, formula)


def dense_bincount(ctx: Any, node: Any, name: str, args: Any) -> None:
    """Write how often, or with what weight, 0, 1, 2 ... are among the values of each row."""
    binary = bool(node.get_attr_value("binary_output", 0))

    def formula(w: Writer, x: Sequence[Value]) -> Value:
        values, size, weights = x
        hits = values.unsqueeze(-1).equals(w.range(size.to(values.dtype)))
        shape = ctx.get_shape(weights.name)
        counts = hits.to(weights.dtype)
        if not binary and (shape is None or 0 not in shape):
            counts = hits.where(weights.unsqueeze(-1), 0)
        axis = (ctx.get_rank(values.name) or 1) - 1
        counts = counts.sum(axis, keepdims=False)
        return (counts > 0).to(weights.dtype) if binary else counts

    replace(ctx, node, formula)
