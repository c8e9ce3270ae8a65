"""Files of one folder that belong together are put into place as one, even by who is killed."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path

from onnxgraft.errors import InputError
from onnxgraft.files.locks import locked

__all__ = ["JOURNAL", "TEMPORARY", "check_settled", "move", "moves_of", "settle"]

# Ends the names of temporary files and folders, so that a later run knows what it may remove.
TEMPORARY = ".onnxgraft-tmp"
# In a folder while several files are put into place: which ones.
JOURNAL = ".onnxgraft-moves"


def move(moves: Sequence[tuple[Path, Path]]) -> None:
    """Rename files of one folder; who is stopped in between has left a journal, which goes on.

    Raises:
        OSError: A file can't be renamed. If another one was already, the journal stays, and the
            next run finishes it.
    """
    folder = moves[0][1].parent
    with locked(folder / JOURNAL) as handle:
        settle(folder, handle)
        names = [[before.name, after.name] for before, after in moves]
        done = 0
        try:
            os.write(handle, json.dumps(names).encode())
            os.fsync(handle)
            for before, after in moves:
                os.replace(before, after)
                done += 1
        finally:
            if done in (0, len(moves)):
                os.ftruncate(handle, 0)


def settle(folder: Path, handle: int) -> None:
    """Finish what a killed run had begun to put into place; ``handle`` is of the journal."""
    for before, after in moves_of(folder):
        with contextlib.suppress(FileNotFoundError):
            os.replace(folder / before, folder / after)
    os.ftruncate(handle, 0)
    os.lseek(handle, 0, os.SEEK_SET)


def moves_of(folder: Path) -> list[tuple[str, str]]:
    """Return what the journal of a folder says is moved; nothing if it is not whole."""
    try:
        found = json.loads((folder / JOURNAL).read_bytes())
        moves = [(str(before), str(after)) for before, after in found]
    except (OSError, RecursionError, TypeError, ValueError):
        return []
    plain = all(
        os.sep not in before + after
        and before.startswith(f".{after}.")
        and before.endswith(TEMPORARY)
        for before, after in moves
    )
    return moves if plain else []


def check_settled(file: Path) -> None:
    """Refuse a file of which another run has moved only some of its companions into place."""
    folder = file.parent
    if not os.path.lexists(folder / JOURNAL):
        return
    for patience in range(20, -1, -1):  # it takes less than a millisecond
        moves = moves_of(folder)
        waiting = [before for before, _ in moves if os.path.lexists(folder / before)]
        if not any(after == file.name for _, after in moves) or len(waiting) in (0, len(moves)):
            return
        if patience:
            time.sleep(0.05)
    raise InputError(
        f"{file}: a run was killed while it put this and other files into place; run it again, "
        "which finishes that"
    )
