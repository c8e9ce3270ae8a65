"""TOML beyond what `tomllib` does: lengths and lines of keys, and values as they are written."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["Place", "key_lines", "longest_key", "toml_key", "toml_text"]

# Names of keys, and numbers in lists: ("calibrate", "images"), ("preprocess", "mean", 2).
Place = tuple[str | int, ...]

# A string without an end goes on to that of the line or the text: nothing is looked at twice.
_TOKEN = re.compile(
    r'''
      (?P<text> """(?:[^\\]|\\.)*?(?:"{3,5}|\\?\Z) | \'\'\'.*?(?:'{3,5}|\Z)
              | "(?:[^"\\\n]|\\.)*(?:"|(?=\n)|\\?\Z) | '[^'\n]*'?)
    | (?P<skip> [ \t\r]+ | \#[^\n]*)
    | (?P<end> \n)
    | (?P<mark> [\[\]{}=,.])
    | (?P<word> [^\s\[\]{}=,.\#"']+)
    ''',
    re.S | re.X,
)


def longest_key(text: str) -> int:
    r"""Return of how many parts, with dots between, the longest key or header is.

    Args:
        text: Of any kind: `tomllib` takes a time that grows with the square of that number. A
            number with a dot counts as two parts.

    >>> longest_key("a = '1.2.3'  # d.e.f.g\nb . 'c.' = 1")
    2
    """
    longest = parts = 0
    dotted = False
    for token in _TOKEN.finditer(text):
        kind = token.lastgroup
        if kind in ("text", "word"):
            parts = parts + 1 if dotted else 1
            longest = max(longest, parts)
        if kind != "skip":
            dotted = token[0] == "."
    return longest


@dataclass
class _Bracket:
    """A list or an inline table that is open: its place, and of a list the number of the value."""

    place: Place
    index: int | None


def key_lines(text: str) -> dict[Place, int]:
    r"""Return the line of every key, table and value of a list, the first line being 1.

    Args:
        text: A document that `tomllib` reads: nothing is checked again.

    >>> key_lines('a = 1\n[b]\nc.d = [1,\n2]\n')[("b", "c", "d", 1)]
    4
    """
    return _Scanner().scanned(text)


class _Scanner:
    def __init__(self) -> None:
        self.lines: dict[Place, int] = {}
        self.sizes: dict[Place, int] = {}  # of arrays of tables
        self.open: list[_Bracket] = []
        self.table: Place = ()  # that a header has begun
        self.key: Place = ()  # whose value follows
        self.names: list[str] = []  # of the key or header that is being read
        self.header = 0  # its brackets

    def scanned(self, text: str) -> dict[Place, int]:
        line, in_value = 1, False
        for token in _TOKEN.finditer(text):
            found, kind = token[0], token.lastgroup
            if kind == "end" and not self.open:
                in_value, self.names, self.header = False, [], 0
            elif kind in ("text", "word", "mark"):
                step = self._value if in_value else self._name
                in_value = step(found, kind, line)
            line += found.count("\n")
        return self.lines

    def _name(self, found: str, kind: str, line: int) -> bool:
        """Take a part of a key or header; tell whether a value follows."""
        if kind == "text":
            self.names.append(tomllib.loads(f"key = {found}")["key"])
        elif kind == "word":
            self.names.append(found)
        elif found == "[":
            self.header += 1
        elif found == "]" and self.names:
            self._begin(line)
        elif found == "=":
            start = self.open[-1].place if self.open else self.table
            self.key = self._note(start, line)
            return True
        elif found == "}":
            return self._close()
        return False

    def _value(self, found: str, kind: str, line: int) -> bool:
        """Take a part of a value; tell whether one follows, or else a key."""
        inside = self.open[-1] if self.open else None
        if kind == "mark" and found == ",":
            if inside is not None and inside.index is not None:
                inside.index += 1
                return True
            return False
        if kind == "mark" and found in "]}":
            return self._close()
        place = self.key
        if inside is not None and inside.index is not None:
            place = (*inside.place, inside.index)
            self.lines.setdefault(place, line)
        if kind == "mark" and found == "[":
            self.open.append(_Bracket(place, 0))
        elif kind == "mark" and found == "{":
            self.open.append(_Bracket(place, None))
            return False
        return True

    def _close(self) -> bool:
        self.open.pop()
        return True

    def _begin(self, line: int) -> None:
        """Begin the table of a header, which may be the next one of an array."""
        last = self.names[-1]
        place: Place = ()
        for name in self.names[:-1]:
            place = self._latest((*place, name))
            self.lines.setdefault(place, line)
        place = (*place, last)
        if self.header == 2:
            self.lines.setdefault(place, line)
            self.sizes[place] = self.sizes.get(place, 0) + 1
            place = self._latest(place)
        self.lines[place] = line
        self.table, self.names, self.header = place, [], 0

    def _latest(self, place: Place) -> Place:
        """Return the place of the last table, where there is an array of them."""
        return (*place, self.sizes[place] - 1) if place in self.sizes else place

    def _note(self, start: Place, line: int) -> Place:
        """Note the line of a key, and of the tables that its dots make."""
        place = start
        for name in self.names:
            place = (*place, name)
            self.lines.setdefault(place, line)
        self.names = []
        return place


def toml_text(value: object) -> str:
    """Return a value as TOML writes it, in one line.

    >>> toml_text({"a b": [1, 2.5, True, "x"]})
    '{ "a b" = [1, 2.5, true, "x"] }'
    """
    if isinstance(value, Mapping):
        pairs = [f"{toml_key(str(key))} = {toml_text(each)}" for key, each in value.items()]
        return f"{{ {', '.join(pairs)} }}" if pairs else "{}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(toml_text, value))}]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        # JSON's escapes are TOML's, but for DEL, and for what is beyond 16 bits.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return str(value)


def toml_key(name: str) -> str:
    """Return a key as TOML writes it.

    >>> toml_key("image:0")
    '"image:0"'
    """
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else toml_text(name)
