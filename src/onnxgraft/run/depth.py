"""How many roundings to 8 bits lie on the way to each output of a graph."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from onnxgraft.graph.model import Model
from onnxgraft.graph.nbits import stores_bits
from onnxgraft.graph.operators import (
    DYNAMIC_LSTM,
    MICROSOFT,
    QUANTIZERS,
    constant_value,
    is_op,
    op_of,
)
from onnxgraft.graph.quantized import in_float8, stored_bits
from onnxgraft.graph.walk import bodies, own_bodies

__all__ = ["FLOAT8", "FOUR_BITS", "OF_INTEGERS", "depths"]

# One rounding to 4 bits makes as much noise as so many to 8.
FOUR_BITS = 4 ** (8 - 4)

# A signal in FP8 keeps 31.6 dB, of any distribution: its steps are an eighth of the power of two
# below a value, and no larger for small ones. That is as much noise as of so many roundings to
# INT8, each of which keeps 40 (tolerances.least_sqnr).
FLOAT8 = 7
# onnxruntime's LSTM has its input, its state and its weights in 8 bits.
_DYNAMIC = 3
# Operators of integers that have weights, and how many roundings they are: of what is made in 8
# bits, and of the weights. Others whose names begin with QLinear round what they make.
OF_INTEGERS = {
    "ConvInteger": 1, "DynamicQuantizeLinear": 1, "DynamicQuantizeMatMul": 2, "MatMulInteger": 1,
    "MatMulIntegerToFloat": 1, "QAttention": 3, "QGemm": 2, "QLinearConv": 2, "QLinearMatMul": 2,
}  # fmt: skip
# Roundings on the way to a tensor, and whether it depends on the graph's inputs.
_Way = tuple[int, bool]


def depths(model: Model) -> dict[str, int]:
    """Return how many tensors in 8 bits lie on the longest way to each output.

    A tensor in 8 bits is an activation between QuantizeLinear and DequantizeLinear, or weights
    behind a DequantizeLinear or in a MatMulNBits; or what an operator of integers makes or weighs
    with, such as QLinearConv's or MatMulInteger's; an int32 bias is none. One in 4 bits has steps
    that are 16 times as large, and counts as 256: so much more noise it makes; one in FP8 counts as
    7. Where ways meet the
    longer one counts, as a sum of two signals has no more noise over signal than the noisier one;
    weights add theirs to that of the data. Layers that were left in float add nothing.
    """
    ways: dict[int, _Way] = {}
    return {tensor.name: _way(tensor, ways)[0] for tensor in model.graph.outputs}


def _way(tensor: gs.Tensor, ways: dict[int, _Way]) -> _Way:
    """Return the way to a tensor; without recursion: graphs may be deeper than Python's stack."""
    waiting = [tensor]
    while waiting:
        top = waiting[-1]
        node = top.inputs[0] if top.inputs else None
        missing = [t for t in (node.inputs if node else ()) if id(t) not in ways]
        if missing and id(top) not in ways:
            waiting += missing
            continue
        if id(top) not in ways:
            ways[id(top)] = _behind(top, node, ways)
        waiting.pop()
    return ways[id(tensor)]


def _behind(tensor: gs.Tensor, node: gs.Node | None, ways: dict[int, _Way]) -> _Way:
    if node is None:
        return 0, not isinstance(tensor, gs.Constant)
    found = [ways[id(given)] for given in node.inputs]
    varies = any(way[1] for way in found)
    data = max((count for count, moving in found if moving), default=0)
    fixed = max((count for count, moving in found if not moving), default=0)
    inside = sum(
        _rounds(inner) + _weighs(inner)
        for body in own_bodies(node)
        for graph in bodies(body)
        for inner in graph.nodes
    )
    if is_op(node, "QuantizeLinear", domain=QUANTIZERS) and not varies:
        return 0, False  # counted where it is dequantized
    if is_op(node, "DequantizeLinear", domain=QUANTIZERS) and not varies:
        return _roundings(node), False
    return data + fixed + inside + _rounds(node), varies


def _rounds(node: gs.Node) -> int:
    if is_op(node, DYNAMIC_LSTM, domain=MICROSOFT):
        return _DYNAMIC
    bits = stores_bits(node)
    if bits:
        return _of_bits(bits)
    if is_op(node, "QuantizeLinear", domain=QUANTIZERS):
        return _roundings(node)
    kind = op_of(node).removeprefix(f"{MICROSOFT}.")
    if kind == "MatMulInteger" and not isinstance(node.inputs[1], gs.Constant):
        return 0  # of what was rounded before
    return OF_INTEGERS.get(kind, int(kind.startswith("QLinear")))


def _weighs(node: gs.Node) -> int:
    """Return the roundings of a DequantizeLinear of constant integers; see `_of_bits`."""
    stored = is_op(node, "DequantizeLinear", domain=QUANTIZERS) and isinstance(
        node.inputs[0], gs.Constant
    )
    return _roundings(node) if stored else 0


def _of_bits(bits: int) -> int:
    """Return by how many roundings to 8 bits one to so many is outdone; 0 where it has more."""
    return 4 ** (8 - bits) if bits <= 8 else 0


def _roundings(node: gs.Node) -> int:
    """Return 1 for a node whose integers have 8 bits, 0 for one with more; see `_of_bits`."""
    if in_float8(node):
        return FLOAT8
    stored = node.inputs[2] if len(node.inputs) > 2 and node.inputs[2].name else None
    if stored is None:
        stored = node.inputs[0] if is_op(node, "DequantizeLinear", domain=QUANTIZERS) else None
    kind = None if stored is None else stored.dtype
    if kind is None and stored is not None and stored.inputs:
        value = constant_value(stored.inputs[0])
        kind = None if value is None else value.dtype
    # Without a zero point QuantizeLinear makes uint8.
    return 1 if kind is None else _of_bits(stored_bits(kind) or 8)
