"""Files that a command is given: a sentence where one is missing, too large or damaged."""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import re
import tomllib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from onnxgraft.errors import InputError
from onnxgraft.files.journal import check_settled
from onnxgraft.files.limits import JSON_MEMORY, MODEL_BYTES, Limit
from onnxgraft.files.toml import longest_key

__all__ = [
    "check_json", "existing_file", "existing_folder", "parse_json", "parse_toml", "read_json",
    "read_toml", "release_pages", "sha256",
]  # fmt: skip

T = TypeVar("T")
# How deep the values of a document may be nested; ours are less than ten deep.
_DEEPEST = 100
_TOO_DEEP = "its values are nested too deep"


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
        fault = "is no file" if os.path.lexists(found) else "does not exist"
        raise InputError(f"{found}: {what} {fault}; check the path")
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
        ValueError: It is no JSON, or its values are nested too deep, or it holds half a surrogate
            pair, which no output takes.
    """
    text = file.read_bytes().decode()
    value = parse_json(text)
    if _SURROGATE.search(text):
        json.dumps(value, ensure_ascii=False).encode()
    return value


_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def parse_json(text: str | bytes, most: Limit = JSON_MEMORY) -> Any:
    """Return what a JSON text says.

    Args:
        text: Or its bytes.
        most: Bytes that its values may take.

    Raises:
        ValueError: It is no JSON, or its values are nested too deep or take too much memory.
    """
    check_json(text, most)
    return _shallow(lambda: json.loads(text))


def check_json(text: str | bytes, most: Limit = JSON_MEMORY) -> None:
    """Raise ValueError if the values of a JSON text would take more than ``most`` bytes.

    They are not read. A list without values takes 64 bytes, with one 96, an object 190 to 240, and
    a value up to 40 with its place in a list, beside the text that strings are (measured, CPython
    3.11).
    """
    marks: Iterable[Any] = "[{," if isinstance(text, str) else (b"[", b"{", b",")
    cost = sum(text.count(mark) * each for mark, each in zip(marks, (100, 200, 40), strict=True))
    if cost > most.most:
        raise ValueError(f"it {most.refusal(cost)}")


def read_toml(file: Path) -> dict[str, Any]:
    """Return what a TOML file holds.

    Raises:
        ValueError: It is no TOML, or its values are nested too deep.
    """
    return parse_toml(file.read_text(encoding="utf-8-sig"))


def parse_toml(text: str) -> dict[str, Any]:
    """Return what a TOML text says.

    Raises:
        ValueError: It is no TOML, or its values are nested too deep.
    """
    if text.count(".") >= _DEEPEST and longest_key(text) > _DEEPEST:
        raise ValueError(_TOO_DEEP)
    return _shallow(lambda: tomllib.loads(text))


def _shallow(parse: Callable[[], T]) -> T:
    """Return what was parsed: whoever looks at it may call itself for each level, as repr does."""
    try:
        found = parse()
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    level: list[Any] = [[found]]
    for _ in range(1 + _DEEPEST):
        held = (value.values() if isinstance(value, dict) else value for value in level)
        level = [one for values in held for one in values if isinstance(one, dict | list)]
        if not level:
            return found
    raise ValueError(_TOO_DEEP)


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
