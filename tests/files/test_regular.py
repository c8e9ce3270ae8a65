"""What is no file is never replaced: no device, no FIFO, no socket, no link of a stranger."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from onnxgraft.errors import InputError
from onnxgraft.files import atomic_folder, check_folder, check_place, write_bytes
from onnxgraft.files.journal import TEMPORARY


def fifo(place: Path) -> None:
    os.mkfifo(place)


def bound(place: Path) -> None:
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind(str(place))


def link_to_fifo(place: Path) -> None:
    os.mkfifo(place.with_name("pipe"))
    place.symlink_to("pipe")


def dangling(place: Path) -> None:
    place.symlink_to("nobody")


SPECIAL = {
    "fifo": (fifo, "is a FIFO or a pipe"),
    "socket": (bound, "is a socket"),
    "link": (link_to_fifo, "is a link to a FIFO"),
    "dangling": (dangling, "is a link to nothing"),
}
WRITERS: dict[str, Callable[[Path], object]] = {
    "check_place": check_place,
    "check_folder": check_folder,
    "write_bytes": lambda path: write_bytes(path, b"new"),
    "atomic_folder": lambda path: atomic_folder(path).__enter__(),
}


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("kind", SPECIAL)
def test_what_is_no_file_is_refused_and_stays(tmp_path: Path, kind: str, writer: str) -> None:
    make, words = SPECIAL[kind]
    place = tmp_path / "x"
    make(place)
    before = os.lstat(place), sorted(os.listdir(tmp_path))
    with pytest.raises(InputError, match=f"x: {words}"):
        WRITERS[writer](place)
    assert stat.S_IFMT(os.lstat(place).st_mode) == stat.S_IFMT(before[0].st_mode)
    assert sorted(os.listdir(tmp_path)) == before[1]


@pytest.mark.parametrize("mode", [stat.S_IFCHR, stat.S_IFBLK])
def test_a_device_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int) -> None:
    place = tmp_path / "x"
    place.write_bytes(b"old")
    told = os.lstat

    def lstat(path: str | Path) -> os.stat_result:
        found = told(path)
        return os.stat_result((mode | 0o600, *found[1:])) if Path(path) == place else found

    monkeypatch.setattr(os, "lstat", lstat)
    with pytest.raises(InputError, match="x: is a device"):
        write_bytes(place, b"new")
    assert place.read_bytes() == b"old"


def test_a_strangers_link_is_refused_and_ones_own_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"old")
    (tmp_path / "x").symlink_to("file")
    with monkeypatch.context() as other:
        other.setattr(os, "geteuid", lambda: os.getuid() + 1)
        with pytest.raises(InputError, match="x: is a link of another user"):
            write_bytes(tmp_path / "x", b"new")
    write_bytes(tmp_path / "x", b"new")
    assert (tmp_path / "x").read_bytes() == b"new"
    assert (tmp_path / "file").read_bytes() == b"old"  # the link was replaced, not what it names


@pytest.mark.parametrize("there", [True, False])
def test_a_folder_that_is_reached_by_a_strangers_link_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "link").symlink_to("theirs")
    place = tmp_path / "link" / "x"
    if there:
        place.write_bytes(b"old")
    told = os.lstat

    def lstat(path: str | Path) -> os.stat_result:
        found = told(path)
        stranger = (*found[:4], os.getuid() + 1, *found[5:])
        return os.stat_result(stranger) if Path(path) == tmp_path / "link" else found

    write_bytes(tmp_path / "link" / "mine", b"new")
    monkeypatch.setattr(os, "lstat", lstat)
    with pytest.raises(InputError, match=r"x: is reached by .*link, a link of another user"):
        write_bytes(place, b"new")
    assert sorted(os.listdir(tmp_path / "theirs")) == (["mine", "x"] if there else ["mine"])


def test_a_folder_that_holds_a_fifo_by_that_name_is_left_as_it_was(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    os.mkfifo(out / "b")
    with pytest.raises(InputError, match="b: is a FIFO"), atomic_folder(out) as work:
        for name in "abc":
            (work / name).write_bytes(b"new")
    assert os.listdir(out) == ["b"]
    assert os.listdir(tmp_path) == ["out"]


def test_nothing_outside_an_output_folder_is_touched(tmp_path: Path) -> None:
    elsewhere, out = tmp_path / "elsewhere", tmp_path / "out"
    elsewhere.mkdir()
    out.mkdir()
    (elsewhere / "a").write_bytes(b"old")
    (out / "a").symlink_to("../elsewhere/a")
    (out / f".sub.12345678{TEMPORARY}").symlink_to("../elsewhere")
    with atomic_folder(out) as work:
        (work / "a").write_bytes(b"new")
    assert (elsewhere / "a").read_bytes() == b"old"
    assert (out / "a").read_bytes() == b"new"
    assert os.listdir(out) == ["a"]


def test_another_users_file_in_a_sticky_folder_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x").write_text("theirs")
    tmp_path.chmod(0o1777)
    monkeypatch.setattr("onnxgraft.files.regular._user", lambda: os.geteuid() + 1)
    with pytest.raises(InputError, match="x: is another user's, in a folder where only owners"):
        check_place(tmp_path / "x")
    tmp_path.chmod(0o755)
    check_place(tmp_path / "x")


@pytest.mark.parametrize("place", ["out", "out/within"])
def test_a_folder_that_can_not_be_written_is_told_before_the_work(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out").mkdir()
    allowed = os.access

    def access(path: str | os.PathLike[str], mode: int) -> bool:
        """Answer as the system does to a user who does not own the folder; root may always."""
        return allowed(path, mode) and not (mode & os.W_OK and Path(path) == tmp_path / "out")

    monkeypatch.setattr(os, "access", access)
    with pytest.raises(InputError, match=r"the folder \S+out is not writable"):
        atomic_folder(tmp_path / place).__enter__()
    assert not [*(tmp_path / "out").iterdir()]
