"""Store constants of equal value only once.

Given:  f(x, c), g(y, d)       c and d of the same type, shape and bytes
Result: f(x, c), g(y, c)

It runs when the other passes have done all they can: a constant that two layers share is one that
nothing can be folded into.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.stages.surgery.running.rewrite import Context, Result, replace

_ENDS = 16


def apply(graph: gs.Graph, context: Context) -> Result:
    """Merge every constant into the first one that equals it."""
    result = Result()
    groups: dict[object, list[gs.Constant]] = {}
    seen: set[int] = set()
    for node in graph.nodes:
        for tensor in list(node.inputs):
            if not isinstance(tensor, gs.Constant) or id(tensor) in seen:
                continue
            seen.add(id(tensor))
            value = np.asarray(tensor.values)
            if value.dtype.hasobject:  # strings: of their bytes nothing is known
                continue
            flat = value.reshape(-1)
            # A few elements tell most constants apart; only those that agree are read whole.
            ends = (
                flat[:_ENDS].tobytes(),
                flat[-_ENDS:].tobytes(),
                flat[flat.size // 2 :][:1].tobytes(),
            )
            group = groups.setdefault((str(value.dtype), value.shape, ends), [])
            same = next((c for c in group if _equal(np.asarray(c.values), value)), None)
            if same is None:
                group.append(tensor)
            else:
                replace(tensor, same)
                result.did(node, f"the constant {tensor.name!r} is stored as {same.name!r}")
    return result


def _equal(a: np.ndarray, b: np.ndarray) -> bool:
    """Compare byte by byte: 0.0 is not -0.0, and a NaN is itself."""
    if not (a.flags.c_contiguous and b.flags.c_contiguous):
        return a.tobytes() == b.tobytes()
    return bool(np.array_equal(a.reshape(-1).view(np.uint8), b.reshape(-1).view(np.uint8)))
