"""What a passport says of the ranges, the data and the recipe that an engine was made with."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from onnxgraft.engine import Evidence
from onnxgraft.errors import InputError
from onnxgraft.files import existing_file, sha256
from onnxgraft.pipeline._recipe import read_tables

__all__ = ["evidence", "hash_of_data"]

Place = str | os.PathLike[str]


def evidence(
    *, ranges: Place | None = None, data: Place | None = None, recipe: Place | None = None
) -> Evidence:
    """Return the hashes of what was used, and the recipe's tables for who runs the engine.

    Args:
        ranges: What `calibrate` wrote, or a calibration cache.
        data: What was calibrated on: a folder, a list file or an ``.npz``.
        recipe: A TOML file with ``[preprocess]`` and ``[postprocess]``.
    """
    hashes, tables = {}, {}
    if ranges is not None:
        hashes["ranges"] = sha256(existing_file(ranges, "the ranges file"))
    if data is not None:
        hashes["data"] = hash_of_data(data)
    if recipe is not None:
        before, after = read_tables(recipe)
        hashes["recipe"] = sha256(recipe)
        tables = {
            "preprocess": before.model_dump(mode="json"),
            "postprocess": after.model_dump(mode="json"),
        }
    return Evidence(hashes, tables)


def hash_of_data(path: Place) -> str:
    """Return the SHA-256 over the files of a folder, by name and contents, or of a file."""
    place = Path(path)
    if not place.is_dir():
        return sha256(existing_file(place, "the data"))
    total = hashlib.sha256()
    files = sorted(entry for entry in place.iterdir() if entry.is_file())
    if not files:
        raise InputError(f"{place}: there are no files in it")
    for file in files:
        total.update(f"{file.name}\0{sha256(file)}\n".encode())
    return total.hexdigest()
