"""What is assumed of images where no preprocessing is given: what the model tells, told in turn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from onnxgraft.data.declared import ValidationError
from onnxgraft.data.listing import list_data
from onnxgraft.data.preprocess import Preprocess
from onnxgraft.data.samples import Data, Samples
from onnxgraft.data.streams import is_data
from onnxgraft.errors import InputError
from onnxgraft.graph.pictures import read_told
from onnxgraft.graph.tensors import TensorSpec

__all__ = ["assumed", "is_given", "of_images"]

_CURE = "name a preset or write [preprocess] where that is wrong"


def assumed(
    given: Preprocess | None,
    data: Data,
    metadata: Mapping[str, str],
    inputs: Sequence[TensorSpec],
) -> tuple[Preprocess, str]:
    """Return the preprocessing, and a sentence on what was assumed; empty where it was given.

    Args:
        given: What the user gave; a table without any key is none.
        data: That are to be fed: of images alone something is assumed.
        metadata: Of the model, see `onnxgraft.graph.pictures`.
        inputs: To be fed.
    """
    if is_given(given):
        return given or Preprocess(), ""
    if not of_images(data):
        return given or Preprocess(), ""
    told, recipe, why = read_told(metadata), Preprocess(), "nothing in the model says otherwise"
    if told is not None:
        try:
            keys = dict(told.keys)
            size = {"resize": "input"} if keys.pop("fit", False) else {}
            size |= {"center_crop": "input"} if keys.pop("crop", False) else {}
            recipe = Preprocess.model_validate({**keys, **size})
            why = told.why
        except ValidationError:  # another version wrote it, or a stranger
            told = None
    for spec in inputs:
        try:
            recipe.sized(spec)
        except InputError:  # it takes images of any size
            recipe = recipe.model_copy(
                update={"resize": None, "letterbox": None, "center_crop": None}
            )
    return recipe, f"no preprocessing was given: assumed {recipe.told}; {why}; {_CURE}"


def is_given(recipe: Preprocess | None) -> bool:
    """Tell whether a table says anything, be it what is usual."""
    return recipe is not None and bool(recipe.model_fields_set)


def of_images(data: Data) -> bool:
    """Tell whether data are image files."""
    if isinstance(data, Samples):
        return False  # their recipe was chosen when they were opened
    if is_data(data) or Path(data).suffix == ".npz":
        return False
    lists = Path(data).suffix in (".json", ".jsonl")
    return not (lists and Path(data).is_file() and list_data(Path(data)).rows)
