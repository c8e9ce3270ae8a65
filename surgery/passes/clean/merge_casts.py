"""Join two Casts, the first of which loses nothing.

Given:  Cast(Cast(x, wide), t), where ``wide`` holds every value of x's type
Result: Cast(x, t), or x where t is x's own type
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnxgraft.graph.operators import is_op, nodes_of
from onnxgraft.stages.surgery.running.rewrite import Context, Result


def apply(graph: gs.Graph, context: Context) -> Result:
    """Join every pair of Casts whose first one widens."""
    result = Result()
    for node in nodes_of(graph, "Cast"):
        first = context.producer(node.inputs[0])
        if not is_op(first, "Cast"):
            continue
        source = _numpy(context.shapes.dtype(first.inputs[0]))
        between = _numpy(onnx.helper.tensor_dtype_to_np_dtype(int(first.attrs["to"])))
        if source is None or between is None or not _holds(between, source):
            result.refuse(node, f"the Cast {first.name!r} before it may lose digits")
            continue
        node.inputs[0] = first.inputs[0]
        result.did(node, f"joined with {first.name!r} before it")
    return result


def _numpy(dtype: Any) -> np.dtype[Any] | None:
    """Return the numpy type, or None for those that are onnx's own (bfloat16, float8, int4)."""
    if dtype is None or isinstance(dtype, int):
        return None
    found = np.dtype(dtype)
    return found if found.kind in "biuf" else None


def _holds(wide: np.dtype[Any], narrow: np.dtype[Any]) -> bool:
    """Tell whether every value of ``narrow`` is a value of ``wide``.

    >>> _holds(np.dtype("float32"), np.dtype("int32"))
    False
    """
    if narrow.kind in "iu" and wide.kind == "f":
        bits = 8 * narrow.itemsize - (narrow.kind == "i")
        return bits <= np.finfo(wide).nmant + 1 and 2.0**bits <= float(np.finfo(wide).max)
    return bool(np.can_cast(narrow, wide, "safe"))
