"""What a TensorFlow graph says of its inputs: which of them index tables, and which are masks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from onnxgraft.graph.wanted import Indices, Use, Wants, followed
from onnxgraft.stages.convert.tensorflow.running import tensorflow

__all__ = ["wants_of_tensorflow"]

# Where an operator takes the values that it hands on; of the others all inputs.
_HANDS_ON: dict[str, tuple[int, ...] | None] = {
    "BroadcastTo": (0,), "Cast": (0,), "ConcatV2": None, "ExpandDims": (0,), "GatherV2": (0,),
    "Identity": (0,), "IdentityN": None, "Merge": None, "Pack": None, "Pad": (0,), "PadV2": (0,),
    "PlaceholderWithDefault": (0,), "Reshape": (0,), "Select": (1, 2), "SelectV2": (1, 2),
    "Slice": (0,), "Split": (1,), "SplitV": (0,), "Squeeze": (0,), "StopGradient": (0,),
    "StridedSlice": (0,), "Switch": (0,), "Tile": (0,), "Transpose": (0,), "Unpack": (0,),
}  # fmt: skip


def wants_of_tensorflow(graph: Any, fed: Mapping[str, str]) -> Wants:
    """Return what a tf.Graph says of its inputs.

    Args:
        graph: The graph, whose tensors have static shapes.
        fed: The tensor of each input.
    """
    starts = {name: graph.get_tensor_by_name(tensor) for name, tensor in fed.items()}
    return followed(
        {name: start for name, start in starts.items() if _may_count(start)},
        _uses,
        lambda tensor: tensor.name,
    )


def _may_count(start: Any) -> bool:
    few = start.shape.rank is None or start.shape.rank < 3
    return bool(start.dtype.is_integer or (start.dtype.is_floating and few))


def _uses(tensor: Any) -> Iterator[Use]:
    """Yield what is done with a tensor's values."""
    for op in tensor.consumers():
        for place, given in enumerate(op.inputs):
            if given.name == tensor.name:
                yield _use(op, place)


def _use(op: Any, place: int) -> Use:
    """Return what an operator says of the values of an input, and where they go on."""
    limits = tuple(_limits(op, place))
    if op.type == "Cast" and op.outputs[0].dtype.is_bool:
        return Use(limits, mask=True)
    mask = op.type == "Sub" and place == 1 and _single(op.inputs[0]) == 1
    value = _single(op.inputs[1 - place]) if op.type in ("Equal", "NotEqual") else None
    special = {int(value)} if value is not None and value.is_integer() else ()
    places = _HANDS_ON.get(op.type, ())
    onward = op.outputs if places is None or place in places else ()
    return Use(limits, frozenset(special), mask, tuple(onward))


def _limits(op: Any, place: int) -> Iterator[Indices]:
    """Yield what is legal as input ``place`` of an operator; TensorFlow never counts from the end.

    What ONNX's operators might read otherwise is legal too: a OneHot makes nothing of -1.
    """
    kind = op.type
    if kind in ("Gather", "GatherV2", "ResourceGather") and place == 1:
        axis = _single(op.inputs[2]) if kind == "GatherV2" else 0
        if axis is not None:
            yield from _rows(op.inputs[0], int(axis))
    elif kind == "GatherNd" and place == 1:
        width = op.inputs[1].shape[-1] if op.inputs[1].shape.rank else None
        for axis in range(width or 0):
            yield from _rows(op.inputs[0], axis)
    elif kind == "OneHot" and place == 0:
        depth = _single(op.inputs[1])
        if depth is not None:
            yield Indices(-1, int(depth))
    elif kind.startswith("UnsortedSegment") and place == 1:
        count = _single(op.inputs[2])
        if count is not None:
            yield Indices(-1, int(count) - 1)  # what is negative is left out


def _rows(table: Any, axis: int) -> Iterator[Indices]:
    rank = table.shape.rank
    size = table.shape[axis] if rank is not None and -rank <= axis < rank else None
    if size:
        yield Indices(0, size - 1)


def _single(tensor: Any) -> float | None:
    """Return the value of a constant of one element."""
    value = tensorflow().get_static_value(tensor)
    return float(value.item()) if value is not None and value.size == 1 else None
