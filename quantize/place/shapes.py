"""The shapes of a graph's tensors at batch 1, as onnx infers them."""

from __future__ import annotations

import onnx

from onnxgraft.graph.model import Model

__all__ = ["shapes_of"]


def shapes_of(model: Model) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor where it is known; free dimensions of inputs become 1."""
    proto = model.to_onnx()
    del proto.graph.value_info[:]
    for value in [*proto.graph.input, *proto.graph.output]:
        for dim in value.type.tensor_type.shape.dim:
            if not dim.HasField("dim_value"):
                dim.dim_value = 1
    for value in proto.graph.output:
        value.type.tensor_type.ClearField("shape")
    graph = onnx.shape_inference.infer_shapes(proto, data_prop=True).graph
    return {
        value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
        for value in [*graph.input, *graph.value_info, *graph.output]
        if all(dim.HasField("dim_value") for dim in value.type.tensor_type.shape.dim)
    }
