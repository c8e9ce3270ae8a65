"""Whether a graph with the recipe in it does what the recipe does, on some pictures."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from onnxgraft.data.boxes import find_boxes
from onnxgraft.data.placement import Placement
from onnxgraft.data.postprocess import Postprocess
from onnxgraft.data.preprocess import Preprocess
from onnxgraft.data.samples import picture_feed
from onnxgraft.errors import ModelError
from onnxgraft.graph.cut import extract
from onnxgraft.graph.model import Model
from onnxgraft.graph.tensor_option import TensorOption
from onnxgraft.graph.tensors import Array, Feeds, TensorSpec
from onnxgraft.run.answers import answers
from onnxgraft.run.session import OnnxRuntime
from onnxgraft.run.tolerances import (
    BAKED_ANTIALIASED_LEVELS,
    BAKED_LEVELS,
    BAKED_PIXELS,
    BAKED_RESIZED_LEVELS,
    BAKED_SCORES,
)
from onnxgraft.stages.engine.baking.answers import LEAST_SCORE
from onnxgraft.stages.engine.baking.pictures import OUTSIDE, resizes

__all__ = ["check_answers", "check_pictures", "same_boxes"]


def check_pictures(
    model: Model, taken: TensorSpec, recipe: Preprocess, pictures: Iterable[Array]
) -> str:
    """Return what is seen of a graph that prepares pictures, beside the recipe.

    Args:
        model: The graph.
        taken: The tensor in it that was the input.
        recipe: Which prepares pictures for it.
        pictures: (1, height, width, channels) uint8 in RGB, or gray.

    Raises:
        ModelError: It makes something else.
    """
    allowed = BAKED_LEVELS
    if resizes(recipe):
        allowed = BAKED_ANTIALIASED_LEVELS if recipe.antialias else BAKED_RESIZED_LEVELS
    level = 1 / np.abs(np.asarray(recipe.factors, np.float64)).max(initial=0.0)
    worst, other, total = 0.0, 0, 0
    (name,) = (given.name for given in model.inputs)
    part = extract(model, outputs=[TensorOption(taken.name, None)])
    # What is left outside was done already.
    inside = recipe if resizes(recipe) else recipe.model_copy(update=dict.fromkeys(OUTSIDE))
    with OnnxRuntime(part.to_onnx(), name="the graph's preprocessing", optimize=False) as session:
        for picture in pictures:
            pixels = picture[0] if recipe.color == "gray" else picture[0, :, :, ::-1]
            pixels = np.ascontiguousarray(pixels)
            made = inside.prepared(pixels)
            wanted = picture_feed([("the picture", made)], taken, recipe.layout)
            (found,) = answers(session, {name: picture}).values()
            apart = np.abs(found.astype(np.float64) - wanted) * level
            worst = max(worst, float(apart.max(initial=0.0)))
            other, total = other + int((apart > BAKED_LEVELS).sum()), total + apart.size
    if worst > allowed:
        raise ModelError(
            f"{model.file}: with the preprocessing in it, values of pictures are up to {worst:.3g} "
            f"levels of 0 to 255 from what the recipe makes, {allowed:.3g} at most are rounding; "
            "leave --bake preprocess out, and report this"
        )
    if not other:
        return "the graph prepares pictures as the recipe does"
    return (
        f"the graph prepares pictures as the recipe does, but for {100 * other / total:.2f} % of "
        f"the values, which are up to {worst:.2g} levels of 0 to 255 away: its resize rounds "
        "otherwise"
    )


def check_answers(
    model: Model, scores: str, left: Postprocess, how: Postprocess, feeds: Iterable[Feeds],
    size: tuple[int, int] | None = None, placed: Placement | None = None,
) -> str:  # fmt: skip
    """Return what is seen of a graph that gives answers, beside the recipe.

    Args:
        model: The graph.
        scores: The tensor in it that the answers are made of.
        left: What its outputs mean.
        how: What they meant before.
        feeds: Single samples.
        size: Height and width of what the network sees, where they are known.
        placed: Where a picture lies in that, where the graph knows it.

    Raises:
        ModelError: It answers something else.
    """
    assert left.output is not None
    probe = extract(model, outputs=[TensorOption(scores, None), TensorOption(left.output, None)])
    with OnnxRuntime(probe.to_onnx(), name="the graph's postprocessing", optimize=False) as session:
        for fed in feeds:
            found = answers(session, fed)
            same = (
                _same_classes(found[scores], found[left.output])
                if left.kind == "segmentation"
                else same_boxes(found[scores], found[left.output], how, size, placed)
            )
            if not same:
                raise ModelError(
                    f"{model.file}: with the postprocessing in it, {left.output} is not what the "
                    f"recipe makes of {scores}; leave --bake postprocess out, and report this"
                )
    return "the graph gives the answers that the recipe makes of its scores"


def _same_classes(scores: Array, classes: Array) -> bool:
    """Tell whether classes are the best of scores along the axis that they lack."""
    axis = next(a for a in (1, 3) if scores.shape[:a] + scores.shape[a + 1 :] == classes.shape)
    return bool((scores.argmax(axis) == classes).all())


def same_boxes(
    rows: Array, boxes: Array, how: Postprocess, size: tuple[int, int] | None,
    placed: Placement | None,
) -> bool:  # fmt: skip
    """Tell whether boxes are those that the recipe finds in YOLO's rows."""
    how = how.model_copy(update={"score": LEAST_SCORE if how.score is None else how.score})
    wanted = find_boxes({"rows": rows}, how, size, counted=True)
    edges = wanted.edges if placed is None else placed.back(wanted.edges)
    right = np.column_stack([wanted.classes, wanted.scores, edges])
    made = boxes[:, 1:].astype(np.float64)
    if right.shape != made.shape:
        return False
    near = np.array([0, BAKED_SCORES, *(BAKED_PIXELS,) * 4])
    left = np.ones(len(made), bool)
    for box in right:  # those whose scores are as good as equal stand in any order
        partners = np.flatnonzero(left & (np.abs(made - box) <= near).all(1))
        if not len(partners):
            return False
        left[partners[0]] = False
    return True
