"""Files that are named by URLs: in object storage, in an archive, in memory; read by fsspec.

A URL is one of fsspec's, chained ones too: ``s3://bucket/images``, ``gs://``, ``memory://``,
``file:///data``, ``zip::s3://bucket/images.zip``. A `Remote` has those of a path's methods that
finding and reading samples needs, and is nothing but words: another process opens it itself.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from onnxgraft.errors import InputError, MissingDependencyError, OnnxgraftError
from onnxgraft.files.limits import DOCUMENT_BYTES, Limit
from onnxgraft.optional import optional

__all__ = ["File", "Remote", "contents", "is_url", "place_of"]

T = TypeVar("T")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+(://|::)")


def is_url(text: object) -> bool:
    """Tell whether a text names a file by a URL, and not by a path of this machine.

    >>> is_url("s3://bucket/images"), is_url("zip::file:///a.zip"), is_url("images/")
    (True, True, False)
    """
    return isinstance(text, str) and _URL.match(text) is not None


@dataclass(frozen=True)
class Remote:
    """A file or folder.

    Attributes:
        scheme: Such as ``s3``.
        path: As its file system calls it.
        behind: The rest of a chained URL, from ``::`` on: where an archive lies.
    """

    scheme: str
    path: str
    behind: str = ""

    @classmethod
    def of(cls, url: str) -> Remote:
        """Return what a URL names.

        >>> str(Remote.of("zip::file:///a.zip") / "b.png")
        'zip://b.png::file:///a.zip'
        """
        first, chained, rest = url.partition("::")
        scheme, _, path = first.partition("://")
        return cls(scheme.lower(), path.rstrip("/") or path[:1], chained + rest)

    def __str__(self) -> str:
        """Return its URL."""
        return f"{self.scheme}://{self.path}{self.behind}"

    def __lt__(self, other: Remote) -> bool:
        """Compare as paths are compared."""
        return PurePosixPath(self.path) < PurePosixPath(other.path)

    def __truediv__(self, name: str) -> Remote:
        """Return what is in the folder under a name."""
        return Remote(self.scheme, f"{self.path}/{name}" if self.path else name, self.behind)

    @property
    def name(self) -> str:
        """The last part of its path."""
        return PurePosixPath(self.path).name

    @property
    def stem(self) -> str:
        """The name without what is behind its last dot."""
        return PurePosixPath(self.path).stem

    @property
    def suffix(self) -> str:
        """The name's end, from its last dot on."""
        return PurePosixPath(self.path).suffix

    @property
    def parent(self) -> Remote:
        """The folder that it is in."""
        return Remote(self.scheme, self.path.rpartition("/")[0], self.behind)

    def is_dir(self) -> bool:
        """Tell whether it is a folder."""
        return bool(self._ask(lambda files: files.isdir(self.path)))

    def is_file(self) -> bool:
        """Tell whether it is a file."""
        return bool(self._ask(lambda files: files.isfile(self.path)))

    def iterdir(self) -> Iterator[Remote]:
        """Yield what is in the folder."""
        for entry in self._ask(lambda files: files.ls(self.path, detail=True)):
            yield Remote(self.scheme, str(entry["name"]).rstrip("/"), self.behind)

    def rglob(self, pattern: str) -> Iterator[Remote]:
        """Yield all files in the folder and in the folders in it; the pattern is ``*``."""
        assert pattern == "*"
        for name in self._ask(lambda files: files.find(self.path)):
            yield Remote(self.scheme, str(name), self.behind)

    def size(self) -> int:
        """Return its bytes."""
        return int(self._ask(lambda files: files.size(self.path)) or 0)

    def read_bytes(self) -> bytes:
        """Return what it holds."""
        return bytes(self._ask(lambda files: files.cat_file(self.path)))

    def read_text(self, encoding: str) -> str:
        """Return what it holds, as text."""
        return contents(self, DOCUMENT_BYTES, "the data").decode(encoding)

    def _ask(self, question: Callable[[Any], T]) -> T:
        try:
            return question(_files(self.scheme, self.behind))
        except OnnxgraftError:
            raise
        except FileNotFoundError as error:
            raise InputError(f"{self}: does not exist; check the URL") from error
        except Exception as error:  # each storage has its own
            told = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            raise InputError(
                f"{self}: can't be read ({told}); check the URL, and what its storage needs to "
                "let you in"
            ) from error


File = Path | Remote


@functools.cache
def _files(scheme: str, behind: str) -> Any:
    """Return the file system of a URL; an archive is opened once in a process."""
    with optional("Reading data by URL", "storage"):
        from fsspec.core import url_to_fs
    try:
        return url_to_fs(f"{scheme}://{behind}")[0]
    except ImportError as error:
        raise MissingDependencyError(f"{scheme}:// can't be read: {error}") from error


def place_of(text: Any) -> File:
    """Return what a text or path names: a URL's file, or a path of this machine."""
    return Remote.of(text) if is_url(text) else Path(text)


def contents(file: File, most: Limit, what: str) -> bytes:
    """Return what a file holds.

    Args:
        file: To read.
        most: It may have.
        what: It is, for the error.

    Raises:
        InputError: It is larger, or can't be read.
    """
    size = file.size() if isinstance(file, Remote) else file.stat().st_size
    most.check(size, f"{file}: {what}")
    return file.read_bytes()
