"""What a run can be made again by: its recipe, and the hashes of what it read."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from onnxgraft.commands._recipe_tables import Recipe
from onnxgraft.files import sha256
from onnxgraft.files.toml import toml_key, toml_text

__all__ = ["file_hashes", "recipe_text"]


def recipe_text(recipe: Recipe) -> str:
    """Return a recipe as TOML: every key that is not as it is by default."""
    return _table(recipe.model_dump(mode="json", by_alias=True, exclude_defaults=True), ())


def _table(values: Mapping[str, Any], path: Sequence[str]) -> str:
    plain = {key: value for key, value in values.items() if not isinstance(value, Mapping)}
    lines = [f"{toml_key(key)} = {toml_text(value)}" for key, value in plain.items()]
    if path and lines:
        lines = ["", f"[{'.'.join(map(toml_key, path))}]", *lines]
    inner = [_table(values[key], (*path, key)) for key in values if key not in plain]
    return "".join([*(f"{line}\n" for line in lines), *inner])


def file_hashes(files: Mapping[str, str | os.PathLike[str] | None]) -> dict[str, str]:
    """Return the SHA-256 of those of the files, by what they are for, that are there."""
    return {
        role: sha256(Path(file))
        for role, file in files.items()
        if file is not None and Path(file).is_file()
    }
