"""Two processes at one place: one waits or says so, none corrupts, and the killed hold nothing."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from onnxgraft.errors import InputError
from onnxgraft.files import (
    atomic,
    atomic_folder,
    check_folder,
    check_place,
    claimed,
    existing_file,
    places,
    remove_left,
    together,
)
from onnxgraft.files.locks import locked
from tests.conftest import ROOT
from tests.running import wait_for_lock

HOLD = """
import sys, time
from pathlib import Path
from onnxgraft.files import claimed
from onnxgraft.files.locks import locked
with (claimed if sys.argv[1] == "claim" else locked)(Path(sys.argv[2])):
    print("held", flush=True)
    sys.stdin.readline()
"""


class Other:
    """Another process that holds a place until it is told to stop, or killed."""

    def __init__(self, how: str, place: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLD, how, place],
            env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "held\n"

    def end(self, how: signal.Signals | None = None) -> None:
        if how is not None:
            self.process.send_signal(how)
        self.process.communicate("\n" if how is None else None)


def test_a_place_that_another_process_writes_is_refused_at_once(tmp_path: Path) -> None:
    target = tmp_path / "model.onnx"
    other = Other("claim", target)
    with pytest.raises(InputError, match=r"model\.onnx: another onnxgraft is writing it"):
        with claimed(target):
            pass
    other.end()
    with claimed(target):
        pass
    assert not list(tmp_path.iterdir())


def test_a_command_claims_what_it_will_write_until_it_ends(tmp_path: Path) -> None:
    with places():
        check_place(tmp_path / "a.onnx")
        assert [path.name for path in tmp_path.iterdir()] == [".a.onnx.lock"]
        check_place(tmp_path / "a.onnx")  # is not in its own way
    assert not list(tmp_path.iterdir())


def test_what_a_killed_process_held_is_free(tmp_path: Path) -> None:
    target = tmp_path / "model.onnx"
    Other("claim", target).end(signal.SIGKILL)
    assert (tmp_path / ".model.onnx.lock").exists()
    with claimed(target):
        pass
    assert not list(tmp_path.iterdir())


def test_without_a_sentence_the_lock_is_waited_for(tmp_path: Path) -> None:
    file = tmp_path / "timings.lock"
    other = Other("lock", file)
    waiting = subprocess.Popen(
        [sys.executable, "-c", HOLD, "lock", file],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    wait_for_lock(waiting, list)
    assert waiting.poll() is None
    other.end()
    assert waiting.stdout is not None
    assert waiting.stdout.readline() == "held\n"
    waiting.communicate("\n")
    assert not file.exists()


def test_a_lock_is_not_in_its_own_way(tmp_path: Path) -> None:
    with locked(tmp_path / "x", busy="no"), locked(tmp_path / "x", busy="no"):
        assert (tmp_path / "x").exists()
    assert not (tmp_path / "x").exists()


def test_a_claim_removes_the_temporary_files_of_killed_runs_and_no_others(tmp_path: Path) -> None:
    mine = [".a.onnx.x1_b.onnxgraft-tmp", ".a.onnx.search.abc.onnxgraft-tmp"]
    foreign = ["a.onnx", ".a.onnx.settings", ".b.onnx.abc.onnxgraft-tmp", "a.onnx.abc"]
    for name in [*mine, *foreign]:
        (tmp_path / name).write_text("x")
    (tmp_path / ".a.onnx.folder.onnxgraft-tmp").mkdir()
    with claimed(tmp_path / "a.onnx"):
        assert sorted(os.listdir(tmp_path)) == sorted([*foreign, ".a.onnx.lock"])


# Files that belong together ----------------------------------------------------------------------


def moves(folder: Path, *done: bool) -> list[Path]:
    """Return files of a run that was killed while it moved them: of each, whether it was moved."""
    targets = [folder / f"{index}.txt" for index in range(len(done))]
    names = []
    for target, moved in zip(targets, done, strict=True):
        near = folder / f".{target.name}.abcdefgh.onnxgraft-tmp"
        target.write_text("old")
        (target if moved else near).write_text("new")
        names.append([near.name, target.name])
    (folder / ".onnxgraft-moves").write_text(json.dumps(names))
    return targets


def test_files_that_belong_together_are_new_together(tmp_path: Path) -> None:
    one, other = tmp_path / "a", tmp_path / "b"
    one.write_text("old")
    with together(one, other) as (first, second):
        first.write_text("new")
        with atomic(second) as same:
            assert same == second
            same.write_text("new")
        assert one.read_text() == "old"
    assert one.read_text() == other.read_text() == "new"
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


def test_an_error_leaves_all_of_them_as_they_were(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    with pytest.raises(RuntimeError), together(tmp_path / "a", tmp_path / "b") as (first, _):
        first.write_text("new")
        raise RuntimeError
    assert os.listdir(tmp_path) == ["a"]
    assert (tmp_path / "a").read_text() == "old"


@pytest.mark.parametrize("done", [(False, False), (True, True)], ids=["none_moved", "all_moved"])
def test_files_that_are_all_old_or_all_new_are_read(tmp_path: Path, done: tuple[bool, ...]) -> None:
    for target in moves(tmp_path, *done):
        assert existing_file(target, "the file").read_text() == ("new" if done[0] else "old")


def test_files_that_are_half_in_place_are_refused_until_a_run_finishes_that(tmp_path: Path) -> None:
    targets = moves(tmp_path, True, False)
    with pytest.raises(InputError, match=r"0\.txt: a run was killed while it put this and other"):
        existing_file(targets[0], "the file")
    with claimed(targets[0]):
        assert [target.read_text() for target in targets] == ["new", "new"]
    assert sorted(os.listdir(tmp_path)) == ["0.txt", "1.txt"]


def test_what_is_on_its_way_into_place_is_not_removed_with_the_rest(tmp_path: Path) -> None:
    moves(tmp_path, True, False)
    (tmp_path / ".2.txt.x.onnxgraft-tmp").write_text("torn")
    for path in list(tmp_path.iterdir()):
        if path.name.endswith("-tmp"):
            remove_left(path)
    with claimed(tmp_path / "0.txt"):
        assert (tmp_path / "1.txt").read_text() == "new"
    assert sorted(os.listdir(tmp_path)) == ["0.txt", "1.txt"]


def failing_at(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let one of the next renames fail."""
    replace, left = os.replace, [number]

    def fails(before: str, after: str) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(before, after)

    monkeypatch.setattr(os, "replace", fails)


