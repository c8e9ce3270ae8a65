"""For TensorRT: move zero points to 0, and write uint8 as int8.

Given:  QuantizeLinear(x, s, z), DequantizeLinear(q, s, z)
Result: QuantizeLinear(x, t, 0), DequantizeLinear(q, t, 0)
        t = s max(z - least, most - z) / 127, where q is within least and most

The range s (least - z) to s (most - z) that was held is held still: where it is not as wide below 0
as above, a Clip or a Relu is written before it, for the new range is. Where it is all on one side
of 0, as behind a Relu, its steps become twice as wide. Weights are rounded anew where they don't
fit with their own scale. An input or output of the graph keeps its type and its numbers: what it
stands for is computed with a Cast. Biases in int32, which TensorRT takes as floats alone, become
floats.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnxgraft.graph.operators import WEIGHTED, is_op, nodes_of
from onnxgraft.graph.signs import never_negative
from onnxgraft.graph.tensors import Array
from onnxgraft.graph.walk import detach
from onnxgraft.stages.surgery.running.rewrite import Context, Result, constant, replace

# The largest number of the symmetric range.
_MOST = 127
# They give out what they read, elsewhere.
_MOVING = (
    "DepthToSpace", "Flatten", "Identity", "Reshape", "Slice", "SpaceToDepth", "Squeeze",
    "Transpose", "Unsqueeze",
)  # fmt: skip
_BYTES = (np.dtype(np.int8), np.dtype(np.uint8))


def apply(graph: gs.Graph, context: Context) -> Result:
    """Rewrite every pair, and every constant, whose zero point is not 0 or whose type is uint8."""
    result = Result()
    while any(_lifted(node, context, result) for node in nodes_of(graph, "DequantizeLinear")):
        pass
    for node in nodes_of(graph, "DequantizeLinear"):
        if constant(node.inputs[0]) is not None:
            _stored(node, context, result)
    held: dict[int, gs.Tensor] = {}
    for node in nodes_of(graph, "QuantizeLinear"):
        held[id(node.outputs[0])] = node.outputs[0]
    for node in nodes_of(graph, "DequantizeLinear"):
        if constant(node.inputs[0]) is None:
            held[id(node.inputs[0])] = node.inputs[0]
    for tensor in held.values():
        _between(graph, tensor, context, result)
    return result


def _stored(node: gs.Node, context: Context, result: Result) -> None:
    """Rewrite a DequantizeLinear of a constant."""
    numbers, parameters = constant(node.inputs[0]), _parameters(node)
    if numbers is None or parameters is None or node.attrs.get("block_size", 0):
        return
    scale, zero = parameters
    target = node.outputs[0]
    weights = any(is_op(reader, *WEIGHTED, *_MOVING) for reader in target.outputs)
    if numbers.dtype == np.int32 or not weights:
        along = _along(scale, numbers.ndim, node)
        whole = numbers.astype(np.int64) - along(np.broadcast_to(zero, scale.shape)).astype(
            np.int64
        )
        if not context.is_output(target):
            value = (whole * along(scale).astype(np.float64)).astype(np.float32)
            detach(node)
            replace(target, context.constant(target.name, value))
            result.did(node, "TensorRT takes constants in integers as weights only")
        return
    if numbers.dtype not in _BYTES or (numbers.dtype == np.int8 and not zero.any()):
        return
    along = _along(scale, numbers.ndim, node)
    whole = numbers.astype(np.int64) - along(np.broadcast_to(zero, scale.shape))
    axis = int(node.attrs.get("axis", 1)) % whole.ndim if scale.size > 1 else None
    others = tuple(other for other in range(whole.ndim) if other != axis)
    largest = np.abs(whole).max(axis=others, initial=1).reshape(scale.shape)
    growth = np.maximum(largest / _MOST, 1.0)
    moved = np.rint(whole / along(growth)).astype(np.int8)
    node.inputs[0] = context.constant(f"{node.inputs[0].name}/symmetric", moved)
    _set(node, context, (scale * growth).astype(scale.dtype))
    result.did(node, f"TensorRT takes no zero point but 0, and no {numbers.dtype}")


def _lifted(node: gs.Node, context: Context, result: Result) -> bool:
    """Let what moves integers about before a DequantizeLinear move floats; tell whether it did."""
    tensor, parameters = node.inputs[0], _parameters(node)
    mover = context.producer(tensor)
    if (
        mover is None
        or not is_op(mover, *_MOVING, "Concat", "Gather", "MaxPool", "Pad")
        or parameters is None
        or parameters[0].size > 1
        or context.is_output(tensor)
        or len(mover.outputs) > 1
        or len(tensor.outputs) > 1
    ):
        return False
    scale, zero = parameters
    filling = mover.inputs[2] if is_op(mover, "Pad") and len(mover.inputs) > 2 else None
    if filling is not None and filling.name and constant(filling) is None:
        return False
    for place, source in enumerate(mover.inputs):
        if place and not is_op(mover, "Concat"):
            continue
        value = gs.Variable(context.free_name(f"{source.name}/float"), np.float32)
        context.add("DequantizeLinear", value.name, [source, *node.inputs[1:]], [value])
        mover.inputs[place] = value
    if filling is not None and filling.name:
        whole = np.asarray(constant(filling), np.int64) - int(zero.flat[0])
        filled = whole * scale.reshape(())
        mover.inputs[2] = context.constant(f"{mover.name}/value", filled.astype(np.float32))
    target = node.outputs[0]
    detach(node)
    mover.outputs[0] = target
    result.did(mover, "TensorRT moves floats: what was between Q and DQ is behind them")
    return True


def _between(graph: gs.Graph, tensor: gs.Tensor, context: Context, result: Result) -> None:
    """Rewrite what makes and reads an integer tensor."""
    maker = context.producer(tensor)
    maker = maker if is_op(maker, "QuantizeLinear") else None
    readers = [node for node in tensor.outputs if is_op(node, "DequantizeLinear")]
    node = maker or readers[0]
    found = [_parameters(entry) for entry in (node, *readers)]
    first = found[0]
    if first is None or any(entry is None for entry in found):
        result.refuse(node, "its scale or zero point is not constant")
        return
    scale, zero = first
    kind = zero.dtype
    if kind not in _BYTES or (kind == np.int8 and not zero.any()):
        return
    same = all(np.array_equal(e[0], scale) and np.array_equal(e[1], zero) for e in found if e)
    if not same or not context.inside(readers) or scale.size > 1:
        result.refuse(node, "it is read with another scale or zero point than it is made with")
        return
    limits = np.iinfo(kind)
    farthest = max(int(zero.max()) - limits.min, limits.max - int(zero.min()))
    wider = (scale * np.float32(farthest / _MOST)).astype(scale.dtype)
    pinned = context.is_output(tensor) or len(readers) < len(tensor.outputs)
    if maker is not None and not pinned:
        maker.inputs[0] = _cut(maker.inputs[0], scale, zero, context)
        for entry in (maker, *readers):
            _set(entry, context, wider)
    elif maker is not None:
        source = maker.inputs[0]
        detach(maker)
        _write_bytes(source, tensor, scale, zero, context)
        _through(_cut(source, scale, zero, context), readers, wider, context)
    else:
        _through(_numbers(tensor, scale, zero, context), readers, wider, context)
    result.did(
        node,
        f"its zero point moved from {int(zero.flat[0])} to 0, its steps are "
        f"{farthest / _MOST:.2g} times as wide",
    )


def _cut(source: gs.Tensor, scale: Array, zero: Array, context: Context) -> gs.Tensor:
    """Return ``source`` within the range that was held, where the new one is wider on one side.

    A step is none: with its zero point in the middle, uint8 has one step more below than above.
    """
    limits = np.iinfo(zero.dtype)
    below, above = int(zero.max()) - limits.min, limits.max - int(zero.max())
    if abs(below - above) <= 1 or (below == 0 and never_negative(source)):
        return source
    ends = [np.asarray(steps * scale, scale.dtype) for steps in (-below, above)]
    made = _op(context, "Clip", source, *ends) if below else _op(context, "Relu", source)
    made.dtype = scale.dtype
    return made


def _through(source: gs.Tensor, readers: list[gs.Node], scale: Array, context: Context) -> None:
    """Let what dequantized another tensor read ``source`` through a new pair."""
    if not readers:
        return
    stored = gs.Variable(context.free_name(f"{source.name}/symmetric"), np.int8)
    inputs = [source, *_constants(stored.name, context, scale)]
    context.add("QuantizeLinear", stored.name, inputs, [stored])
    for node in readers:
        node.inputs[0] = stored
        _set(node, context, scale)


def _numbers(tensor: gs.Tensor, scale: Array, zero: Array, context: Context) -> gs.Tensor:
    """Return what an integer input stands for: (q - z) s."""
    value = _op(context, "Cast", tensor, to=onnx.TensorProto.FLOAT)
    value = _op(context, "Sub", value, zero.astype(np.float32))
    return _op(context, "Mul", value, scale)


def _write_bytes(
    source: gs.Tensor, target: gs.Tensor, scale: Array, zero: Array, context: Context
) -> None:
    """Let ``target`` be the integers of a float tensor, as QuantizeLinear has them."""
    limits = np.iinfo(zero.dtype)
    value = _op(context, "Round", _op(context, "Div", source, scale))
    value = _op(context, "Add", value, zero.astype(np.float32))
    bounds = [np.array(bound, np.float32) for bound in (limits.min, limits.max)]
    value = _op(context, "Clip", value, *bounds)
    to = onnx.helper.np_dtype_to_tensor_dtype(zero.dtype)
    context.add("Cast", f"{target.name}/Cast", [value], [target], to=to)


def _op(context: Context, op: str, source: gs.Tensor, *constants: Array, **attrs: Any) -> gs.Tensor:
    name = f"{source.name}/{op}"
    made = gs.Variable(context.free_name(name), np.float32)
    others = [context.constant(f"{name}/value", value.reshape(())) for value in constants]
    context.add(op, name, [source, *others], [made], **attrs)
    return made


def _set(node: gs.Node, context: Context, scale: Array) -> None:
    node.attrs.pop("output_dtype", None)  # which the zero point says now
    for place, value in enumerate(_constants(node.name, context, scale), 1):
        if place < len(node.inputs):
            node.inputs[place] = value
        else:
            node.inputs.append(value)


def _constants(name: str, context: Context, scale: Array) -> list[gs.Tensor]:
    return [
        context.constant(f"{name}/scale", scale),
        context.constant(f"{name}/zero", np.zeros(scale.shape, np.int8)),
    ]


def _parameters(node: gs.Node) -> tuple[Array, Array] | None:
    """Return a scale and zero point that are constant."""
    scale = constant(node.inputs[1])
    if scale is None:
        return None
    if len(node.inputs) < 3 or not node.inputs[2].name:
        return scale, np.zeros(scale.shape, _integers(node))
    zero = constant(node.inputs[2])
    return None if zero is None else (scale, zero)


def _integers(node: gs.Node) -> np.dtype[Any]:
    """Return the type of the integers of a node without a zero point."""
    if is_op(node, "DequantizeLinear"):
        stored = constant(node.inputs[0])
        if stored is not None:
            return stored.dtype
        maker = node.inputs[0].inputs[0] if node.inputs[0].inputs else None
        if not is_op(maker, "QuantizeLinear"):
            return np.dtype(node.inputs[0].dtype or np.uint8)
        parameters = _parameters(maker)
        return np.dtype(np.uint8) if parameters is None else parameters[1].dtype
    chosen = int(node.attrs.get("output_dtype", 0))
    return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(chosen) if chosen else np.uint8)


def _along(scale: Array, rank: int, node: gs.Node) -> Any:
    """Return a function that shapes a scale for each slice along the node's axis."""
    if scale.size == 1:
        return lambda value: np.reshape(value, ())
    shape = [1] * rank
    shape[int(node.attrs.get("axis", 1))] = -1
    return lambda value: np.reshape(value, shape)
