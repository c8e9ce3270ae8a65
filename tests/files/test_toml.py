"""The lines of keys: held against documents whose writer knows them, and against tomllib's keys."""

import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxgraft.files.toml import Place, key_lines, longest_key

DOCUMENT = """\
# [not] = "a table"
top = 1 # x = 2
"quoted.key" = "a # b"
'literal "one"'.inner = 'c = d'

[a]
b.c = 1
list = [
    1, # two = 3
    [2,
     3], {x = 1, y.z = [4]},
]
long = \"\"\"
[no.table]
key = \\\"\"\" still
\"\"\"\"
after = 1979-05-27 07:32:00.5

[[b]]
x = 1
[b.c]
y = 1
[[b]]
x = 2
  [ b . "c" ]
  y = { z = '''
w = 1''' , v = 2 }
"""


@pytest.mark.parametrize(
    "place, line",
    [
        (("top",), 2), (("quoted.key",), 3), (('literal "one"', "inner"), 4), (("a",), 6),
        (("a", "b", "c"), 7), (("a", "list"), 8), (("a", "list", 0), 9), (("a", "list", 1, 1), 11),
        (("a", "list", 2, "y", "z", 0), 11), (("a", "long"), 13), (("a", "after"), 17),
        (("b", 0), 19), (("b", 0, "c", "y"), 22), (("b", 1, "x"), 24), (("b", 1, "c"), 25),
        (("b", 1, "c", "y", "z"), 26), (("b", 1, "c", "y", "v"), 27),
    ],
)  # fmt: skip
def test_a_key_has_its_line(place: Place, line: int) -> None:
    assert key_lines(DOCUMENT)[place] == line


def places(value: Any, place: Place = ()) -> set[Place]:
    """Return every place in what tomllib read."""
    inner: list[tuple[str | int, Any]] = []
    if isinstance(value, dict):
        inner = list(value.items())
    elif isinstance(value, list):
        inner = list(enumerate(value))
    found = {place} if place else set()
    return found.union(*(places(each, (*place, key)) for key, each in inner))


def test_there_are_the_keys_that_tomllib_finds() -> None:
    assert set(key_lines(DOCUMENT)) == places(tomllib.loads(DOCUMENT))


# Of characters that mean something in TOML.
texts = st.text(alphabet="ab.=#[]{},\"'\\\n é", max_size=5)


def quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


class Writer:
    """Writes a document, and knows the line of what it writes."""

    def __init__(self, data: st.DataObject) -> None:
        self.draw = data.draw
        self.text = ""
        self.known: dict[Place, int] = {}

    @property
    def line(self) -> int:
        return self.text.count("\n") + 1

    def gap(self, newlines: bool) -> None:
        self.text += self.draw(
            st.sampled_from(["", " ", "\n", " # a = [\n"] if newlines else ["", " "])
        )

    def key(self, name: str) -> None:
        bare = name and set(name) <= set("ab")
        self.text += name if bare and self.draw(st.booleans()) else quoted(name)

    def value(self, place: Place, depth: int = 2) -> None:
        kinds = ["number", "text", "long", "literal"] + ["list", "table"] * (depth > 0)
        kind = self.draw(st.sampled_from(kinds))
        if kind == "number":
            self.text += self.draw(
                st.sampled_from(["1", "-2.5e3", "true", "1979-05-27 07:32:00.5"])
            )
        elif kind == "text":
            self.text += quoted(self.draw(texts))
        elif kind == "long":
            inner = self.draw(texts).replace("\\", "\\\\").replace('"', '\\"')
            self.text += f'"""{inner}""' + self.draw(st.sampled_from(['"', '""']))
        elif kind == "literal":
            self.text += f"'''{self.draw(texts).replace(chr(39), '')}'''"
        elif kind == "list":
            self.text += "["
            for index in range(self.draw(st.integers(0, 3))):
                self.gap(newlines=True)
                self.known[*place, index] = self.line
                self.value((*place, index), depth - 1)
                self.gap(newlines=True)
                self.text += ","
            self.text += "]"
        else:
            self.text += "{"
            for count, name in enumerate(self.draw(st.lists(texts, max_size=2, unique=True))):
                self.text += "," if count else ""
                self.pair((*place, name), depth - 1)
            self.text += "}"

    def pair(self, place: Place, depth: int = 2) -> None:
        self.gap(newlines=False)
        self.known[place] = self.line
        self.key(str(place[-1]))
        self.gap(newlines=False)
        self.text += "="
        self.gap(newlines=False)
        self.value(place, depth)
        self.gap(newlines=False)

    def keys(self, place: Place) -> None:
        for name in self.draw(st.lists(texts, max_size=3, unique=True)):
            self.pair((*place, name))
            self.text += self.draw(st.sampled_from(["\n", " # [x]\n", "\r\n\n"]))


@given(st.data())
def test_whatever_is_written_the_lines_are_those_that_the_writer_knows(data: st.DataObject) -> None:
    writer = Writer(data)
    writer.keys(())
    for number in range(data.draw(st.integers(0, 2))):
        writer.known["table", f"t{number}"] = writer.line
        writer.known.setdefault(("table",), writer.line)
        writer.text += f"[ table . t{number} ] # a\n"
        writer.keys(("table", f"t{number}"))
    for number in range(data.draw(st.integers(0, 2))):
        writer.known["many", number] = writer.line
        writer.known.setdefault(("many",), writer.line)
        writer.text += "[[many]]\n"
        writer.keys(("many", number))
    document = tomllib.loads(writer.text.replace("\r\n", "\n"))
    assert key_lines(writer.text) == writer.known
    assert set(writer.known) == places(document)


@given(st.data())
def test_the_longest_key_has_as_many_parts_as_were_written(data: st.DataObject) -> None:
    writer = Writer(data)
    writer.pair(("before",))  # of one part; the value may hold dots
    writer.text += "\n"
    names = ["key", *data.draw(st.lists(texts, min_size=3, max_size=9))]
    header = data.draw(st.booleans())
    writer.text += "[" if header else ""
    for number, name in enumerate(names):
        writer.text += "." if number else ""
        writer.gap(newlines=False)
        writer.key(name)
        writer.gap(newlines=False)
    writer.text += "]\n" if header else "= 1\n"
    writer.pair(("after",))
    document: Any = tomllib.loads(writer.text)
    for name in names:
        document = document[name]  # as many levels
    assert longest_key(writer.text) == len(names)
