"""Outputs with ends that they do not go beyond, such as those of a softmax or a sigmoid.

At an end such an output hardly moves whatever the network computes: what is left of a difference
there is rounding, and no fraction of the small range that is left says whether it is one.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.graph.model import Model
from onnxgraft.graph.operators import constant_value, is_op, op_of
from onnxgraft.graph.tensors import Array
from onnxgraft.run.tolerances import RESOLUTION

__all__ = ["before", "ends", "ends_of", "liveliness", "resolution", "unresolved"]

Ends = tuple[float, float]

# What operators make of numbers of any size.
_ENDS: dict[str, Ends] = {
    "Erf": (-1.0, 1.0),
    "HardSigmoid": (0.0, 1.0),
    "Sigmoid": (0.0, 1.0),
    "Softmax": (0.0, 1.0),
    "Softsign": (-1.0, 1.0),
    "Tanh": (-1.0, 1.0),
}
# Of these what was put in follows from what comes out: of a softmax but for what is added to all.
_ONE_TO_ONE = ("Erf", "Sigmoid", "Softmax", "Softsign", "Tanh")
# What these make holds values of their first input, or of all of them.
_KEEPING = (
    "Cast", "Concat", "Expand", "Flatten", "Gather", "Identity", "Reshape", "Slice", "Split",
    "Squeeze", "Tile", "Transpose", "Unsqueeze",
)  # fmt: skip
# A value is at an end where it is nearer to it than this part of the way to the other one.
_AT_AN_END = 1e-3


def ends(model: Model) -> dict[str, Ends]:
    """Return the smallest and largest value that each output with ends can have."""
    found = ((tensor.name, _ends(tensor)) for tensor in model.graph.outputs)
    return {name: value for name, value in found if value is not None}


def ends_of(operator: str) -> Ends | None:
    """Return the ends of what an operator makes, if it has any whatever its inputs are."""
    return _ENDS.get(operator)


def before(model: Model) -> dict[str, str]:
    """Return the tensor from which a one-to-one operator with ends makes an output."""
    found = {}
    for tensor in model.graph.outputs:
        node = tensor.inputs[0] if tensor.inputs else None
        if is_op(node, *_ONE_TO_ONE) and node.inputs[0].inputs:
            found[tensor.name] = node.inputs[0].name
    return found


def _ends(tensor: gs.Tensor, steps: int = 64) -> Ends | None:
    node = tensor.inputs[0] if tensor.inputs else None
    if node is None or not steps:
        return None
    if is_op(node, *_KEEPING):
        read = node.inputs if is_op(node, "Concat") else node.inputs[:1]
        inner = {_ends(given, steps - 1) for given in read}
        return inner.pop() if len(inner) == 1 else None
    if is_op(node, "Clip"):
        low, high = (_number(node, place, name) for place, name in ((1, "min"), (2, "max")))
        return None if low is None or high is None else (low, high)
    return _ENDS.get(op_of(node))


def _number(node: gs.Node, place: int, name: str) -> float | None:
    """Return a bound of a Clip: an input, or in old opsets an attribute."""
    if name in node.attrs:
        return float(node.attrs[name])
    given = node.inputs[place] if len(node.inputs) > place else None
    if isinstance(given, gs.Constant):
        return float(np.asarray(given.values).item())
    made = given.inputs[0] if given is not None and given.inputs else None
    value = None if made is None else constant_value(made)
    return None if value is None else float(value.item())


def resolution(value: Array, limits: Ends | None = None) -> float:
    """Return the difference that float32 does not resolve in ``value``.

    Args:
        value: An output.
        limits: Its ends, if it has any.
    """
    finite = value[np.isfinite(value)]
    largest = float(np.abs(finite).max(initial=0.0))
    return RESOLUTION * max([largest, *map(abs, limits or ())])


def liveliness(values: list[Array], limits: Ends | None = None) -> float:
    """Return how well an output shows what its network computes: 1 where it moves, 0 at an end.

    Args:
        values: Of one output, for several feeds.
        limits: Its ends; where they are not known, 0 and 1, or -1 and 1, are taken for them if all
            values lie between.
    """
    finite = [value[np.isfinite(value)] for value in values]
    finite = [value for value in finite if value.size]
    if not finite:
        return 1.0
    low = min(float(value.min()) for value in finite)
    high = max(float(value.max()) for value in finite)
    size = max(abs(low), abs(high))
    # Of an output that is all but constant, 100 + 0.001 x, float32 resolves little.
    moves = min(100 * (high - low) / size, 1.0) if size else 0.0
    if limits is None and -1 <= low and high <= 1:
        limits = (0.0 if low >= 0 else -1.0, 1.0)
    if limits is None or not limits[0] <= low <= high <= limits[1]:
        return moves
    width = limits[1] - limits[0]
    margin = _AT_AN_END * width
    with np.errstate(over="ignore"):  # a limit of float32, for values of float16
        between = sum(
            np.count_nonzero((value > limits[0] + margin) & (value < limits[1] - margin))
            for value in finite
        )
    share = between / sum(value.size for value in finite)
    return min(moves, 10 * share, 10 * (high - low) / width)


def unresolved(expected: Mapping[str, Array], limits: Mapping[str, Ends]) -> dict[str, float]:
    """Return what float32 does not resolve in each of the outputs."""
    return {
        name: resolution(value, limits.get(name))
        for name, value in expected.items()
        if value.dtype.kind == "f"
    }
