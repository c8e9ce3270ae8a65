"""Files: read with a sentence when that fails, written whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import mmap
import os
import re
import shutil
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from onnxgraft.errors import InputError
from onnxgraft.files.limits import MODEL_BYTES, Limit
from onnxgraft.files.locks import locked

__all__ = [
    "atomic",
    "atomic_folder",
    "cache_folder",
    "check_folder",
    "check_place",
    "claimed",
    "existing_file",
    "existing_folder",
    "json_text",
    "places",
    "read_json",
    "read_toml",
    "release_pages",
    "remove_left",
    "sha256",
    "tell_temporary",
    "together",
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
    _check_settled(found)
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

    Commands ask this before they begin, not after the work; within `places` the file is theirs
    from then on.
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
    if _claims:
        _claims[-1].enter_context(claimed(target))


def cache_folder() -> Path:
    """Return where what one run learns is kept for the next: the user's cache, by XDG."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "onnxgraft"


def check_folder(path: str | os.PathLike[str]) -> None:
    """Raise InputError unless files can be written into the folder ``path``, made if need be."""
    target = Path(path)
    if os.path.isdir(target):
        if not os.access(target, os.W_OK):
            raise InputError(f"{target}: can't be written, the folder is not writable")
        if _claims:
            _claims[-1].enter_context(claimed(target))
    else:
        check_place(target)


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
            if os.path.isdir(target):
                raise InputError(f"{target}: is a folder; name a file to write")
            handle, name = tempfile.mkstemp(_TEMPORARY, f".{target.name}.", target.parent)
            os.close(handle)
            made.append(Path(name))
            tell_temporary(made[-1])
        target = targets[0]
        _writing.update(made)
        yield tuple(made)
        for temporary in made:
            temporary.chmod(0o666 & ~_umask())
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
        if len(made) == 1:
            os.replace(made[0], target)
        else:
            _move(list(zip(made, targets, strict=True)))
    except OSError as error:
        raise InputError(f"{target}: can't be written ({error.strerror or error})") from error
    finally:
        _writing.difference_update(made)
        for temporary in made:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary folder, whose files are moved into ``path`` when the block succeeds.

    ``path`` is made if it is not there; what else is in it stays.

    Raises:
        InputError: It is a file, or can't be written, or another process writes it.
    """
    target = Path(path)
    if target.exists() and not target.is_dir():
        raise InputError(f"{target}: is a file; name a folder with -o")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{target}: can't be written ({error.strerror})") from error
    with claimed(target):
        try:
            work = Path(tempfile.mkdtemp(_TEMPORARY, f".{target.name}.", target.parent))
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
        work.chmod(0o777 & ~_umask())
        os.rename(work, target)
        return
    moves = []
    for file in work.iterdir():
        # First into the folder, under a name that the next run removes.
        near = target / f".{file.name}.{work.name[-8 - len(_TEMPORARY) :]}"
        os.rename(file, near)
        moves.append((near, target / file.name))
    _move(moves)


# Ends the names of temporary files and folders, so that a later run knows what it may remove.
_TEMPORARY = ".onnxgraft-tmp"
# Temporary files of this process.
_writing: set[Path] = set()
# In a folder while several files are put into place: which ones.
_JOURNAL = ".onnxgraft-moves"


def _move(moves: Sequence[tuple[Path, Path]]) -> None:
    """Rename files of one folder; who is killed in between has left a journal, which goes on."""
    folder = moves[0][1].parent
    with locked(folder / _JOURNAL) as handle:
        _settle(folder, handle)
        names = [[before.name, after.name] for before, after in moves]
        os.write(handle, json.dumps(names).encode())
        os.fsync(handle)
        for before, after in moves:
            os.replace(before, after)


def _settle(folder: Path, handle: int) -> None:
    """Finish what a killed run had begun to put into place; ``handle`` is of the journal."""
    for before, after in _journal(folder):
        with contextlib.suppress(FileNotFoundError):
            os.replace(folder / before, folder / after)
    os.ftruncate(handle, 0)
    os.lseek(handle, 0, os.SEEK_SET)


def _journal(folder: Path) -> list[tuple[str, str]]:
    """Return what the journal of a folder says is moved; nothing if it is not whole."""
    try:
        found = json.loads((folder / _JOURNAL).read_bytes())
        moves = [(str(before), str(after)) for before, after in found]
    except (OSError, RecursionError, TypeError, ValueError):
        return []
    plain = all(
        os.sep not in before + after
        and before.startswith(f".{after}.")
        and before.endswith(_TEMPORARY)
        for before, after in moves
    )
    return moves if plain else []


def _check_settled(file: Path) -> None:
    """Refuse a file of which another run has moved only some of its companions into place."""
    folder = file.parent
    if not os.path.lexists(folder / _JOURNAL):
        return
    for patience in range(20, -1, -1):  # it takes less than a millisecond
        moves = _journal(folder)
        waiting = [before for before, _ in moves if os.path.lexists(folder / before)]
        if not any(after == file.name for _, after in moves) or len(waiting) in (0, len(moves)):
            return
        if patience:
            time.sleep(0.05)
    raise InputError(
        f"{file}: a run was killed while it put this and other files into place; run it again, "
        "which finishes that"
    )


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
            if os.path.lexists(folder / _JOURNAL):
                with locked(folder / _JOURNAL) as handle:
                    _settle(folder, handle)
        _sweep(target)
        yield


def remove_left(path: Path) -> None:
    """Remove a temporary file, folder or lock of a process that died."""
    if path.name.endswith(".lock"):
        with contextlib.suppress(InputError), locked(path, busy="another process has it"):
            return
    if path.name in dict(_journal(path.parent)):
        return  # it is on its way into place, and its companions are there; the next run ends it
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


def _sweep(target: Path) -> None:
    """Remove the temporary files and folders of a target that no process writes any more."""
    name = re.escape(target.name)
    beside = re.compile(rf"\.{name}(\.json|\.data|\.histograms\.npz|\.search)?\.[^.]*{_TEMPORARY}")
    for folder, wanted in ((target.parent, beside), (target, re.compile(rf"\..*{_TEMPORARY}"))):
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
