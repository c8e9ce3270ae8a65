"""Set the training flag of a graph to inference.

Given:  an input ``is_training`` (bool, one value), as exporters leave it
Result: the constant False in its place

The selects that it drives are then decided by `remove_select`. The random feeds of a verification
hold False for booleans, so that before and after compute the same.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.graph.training import is_training_flag
from onnxgraft.stages.surgery.running.rewrite import Context, Finding, Result, replace


def apply(graph: gs.Graph, context: Context) -> Result:
    """Freeze every boolean input of one value whose name is that of a training flag."""
    result = Result()
    for tensor in list(graph.inputs):
        single = tensor.shape is not None and all(dim == 1 for dim in tensor.shape)
        if tensor.dtype == np.bool_ and single and is_training_flag(tensor.name):
            value = np.zeros([int(dim) for dim in tensor.shape], np.bool_)
            replace(tensor, context.constant(f"{tensor.name}/frozen", value))
            graph.inputs.remove(tensor)
            result.done.append(Finding(tensor.name, "the input was frozen to False"))
    return result
