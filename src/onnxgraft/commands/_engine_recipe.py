"""The recipe of an engine: the tables in its passport."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeVar

from onnxgraft.data.declared import ValidationError
from onnxgraft.data.postprocess import Postprocess
from onnxgraft.data.preprocess import Preprocess
from onnxgraft.errors import InputError
from onnxgraft.files.trust import Trust
from onnxgraft.stages.engine.passport import passport_path, read_passport

__all__ = ["agreed", "recipe_of", "sees_of"]

_Table = TypeVar("_Table", Preprocess, Postprocess)


def recipe_of(
    path: str | os.PathLike[str], trust: Trust, before: bool = False, after: bool = True
) -> tuple[Preprocess, Postprocess]:
    """Return what an engine's passport says of images and outputs, or the defaults.

    Args:
        path: Of the engine.
        trust: Of the functions that the passport names.
        before: Whether the function of ``[preprocess]`` is needed, and loaded.
        after: Likewise of ``[postprocess]``.
    """
    if not passport_path(path).is_file():
        return Preprocess(), Postprocess()
    tables = read_passport(path).recipe
    place = passport_path(path)
    first = _read(place, Preprocess, tables.get("preprocess", {}))
    second = _read(place, Postprocess, tables.get("postprocess", {}))
    if before and first.function is not None:
        found = first.function.loaded(trust, f"{place}: [preprocess]")
        first = first.model_copy(update={"function": found})
    if after and second.function is not None:
        found = second.function.loaded(trust, f"{place}: [postprocess]")
        second = second.model_copy(update={"function": found})
    return first, second


def sees_of(path: str | os.PathLike[str]) -> Preprocess | None:
    """Return what an engine itself makes of a picture, where its outputs lie in that."""
    if not passport_path(path).is_file():
        return None
    inside = read_passport(path).recipe.get("inside")
    return None if inside is None else _read(passport_path(path), Preprocess, inside)


def _read(place: Path, table: type[_Table], keys: object) -> _Table:
    try:
        return table.model_validate(keys)
    except ValidationError as error:
        raise InputError(f"{place}: its recipe is damaged ({error})") from error


def agreed(before: Preprocess, after: Postprocess) -> tuple[Preprocess, Postprocess]:
    """Return the two tables with a letterbox in both, and the names of classes read.

    Raises:
        InputError: One says that there is a letterbox, and the other that there is none.
    """
    if after.letterbox and before.letterbox is None:
        if before.resize is None:
            raise InputError(
                "[postprocess] letterbox says how the image is resized: set resize = [height, "
                "width] in [preprocess]"
            )
        given = {key: getattr(before, key) for key in before.model_fields_set}
        before = Preprocess.model_validate({**given, "letterbox": True})
    if after.letterbox is False and before.letterbox is not None:
        raise InputError("letterbox is set in [preprocess], and false in [postprocess]")
    return before, after.named()
