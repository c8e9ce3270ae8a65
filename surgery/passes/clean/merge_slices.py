"""Join Slices of different axes that follow each other.

Given:  Slice(Slice(x, axes = [1], ...), axes = [2], ...)       starts, ends, axes, steps constant
Result: Slice(x, axes = [1, 2], ...)

Several Slices that take their parts of one, as Swin's patches do, are joined with it each, where
nothing else reads it: it is gone then.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.graph.operators import is_op, nodes_of
from onnxgraft.stages.surgery.running.rewrite import Context, Result, constant

# By axis: start, end and step.
_Cuts = dict[int, tuple[int, int, int]]


def apply(graph: gs.Graph, context: Context) -> Result:
    """Join the Slices after every Slice with it, if that leaves it without a reader."""
    result = Result()
    for first in nodes_of(graph, "Slice"):
        made = first.outputs[0]
        readers = list({id(node): node for node in made.outputs}.values())
        cuts = _cuts(first, context)
        if cuts is None or not readers or context.is_output(made) or not context.inside(readers):
            continue
        others = [_cuts(node, context) if _cuts_only(node, made) else None for node in readers]
        joined = [cuts | more for more in others if more is not None and not cuts.keys() & more]
        if len(joined) < len(readers):
            if all(is_op(node, "Slice") for node in readers):
                result.refuse(first, "a Slice after it cuts one of its axes again, or is computed")
            continue
        for node, both in zip(readers, joined, strict=True):
            _write(node, first.inputs[0], both, context)
            result.did(node, f"joined with {first.name!r} before it")
    return result


def _cuts_only(node: gs.Node, tensor: gs.Tensor) -> bool:
    """Tell whether a node is a Slice of the tensor, which it reads for nothing else."""
    return is_op(node, "Slice") and [t is tensor for t in node.inputs].count(True) == 1


def _cuts(node: gs.Node, context: Context) -> _Cuts | None:
    """Return what a Slice cuts; None where that is not constant, or said as before opset 10."""
    if len(node.inputs) < 3:
        return None
    shape = context.shapes.shape(node.inputs[0])
    given = [constant(tensor) if tensor.name else None for tensor in node.inputs[1:]]
    starts, ends, axes, steps = [*given, None, None][:4]
    named = [bool(tensor.name) for tensor in node.inputs[1:]]
    if shape is None or starts is None or ends is None:
        return None
    if any(name and value is None for name, value in zip(named, given, strict=True)):
        return None
    axes = np.arange(starts.size) if axes is None else axes
    steps = np.ones(starts.size, np.int64) if steps is None else steps
    numbers = zip(axes.ravel(), starts.ravel(), ends.ravel(), steps.ravel(), strict=True)
    cuts = {
        int(axis) % len(shape): (int(start), int(end), int(step))
        for axis, start, end, step in numbers
    }
    return cuts if len(cuts) == starts.size else None  # an axis may not be named twice


def _write(node: gs.Node, source: gs.Tensor, cuts: _Cuts, context: Context) -> None:
    axes = sorted(cuts)
    columns = zip(*(cuts[axis] for axis in axes), strict=True)
    starts, ends, steps = (np.array(column, np.int64) for column in columns)
    values = {"starts": starts, "ends": ends, "axes": np.array(axes, np.int64), "steps": steps}
    node.inputs = [
        source,
        *(context.constant(f"{node.name}/{name}", value) for name, value in values.items()),
    ]
