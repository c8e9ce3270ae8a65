"""Files: read with a sentence when that fails, written whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import mmap
import os
import re
import tempfile
import tomllib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from onnxgraft.errors import InputError
from onnxgraft.limits import MODEL_BYTES, Limit

__all__ = [
    "atomic",
    "check_place",
    "existing_file",
    "existing_folder",
    "json_text",
    "read_json",
    "read_toml",
    "release_pages",
    "sha256",
    "tell_temporary",
    "watchers",
    "write_bytes",
    "write_json",
]

# Told of each temporary file and folder that is made beside its target: whoever watches this
# process removes what it leaves when it is killed.
watchers: list[Callable[[Path], None]] = []


def tell_temporary(path: Path) -> None:
    """Tell the watchers of a temporary file or folder that was made."""
    for tell in watchers:
        tell(path)


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
    if found.stat().st_size == 0:
        raise InputError(f"{found}: {what} is empty")
    most.check(found.stat().st_size, f"{found}: {what}")
    try:
        found.open("rb").close()
    except OSError as error:
        raise InputError(f"{found}: {what} can't be read ({error.strerror})") from error
    return found


def check_place(path: str | os.PathLike[str] | None) -> None:
    """Raise InputError unless a file can be written at ``path``; None is no place to check.

    Commands ask this before they begin, not after the work.
    """
    if path is None:
        return
    target = Path(path)
    if os.path.isdir(target):
        raise InputError(f"{target}: is a folder; name a file to write")
    if not os.path.isdir(target.parent):
        raise InputError(f"{target}: can't be written, there is no folder {target.parent}")
    if not os.access(target.parent, os.W_OK):
        raise InputError(f"{target}: can't be written, the folder is not writable")


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


@contextlib.contextmanager
def atomic(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` and rename it into place when the block succeeds.

    An interrupted block leaves the old file, or none.

    Raises:
        InputError: The folder does not exist or can't be written, or the disk is full.
    """
    target = Path(path)
    if os.path.isdir(target):
        raise InputError(f"{target}: is a folder; name a file to write")
    try:
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    except OSError as error:
        raise InputError(f"{target}: can't be written ({error.strerror})") from error
    os.close(handle)
    temporary = Path(name)
    tell_temporary(temporary)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except OSError as error:
        raise InputError(f"{target}: can't be written ({error.strerror or error})") from error
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write ``data`` to ``path``, whole or not at all."""
    with atomic(path) as temporary:
        temporary.write_bytes(data)


def write_json(path: str | os.PathLike[str], value: object) -> None:
    """Write ``value`` as indented JSON to ``path``, whole or not at all."""
    write_bytes(path, (json_text(value) + "\n").encode())


def json_text(value: object) -> str:
    """Return ``value`` as JSON that every reader takes: NaN and infinities become null."""
    return json.dumps(_finite(value), indent=2, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


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


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