def write_both(folder: Path) -> None:
    with together(folder / "a", folder / "b") as both:
        for path in both:
            path.write_text("new")


@pytest.mark.parametrize("number", [1, 2])
def test_a_rename_that_fails_leaves_them_old_or_refused_until_the_next_run(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "ab":
        (tmp_path / name).write_text("old")
    failing_at(number, monkeypatch)
    with pytest.raises(InputError, match=r"can't be written \(No space left on device\)") as told:
        write_both(tmp_path)
    monkeypatch.undo()
    if number == 1:
        assert sorted(os.listdir(tmp_path)) == ["a", "b"]
        assert [existing_file(tmp_path / name, "it").read_text() for name in "ab"] == ["old"] * 2
        return
    assert "run it again, which finishes that" in str(told.value)
    with pytest.raises(InputError, match="put this and other files into place"):
        existing_file(tmp_path / "a", "it")
    with claimed(tmp_path / "a"):
        assert [(tmp_path / name).read_text() for name in "ab"] == ["new"] * 2
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


def test_a_torn_journal_means_that_nothing_was_moved(tmp_path: Path) -> None:
    targets = moves(tmp_path, False, False)
    journal = tmp_path / ".onnxgraft-moves"
    journal.write_bytes(journal.read_bytes()[:-3])
    assert existing_file(targets[0], "the file").read_text() == "old"
    with claimed(targets[0]):
        assert [target.read_text() for target in targets] == ["old", "old"]


@pytest.mark.parametrize(
    "names",
    [["../.a.x.onnxgraft-tmp", "../a"], ["secret", "a"], [".b.x.onnxgraft-tmp", "a"], "ab", 3],
    ids=["outside", "no_temporary", "anothers", "text", "number"],
)
def test_a_strangers_journal_moves_nothing(tmp_path: Path, names: object) -> None:
    (tmp_path / "a").write_text("old")
    (tmp_path / "secret").write_text("secret")
    (tmp_path / ".onnxgraft-moves").write_text(json.dumps([names]))
    with claimed(tmp_path / "a"):
        assert (tmp_path / "a").read_text() == "old"
        assert (tmp_path / "secret").exists()


def test_a_folder_is_there_with_all_its_files_or_not_at_all(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), atomic_folder(tmp_path / "out") as work:
        (work / "a").write_text("new")
        raise RuntimeError
    assert not list(tmp_path.iterdir())
    with atomic_folder(tmp_path / "out") as work:
        (work / "a").write_text("first")
    (tmp_path / "out" / "mine").write_text("stays")
    with atomic_folder(tmp_path / "out") as work:
        (work / "a").write_text("second")
        assert (tmp_path / "out" / "a").read_text() == "first"
    assert sorted(os.listdir(tmp_path / "out")) == ["a", "mine"]
    assert (tmp_path / "out" / "a").read_text() == "second"
    assert os.listdir(tmp_path) == ["out"]
    assert (tmp_path / "out").stat().st_mode & 0o700 == 0o700


def test_a_folder_that_another_process_writes_is_refused(tmp_path: Path) -> None:
    other = Other("claim", tmp_path / "out")
    for attempt in (lambda: check_folder(tmp_path / "out"), lambda: None):
        with pytest.raises(InputError, match="another onnxgraft is writing it"):
            with places():
                attempt()
                with atomic_folder(tmp_path / "out"):
                    pass
    other.end()


# Of other users, and where nothing can be locked ------------------------------------------------


def another_users(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a file be one that this user may read alone, as root can be told by nobody."""
    opened, mine = os.open, [False]

    def denied(path: object, flags: int, mode: int = 0o777) -> int:
        if Path(str(path)) == file and flags & os.O_RDWR and file.exists() and not mine[0]:
            raise PermissionError(errno.EACCES, "Permission denied")
        return opened(path, flags, mode)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", denied)


def test_a_lock_that_a_killed_run_of_another_user_left_is_no_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = tmp_path / ".a.lock"
    lock.touch(0o444)
    another_users(lock, monkeypatch)
    with claimed(tmp_path / "a"):
        assert lock.exists()
    assert not list(tmp_path.iterdir())


def test_what_another_users_run_left_half_in_place_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = tmp_path / ".onnxgraft-moves"
    journal.write_text('[[".b.x.onnxgraft-tmp", "b"]]')
    another_users(journal, monkeypatch)
    with pytest.raises(InputError, match="another user's run was stopped while it put files"):
        write_both(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [journal.name]


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_where_the_file_system_has_no_locks_files_are_written_without(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", flock)
    write_both(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


def test_a_folder_that_becomes_read_only_meanwhile_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    with pytest.raises(InputError, match=r"a: can't be written \(Permission denied\)"):
        with claimed(tmp_path / "a"), atomic(tmp_path / "a") as temporary:
            temporary.write_text("new")
            monkeypatch.setattr(os, "replace", denied)
            monkeypatch.setattr(Path, "unlink", denied)
    monkeypatch.undo()
    with claimed(tmp_path / "a"):  # the next run removes what is left
        assert not list(tmp_path.glob(".a.*-tmp"))
