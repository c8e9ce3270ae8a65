"""Let a convolution or a pooling pad for itself.

Given:  Conv(Pad(x, p, 0))                          Result: Conv(x), its pads + p
Given:  AveragePool(Pad(x, p, 0)), which counts     Result: AveragePool(x), its pads + p,
        what is padded or pads nothing itself               count_include_pad = 1
Given:  MaxPool(Pad(x, p, v))                       Result: MaxPool(x), its pads + p
        with v the lowest value, or v = 0 and x nowhere below 0

A MaxPool's own padding is never the largest value. So a padding by 0 is its own padding only
where no element is below 0, as after a Relu, and where each window has an element of x in it.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.graph.operators import is_op, nodes_of
from onnxgraft.graph.walk import detach
from onnxgraft.stages.surgery.running.rewrite import Context, Result, constant

_TAKERS = frozenset({"AveragePool", "Conv", "MaxPool"})
# What these make is never below 0.
_NOT_NEGATIVE = frozenset({"Abs", "Exp", "HardSigmoid", "Relu", "Sigmoid", "Softmax", "Softplus",
                           "Sqrt"})  # fmt: skip
# What these make is not below 0 where none of their operands is.
_KEEPS_SIGN = frozenset({"AveragePool", "Concat", "GlobalAveragePool", "GlobalMaxPool", "MaxPool",
                         "Reshape", "Transpose"})  # fmt: skip


def apply(graph: gs.Graph, context: Context) -> Result:
    """Fold every Pad all of whose consumers can pad for themselves."""
    result = Result()
    for node in nodes_of(graph, "Pad"):
        consumers = list(node.outputs[0].outputs)
        if not consumers or any(not is_op(user, *_TAKERS) for user in consumers):
            continue
        if context.is_output(node.outputs[0]) or not context.inside(consumers):
            result.refuse(node, "what it pads is read elsewhere too")
            continue
        pads = _pads(node)
        reason = "it does not pad by a constant, or not the image alone"
        if pads is not None:
            found = (_wrong(node, user, pads, context) for user in consumers)
            reason = next((text for text in found if text is not None), "")
        if pads is None or reason:
            result.refuse(node, reason)
            continue
        for user in consumers:
            own = user.attrs.get("pads", [0] * len(pads))
            user.attrs["pads"] = [a + b for a, b in zip(own, pads, strict=True)]
            user.attrs.pop("auto_pad", None)
            if is_op(user, "AveragePool"):
                user.attrs["count_include_pad"] = 1
            user.inputs[0] = node.inputs[0]
        detach(node)
        result.did(node, f"{', '.join(repr(user.name) for user in consumers)} pads for itself")
    return result


def _pads(node: gs.Node) -> list[int] | None:
    """Return the pads of the image axes, begins then ends; None where other axes are padded."""
    mode = node.attrs.get("mode", "constant")
    mode = mode.decode() if isinstance(mode, bytes) else mode
    value = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    if mode != "constant" or value is None or len(node.inputs) > 3 or (value < 0).any():
        return None
    halves = value.reshape(2, -1)
    if halves.shape[1] < 3 or halves[:, :2].any():
        return None
    return [int(pad) for pad in halves[:, 2:].ravel()]


def _wrong(node: gs.Node, user: gs.Node, pads: list[int], context: Context) -> str | None:
    if user.inputs[0] is not node.outputs[0] or len(user.inputs) != len({
        id(tensor) for tensor in user.inputs
    }):
        return f"{user.name!r} does not read it as its image"
    if user.attrs.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID", b"NOTSET", b"VALID"):
        return f"{user.name!r} pads as its image's size asks for"
    filled = node.inputs[2] if len(node.inputs) > 2 and node.inputs[2].name else None
    value = np.zeros(1) if filled is None else constant(filled)
    if value is None or value.size != 1:
        return "what it pads with is not a constant"
    number = float(value.reshape(()))
    if is_op(user, "Conv"):
        return None if number == 0 else f"it pads with {number:g}, {user.name!r} with 0"
    kernel = user.attrs["kernel_shape"]
    own = user.attrs.get("pads", [0] * len(pads))
    reach = [a + b for a, b in zip(own, pads, strict=True)]
    if user.attrs.get("ceil_mode", 0) or any(
        pad >= size for pad, size in zip(reach, [*kernel, *kernel], strict=True)
    ):
        return f"windows of {user.name!r} may lie in the padding alone"
    if is_op(user, "AveragePool"):
        if number != 0 or (any(own) and not user.attrs.get("count_include_pad", 0)):
            return f"{user.name!r} would not average the same numbers"
        return None
    if len(user.outputs) > 1 and user.outputs[1].name:
        return f"the indices of {user.name!r} count the padding"
    if any(d != 1 for d in user.attrs.get("dilations", ())):
        return f"windows of {user.name!r} may lie in the padding alone"
    dtype = context.shapes.dtype(node.inputs[0])
    if dtype is None:
        return "the type of what it pads is not known"
    lowest = np.finfo(dtype).min if np.dtype(dtype).kind == "f" else np.iinfo(dtype).min
    if number <= lowest or (number == 0 and _not_negative(node.inputs[0], context)):
        return None
    return f"it pads with {number:g}, which may be more than what is there"


def _not_negative(tensor: gs.Tensor, context: Context) -> bool:
    waiting, seen = [tensor], 0
    while waiting:
        producer = context.producer(waiting.pop())
        seen += 1
        if seen > 64:
            return False
        if is_op(producer, *_NOT_NEGATIVE):
            continue
        if is_op(producer, "Clip") and len(producer.inputs) > 1:
            low = constant(producer.inputs[1])
            if low is not None and low.size == 1 and float(low.reshape(())) >= 0:
                continue
        if not is_op(producer, *_KEEPS_SIGN):
            return False
        waiting += producer.inputs if is_op(producer, "Concat") else producer.inputs[:1]
    return True
