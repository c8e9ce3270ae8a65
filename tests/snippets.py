"""The blocks of code on a page, run as a reader would: in order, in one folder.

CONTRIBUTING.md says how a page tells what a block is.
"""

from __future__ import annotations

import contextlib
import io
import linecache
import os
import re
import runpy
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema

from onnxgraft.commands._recipe_keys import schema
from tests.running import here

__all__ = ["LANGUAGES", "Block", "Reader", "agrees", "blocks", "check_recipe"]

# What a block is: code, commands, or what is printed or stands in a file.
LANGUAGES = ("python", "sh", "toml", "json", "text")
_SHOWN = ("json", "text")
_FENCE = re.compile(
    r"^(?:<!-- (?:not run: (?P<reason>[^\n]*?)|(?P<long>run in CI)) -->\n)?"
    r"^```(?P<language>[^\s`]*)(?: title=\"(?P<title>[^\"]+)\")?[^\n]*\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*(?:e[+-]?\d+)?")
_STATUS = re.compile(r"\s+# exit status (\d+)$")
# Programs of the system that a page may call.
_SYSTEM = ("cat", "ls", "mkdir", "unzip")
_ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        language: As the fence says.
        title: The file that it is, if it is one.
        text: What stands in it.
        line: Of the page, where its text begins.
        reason: Why it is not run; empty where it is.
        long: Whether it takes long, and is run in CI alone.
        behind: Whether nothing but space is between it and the block before.
    """

    language: str
    title: str
    text: str
    line: int
    reason: str
    long: bool
    behind: bool


def blocks(page: str) -> Iterator[Block]:
    """Yield the blocks of a page."""
    end = 0
    for found in _FENCE.finditer(page):
        yield Block(
            found["language"],
            found["title"] or "",
            found["text"],
            page.count("\n", 0, found.start("text")) + 1,
            found["reason"] or "",
            found["long"] is not None,
            not page[end : found.start()].strip(),
        )
        end = found.end()


def agrees(shown: str, printed: str) -> bool:
    """Tell whether a page shows what was printed.

    Numbers and spaces may differ; ``...`` stands for the rest of a line or for any lines.
    """
    lines = [_plain(line) for line in shown.strip().splitlines()]
    pattern = "".join(
        r"(?:.*\n)*?" if line == "..." else re.escape(line).replace(r"\.\.\.", ".*") + r"\n"
        for line in lines
    )
    text = "".join(f"{_plain(line)}\n" for line in printed.strip().splitlines())
    return re.fullmatch(pattern, text) is not None


def _plain(line: str) -> str:
    return " ".join(_NUMBER.sub("0", line).split())


def check_recipe(text: str) -> None:
    """Hold TOML that has tables of a recipe against the recipe's schema; a part may be shown."""
    document = tomllib.loads(text)
    known: dict[str, Any] = _optional(schema())
    if document.keys() <= known["properties"].keys():
        jsonschema.validate(document, known)


def _optional(part: Any) -> Any:
    """Return a schema in which nothing is required."""
    if isinstance(part, dict):
        return {key: _optional(value) for key, value in part.items() if key != "required"}
    return [_optional(value) for value in part] if isinstance(part, list) else part


class Reader:
    """Who follows a page: a folder, names in Python, and what was printed last.

    Attributes:
        page: The page's name.
        folder: The working directory.
        names: What Python knows.
        printed: What the last block printed; None where it was not run.
    """

    def __init__(self, page: str, folder: Path) -> None:
        self.page, self.folder = page, folder
        self.names: dict[str, Any] = {"__name__": "__main__"}
        self.printed: str | None = ""

    def follow(self, block: Block) -> None:
        """Do what a block says, and hold what it shows against what was printed."""
        where = f"{self.page}, line {block.line}"
        if block.title:
            path = self.folder / block.title
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text, encoding="utf-8")
        elif block.language == "python":
            self.printed = self._python(block)
        elif block.language == "sh":
            self.printed = "".join(self._command(line, where) for line in _lines(block.text))
        elif block.language in _SHOWN and block.behind and self.printed is not None:
            assert agrees(block.text, self.printed), f"{where}: printed was\n{self.printed}"
        if block.language == "toml":
            check_recipe(block.text)

    def _python(self, block: Block) -> str:
        name = f"<{self.page}:{block.line}>"
        # What is defined there has a source, as in a notebook.
        linecache.cache[name] = (len(block.text), None, block.text.splitlines(True), name)
        code = compile(block.text, name, "exec")
        with contextlib.chdir(self.folder), contextlib.redirect_stdout(io.StringIO()) as told:
            exec(code, self.names)
        return told.getvalue()

    def _command(self, line: str, where: str) -> str:
        wanted = 0
        if found := _STATUS.search(line):
            wanted, line = int(found[1]), line[: found.start()]
        program, *words = shlex.split(line, comments=True)
        if program == "onnxgraft":
            done = here(*words, cwd=self.folder)
            assert done.returncode == wanted, f"{where}: {line}\n{done.stdout}{done.stderr}"
            return done.stdout
        if program == "python" and words[0].endswith(".py"):
            with contextlib.chdir(self.folder), contextlib.redirect_stdout(io.StringIO()) as told:
                before, sys.argv = sys.argv, words
                try:
                    runpy.run_path(words[0], run_name="__main__")
                finally:
                    sys.argv = before
            return told.getvalue()
        if program == "make":
            targets = re.findall(r"^([\w-]+):", (_ROOT / "Makefile").read_text(), re.MULTILINE)
            assert {word for word in words if "=" not in word} <= set(targets), f"{where}: {line}"
            return ""
        if program == "pip":
            assert _extras(line) <= _known_extras(), f"{where}: {line}"
            return ""
        assert program in _SYSTEM, f"{where}: {program} is not run by the tests"
        done = subprocess.run(
            [program, *words], cwd=self.folder, capture_output=True, text=True, check=True,
            env={**os.environ, "LC_ALL": "C"},
        )  # fmt: skip
        return done.stdout


def _lines(text: str) -> Iterator[str]:
    """Yield the commands, each in one line."""
    for line in text.replace("\\\n", " ").splitlines():
        if line.strip() and not line.startswith("#"):
            yield line


def _extras(line: str) -> set[str]:
    return {
        name.strip()
        for names in re.findall(r"(?:onnxgraft|\.)\[([^]]+)\]", line)
        for name in names.split(",")
    }


def _known_extras() -> set[str]:
    document = tomllib.loads((_ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return set(document["project"]["optional-dependencies"])
