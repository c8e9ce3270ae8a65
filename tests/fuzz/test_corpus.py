"""Every input in the repository, and what once broke a reader, without atheris."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from tests.fuzz.readers import CORPUS, READERS, Reader, outcome, seeds

INPUTS = [(name, path) for name in READERS for path in seeds(name)]


@pytest.mark.parametrize(
    ("name", "path"), INPUTS, ids=[str(path.relative_to(CORPUS)) for _, path in INPUTS]
)
def test_an_input_is_read_or_refused_in_a_sentence(name: str, path: Path, tmp_path: Path) -> None:
    found = outcome(name, path.read_bytes(), tmp_path)
    # What is beside the crashers is a good file, or the fuzzing would begin with nothing.
    assert found == "read" or path.parent.name == "crashers"


def test_every_reader_has_a_seed() -> None:
    assert all(any(path.parent.name == name for path in seeds(name)) for name in READERS)


def test_an_import_that_nobody_did_before_is_no_deed_of_an_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "imported_late.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    reader = Reader("input", lambda path: importlib.import_module("imported_late"))
    monkeypatch.setitem(READERS, "late", reader)
    assert outcome("late", b"", tmp_path) == "read"


@pytest.mark.parametrize(
    "text",
    ['"""\n\\' * 100_000, '"' + '\\"' * 200_000],
    ids=["over lines", "behind backslashes"],
)
def test_quotes_of_toml_without_an_end_are_looked_at_once(text: str, tmp_path: Path) -> None:
    """What is demanded of every input holds for thirty times as much as fuzzing writes."""
    assert outcome("recipe", (text + ".a" * 100).encode(), tmp_path) == "refused"
