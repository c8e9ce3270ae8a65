"""Answers as nodes behind a network: the class of each pixel, or a detector's boxes.

Given scores of classes for each pixel, Result is the best class, the first of equal ones, in uint8
or int32, in place of the scores. Given rows of YOLO, Result is one row a box that stays after
suppression: (image, class, score, left, top, right, bottom), in pixels of the picture, beside the
rows: ties and last bits decide which boxes stay, so it is by the rows that an engine is proven.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.data.boxes import form_of
from onnxgraft.data.placement import Placement
from onnxgraft.data.postprocess import Postprocess
from onnxgraft.errors import InputError, nearest
from onnxgraft.graph.model import Model
from onnxgraft.graph.tensors import TensorSpec
from onnxgraft.stages.engine.baking.nodes import Nodes

__all__ = ["LEAST_SCORE", "bake_answers"]

# Of boxes, where the recipe does not say it: what metrics count from.
LEAST_SCORE = 0.01
_FEW = 256


def bake_answers(
    model: Model, how: Postprocess, seen: TensorSpec, placed: Placement | None
) -> tuple[str, Postprocess]:
    """Put the meaning of an output behind a model, which is rewritten.

    Returns:
        The output, a tensor within the graph now or still an output; and what those that there
        are now mean.

    Args:
        model: The graph.
        how: What its outputs mean.
        seen: What the network itself takes.
        placed: Where a picture lies in what the network sees; None leaves boxes there.

    Raises:
        InputError: The output is neither a map of scores nor rows of YOLO.
    """
    outputs = {spec.name: spec for spec in model.outputs}
    name = how.output or next(iter(outputs))
    if how.function is not None:
        raise InputError(f"--bake postprocess: {how.function} is Python; a graph can't call it")
    if name not in outputs:
        raise InputError(f"[postprocess] output {name!r}: {nearest(name, outputs)}")
    spec, nodes = outputs[name], Nodes(model, "postprocess")
    tensor = next(out for out in model.graph.outputs if out.name == name)
    boxes = how.kind == "boxes" or how.form != "auto"
    axis = None if boxes else _class_axis(spec, seen, said=how.kind == "segmentation")
    if axis is not None:
        return name, _classes(model, nodes, tensor, spec, axis, how)
    form = _form(spec, how, seen)
    if form is None:
        raise InputError(
            f"--bake postprocess: {spec} is neither scores of classes for each pixel nor rows of "
            "YOLO; name the output, and its kind or form, in [postprocess]"
        )
    return name, _boxes(model, nodes, tensor, form, placed, how)


def _class_axis(spec: TensorSpec, seen: TensorSpec, said: bool) -> int | None:
    """Return the axis of a map's classes, where the others are as the input's; None for no map.

    Where the recipe said that it is one, those may be free, too.
    """
    if len(spec.shape) != 4 or not spec.dtype.startswith("float"):
        return None
    sizes = [side for side in seen.shape if isinstance(side, int) and side > 4]
    for axis, others in ((1, spec.shape[2:]), (3, spec.shape[1:3])):
        classes = spec.shape[axis]
        whole = all(isinstance(side, int) and side > 1 for side in others)
        if isinstance(classes, int) and classes > 1 and whole and len(sizes) == 2:
            rows, columns = (int(side) for side in others)
            if abs(rows * sizes[1] - columns * sizes[0]) < max(sizes):
                return axis
    known = [axis for axis in (1, 2, 3) if isinstance(spec.shape[axis], int)]
    return known[0] if said and known in ([1], [3]) else None


def _classes(
    model: Model, nodes: Nodes, tensor: gs.Tensor, spec: TensorSpec, axis: int, how: Postprocess
) -> Postprocess:
    count = spec.shape[axis]
    best = nodes.add("ArgMax", tensor, axis=axis, keepdims=0)
    kind = np.uint8 if isinstance(count, int) and count <= _FEW else np.int32
    shape = [side for a, side in enumerate(tensor.shape or ()) if a != axis]
    made = _output(nodes, nodes.cast(best, kind), "classes", kind, shape)
    model.graph.outputs = [made if out is tensor else out for out in model.graph.outputs]
    return how.model_copy(update={"output": made.name, "kind": "segmentation"})


def _form(spec: TensorSpec, how: Postprocess, seen: TensorSpec) -> str | None:
    """Return which rows of YOLO an output holds: ``yolov5``, ``yolov8``, or None."""
    if len(spec.shape) != 3 or not all(isinstance(side, int) for side in spec.shape[1:]):
        return None
    sizes = [side for side in seen.shape if isinstance(side, int) and side > 4]
    drawn = np.full((1, *(int(side) for side in spec.shape[1:])), 0.5, np.float32)
    size = (sizes[0], sizes[1]) if len(sizes) == 2 else None
    form = form_of({spec.name: drawn}, how, size)[0]
    return form if form in ("yolov5", "yolov8") else None


def _boxes(
    model: Model, nodes: Nodes, tensor: gs.Tensor, form: str, placed: Placement | None,
    how: Postprocess,
) -> Postprocess:  # fmt: skip
    _, rows, columns = tensor.shape
    if form == "yolov8" and rows < columns:
        tensor = nodes.add("Transpose", tensor, perm=[0, 2, 1])
        rows, columns = columns, rows
    tensor = nodes.cast(tensor, np.float32) if tensor.dtype == np.float16 else tensor
    centres = nodes.slice(tensor, 2, 0, 4)
    scores = nodes.slice(tensor, 2, 5 if form == "yolov5" else 4, columns)
    if form == "yolov5":
        scores = nodes.add("Mul", scores, nodes.slice(tensor, 2, 4, 5))
    least = np.float32(LEAST_SCORE if how.score is None else how.score)
    chosen = nodes.add(
        "NonMaxSuppression", centres, nodes.add("Transpose", scores, perm=[0, 2, 1]),
        nodes.integers(rows), nodes.constant(np.array([how.overlap], np.float32)),
        # Those of just that score are in it, too.
        nodes.constant(np.array([np.nextafter(least, np.float32(-1))], np.float32)),
        center_point_box=1,
    )  # fmt: skip
    image, kind, place = (nodes.slice(chosen, 1, n, n + 1) for n in range(3))
    found = nodes.add("GatherND", centres, nodes.add("Concat", image, place, axis=1))
    score = nodes.add("GatherND", scores, nodes.add("Concat", image, place, kind, axis=1))
    middle = nodes.slice(found, 1, 0, 2)
    half = nodes.add(
        "Mul", nodes.slice(found, 1, 2, 4), nodes.constant(np.array(0.5, np.float32))
    )  # fmt: skip
    edges = nodes.add(
        "Concat", nodes.add("Sub", middle, half), nodes.add("Add", middle, half), axis=1
    )
    if placed is not None:
        shift, scale = (np.tile(np.array(v, np.float32), 2) for v in (placed.shift, placed.scale))
        edges = nodes.add("Sub", edges, nodes.constant(shift))
        edges = nodes.add("Div", edges, nodes.constant(scale))
    whole = nodes.add(
        "Concat", nodes.cast(image, np.float32), nodes.cast(kind, np.float32),
        nodes.add("Unsqueeze", score, nodes.integers(1)), edges, axis=1,
    )  # fmt: skip
    made = _output(nodes, whole, "boxes", np.float32, ["boxes_found", 7])
    model.graph.outputs = [made, *model.graph.outputs]
    return how.model_copy(update={"output": made.name, "kind": "boxes", "form": "ssd"})


def _output(
    nodes: Nodes, made: gs.Variable, name: str, dtype: object, shape: list[int | str]
) -> gs.Variable:
    """Return a tensor by a name that people read, in place of what a node makes."""
    named = nodes.variable(name, dtype, shape)
    made.inputs[0].outputs = [named]
    return named
