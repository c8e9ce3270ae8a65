"""What the docs list, name and show is what there is."""

import importlib
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from docs import tables

from tests.conftest import ROOT, only_ci

PAGES = [
    *ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("docs/decisions/*.md"),
    *ROOT.glob("benchmarks/*.md"),
]  # fmt: skip
IDS = [str(page.relative_to(ROOT)) for page in PAGES]
CODE = re.compile(r"`([^`\n]+)`")
# Of a path: a name in capitals stands for any name.
PLACEHOLDER = re.compile(r"(?<![A-Za-z])[A-Z]{4,}(?![A-Za-z])")
# Without what commands of the Makefile write.
FOLDERS = {entry.name for entry in ROOT.iterdir() if entry.is_dir()} - {"build", "demo"}


@pytest.mark.parametrize("name", tables.TABLES)
def test_a_table_is_as_the_code_says(name: str) -> None:
    there, wanted = (page.splitlines() for page in tables.text_of(name))
    lacking = [line for line in wanted if line not in there]
    beyond = [line for line in there if line not in wanted]
    cure = f"run make docs: docs/{tables.TABLES[name][0]} lacks {lacking}, and has {beyond}"
    assert there == wanted, cure


def test_every_table_of_a_recipe_is_on_its_page() -> None:
    from onnxgraft.commands._recipe_keys import tables as of_recipes

    wanted = {f"keys of {table.title}" for table in of_recipes()}
    assert {name for name in tables.TABLES if name.startswith("keys of")} == wanted


def named(page: Path) -> Iterator[str]:
    """Yield what stands in backticks on a page, but for blocks of code."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    yield from CODE.findall(text)


def is_there(path: str) -> bool:
    """Tell whether a path that a page names is in the repository; of others, nothing is known.

    It is the repository's if it is a Python file, or begins with one of the repository's folders.
    """
    known = PLACEHOLDER.split(path)[0]
    if known != path:
        known = known.rpartition("/")[0]
    first, slash, _ = known.partition("/")
    ours = known.endswith(".py") or (slash and first in FOLDERS)
    return not ours or (ROOT / known).exists()


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_a_page_names_paths_that_are_there(page: Path) -> None:
    paths = [text for text in named(page) if re.fullmatch(r"\.?[\w.-]+(/[\w.-]*)*", text)]
    assert not [path for path in paths if not is_there(path)]


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_a_page_links_to_what_is_there(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    inside = [link for link in links if "://" not in link]
    assert not [link for link in inside if not (page.parent / link).exists()]


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_a_page_names_modules_that_are_there(page: Path) -> None:
    """``onnxgraft.ROOM.NAME`` is a module or what is in one; ``python -m`` runs a module."""
    text = page.read_text(encoding="utf-8")
    for name in re.findall(r"python -m ([\w.]+)", text):
        assert importlib.util.find_spec(name.rstrip(".")) is not None, name
    for name in set(re.findall(r"\bonnxgraft(?:\.\w+)+", text)):
        assert resolved(name), name


def resolved(name: str) -> bool:
    """Tell whether a dotted name is a module, or a module's attribute."""
    found: object = importlib.import_module("onnxgraft")
    for part in name.split(".")[1:]:
        if not hasattr(found, part):
            if not isinstance(found, ModuleType):
                return False
            inner = f"{found.__name__}.{part}"
            if importlib.util.find_spec(inner) is None:
                return False
            importlib.import_module(inner)
        found = getattr(found, part)
    return True


@only_ci
def test_the_first_python_example_of_the_readme_prints_what_it_says(
    lenet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It runs after `make demo`, whose files are here those of a network trained for less long."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    example = re.search(r"```python\n(.*?)```\n\n```\n(.*?)```", readme, re.S)
    assert example is not None
    program, printed = example.groups()
    (tmp_path / "demo").symlink_to(lenet)
    monkeypatch.chdir(tmp_path)
    exec(compile(program, "README.md", "exec"), {"__name__": "readme"})
    said = capsys.readouterr().out
    accuracies = re.compile(r"top1 \d+\.\d\d")
    assert accuracies.sub("top1", said) == accuracies.sub("top1", printed)


def test_a_page_that_names_what_is_not_there_is_seen() -> None:
    gone = ("engine/tensorrt_builder.py", "runtime.py", "tests/core/", "docs/gone.md", "surgery/x")
    assert not [path for path in gone if is_there(path)]
    kept = ("surgery/list.py", "convert/", "val/", "ranges.json", "surgery/passes/ROOM/NAME.py")
    assert [path for path in kept if is_there(path)] == list(kept)
    assert not resolved("onnxgraft.runtime") and not resolved("onnxgraft.convert.load")
