"""What a model tells of the images it was trained on, in a form that travels in its ONNX file.

It is told by the framework's file (the family of a Keras application), by what exporters write into
an ONNX file's metadata, and by the graph, where that scales its pixels itself:

Given  image -> [Transpose, Cast, ...] -> Mul(1 / 255) -> Conv
Result pixels of 0 to 255 are fed
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.files import parse_json
from onnxgraft.graph.operators import is_op

__all__ = ["KEY", "Told", "of_metadata", "read_told", "scaled_by"]

# Where an ONNX file of ours carries it.
KEY = "onnxgraft.pictures"

# A scale beyond it makes pixels small, and an offset beyond it centres pixels: no layer's own.
_SMALL, _LARGE = 1 / 50, 50.0
_PASSED = ("Cast", "Identity", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Slice", "Split",
           "Concat", "Gather", "Resize", "Pad")  # fmt: skip
_MOST = 24  # nodes that are looked at
_COLORS = {"Bgr8": "bgr", "Bgra8": "bgr", "Rgb8": "rgb", "Rgba8": "rgb", "Gray8": "gray"}
_RANGES: dict[str, dict[str, Any]] = {
    "NominalRange_0_255": {},
    "Normalized_0_1": {"scale": [1 / 255]},
    "Normalized_1_1": {"mean": [127.5], "scale": [1 / 127.5]},
    "NominalRange_16_235": {"mean": [-16 * 255 / 219], "scale": [219 / 255]},
}
_KEYS = ("preset", "color", "mean", "scale", "std", "fit", "crop")


@dataclass(frozen=True)
class Told:
    """What a model tells.

    Attributes:
        keys: Of ``[preprocess]``; and ``fit`` and ``crop``, where images are resized to the input's
            size, or their middle of that size is cut out.
        why: What tells it, as the end of a sentence.
    """

    keys: dict[str, Any] = field(default_factory=dict)
    why: str = ""

    def written(self) -> str:
        """Return it as a text for an ONNX file."""
        return json.dumps({"keys": self.keys, "why": self.why})


def read_told(metadata: Mapping[str, str]) -> Told | None:
    """Return what `Told.written` wrote into a model's metadata; None where nothing is there.

    A stranger may have written it: sizes and functions are none of what is read.
    """
    try:
        found = parse_json(metadata.get(KEY, "null"))
        if found is None:
            return None
        keys = {key: value for key, value in found["keys"].items() if key in _KEYS}
        return Told(keys, str(found["why"]))
    except (AttributeError, ValueError, KeyError, TypeError):
        return None


def of_metadata(properties: Mapping[str, str]) -> Told | None:
    """Return what an ONNX file's properties tell: ONNX's own of images, or those of Ultralytics.

    See ``docs/MetadataProps.md`` of ONNX.
    """
    color = _COLORS.get(properties.get("Image.BitmapPixelFormat", ""))
    levels = _RANGES.get(properties.get("Image.NominalPixelRange", ""))
    if color is not None or levels is not None:
        keys = {"fit": True, **(levels or {})}
        if color is not None:
            keys["color"] = color
        return Told(keys, "the ONNX file's metadata say so (Image.*)")
    yolo = properties.get("author") == "Ultralytics" or "Ultralytics" in properties.get(
        "description", ""
    )
    if yolo and properties.get("task", "detect") != "classify":
        return Told({"preset": "yolo"}, "the ONNX file's metadata name Ultralytics")
    return None


def scaled_by(graph: gs.Graph) -> str | None:
    """Return the node at which a graph scales or centres the pixels of its image; None if none.

    It is to be asked before a clean-up, which folds such a node into the layer behind it.
    """
    waiting = [
        tensor for tensor in graph.inputs if tensor.shape is not None and len(tensor.shape) == 4
    ]
    looked = 0
    while waiting and looked < _MOST:
        tensor = waiting.pop(0)
        for node in tensor.outputs:
            looked += 1
            if is_op(node, *_PASSED):
                waiting += node.outputs
            elif is_op(node, "Add", "Div", "Mul", "Sub"):
                if _scales(node, tensor):
                    return str(node.name)
                waiting += node.outputs
    return None


def _scales(node: gs.Node, tensor: gs.Tensor) -> bool:
    """Tell whether a node makes pixels small, or takes much from them."""
    others = [other for other in node.inputs if other is not tensor]
    if len(others) != 1 or not isinstance(others[0], gs.Constant):
        return False
    values = np.abs(np.asarray(others[0].values, np.float64)).ravel()
    if not 0 < values.size <= 4 or not np.isfinite(values).all():
        return False
    if is_op(node, "Mul"):
        return bool(values.max() <= _SMALL)
    return bool(values.min() >= _LARGE)
