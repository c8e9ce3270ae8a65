"""The recipe of a picture as nodes before a network.

Given (batch, height, width, channels) uint8 in RGB or gray, Result is what the recipe makes of it.
A resize is ONNX's own, so where the recipe rounds to whole levels a value may be another level
than OpenCV's or Pillow's: their sums have fewer bits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.data.placement import Box, Placement, Plan
from onnxgraft.data.preprocess import Preprocess
from onnxgraft.errors import InputError
from onnxgraft.graph.model import Model
from onnxgraft.graph.opset import raise_opset
from onnxgraft.graph.tensors import TensorSpec
from onnxgraft.stages.engine.baking.nodes import Nodes

__all__ = ["OUTSIDE", "bake_pictures", "resizes"]

Size = tuple[int, int]
# What stays outside where nothing is resized.
OUTSIDE = ("central_fraction", "crop", "center_crop", "pad")
# Resize has `antialias` from it on.
_ANTIALIAS = 18
_MODES: dict[str, dict[str, Any]] = {
    "nearest": {
        "mode": "nearest", "nearest_mode": "floor", "coordinate_transformation_mode": "asymmetric"
    },
    "bilinear": {"mode": "linear", "coordinate_transformation_mode": "half_pixel"},
    "bicubic": {
        "mode": "cubic", "coordinate_transformation_mode": "half_pixel", "cubic_coeff_a": -0.75
    },
}  # fmt: skip
# Pillow's cubic is another one than OpenCV's.
_PILLOW = -0.5


def bake_pictures(
    model: Model, recipe: Preprocess, spec: TensorSpec, picture: Size | None
) -> tuple[Model, Placement | None]:
    """Put the recipe before the only input of a model, which is rewritten.

    What only cuts and fills, without a resize before it, is left outside: there it costs nothing,
    and who shows an answer has to know what of a picture it is of.

    Args:
        model: The graph.
        recipe: With known sizes.
        spec: Of the input.
        picture: Height and width of the pictures; None leaves them free, if the recipe does the
            same with all.

    Returns:
        The model, in a later opset if it has to be; and where a picture lies in what the network
        sees, None if that differs from picture to picture.

    Raises:
        InputError: The recipe can't be written so, or makes something else than the input takes.
    """
    channels = 1 if recipe.color == "gray" else 3
    first = _channels_first(recipe, spec, channels)
    height, width = spec.shape[2:] if first else spec.shape[1:3]
    if recipe.function is not None:
        raise InputError(f"--bake preprocess: {recipe.function} is Python; a graph can't call it")
    if recipe.interpolation == "area" and resizes(recipe):
        raise InputError(
            "--bake preprocess: ONNX's Resize has no interpolation over areas; use bilinear with "
            "antialias, with which the ranges have to be measured again"
        )
    plan, given = None, (height, width)
    if resizes(recipe):
        plan, given = _plan(recipe, picture)
        made = plan.pad
        if any(isinstance(a, int) and a != b for a, b in zip((height, width), made, strict=True)):
            raise InputError(
                f"--bake preprocess: the recipe makes pictures of {made[0]}x{made[1]}, and the "
                f"input is {spec}"
            )
    elif picture is not None:
        raise InputError("--picture: the recipe does not resize; pictures are of the input's size")
    if recipe.antialias and plan is not None and model.graph.opset < _ANTIALIAS:
        model = raise_opset(model, _ANTIALIAS)
    nodes, graph = Nodes(model, "preprocess"), model.graph
    (old,) = graph.inputs
    start = len(graph.nodes)
    new = nodes.variable("picture", np.uint8, (spec.shape[0], *given, channels))
    writer = _Writer(nodes, recipe, spec)
    seen = nodes.cast(new, np.float32) if plan is None else writer.seen(new, plan, given)
    # The last node makes what was the input.
    writer.normalized(seen, channels, first).inputs[0].outputs = [old]
    graph.inputs = [new]
    graph.nodes[:] = [*graph.nodes[start:], *graph.nodes[:start]]
    if plan is None:
        return model, Placement()
    return model, plan.placement if picture is not None else None


def _channels_first(recipe: Preprocess, spec: TensorSpec, channels: int) -> bool:
    shape = spec.shape
    if len(shape) == 4 and recipe.layout != "nhwc" and shape[1] == channels:
        return recipe.layout == "nchw" or shape[3] != channels
    if len(shape) == 4 and recipe.layout != "nchw" and shape[3] == channels:
        return False
    raise InputError(
        f"--bake preprocess: the input {spec} takes no batch of pictures of {channels} channels"
    )


def resizes(recipe: Preprocess) -> bool:
    """Tell whether a recipe resizes."""
    return recipe.resize is not None or recipe.shorter_side is not None


def _plan(recipe: Preprocess, picture: Size | None) -> tuple[Plan, tuple[int | str, int | str]]:
    """Return what becomes of pictures, and their height and width, free or not."""
    if picture is not None:
        return recipe.plan(picture[1], picture[0]), picture
    free = "picture_height", "picture_width"
    stretched = isinstance(recipe.resize, tuple) and recipe.letterbox is None
    if stretched and recipe.central_fraction is None:
        assert isinstance(recipe.resize, tuple)
        return recipe.plan(recipe.resize[1], recipe.resize[0]), free
    raise InputError(
        "--bake preprocess: what the recipe does depends on the picture's size; say it with "
        "--picture HEIGHTxWIDTH"
    )


class _Writer:
    """Writes the steps of a recipe.

    Args:
        nodes: Makes them.
        recipe: The recipe.
        spec: Of the network's input.
    """

    def __init__(self, nodes: Nodes, recipe: Preprocess, spec: TensorSpec) -> None:
        self._nodes, self._recipe, self._spec = nodes, recipe, spec
        self._rows = 1  # the axis of the height; that of the width is the next one

    def seen(
        self, tensor: gs.Tensor, plan: Plan, given: tuple[int | str, int | str]
    ) -> gs.Variable:
        """Return pictures cut, resized, set in a frame, cropped and padded, as float32."""
        recipe, nodes = self._recipe, self._nodes
        if plan.cut != Box.whole((plan.cut.height, plan.cut.width)) or (
            recipe.central_fraction is not None
        ):
            tensor = self._part(tensor, plan.cut)
        made = nodes.cast(tensor, np.float32)
        if given != plan.size:
            made = nodes.add("Transpose", made, perm=[0, 3, 1, 2])
            self._rows = 2
            made = self._resized(made, plan.size)
        made = self._set_in(made, plan.size, plan.room, plan.at, recipe.letterbox or 0)
        kept = plan.crop.height, plan.crop.width
        if recipe.crop is not None or recipe.center_crop is not None:
            made = self._part(made, plan.crop)
        return self._set_in(made, kept, plan.pad, (0, 0), recipe.pad_value)

    def normalized(self, made: gs.Variable, channels: int, first: bool) -> gs.Variable:
        """Return pictures with the channels, values, layout and type of the network's input."""
        recipe, nodes = self._recipe, self._nodes
        axis = 3 if self._rows == 1 else 1
        if recipe.color == "bgr":
            made = nodes.add("Gather", made, nodes.integers(2, 1, 0), axis=axis)
        for name, op, usual in (("mean", "Sub", 0.0), ("scale", "Mul", 1.0), ("std", "Div", 1.0)):
            values = getattr(recipe, name)
            if values != (usual,):
                if len(values) not in (1, channels):
                    raise InputError(
                        f"the recipe's {name} has {len(values)} values, the network {channels} "
                        "channels"
                    )
                shape = [-1 if a == axis else 1 for a in range(4)]
                whole = np.array(values, np.float32).reshape(shape)
                made = nodes.add(op, made, nodes.constant(whole))
        if first != (axis == 1):
            made = nodes.add("Transpose", made, perm=[0, 3, 1, 2] if first else [0, 2, 3, 1])
        return nodes.cast(made, self._spec.dtype) if self._spec.dtype != "float32" else made

    def _part(self, tensor: gs.Tensor, box: Box) -> gs.Variable:
        rows = self._nodes.slice(tensor, self._rows, box.top, box.top + box.height)
        return self._nodes.slice(rows, self._rows + 1, box.left, box.left + box.width)

    def _resized(self, tensor: gs.Tensor, size: Size) -> gs.Variable:
        recipe, nodes = self._recipe, self._nodes
        how = dict(_MODES[recipe.interpolation])
        if recipe.antialias:
            how |= {"antialias": 1, "exclude_outside": 1}
            if recipe.interpolation == "bicubic":
                how["cubic_coeff_a"] = _PILLOW
        before = nodes.slice(nodes.add("Shape", tensor), 0, 0, 2)
        sizes = nodes.add("Concat", before, nodes.integers(*size), axis=0)
        made = nodes.add("Resize", tensor, None, None, sizes, **how)
        if not recipe.rounded or recipe.interpolation == "nearest":
            return made
        made = nodes.add("Round", made)
        if recipe.interpolation != "bicubic":
            return made
        ends = (nodes.constant(np.array(level, np.float32)) for level in (0, 255))
        return nodes.add("Clip", made, *ends)

    def _set_in(
        self, tensor: gs.Variable, size: Size, room: Size, at: Size, value: float
    ) -> gs.Variable:
        if size == room:
            return tensor
        before, after = [0] * 4, [0] * 4
        for number in (0, 1):
            before[self._rows + number] = at[number]
            after[self._rows + number] = room[number] - at[number] - size[number]
        pads = self._nodes.integers(*before, *after)
        level = self._nodes.constant(np.array(value, np.float32))
        return self._nodes.add("Pad", tensor, pads, level)
