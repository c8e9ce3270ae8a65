"""Which tensors are never below 0, by what makes them."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.graph.operators import QUANTIZERS, constant_value, is_op
from onnxgraft.graph.tensors import Array

__all__ = ["fixed_value", "never_negative"]

_NEVER = ("HardSigmoid", "Relu", "Sigmoid", "Softmax")
# What they make is not below 0 if what they read first is not ...
_KEEPING = (
    "AveragePool", "DepthToSpace", "Flatten", "GlobalAveragePool", "GlobalMaxPool", "Identity",
    "MaxPool", "Reshape", "Slice", "SpaceToDepth", "Squeeze", "Transpose", "Unsqueeze",
)  # fmt: skip
# ... or if all is not.
_JOINING = ("Add", "Concat", "Mul")


def fixed_value(tensor: gs.Tensor) -> Array | None:
    """Return the value of a constant, or None."""
    if isinstance(tensor, gs.Constant):
        return np.asarray(tensor.values)
    maker = tensor.inputs[0] if tensor.inputs else None
    return constant_value(maker) if maker is not None else None


def never_negative(tensor: gs.Tensor, assumed: Collection[int] = ()) -> bool:
    """Tell whether no value of a tensor is below 0, whatever is fed.

    Args:
        tensor: Of a graph.
        assumed: The ids of tensors that are taken for such.
    """
    left, seen = [tensor], set(assumed)
    while left:
        tensor = left.pop()
        if id(tensor) in seen:
            continue
        seen.add(id(tensor))
        value = fixed_value(tensor)
        maker = tensor.inputs[0] if tensor.inputs else None
        if value is not None:
            if (value < 0).any():
                return False
        elif is_op(maker, *_KEEPING):
            left.append(maker.inputs[0])
        elif is_op(maker, *_JOINING):
            left += maker.inputs
        elif is_op(maker, "DequantizeLinear", domain=QUANTIZERS):
            if _is_unsigned(maker):
                continue
            quantizer = maker.inputs[0].inputs[0] if maker.inputs[0].inputs else None
            if not is_op(quantizer, "QuantizeLinear", domain=QUANTIZERS):
                return False
            before, behind = _zero_point(quantizer), _zero_point(maker)
            if (before is None) != (behind is None):
                return False
            if before is not None and behind is not None and not np.array_equal(before, behind):
                return False
            left.append(quantizer.inputs[0])
        elif is_op(maker, "Clip") and len(maker.inputs) > 1:
            low = fixed_value(maker.inputs[1])
            if low is None or low.size != 1 or not bool(low.item() >= 0):
                return False
        elif not is_op(maker, *_NEVER):
            return False
    return True


def _is_unsigned(node: gs.Node) -> bool:
    """Tell whether a DequantizeLinear's least integer stands for 0."""
    zero = _zero_point(node)
    return zero is not None and zero.dtype.kind == "u" and not zero.any()


def _zero_point(node: gs.Node) -> Array | None:
    return fixed_value(node.inputs[2]) if len(node.inputs) > 2 else None
