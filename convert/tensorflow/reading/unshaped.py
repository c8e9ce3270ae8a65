"""The shape of a tensor that nothing records, told by what consumes it.

Graphs of old TensorFlow have placeholders without a shape, and a queue's elements have none. The
first operator behind them that wants a certain rank tells it, and the channels by its weights.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from onnxgraft.stages.convert.tensorflow.running import import_graph, tensorflow

__all__ = ["rank_by_trial", "shape_from_use"]

# Operators whose output has the rank of their first input, or of the other where it broadcasts.
_KEEPING = frozenset(
    "Identity Cast Neg Abs Sqrt Rsqrt Square Exp Log Relu Relu6 Elu Selu LeakyRelu Sigmoid Tanh "
    "Softplus StopGradient CheckNumerics PlaceholderWithDefault Sub Add AddV2 Mul RealDiv Div "
    "Maximum Minimum ClipByValue ReverseV2 Pad PadV2 MirrorPad QuantizeV2 FakeQuantWithMinMaxVars"
    .split()
)  # fmt: skip
# Operators on images, which keep the channels.
_IMAGES = frozenset(
    "MaxPool MaxPoolV2 AvgPool LRN ResizeBilinear ResizeNearestNeighbor ResizeBicubic".split()
)
# Operators whose weights tell the rank and the channels.
_TELLING = frozenset(
    "Conv2D Conv3D DepthwiseConv2dNative FusedBatchNorm FusedBatchNormV2 FusedBatchNormV3 MatMul "
    "BatchMatMulV2 Reshape".split()
)
# No tensor of a network has more dimensions.
_MOST_DIMENSIONS = 6
# Sizes that no network has.
_UNUSUAL = (7907, 7919, 7927, 7933, 7937, 7949)


def shape_from_use(tensor: Any) -> tuple[list[int], str] | None:
    """Return the shape (-1: free) that consumers want, and the name of the one that tells it.

    Args:
        tensor: Of a tf.Graph; its rank is unknown.

    Returns:
        None if no consumer tells.
    """
    queue, seen = deque([tensor]), {tensor.name}
    image: tuple[list[int], str] | None = None
    while queue:
        current = queue.popleft()
        for consumer in current.consumers():
            first = consumer.inputs[0].name == current.name
            if first and consumer.type in _TELLING:
                wanted = _wanted(consumer)
                if wanted is not None:
                    return wanted, consumer.name
            elif first and consumer.type in _IMAGES:
                image = image or ([-1] * 4, consumer.name)
            elif consumer.type not in _KEEPING or not _ranked(consumer, current):
                continue
            for output in consumer.outputs[:1]:
                if output.name not in seen:
                    seen.add(output.name)
                    queue.append(output)
    return image


def _ranked(consumer: Any, tensor: Any) -> bool:
    """Tell whether the ranks of the other operands are known: they are no larger, then."""
    return all(s.name == tensor.name or s.shape.rank is not None for s in consumer.inputs)


def _wanted(consumer: Any) -> list[int] | None:
    weights = consumer.inputs[1]
    if consumer.type == "Reshape":
        return _reshaped(weights.op)
    if consumer.type in ("MatMul", "BatchMatMulV2"):
        plain = consumer.type == "MatMul"
        if weights.shape.rank != 2 or consumer.get_attr("transpose_a" if plain else "adj_x"):
            return None
        transposed = consumer.get_attr("transpose_b" if plain else "adj_y")
        return [-1, _size(weights, 1 if transposed else 0)]
    rank = 5 if consumer.type == "Conv3D" else 4
    axis = -1 if consumer.get_attr("data_format")[-1:] == b"C" else 1
    shape = [-1] * rank
    # Grouped convolutions began with TensorFlow 2; graphs without shapes are older.
    shape[axis] = _size(weights, 0 if consumer.type.startswith("Fused") else rank - 2)
    return shape


def _size(weights: Any, axis: int) -> int:
    if weights.shape.rank is None or weights.shape[axis] is None:
        return -1
    return int(weights.shape[axis])


def _reshaped(shape: Any) -> list[int] | None:
    """Return what a Reshape makes, unless that flattens or is not constant."""
    if shape.type != "Const":
        return None
    dims = [int(dim) for dim in tensorflow().make_ndarray(shape.get_attr("value")).reshape(-1)]
    return dims if len(dims) > 1 else None


def rank_by_trial(tensor: Any) -> int | None:
    """Return the only rank with which TensorFlow accepts the graph, if there is just one.

    None where a size is fixed as well, which a trial does not find.

    Args:
        tensor: A placeholder of a tf.Graph; its rank is unknown.
    """
    tf = tensorflow()
    if tensor.op.type != "Placeholder":
        return None
    definition = tensor.graph.as_graph_def()
    place = next(node for node in definition.node if node.name == tensor.op.name)

    def accepts(shape: list[int | None]) -> bool:
        place.attr["shape"].shape.CopyFrom(tf.TensorShape(shape).as_proto())
        try:
            import_graph(definition)
        except (ValueError, tf.errors.OpError):
            return False
        return True

    accepted = [rank for rank in range(_MOST_DIMENSIONS + 1) if accepts([None] * rank)]
    if len(accepted) == 1 and accepts([*_UNUSUAL[: accepted[0]]]):
        return accepted[0]
    return None
