"""Files are written whole or not at all, and read with a sentence."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from onnxgraft.errors import InputError
from onnxgraft.files import (
    atomic,
    existing_file,
    existing_folder,
    parse_json,
    parse_toml,
    read_json,
    read_toml,
    sha256,
    write_bytes,
    write_json,
)
from onnxgraft.files.limits import Limit
from tests.conftest import ROOT, only_ci


def test_atomic_writes_the_new_file(tmp_path: Path) -> None:
    target = tmp_path / "model.onnx"
    with atomic(target) as temporary:
        temporary.write_bytes(b"new")
    assert target.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["model.onnx"]


def test_atomic_keeps_the_target_untouched_until_the_block_ends(tmp_path: Path) -> None:
    target = tmp_path / "model.onnx"
    target.write_bytes(b"old")
    with atomic(target) as temporary:
        temporary.write_bytes(b"new")
        assert target.read_bytes() == b"old"
    assert target.read_bytes() == b"new"


def test_the_temporary_lies_in_the_folder_of_the_target(tmp_path: Path) -> None:
    with atomic(tmp_path / "model.onnx") as temporary:
        assert temporary.parent == tmp_path  # a rename across file systems is no rename


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, MemoryError])
def test_an_exception_leaves_the_old_file_and_no_temporary(
    tmp_path: Path, error: type[BaseException]
) -> None:
    target = tmp_path / "model.onnx"
    target.write_bytes(b"old")
    with pytest.raises(error), atomic(target) as temporary:
        temporary.write_bytes(b"half")
        raise error
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["model.onnx"]


def test_an_exception_leaves_no_file_where_there_was_none(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), atomic(tmp_path / "model.onnx") as temporary:
        temporary.write_bytes(b"half")
        raise RuntimeError
    assert os.listdir(tmp_path) == []


def test_a_system_error_in_the_block_names_the_target(tmp_path: Path) -> None:
    target = tmp_path / "model.onnx"
    with pytest.raises(InputError, match=r"model\.onnx: can't be written \(No space left"):
        with atomic(target):
            raise OSError(28, "No space left on device")
    assert os.listdir(tmp_path) == []


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    target = tmp_path / "nowhere" / "model.onnx"
    with pytest.raises(InputError, match=r"nowhere/model\.onnx: can't be written"):
        write_bytes(target, b"new")
    assert not target.parent.exists()


def test_a_folder_is_no_target(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a folder; name a file"):
        write_bytes(tmp_path, b"new")


@pytest.fixture
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    """Set the process's umask to the parameter."""
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002], ids=oct, indirect=True)
def test_permissions_follow_the_umask(tmp_path: Path, umask: int) -> None:
    write_bytes(tmp_path / "model.onnx", b"new")
    assert (tmp_path / "model.onnx").stat().st_mode & 0o777 == 0o666 & ~umask
    assert os.umask(umask) == umask  # asking for the umask did not change it


def test_write_json_is_readable_and_ends_in_a_newline(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"name": "conv1", "range": [-1.5, 2]})
    text = (tmp_path / "a.json").read_text()
    assert json.loads(text) == {"name": "conv1", "range": [-1.5, 2]}
    assert text.endswith("}\n")


def test_a_value_that_is_no_json_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "a.json"
    target.write_text("old")
    with pytest.raises(TypeError):
        write_json(target, object())
    assert target.read_text() == "old"


def test_sha256_is_that_of_the_bytes(tmp_path: Path) -> None:
    data = bytes(range(256)) * 5000  # more than one block of a streaming reader
    (tmp_path / "a").write_bytes(data)
    assert sha256(tmp_path / "a") == hashlib.sha256(data).hexdigest()


