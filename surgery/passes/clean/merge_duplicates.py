"""Compute what is computed twice only once.

Given:  y = f(x, c), z = f(x, c)       the same operator, attributes and operands
Result: y takes z's place

Constants of equal type, shape and value count as the same operand. What draws random numbers is
computed as often as it stands there.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.graph.operators import op_key
from onnxgraft.graph.walk import detach
from onnxgraft.stages.surgery.passes.fold.fold_constants import RANDOM
from onnxgraft.stages.surgery.running.rewrite import Context, Result, constant, replace

# Constants of more elements are the same operand only where they are the same tensor.
_MOST_ELEMENTS = 4096


def apply(graph: gs.Graph, context: Context) -> Result:
    """Merge every node into an earlier one that computes the same."""
    result = Result()
    first: dict[Any, gs.Node] = {}
    for node in graph.nodes:
        domain, kind = op_key(node)
        if domain or kind in RANDOM or not node.outputs or any(node.subgraphs()):
            continue
        key = (
            kind,
            len(node.outputs),
            tuple(sorted((name, _key(value)) for name, value in node.attrs.items())),
            tuple(_operand(tensor) for tensor in node.inputs),
        )
        earlier = first.setdefault(key, node)
        if earlier is node:
            continue
        fixed = [
            mine for mine, other in zip(node.outputs, earlier.outputs, strict=True)
            if context.is_output(mine) or bool(mine.name) != bool(other.name)
        ]  # fmt: skip
        if fixed:
            result.refuse(node, f"it computes what {earlier.name!r} does, but is an output")
            continue
        for mine, other in zip(node.outputs, earlier.outputs, strict=True):
            replace(mine, other)
        detach(node)
        result.did(node, f"{earlier.name!r} computes the same")
    return result


def _operand(tensor: gs.Tensor) -> Any:
    value = constant(tensor) if isinstance(tensor, gs.Constant) else None
    if value is None or value.size > _MOST_ELEMENTS:
        return id(tensor) if tensor.name else None
    return _key(value)


def _key(value: Any) -> Any:
    """Return something hashable that tells two attributes or constants apart."""
    if isinstance(value, gs.Constant):
        return _key(np.asarray(value.values))
    if isinstance(value, np.ndarray):
        return (str(value.dtype), value.shape, value.tobytes())
    if isinstance(value, list):
        return tuple(_key(entry) for entry in value)
    # -0.0 equals 0.0, and 1 equals True: as text they differ.
    return repr(value)
