"""Files that a command writes: whole or not at all, and by one command at a time."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from onnxgraft.errors import InputError
from onnxgraft.files.journal import JOURNAL, TEMPORARY, move, moves_of, settle
from onnxgraft.files.locks import locked
from onnxgraft.files.regular import refuse_irregular

__all__ = [
    "atomic", "atomic_folder", "cache_folder", "check_folder", "check_place", "claimed",
    "json_text", "places", "remove_left", "tell_temporary", "together", "umask", "watchers",
    "write_bytes", "write_json",
]  # fmt: skip

# Told of each temporary file and folder that is made beside its target: whoever watches this
# process removes what it leaves when it is killed.
watchers: list[Callable[[Path], None]] = []


def tell_temporary(path: Path) -> None:
    """Tell the watchers of a temporary file or folder that was made."""
    for tell in watchers:
        tell(path)


def check_place(path: str | os.PathLike[str] | None) -> None:
    """Raise InputError unless a file can be written at ``path``; None is no place to check.

    Commands ask this before they begin, not after the work; within `places` the file is theirs
    from then on.
    """
    if path is None:
        return
    target = Path(path)
    _check_file(target)
    if not os.path.isdir(target.parent):
        raise InputError(f"{target}: can't be written, there is no folder {target.parent}")
    if not os.access(target.parent, os.W_OK):
        raise InputError(f"{target}: can't be written, the folder is not writable")
    if _claims:
        _claims[-1].enter_context(claimed(target))


def _check_file(target: Path) -> None:
    """Refuse to replace what is no file."""
    if os.path.isdir(target):
        raise InputError(f"{target}: is a folder; name a file to write")
    refuse_irregular(target)


def cache_folder() -> Path:
    """Return where what one run learns is kept for the next: the user's cache, by XDG."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "onnxgraft"


def check_folder(path: str | os.PathLike[str]) -> None:
    """Raise InputError unless files can be written into the folder ``path``, made if need be."""
    target = Path(path)
    if os.path.isdir(target):
        refuse_irregular(target)
        if not os.access(target, os.W_OK):
            raise InputError(f"{target}: can't be written, the folder is not writable")
        if _claims:
            _claims[-1].enter_context(claimed(target))
    else:
        check_place(target)