def test_existing_file_returns_the_path(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x")
    assert existing_file(str(tmp_path / "a"), "the model") == tmp_path / "a"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none", "the model does not exist; check the path"),
        ("folder", "the model is a folder, a file was expected"),
        ("empty", "the model is empty"),
        ("pipe", "the model is no file; check the path"),
    ],
    ids=["missing", "folder", "empty", "pipe"],
)
def test_existing_file_says_what_is_wrong(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty").touch()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError) as caught:
        existing_file(tmp_path / name, "the model")
    assert str(caught.value) == f"{tmp_path / name}: {message}"


def test_existing_folder_refuses_a_file(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    assert existing_folder(tmp_path, "the data") == tmp_path
    with pytest.raises(InputError, match="the data is not a folder"):
        existing_folder(tmp_path / "a", "the data")


def nested(depth: int, form: str) -> str:
    """Return a document whose values are so many levels deep."""
    if form == "keys":
        return "a" + ".a" * (depth - 1) + " = 1"
    if form == "objects":
        return '{"a":' * depth + "1" + "}" * depth
    return "[" * depth + "]" * depth


@pytest.mark.parametrize("form", ["keys", "objects", "lists"])
def test_documents_of_a_hundred_levels_are_read_and_no_deeper(form: str, tmp_path: Path) -> None:
    file = tmp_path / "document"
    read, parse = (read_toml, parse_toml) if form == "keys" else (read_json, parse_json)
    file.write_text(nested(100, form))
    assert len(repr(read(file))) > 100
    # Those of 500 could be parsed, but not everywhere be shown.
    for depth in (101, 500, 2_000):
        file.write_text(nested(depth, form))
        with pytest.raises(ValueError, match="its values are nested too deep"):
            read(file)
        with pytest.raises(ValueError, match="its values are nested too deep"):
            parse(nested(depth, form))


@pytest.mark.parametrize("text", ["1", "null", '"a"', "0.5", "[]", "{}"])
def test_a_json_may_be_one_value(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(text)
    assert read_json(tmp_path / "a.json") == parse_json(text) == json.loads(text)


@pytest.mark.parametrize(
    ("text", "values"),
    [("[" + "[]," * 10 + "[]]", 12 * 100 + 10 * 40), ('{"a": {}, "b": 1}', 2 * 200 + 40), ("1", 0)],
)
def test_what_json_takes_is_counted_before_it_is_read(
    text: str, values: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for document in (text, text.encode()):
        parse_json(document, Limit("memory for values", values, "Bytes: all of it."))
    monkeypatch.setattr(json, "loads", lambda text: pytest.fail("it was parsed"))
    for document in (text, text.encode()):
        with pytest.raises(ValueError, match=r"it takes more than .* of memory for values"):
            parse_json(document, Limit("memory for values", values - 1, "Bytes: all of it."))


@only_ci
@pytest.mark.parametrize(
    "text",
    ["[],", "[1],", "[[[]]],", "{},", '{"":1},', '{"a":{}},', "1e1,", '"ab",', '[{"a":"bc"}],'],
)
def test_what_json_takes_is_not_more_than_is_counted(text: str) -> None:
    """But for texts, which a document holds itself: they become at most 16 times as large."""
    repeats = 400_000 // len(text) * 10
    document = "[" + text * repeats + "1]"
    code = (
        "import resource, sys\n"
        "from onnxgraft.files import parse_json\n"
        "text = sys.stdin.read()\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "found = parse_json(text)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input=document, capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
    )  # fmt: skip
    cost = document.count("[") * 100 + document.count("{") * 200 + document.count(",") * 40
    texts = document.count('"') // 2 * 64
    assert int(done.stdout) * 1024 < 1.3 * (cost + texts) + (8 << 20)


# A document with a key in it, and what stands there: `{}`.
_WITH_KEY = ("a{} = 1", "[a{}]", "a = {{ a{} = 1 }}", "a = [\n{{ a{} = 1 }} ]", "a = '''\n'''\na{}")


@pytest.mark.parametrize("count", [101, 100_000])
@pytest.mark.parametrize("text", _WITH_KEY)
def test_tomllib_which_would_take_minutes_for_a_long_key_never_gets_it(
    text: str, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tomllib, "loads", lambda text: pytest.fail("it was parsed"))
    for part in (".a", ' . ","', ".'='"):
        with pytest.raises(ValueError, match="its values are nested too deep"):
            parse_toml(text.format(part * (count - 1)))


@pytest.mark.parametrize(
    "text",
    ['x = "' + "a.b." * 200 + '"', "x = 1 # " + "a.b." * 200, "x = [" + "1.5," * 200 + "]",
     'x = """\n' + "a." * 200 + '\\""""""', "".join(f"x.y{i} = 1.5\n" for i in range(200))],
    ids=["a string", "a comment", "numbers", "lines", "many keys"],
)  # fmt: skip
def test_dots_elsewhere_make_no_long_key(text: str) -> None:
    assert "x" in parse_toml(text)
