"""Zip archives from strangers: how many members, how large, and where they want to lie."""

from __future__ import annotations

import stat
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from onnxgraft.files.limits import ARCHIVE_GROWTH, ARCHIVE_MEMBERS

__all__ = ["DAMAGED", "check_archive"]

# What Python raises as it reads a damaged archive.
DAMAGED = (EOFError, NotImplementedError, OSError, RuntimeError, zipfile.BadZipFile, zlib.error)

# What is written with; the others raise errors of their own on what is damaged.
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
# So much more than its own size an archive may always hold.
_FREE = 64 << 20


def check_archive(archive: zipfile.ZipFile, file: Path, *, growth: bool = True) -> None:
    """Look at the list of members, before any is unpacked.

    Args:
        archive: Of ``file``.
        file: Whose size is compared with what it says to hold.
        growth: Refuse what holds many times its own size.

    Raises:
        ValueError: There are too many, two have one name, one lies outside of the archive, is no
            plain file, ends behind the archive or is packed in an unusual way, or together they are
            many times as large as the archive.
    """
    members = archive.infolist()
    if len(members) > ARCHIVE_MEMBERS.most:
        raise ValueError(f"it {ARCHIVE_MEMBERS.refusal(len(members))}")
    if len({entry.filename for entry in members}) < len(members):
        raise ValueError("two of its members have one name")
    for entry in members:
        path = PurePosixPath(entry.filename.replace("\\", "/"))
        kind = stat.S_IFMT(entry.external_attr >> 16)
        if path.is_absolute() or ".." in path.parts or not path.parts:
            raise ValueError(f"its member {entry.filename!r} lies outside of it")
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise ValueError(f"its member {entry.filename!r} is a link or a device")
        if entry.compress_type not in _METHODS:
            raise ValueError(f"its member {entry.filename!r} is packed otherwise than by deflation")
        # Python takes as much memory as it says before it reads.
        if entry.header_offset + entry.compress_size > archive.start_dir:
            raise ValueError(f"its member {entry.filename!r} ends behind the archive")
    if growth:
        size = file.stat().st_size
        times = sum(entry.file_size for entry in members) / size
        if times > ARCHIVE_GROWTH.most and times * size > ARCHIVE_GROWTH.most * size + _FREE:
            raise ValueError(
                f"unpacked it is {times:.0f} times its own size, at most {ARCHIVE_GROWTH.most} "
                "times are read"
            )
