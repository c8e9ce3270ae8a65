"""What an ONNX message holds, wherever it is: in its graphs, their bodies and its functions."""

from __future__ import annotations

from collections.abc import Iterator

import onnx

__all__ = ["Part", "bodies", "parts"]

Part = onnx.GraphProto | onnx.NodeProto | onnx.TensorProto | onnx.SparseTensorProto


def parts(model: onnx.ModelProto) -> Iterator[Part]:
    """Yield all graphs, nodes and tensors but the initializers of the graph itself.

    Of a sparse tensor its two tensors are yielded as well.
    """
    training = [g for entry in model.training_info for g in _of_training(entry)]
    left: list[onnx.GraphProto | onnx.FunctionProto] = [model.graph, *training, *model.functions]
    for place, holder in enumerate(left):  # which grows meanwhile
        if isinstance(holder, onnx.FunctionProto):
            for attribute in holder.attribute_proto:
                left += bodies(attribute)
                yield from _tensors(attribute)
        else:
            yield holder
            yield from holder.initializer if place else ()
            for sparse in holder.sparse_initializer:
                yield from (sparse, sparse.values, sparse.indices)
        for node in holder.node:
            yield node
            for attribute in node.attribute:
                left += bodies(attribute)
                yield from _tensors(attribute)


def bodies(attribute: onnx.AttributeProto) -> Iterator[onnx.GraphProto]:
    """Yield the graphs that an attribute holds."""
    if attribute.HasField("g"):
        yield attribute.g
    yield from attribute.graphs


def _of_training(entry: onnx.TrainingInfoProto) -> Iterator[onnx.GraphProto]:
    if entry.HasField("initialization"):
        yield entry.initialization
    if entry.HasField("algorithm"):
        yield entry.algorithm


def _tensors(attribute: onnx.AttributeProto) -> Iterator[Part]:
    if attribute.HasField("t"):
        yield attribute.t
    yield from attribute.tensors
    if attribute.HasField("sparse_tensor"):
        sparse = attribute.sparse_tensor
        yield from (sparse, sparse.values, sparse.indices)
    for sparse in attribute.sparse_tensors:
        yield from (sparse, sparse.values, sparse.indices)
