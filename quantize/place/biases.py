"""Where a layer's bias stands, and what can be added to it."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.graph.names import FreeNames
from onnxgraft.graph.operators import is_op
from onnxgraft.graph.tensors import Array

__all__ = ["add_to_bias", "bias_of"]


def bias_of(node: gs.Node) -> tuple[gs.Node, int] | None:
    """Return the node that adds a layer's bias, and the bias's place among its inputs.

    That is the layer itself, or the Add of one value to each output behind a MatMul. The place may
    be empty. None where there is nothing of the kind, or where the bias is computed.
    """
    if is_op(node, "Conv", "ConvTranspose", "Gemm"):
        given = node.inputs[2] if len(node.inputs) > 2 else None
        empty = given is None or given.is_empty()
        return (node, 2) if empty or isinstance(given, gs.Constant) else None
    if not is_op(node, "MatMul") or getattr(node.inputs[1], "values", np.zeros(0)).ndim != 2:
        return None
    readers = node.outputs[0].outputs
    if len(readers) != 1 or not is_op(readers[0], "Add"):
        return None
    width = node.inputs[1].values.shape[1]
    for place, tensor in enumerate(readers[0].inputs):
        if isinstance(tensor, gs.Constant) and tensor.values.shape == (width,):
            return readers[0], place
    return None


def add_to_bias(names: FreeNames, node: gs.Node, correction: Array) -> None:
    """Add to a layer's bias, in place; one that has none gets it.

    Args:
        names: Of the graph.
        node: A layer that `bias_of` finds a bias of.
        correction: (channels,).
    """
    found = bias_of(node)
    assert found is not None
    owner, place = found
    values: Array = np.zeros(())
    if place < len(owner.inputs) and not owner.inputs[place].is_empty():
        values = owner.inputs[place].values
    if is_op(owner, "Gemm"):
        values = values * owner.attrs.get("beta", 1.0)
        owner.attrs["beta"] = 1.0
    name = names.tensor(f"{node.name}/corrected_bias")
    made = gs.Constant(name, np.asarray(values + correction, np.float32))
    if place < len(owner.inputs):
        owner.inputs[place] = made
    else:
        owner.inputs.append(made)
