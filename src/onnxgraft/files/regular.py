"""What lies where a file is to be written: a device, a FIFO or a socket is never replaced."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from onnxgraft.errors import InputError

__all__ = ["refuse_irregular"]


def refuse_irregular(path: str | os.PathLike[str]) -> None:
    """Raise InputError unless a file, a folder, the user's own link to one, or nothing is there.

    Renaming a file into place would replace a device or a FIFO, which root may do.
    """
    target = Path(path)
    try:
        own = found = os.lstat(target)
    except ValueError:  # it is no name: whoever writes finds out
        return
    except OSError:  # nothing is there
        _refuse_strange_way(target)
        return
    link = stat.S_ISLNK(own.st_mode)
    if link:
        try:
            found = os.stat(target)
        except OSError:
            raise InputError(
                f"{target}: is a link to nothing; remove it, or name the file itself"
            ) from None
    what = _special(found.st_mode)
    if what:
        raise InputError(
            f"{target}: is {'a link to ' if link else ''}{what}, and no file; name a file to write"
        )
    if link and {own.st_uid, found.st_uid} != {_user()}:
        raise InputError(
            f"{target}: is a link of another user, or to what is another's; name the file itself"
        )
    _refuse_sticky(target, own)
    _refuse_strange_way(target)


def _refuse_sticky(target: Path, own: os.stat_result) -> None:
    """Refuse a file of another user in a folder such as /tmp, where only owners replace files."""
    folder = os.stat(target.parent)
    if folder.st_mode & stat.S_ISVTX and _user() not in (0, own.st_uid, folder.st_uid):
        raise InputError(
            f"{target}: is another user's, in a folder where only owners replace files; name "
            "another file"
        )


def _refuse_strange_way(target: Path) -> None:
    """Refuse a place that is reached by a link of another user, who may let it lead anywhere."""
    for folder in Path(os.path.abspath(target)).parents:
        try:
            found = os.lstat(folder)
        except OSError:
            continue
        if stat.S_ISLNK(found.st_mode) and found.st_uid not in (0, _user()):
            raise InputError(
                f"{target}: is reached by {folder}, a link of another user; name the folder itself"
            )


def _special(mode: int) -> str:
    """Return what something is that is neither file nor folder; empty for those."""
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
        return ""
    if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
        return "a device"
    if stat.S_ISFIFO(mode):
        return "a FIFO or a pipe"
    return "a socket" if stat.S_ISSOCK(mode) else "something special"


def _user() -> int:
    # Where there are no users, files say 0.
    return os.geteuid() if hasattr(os, "geteuid") else 0
