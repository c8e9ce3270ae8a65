"""What the docs list, name and show is what there is."""

import importlib
import importlib.util
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from docs import tables

import onnxgraft
from onnxgraft import commands
from onnxgraft.graph import pictures
from onnxgraft.graph.model import NAMES_KEY, SOURCE_KEY
from tests.conftest import ROOT
from tests.snippets import blocks

PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/*.md")]
# Whose pages ours link to: only those can be looked at that are here.
PROJECTS = (
    "https://docs.kernel.org/", "https://docs.nvidia.com/deeplearning/tensorrt/",
    "https://docs.openvino.ai/", "https://github.com/NVIDIA/TensorRT/",
    "https://github.com/google/atheris", "https://github.com/inisis/OnnxSlim",
    "https://github.com/onnx/tensorflow-onnx", "https://github.com/openvinotoolkit/nncf",
    "https://microsoft.github.io/Olive/", "https://nvidia.github.io/Model-Optimizer/",
    "https://onnxruntime.ai/docs/", "https://pre-commit.com/",
)  # fmt: skip
IDS = [str(page.relative_to(ROOT)) for page in PAGES]
# Keys of what an ONNX file carries.
METADATA = {SOURCE_KEY, NAMES_KEY, pictures.KEY}
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
    paths = {text for text in named(page) if re.fullmatch(r"\.?[\w.-]+(/[\w.-]*)*", text)}
    paths -= {block.title for block in blocks(page.read_text(encoding="utf-8"))}
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
    for name in set(re.findall(r"\bonnxgraft(?:\.\w+)+", text)) - METADATA:
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


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_a_link_to_elsewhere_is_one_to_a_project_that_is_named(page: Path) -> None:
    """CI reaches none of them, so no more is checked."""
    links = re.findall(r"\]\((\w+://[^)]*)\)", page.read_text(encoding="utf-8"))
    assert not [link for link in links if not link.startswith(PROJECTS) or re.search(r"\s", link)]


def test_the_api_has_every_public_name_and_every_result() -> None:
    page = (ROOT / "docs/api.md").read_text(encoding="utf-8")
    told = re.findall(r"^::: onnxgraft\.(?:commands\.)?(\w+)$", page, re.MULTILINE)
    assert len(told) == len(set(told))
    public = set(onnxgraft.__all__)
    results = {
        name
        for function in (getattr(onnxgraft, name) for name in public)
        if inspect.isfunction(function)
        for name in re.findall(r"\w+", str(inspect.signature(function).return_annotation))
    }
    assert set(told) >= public | (results & set(commands.__all__))
    assert set(told) <= public | set(commands.__all__)


@pytest.mark.parametrize(
    ("index", "pages"),
    [("docs/decisions", "0*.md"), ("docs/tutorials", "[a-z]*.md"), ("docs/howto", "[a-z]*.md"),
     ("benchmarks", "[a-z]*.md")],
)  # fmt: skip
def test_an_index_has_every_page_of_its_folder(index: str, pages: str) -> None:
    text = (ROOT / index / "README.md").read_text(encoding="utf-8")
    there = {page.name for page in (ROOT / index).glob(pages)}
    assert there and there == set(re.findall(r"\]\(([\w-]+\.md)\)", text))


def test_a_page_that_names_what_is_not_there_is_seen() -> None:
    gone = ("engine/tensorrt_builder.py", "runtime.py", "tests/core/", "docs/gone.md", "surgery/x")
    assert not [path for path in gone if is_there(path)]
    kept = ("surgery/list.py", "convert/", "val/", "ranges.json", "surgery/passes/ROOM/NAME.py")
    assert [path for path in kept if is_there(path)] == list(kept)
    assert not resolved("onnxgraft.runtime") and not resolved("onnxgraft.convert.load")
