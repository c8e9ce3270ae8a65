"""What a TFLite model takes when it runs, by the sizes of its tensors, before it runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from onnxgraft.run.demand import Step, check_steps, size_of, tell_unknown
from onnxgraft.stages.convert.tensorflow.sizes import SIZED
from onnxgraft.stages.convert.tflite.reaching import FLEX
from onnxgraft.stages.convert.tflite.reading import Lite

__all__ = ["check_sizes"]

# Of operators that make a tensor of any size of a few numbers: the inputs that hold those.
_SIZES: dict[str, tuple[int, ...]] = {
    "BROADCAST_TO": (1,),
    "CONV_3D_TRANSPOSE": (0,),
    "DILATE": (1,),
    "FILL": (0,),
    "MIRROR_PAD": (1,),
    "MULTINOMIAL": (1,),
    "ONE_HOT": (1,),
    "PAD": (1,),
    "PADV2": (1,),
    "RANDOM_STANDARD_NORMAL": (0,),
    "RANDOM_UNIFORM": (0,),
    "RANGE": (0, 1, 2),
    "RESIZE_BILINEAR": (1,),
    "RESIZE_NEAREST_NEIGHBOR": (1,),
    "SCATTER_ND": (2,),
    "SEGMENT_SUM": (1,),
    "SPACE_TO_BATCH_ND": (1, 2),
    "SPARSE_TO_DENSE": (1,),
    "TILE": (1,),
    "TRANSPOSE_CONV": (0,),
    "UNSORTED_SEGMENT_MAX": (2,),
    "UNSORTED_SEGMENT_MIN": (2,),
    "UNSORTED_SEGMENT_PROD": (2,),
    "UNSORTED_SEGMENT_SUM": (2,),
}
# They tell of a tensor's shape, whatever its values are.
_OF_SHAPES = frozenset({"RANK", "SHAPE"})


def check_sizes(lite: Lite, told: Iterable[dict[str, Any]]) -> None:
    """Raise ModelError if the tensors of a model take more than is allowed.

    Args:
        lite: The model.
        told: What TensorFlow's interpreter tells of its tensors, which it has not filled yet.
    """
    main, names = lite.main, [tensor.name for tensor in lite.main.tensors]
    sizes = {e["index"]: size_of(e["shape"], np.dtype(e["dtype"]).itemsize) for e in told}
    for index, tensor in enumerate(main.tensors):
        if lite.is_constant(tensor):
            sizes[index] = 0
    steps = (
        Step(
            [names[index] for index in operator.inputs if index >= 0],
            {names[index]: sizes.get(index, 0) for index in operator.outputs if index >= 0},
        )
        for operator in main.operators
    )
    given = {names[index]: sizes.get(index, 0) for index in main.inputs}
    check_steps(steps, given, {names[index] for index in main.outputs}, str(lite.file))
    for graph in lite.model.subgraphs:
        name = _unknown(lite, graph)
        if name is not None:
            tell_unknown(name, sum(len(b.data) for b in lite.model.buffers if b.data is not None))
            break


def _unknown(lite: Lite, graph: Any) -> str | None:
    """Return a tensor of a graph whose size follows from values, if there is one.

    In a branch nothing is known of what TensorFlow's interpreter finds, and what a loop carries
    may grow.
    """
    makers = {index: operator for operator in graph.operators for index in operator.outputs}
    of_shapes = set[int]()
    for operator in (operator for operator in graph.operators if operator.outputs):
        sizing = _sizing(lite, graph, operator)
        grows = lite.kind(operator) == "WHILE" or (graph is not lite.main and sizing)
        if grows or _follows(lite, graph, sizing, makers, of_shapes):
            return str(graph.tensors[operator.outputs[0]].name)
    return None


def _sizing(lite: Lite, graph: Any, operator: Any) -> list[int]:
    """Return the inputs of an operator whose values say how large its output is."""
    kind, inputs = lite.kind(operator), operator.inputs
    if SIZED.fullmatch(kind.removeprefix(FLEX)) and kind.startswith(FLEX):
        kinds = [(index, lite.type_of(graph.tensors[index])) for index in inputs if index >= 0]
        return [index for index, type_ in kinds if type_ in ("INT32", "INT64")]
    return [inputs[place] for place in _SIZES.get(kind, ()) if place < len(inputs)]


def _follows(
    lite: Lite, graph: Any, sizing: Sequence[int], makers: dict[int, Any], of_shapes: set[int]
) -> bool:
    """Tell whether numbers follow from values that are fed, and not from shapes alone.

    Args:
        lite: The model.
        graph: One of its graphs.
        sizing: The tensors of the numbers.
        makers: What makes each tensor.
        of_shapes: Those that are known to follow from shapes; what is found is added.
    """
    left = [index for index in sizing if index >= 0]
    while left:
        index = left.pop()
        if index in of_shapes or lite.is_constant(graph.tensors[index]):
            continue
        if index not in makers:
            return True
        of_shapes.add(index)
        if lite.kind(makers[index]) not in _OF_SHAPES:
            left += [before for before in makers[index].inputs if before >= 0]
    return False
