"""Pre- and postprocessing as nodes of the graph: an engine takes pictures, and gives answers.

Given a graph that takes what a recipe makes of a picture, Result takes the picture itself: (batch,
height, width, channels) uint8 in RGB, or gray where the network is. Given one that makes scores of
classes for each pixel, or a detector's rows, Result makes the classes, or boxes after suppression.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from onnxgraft.data.placement import Placement
from onnxgraft.data.postprocess import Postprocess
from onnxgraft.data.preprocess import Preprocess
from onnxgraft.errors import InputError, nearest
from onnxgraft.graph.model import Model
from onnxgraft.graph.tensors import Feeds, TensorSpec
from onnxgraft.stages.engine.baking.answers import bake_answers
from onnxgraft.stages.engine.baking.checking import check_answers, check_pictures, same_boxes
from onnxgraft.stages.engine.baking.pictures import OUTSIDE, bake_pictures, resizes

__all__ = ["Baked", "Part", "bake", "checked", "drawn", "resizes", "same_boxes"]

Part = Literal["preprocess", "postprocess"]
# Height, width and channels of pictures of any size, which nothing divides.
_ANY = (157, 211, 3)


@dataclass(frozen=True)
class Baked:
    """A graph with more of the work in it, and what is left to do outside of it.

    Attributes:
        model: Takes pictures, or gives answers, or both.
        preprocess: What makes its input of a picture.
        postprocess: What its outputs mean.
        taken: The input that it had before, a tensor within it now; None where pictures are
            prepared outside as before.
        scores: The output that its answers are made of; empty where it gives none.
        placed: Where a picture lies in what the network sees, where the graph knows that.
        sees: What the graph makes of a picture, where its outputs lie in that; None where they lie
            in what is fed.
    """

    model: Model
    preprocess: Preprocess
    postprocess: Postprocess
    taken: TensorSpec | None = None
    scores: str = ""
    placed: Placement | None = None
    sees: Preprocess | None = None


def bake(
    model: Model,
    parts: Collection[str],
    preprocess: Preprocess,
    postprocess: Postprocess,
    picture: tuple[int, int] | None = None,
) -> Baked:
    """Return a graph that does parts of the recipe itself; ``model`` stays as it is.

    Args:
        model: A graph of one input, quantized or not.
        parts: ``preprocess``, ``postprocess`` or both.
        preprocess: The recipe by which pictures are prepared for ``model``.
        postprocess: What its outputs mean.
        picture: Height and width of all pictures, where the recipe does something else with
            pictures of other sizes; None leaves them free where that is possible.

    Raises:
        InputError: A part has another name, or can't be done by ONNX's operators, or not for
            pictures of every size.
    """
    for part in parts:
        if part not in get_args(Part):
            raise InputError(
                f"--bake {part}: there is no such part; {nearest(part, get_args(Part))}"
            )
    if len(model.inputs) != 1:
        told = ", ".join(spec.name for spec in model.inputs)
        raise InputError(f"{model.file}: takes {told}; only a graph of one input can take pictures")
    made, (spec,) = model.copy(), model.inputs
    recipe, placed, scores, after = preprocess.sized(spec), None, "", postprocess
    left, before = preprocess, "preprocess" in parts
    if before:
        made, placed = bake_pictures(made, recipe, spec, picture)
        keys = () if resizes(recipe) else (*OUTSIDE, "pad_value")
        left = Preprocess.model_validate({
            "color": "gray" if recipe.color == "gray" else "rgb", "layout": "nhwc",
            **{key: getattr(recipe, key) for key in keys},
        })  # fmt: skip
    boxes = after.kind == "boxes" or after.form != "auto"
    if before and boxes and (placed is None or "postprocess" not in parts):
        raise InputError(
            "--bake preprocess: a detector's boxes lie in what the network sees, and outside of "
            "the graph nobody knows where that is: bake preprocess,postprocess, with --picture "
            "HEIGHTxWIDTH where pictures are resized"
        )
    if "postprocess" in parts:
        scores, after = bake_answers(made, after, spec, placed)
    sees = recipe if before and not boxes else None
    return Baked(made, left, after, spec if before else None, scores, placed, sees)


def checked(
    baked: Baked, recipe: Preprocess, how: Postprocess, feeds: Iterable[Feeds]
) -> list[str]:
    """Return what is seen of a graph beside the recipe that is in it, a sentence for each part.

    Args:
        baked: The graph.
        recipe: By which pictures were prepared for it before.
        how: What its outputs meant before.
        feeds: Single samples, as it takes them.

    Raises:
        ModelError: It does something else.
    """
    told, feeds = [], list(feeds)
    spec = baked.taken or baked.model.inputs[0]
    recipe = recipe.sized(spec)
    if baked.taken is not None:
        (name,) = (given.name for given in baked.model.inputs)
        told.append(check_pictures(baked.model, spec, recipe, [fed[name] for fed in feeds]))
    if baked.scores:
        sides = [side for side in spec.shape if isinstance(side, int) and side > 4]
        size = (sides[0], sides[1]) if len(sides) == 2 else None
        told.append(
            check_answers(
                baked.model, baked.scores, baked.postprocess, how, feeds, size, baked.placed
            )
        )
    return told


def drawn(baked: Baked, count: int) -> list[Feeds]:
    """Return single samples that are drawn at random, for `checked`."""
    (spec,) = baked.model.inputs
    shape = [1] + [
        side if isinstance(side, int) else free
        for side, free in zip(spec.shape[1:], _ANY, strict=False)
    ]
    rng = np.random.default_rng(0)
    if spec.dtype == "uint8":
        return [{spec.name: rng.integers(0, 256, shape, np.uint8)} for _ in range(count)]
    return [{spec.name: rng.normal(size=shape).astype(spec.dtype)} for _ in range(count)]
