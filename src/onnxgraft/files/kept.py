"""What the stages of a run made, kept for the next run under the hash of what they read.

An entry is a folder, ``STAGE-KEY``, with what a stage wrote and ``kept.json``, which has the hash
of every file. It is whole or absent: it is written under another name and renamed. One that was
changed or damaged since is no entry, and is made again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from onnxgraft.errors import InputError
from onnxgraft.files.journal import TEMPORARY
from onnxgraft.files.reading import read_json, sha256
from onnxgraft.files.writing import remove_left, tell_temporary, umask, write_json

__all__ = ["Entry", "Kept", "key_of"]

_LIST = "kept.json"
_FORMAT = "onnxgraft.kept/1"
_NAME = re.compile(r"[a-z0-9_-]+-[0-9a-f]{64}")


def key_of(reads: Mapping[str, object]) -> str:
    """Return the SHA-256 of what a stage reads: plain values, which JSON takes.

    >>> key_of({"a": 1, "b": (2,)}) == key_of({"b": [2], "a": 1})
    True
    """
    text = json.dumps(reads, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Entry:
    """What a stage made.

    Attributes:
        folder: With its files.
        created: When, in ISO 8601; empty where this run did.
        seconds: That it took.
    """

    folder: Path
    created: str = ""
    seconds: float = 0.0

    def files(self) -> list[Path]:
        """Return what the stage wrote."""
        return sorted(path for path in self.folder.iterdir() if path.name != _LIST)


class Kept:
    """A folder of entries, which one process at a time uses: whoever has claimed its place.

    Args:
        folder: Made when there is something to keep.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._used: set[str] = set()
        if os.path.lexists(folder) and not folder.is_dir():
            raise InputError(f"{folder}: is in the way of what is kept; remove or rename it")
        for path in self._named(rf"\..*{TEMPORARY}"):
            remove_left(path)

    def find(self, stage: str, key: str) -> Entry | None:
        """Return what a stage made under a key, if it is there as it was made."""
        folder = self._place(stage, key)
        try:
            told = read_json(folder / _LIST)
            whole = told["format"] == _FORMAT and told["files"] == _hashes(folder)
            found = Entry(folder, str(told["created"]), float(told["seconds"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None
        if not whole:
            return None
        self._used.add(folder.name)
        return found

    def entry(self, stage: str, key: str) -> Entry:
        """Return what was made in this run."""
        return Entry(self._place(stage, key))

    @contextlib.contextmanager
    def make(self, stage: str, key: str) -> Iterator[Path]:
        """Yield a folder to write into; it is an entry when the block succeeds.

        Raises:
            InputError: It can't be written, or the disk is full.
        """
        place, made, empty = self._place(stage, key), None, not self.folder.exists()
        begun = time.monotonic()  # the wall clock may be set meanwhile
        try:
            self.folder.mkdir(exist_ok=True)
            made = Path(tempfile.mkdtemp(TEMPORARY, f".{stage}.", self.folder))
            tell_temporary(made)
            yield made
            write_json(made / _LIST, {
                "format": _FORMAT, "created": datetime.now(UTC).isoformat(timespec="seconds"),
                "seconds": round(time.monotonic() - begun, 3), "files": _hashes(made),
            })  # fmt: skip
            _remove(place)  # it is damaged, or to be made again
            made.chmod(0o777 & ~umask())
            os.rename(made, place)
        except OSError as error:
            raise InputError(f"{place}: can't be written ({error.strerror or error})") from error
        finally:
            if made is not None:
                shutil.rmtree(made, ignore_errors=True)
            if empty:  # a run that fails at its first stage leaves nothing
                with contextlib.suppress(OSError):
                    self.folder.rmdir()
        self._used.add(place.name)

    def tidy(self) -> None:
        """Remove the entries that this run did not use."""
        for path in self._named(_NAME.pattern):
            if path.name not in self._used and (path / _LIST).is_file():
                _remove(path)

    @property
    def size(self) -> int:
        """The bytes that all of it takes."""
        files = (path for path in self.folder.rglob("*") if path.is_file())
        return sum(path.stat().st_size for path in files)

    def _place(self, stage: str, key: str) -> Path:
        return self.folder / f"{stage}-{key}"

    def _named(self, pattern: str) -> list[Path]:
        if not self.folder.is_dir():
            return []
        return [path for path in self.folder.iterdir() if re.fullmatch(pattern, path.name)]


def _hashes(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of the files of an entry, by name."""
    return {
        path.relative_to(folder).as_posix(): sha256(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path != folder / _LIST
    }


def _remove(entry: Path) -> None:
    """Remove an entry; one that is half removed is none."""
    with contextlib.suppress(FileNotFoundError):
        (entry / _LIST).unlink()
    shutil.rmtree(entry, ignore_errors=True)
