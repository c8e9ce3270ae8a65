"""Files that a command is given: a sentence where one is missing, too large or damaged."""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import re
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from onnxgraft.errors import InputError
from onnxgraft.files.journal import check_settled
from onnxgraft.files.limits import MODEL_BYTES, Limit

__all__ = [
    "existing_file", "existing_folder", "read_json", "read_toml", "release_pages", "sha256",
]  # fmt: skip


def existing_file(path: str | os.PathLike[str], what: str, most: Limit = MODEL_BYTES) -> Path:
    """Return ``path`` if it is a file that is not empty and not too large.

    Args:
        path: Of the file.
        what: Names it in the error.
        most: It may have.
    """
    found = Path(path)
    # Not Path's own: they raise at a name that the system does not take.
    if os.path.isdir(found):
        raise InputError(f"{found}: {what} is a folder, a file was expected")
    if not os.path.isfile(found):
        raise InputError(f"{found}: {what} does not exist; check the path")
    check_settled(found)
    if found.stat().st_size == 0:
        raise InputError(f"{found}: {what} is empty")
    most.check(found.stat().st_size, f"{found}: {what}")
    try:
        found.open("rb").close()
    except OSError as error:
        raise InputError(f"{found}: {what} can't be read ({error.strerror})") from error
    return found


def existing_folder(path: str | os.PathLike[str], what: str) -> Path:
    """Return ``path`` if it is a folder; ``what`` names it in the error."""
    found = Path(path)
    if not os.path.isdir(found):
        raise InputError(f"{found}: {what} is not a folder; check the path")
    return found


def read_json(file: Path) -> Any:
    """Return what a JSON file holds.

    Raises:
        ValueError: It is no JSON, or its values are nested a thousand deep, or it holds half a
            surrogate pair, which no output takes.
    """
    text = file.read_bytes().decode()
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError("its values are nested too deep") from None
    if _SURROGATE.search(text):
        json.dumps(value, ensure_ascii=False).encode()
    return value


_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def read_toml(file: Path) -> dict[str, Any]:
    """Return what a TOML file holds.

    Raises:
        ValueError: It is no TOML, or its values are nested hundreds deep.
    """
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError("its values are nested too deep") from None


def sha256(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def release_pages(arrays: Iterable[Any]) -> None:
    """Let the system take back the memory of arrays that are views of mapped files.

    They stay valid: what is used again is read again.
    """
    for base in arrays:
        while getattr(base, "base", None) is not None:
            base = base.base
        mapped = base.obj if isinstance(base, memoryview) else base
        if isinstance(mapped, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
            mapped.madvise(mmap.MADV_DONTNEED)
