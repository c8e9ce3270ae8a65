"""What is kept under a key: whole or absent, noticed where it is damaged, removed where unused."""

from pathlib import Path

import pytest

from onnxgraft.errors import InputError
from onnxgraft.files import Kept, key_of

KEY = key_of({"a": 1})


def kept(folder: Path, text: str = "made") -> Kept:
    found = Kept(folder / "out.kept")
    with found.make("convert", KEY) as place:
        (place / "x.txt").write_text(text)
    return found


def test_what_was_made_is_found_by_another_run(tmp_path: Path) -> None:
    kept(tmp_path)
    entry = Kept(tmp_path / "out.kept").find("convert", KEY)
    assert entry is not None
    assert [file.name for file in entry.files()] == ["x.txt"]
    assert entry.created


def test_another_key_and_another_stage_are_not_found(tmp_path: Path) -> None:
    found = kept(tmp_path)
    assert found.find("convert", key_of({"a": 2})) is None
    assert found.find("surgery", KEY) is None


def test_a_block_that_fails_leaves_nothing(tmp_path: Path) -> None:
    found = Kept(tmp_path / "out.kept")
    with pytest.raises(KeyboardInterrupt), found.make("convert", KEY) as place:
        (place / "x.txt").write_text("half")
        raise KeyboardInterrupt
    assert found.find("convert", KEY) is None
    assert not found.folder.exists()


def test_a_block_that_fails_leaves_what_other_stages_made(tmp_path: Path) -> None:
    found = kept(tmp_path)
    with pytest.raises(InputError), found.make("surgery", KEY):
        raise InputError("no such pass")
    again = Kept(found.folder)
    assert again.find("convert", KEY) is not None
    assert again.find("surgery", KEY) is None


@pytest.mark.parametrize("damage", ["changed", "missing", "more", "list", "no_list"])
def test_what_was_damaged_is_not_found(damage: str, tmp_path: Path) -> None:
    found = kept(tmp_path)
    (folder,) = (tmp_path / "out.kept").iterdir()
    if damage == "changed":
        (folder / "x.txt").write_text("Made")
    elif damage == "missing":
        (folder / "x.txt").unlink()
    elif damage == "more":
        (folder / "y.txt").write_text("")
    elif damage == "list":
        (folder / "kept.json").write_text('{"format": 1')
    else:
        (folder / "kept.json").unlink()
    assert found.find("convert", KEY) is None
    with found.make("convert", KEY) as place:
        (place / "x.txt").write_text("again")
    assert (found.find("convert", KEY) or found.entry("", "")).files()[0].read_text() == "again"


def test_what_a_run_did_not_use_is_removed_and_a_strangers_files_are_not(tmp_path: Path) -> None:
    kept(tmp_path)
    place = tmp_path / "out.kept"
    (place / "notes.txt").write_text("mine")
    (place / f"convert-{'0' * 64}").mkdir()
    another = Kept(place)
    with another.make("surgery", KEY) as folder:
        (folder / "x.txt").write_text("")
    another.tidy()
    assert {path.name for path in place.iterdir()} == {
        "notes.txt", f"convert-{'0' * 64}", f"surgery-{KEY}",
    }  # fmt: skip


def test_what_a_killed_run_was_making_is_removed_by_the_next(tmp_path: Path) -> None:
    kept(tmp_path)
    (tmp_path / "out.kept" / ".convert.abc.onnxgraft-tmp").mkdir()
    Kept(tmp_path / "out.kept")
    assert [path.name for path in (tmp_path / "out.kept").iterdir()] == [f"convert-{KEY}"]


def test_a_file_in_its_place_is_told(tmp_path: Path) -> None:
    (tmp_path / "out.kept").write_text("")
    with pytest.raises(InputError, match=r"out\.kept: is in the way of what is kept"):
        Kept(tmp_path / "out.kept")


def test_a_clock_that_is_set_back_changes_no_duration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from datetime import UTC, datetime, timedelta

    class Back(datetime):
        begun = datetime(2026, 1, 2, tzinfo=UTC)

        @classmethod
        def now(cls, tz: object = None) -> datetime:  # type: ignore[override]
            cls.begun -= timedelta(days=1)
            return cls.begun

    monkeypatch.setattr("onnxgraft.files.kept.datetime", Back)
    kept = Kept(tmp_path / "kept")
    with kept.make("a", key_of({"a": 1})) as folder:
        (folder / "x").write_text("made")
    found = kept.find("a", key_of({"a": 1}))
    assert found is not None
    assert 0 <= found.seconds < 60