@contextlib.contextmanager
def atomic(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` and rename it into place when the block succeeds.

    An interrupted block leaves the old file, or none. Within the block the temporary path itself
    may be written with `atomic`.

    Raises:
        InputError: The folder does not exist or can't be written, or the disk is full.
    """
    with together(path) as (temporary,):
        yield temporary


@contextlib.contextmanager
def together(*paths: str | os.PathLike[str]) -> Iterator[tuple[Path, ...]]:
    """As `atomic`, for files of one folder that belong together: all are new, or all are old.

    Raises:
        InputError: As `atomic` does.
    """
    targets = tuple(map(Path, paths))
    if _writing.issuperset(targets):
        yield targets
        return
    made: list[Path] = []
    target = targets[0]
    try:
        for target in targets:
            _check_file(target)
            handle, name = tempfile.mkstemp(TEMPORARY, f".{target.name}.", target.parent)
            os.close(handle)
            made.append(Path(name))
            tell_temporary(made[-1])
        target = targets[0]
        _writing.update(made)
        yield tuple(made)
        for temporary in made:
            temporary.chmod(0o666 & ~umask())
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
        if len(made) == 1:
            os.replace(made[0], target)
        else:
            move(list(zip(made, targets, strict=True)))
    except OSError as error:
        half = "; some files are in place and some are not, run it again, which finishes that"
        raise InputError(
            f"{target}: can't be written ({error.strerror or error})"
            f"{half if _on_their_way(made) else ''}"
        ) from error
    finally:
        _writing.difference_update(made)
        for temporary in set(made) - _on_their_way(made):
            with contextlib.suppress(OSError):  # the folder may have become read-only
                temporary.unlink(missing_ok=True)


def _on_their_way(made: Sequence[Path]) -> set[Path]:
    """Return those of the temporary files that the next run will put into place."""
    return {file for file in made if file.name in dict(moves_of(file.parent))}


@contextlib.contextmanager
def atomic_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary folder, whose files are moved into ``path`` when the block succeeds.

    ``path`` is made if it is not there; what else is in it stays.

    Raises:
        InputError: It is a file, or can't be written, or another process writes it.
    """
    target = Path(path)
    refuse_irregular(target)
    if target.exists() and not target.is_dir():
        raise InputError(f"{target}: is a file; name a folder with -o")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{target}: can't be written ({error.strerror})") from error
    for folder in (target, target.parent):
        if folder.exists() and not os.access(folder, os.W_OK | os.X_OK):
            raise InputError(f"{target}: can't be written, the folder {folder} is not writable")
    with claimed(target):
        try:
            work = Path(tempfile.mkdtemp(TEMPORARY, f".{target.name}.", target.parent))
        except OSError as error:
            raise InputError(f"{target}: can't be written ({error.strerror})") from error
        tell_temporary(work)
        try:
            yield work
            _publish(work, target)
        except OSError as error:
            raise InputError(f"{target}: can't be written ({error.strerror or error})") from error
        finally:
            shutil.rmtree(work, ignore_errors=True)


def _publish(work: Path, target: Path) -> None:
    """Move what was made into its place; until then nothing is there."""
    if not target.exists():
        work.chmod(0o777 & ~umask())
        os.rename(work, target)
        return
    moves = []
    made = list(work.iterdir())
    for file in made:
        _check_file(target / file.name)
    for file in made:
        # First into the folder, under a name that the next run removes.
        near = target / f".{file.name}.{work.name[-8 - len(TEMPORARY) :]}"
        os.rename(file, near)
        moves.append((near, target / file.name))
    move(moves)


# Temporary files of this process.
_writing: set[Path] = set()


@contextlib.contextmanager
def claimed(path: str | os.PathLike[str]) -> Iterator[None]:
    """Keep other processes from writing ``path`` until the block ends.

    What a killed run left of it is put in order: files half in place are all put there, and
    temporary ones removed.

    Raises:
        InputError: Another process is writing it.
    """
    target = Path(path)
    lock = target.parent / f".{target.name}.lock"
    busy = f"{target}: another onnxgraft is writing it; wait until it is done, or write elsewhere"
    with locked(lock, busy=busy):
        tell_temporary(lock)
        for folder in (target.parent, target):
            if os.path.lexists(folder / JOURNAL):
                with locked(folder / JOURNAL) as handle:
                    settle(folder, handle)
        _sweep(target)
        yield


def remove_left(path: Path) -> None:
    """Remove a temporary file, folder or lock of a process that died."""
    if path.name.endswith(".lock"):
        with contextlib.suppress(InputError), locked(path, busy="another process has it"):
            return
    if path.name in dict(moves_of(path.parent)):
        return  # it is on its way into place, and its companions are there; the next run ends it
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


def _sweep(target: Path) -> None:
    """Remove the temporary files and folders of a target that no process writes any more."""
    name = re.escape(target.name)
    beside = re.compile(rf"\.{name}(\.json|\.data|\.histograms\.npz|\.search)?\.[^.]*{TEMPORARY}")
    for folder, wanted in ((target.parent, beside), (target, re.compile(rf"\..*{TEMPORARY}"))):
        if not os.path.isdir(folder):
            continue
        for entry in os.scandir(folder):
            if not wanted.fullmatch(entry.name) or Path(entry.path) in _writing:
                continue
            remove_left(Path(entry.path))


# Of the command that runs: what it claims is given back when it ends.
_claims: list[contextlib.ExitStack] = []


@contextlib.contextmanager
def places() -> Iterator[None]:
    """Claim each place that `check_place` is asked about until the block ends."""
    with contextlib.ExitStack() as stack:
        _claims.append(stack)
        try:
            yield
        finally:
            _claims.pop()


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


def umask() -> int:
    """Return the rights that new files of this process do not get."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
