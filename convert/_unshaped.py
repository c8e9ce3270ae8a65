"""The shape of a tensor that nothing records, told by what consumes it.

Graphs of old TensorFlow have placeholders without a shape, and a queue's elements have none. The
first operator behind them that wants a certain rank tells it, and the channels by its weights.
"""

from __future__ import annotations

from collections import deque
from typing import Any

__all__ = ["shape_from_use"]

# Operators whose output has the shape of their first input, or of the other where it broadcasts.
_KEEPING = frozenset(
    "Identity Cast Neg Abs Sqrt Rsqrt Square Exp Log Relu Relu6 Elu Selu LeakyRelu Sigmoid Tanh "
    "Softplus StopGradient CheckNumerics PlaceholderWithDefault Sub Add AddV2 Mul RealDiv Div "
    "Maximum Minimum ClipByValue ReverseV2 Pad PadV2 MirrorPad QuantizeV2 FakeQuantWithMinMaxVars"
    .split()
)  # fmt: skip
_RANKS = {
    4: "Conv2D DepthwiseConv2dNative MaxPool MaxPoolV2 AvgPool LRN ResizeBilinear "
       "ResizeNearestNeighbor ResizeBicubic FusedBatchNorm FusedBatchNormV2 FusedBatchNormV3 "
       "SpaceToDepth DepthToSpace",
    5: "Conv3D MaxPool3D AvgPool3D",
    2: "MatMul",
}  # fmt: skip
_RANK_OF = {op: rank for rank, ops in _RANKS.items() for op in ops.split()}


def shape_from_use(tensor: Any) -> tuple[list[int], str] | None:
    """Return the shape (-1: free) that consumers want, and the name of the one that tells it.

    Args:
        tensor: Of a tf.Graph; its rank is unknown.

    Returns:
        None if no consumer tells.
    """
    queue, seen = deque([tensor]), {tensor.name}
    while queue:
        current = queue.popleft()
        for consumer in current.consumers():
            if consumer.type in _RANK_OF and consumer.inputs[0].name == current.name:
                return _wanted(consumer), consumer.name
            if consumer.type in _KEEPING and _decides(consumer, current):
                for output in consumer.outputs:
                    if output.name not in seen:
                        seen.add(output.name)
                        queue.append(output)
    return None


def _decides(consumer: Any, tensor: Any) -> bool:
    """Tell whether the output has the tensor's rank: the other operands are no larger."""
    return all(
        source.name == tensor.name or (source.shape.rank is not None and source.shape.rank <= 2)
        for source in consumer.inputs
    )


def _wanted(consumer: Any) -> list[int]:
    rank = _RANK_OF[consumer.type]
    shape = [-1] * rank
    if consumer.type == "MatMul":
        if not consumer.get_attr("transpose_a"):
            shape[1] = _size(consumer.inputs[1], 1 if consumer.get_attr("transpose_b") else 0)
    elif consumer.type in ("Conv2D", "Conv3D", "DepthwiseConv2dNative"):
        channels = _size(consumer.inputs[1], rank - 2)
        last = b"C" == consumer.get_attr("data_format")[-1:]
        # Grouped convolutions began with TensorFlow 2; graphs without shapes are older.
        shape[-1 if last else 1] = channels
    elif consumer.type.startswith("FusedBatchNorm"):
        last = b"C" == consumer.get_attr("data_format")[-1:]
        shape[-1 if last else 1] = _size(consumer.inputs[1], 0)
    return shape


def _size(weights: Any, axis: int) -> int:
    if weights.shape.rank is None or weights.shape[axis] is None:
        return -1
    return int(weights.shape[axis])
