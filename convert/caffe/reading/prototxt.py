"""Protobuf's text format, read without a schema: what forks add is no error until it matters."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from onnxgraft.errors import ModelError

__all__ = ["Message", "Scalar", "parse_prototxt"]

_MOST_NESTED = 32
_TOKEN = re.compile(
    r"""(?P<space>\s+|\#[^\n]*|[;,])
    |(?P<string>"(?:[^"\\\n]|\\.)*+"|'(?:[^'\\\n]|\\.)*+')
    |(?P<mark>[{}<>:\[\]])
    |(?P<word>[-+]?[\w.][\w.+-]*)""",
    re.VERBOSE,
)
_ESCAPE = re.compile(r"\\([0-7]{1,3}|x[0-9a-fA-F]{1,2}|.)")
_CLOSING = {"{": "}", "<": ">"}


@dataclass(frozen=True)
class Scalar:
    """A value as it was written, and where: ``line`` and ``column`` count from 1."""

    text: str
    line: int
    column: int
    quoted: bool = False

    @property
    def place(self) -> str:
        """The position, for messages."""
        return f"line {self.line}, column {self.column}"


@dataclass
class Message:
    """A message: its fields by name, each with all of its values in order."""

    line: int = 1
    fields: dict[str, list[Scalar | Message]] = field(default_factory=dict)

    def has(self, name: str) -> bool:
        """Tell whether the field is there."""
        return name in self.fields

    def message(self, name: str) -> Message:
        """Return the field's message, merged as protobuf does it; empty if it is not there."""
        merged = Message(self.line)
        for value in self.messages(name):
            merged.line = value.line
            for key, values in value.fields.items():
                merged.fields.setdefault(key, []).extend(values)
        return merged

    def messages(self, name: str) -> list[Message]:
        """Return the field's messages."""
        found = []
        for value in self.fields.get(name, []):
            if isinstance(value, Scalar):
                raise ModelError(f"{value.place}: {name} is a message, not {value.text!r}")
            found.append(value)
        return found

    def scalars(self, name: str) -> list[Scalar]:
        """Return the field's values."""
        found = []
        for value in self.fields.get(name, []):
            if isinstance(value, Message):
                raise ModelError(f"line {value.line}: {name} is a value, not a message")
            found.append(value)
        return found

    def text(self, name: str, default: str = "") -> str:
        """Return a string or the name of an enumeration's value; the last one counts."""
        values = self.scalars(name)
        return values[-1].text if values else default

    def choice(self, name: str, default: str, names: Sequence[str], first: int = 0) -> str:
        """Return the name of an enumeration's value, which may be written by its number.

        Args:
            name: Of the field.
            default: Where it is not there.
            names: Of the values, in order.
            first: The number of the first one.
        """
        text = self.text(name, default)
        number = int(text) - first if text.isdecimal() and len(text) < 10 else -1
        return names[number] if 0 <= number < len(names) else text

    def texts(self, name: str) -> list[str]:
        """Return all strings of a field."""
        return [value.text for value in self.scalars(name)]

    def integer(self, name: str, default: int = 0) -> int:
        """Return a whole number; the last one counts."""
        values = self.integers(name)
        return values[-1] if values else default

    def integers(self, name: str) -> list[int]:
        """Return all whole numbers of a field."""
        return [_integer(name, value) for value in self.scalars(name)]

    def number(self, name: str, default: float) -> float:
        """Return a number; the last one counts."""
        values = self.numbers(name)
        return values[-1] if values else default

    def numbers(self, name: str) -> list[float]:
        """Return all numbers of a field."""
        return [_number(name, value) for value in self.scalars(name)]

    def flag(self, name: str, default: bool) -> bool:
        """Return a boolean; the last one counts."""
        values = self.scalars(name)
        if not values:
            return default
        if values[-1].text in ("true", "True", "t", "1"):
            return True
        if values[-1].text in ("false", "False", "f", "0"):
            return False
        raise ModelError(f"{values[-1].place}: {name} is true or false, not {values[-1].text!r}")


def _integer(name: str, value: Scalar) -> int:
    try:
        return int(value.text, 0) if not re.fullmatch(r"[-+]?0\d+", value.text) else int(value.text)
    except ValueError as error:
        raise ModelError(f"{value.place}: {name} is a number, not {value.text!r}") from error


def _number(name: str, value: Scalar) -> float:
    try:
        return float(value.text.rstrip("fF") if value.text[-1:] in "fF" and
                     not value.text.lower().endswith("inf") else value.text)  # fmt: skip
    except ValueError as error:
        raise ModelError(f"{value.place}: {name} is a number, not {value.text!r}") from error


def parse_prototxt(text: str) -> Message:
    """Return the message that ``text`` holds.

    Raises:
        ModelError: It is not in protobuf's text format; line and column are told.
    """
    return _Parser(text).run()


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    at: int


class _Parser:
    """A parser without recursion: open messages are on a stack."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = self._scan()
        self.ahead: _Token | None = None
        # Positions go up, so that lines are counted once.
        self.line, self.counted, self.line_start = 1, 0, 0

    def run(self) -> Message:
        root = Message()
        open_messages: list[tuple[Message, str, int]] = [(root, "", 0)]
        while (token := self._next()) is not None:
            current, closing, _ = open_messages[-1]
            if token.kind == "mark" and token.text == closing:
                open_messages.pop()
            elif token.kind == "word":
                self._field(token, current, open_messages)
            elif token.kind == "mark" and token.text in "}>":
                raise self._error(token.at, f"a {token.text} that closes nothing")
            else:
                raise self._error(token.at, f"the name of a field was expected, not {token.text}")
        if len(open_messages) > 1:
            opened = open_messages[-1][0].line
            raise self._error(
                len(self.text), f"the file ends, but the {{ of line {opened} is not closed"
            )
        return root

    def _field(
        self, name: _Token, current: Message, open_messages: list[tuple[Message, str, int]]
    ) -> None:
        values = current.fields.setdefault(name.text, [])
        token = self._need(f"the value of {name.text}")
        if token.text == ":" and token.kind == "mark":
            token = self._need(f"the value of {name.text}")
            if token.kind == "mark" and token.text == "[":
                self._list(name, values, open_messages)
                return
            if token.kind in ("word", "string"):
                values.append(self._scalar(token))
                return
        if token.kind != "mark" or token.text not in _CLOSING:
            raise self._error(token.at, f"after {name.text} a : or a {{ was expected")
        self._open(token, values, open_messages)

    def _list(
        self,
        name: _Token,
        values: list[Scalar | Message],
        open_messages: list[tuple[Message, str, int]],
    ) -> None:
        while True:
            token = self._need(f"the end of the list {name.text}")
            if token.kind == "mark" and token.text == "]":
                return
            if token.kind not in ("word", "string"):
                raise self._error(token.at, f"{name.text} is a list of values")
            values.append(self._scalar(token))

    def _open(
        self,
        token: _Token,
        values: list[Scalar | Message],
        open_messages: list[tuple[Message, str, int]],
    ) -> None:
        if len(open_messages) > _MOST_NESTED:
            raise self._error(token.at, f"messages are nested more than {_MOST_NESTED} deep")
        line, _ = self._position(token.at)
        message = Message(line)
        values.append(message)
        open_messages.append((message, _CLOSING[token.text], token.at))

    def _scalar(self, token: _Token) -> Scalar:
        line, column = self._position(token.at)
        if token.kind != "string":
            return Scalar(token.text, line, column)
        text = _unquoted(token.text)
        # Strings that follow each other are one.
        while (following := self._next()) is not None:
            if following.kind != "string":
                self.ahead = following
                break
            text += _unquoted(following.text)
        return Scalar(text, line, column, quoted=True)

    def _scan(self) -> Iterator[_Token]:
        at = 0
        while at < len(self.text):
            match = _TOKEN.match(self.text, at)
            if match is None:
                raise self._error(at, f"{self.text[at]!r} was not expected")
            kind = str(match.lastgroup)
            if kind != "space":
                yield _Token(kind, match.group(), at)
            at = match.end()

    def _next(self) -> _Token | None:
        if self.ahead is not None:
            token, self.ahead = self.ahead, None
            return token
        return next(self.tokens, None)

    def _need(self, what: str) -> _Token:
        token = self._next()
        if token is None:
            raise self._error(len(self.text), f"the file ends where {what} was expected")
        return token

    def _position(self, at: int) -> tuple[int, int]:
        if at < self.counted:
            self.line, self.counted, self.line_start = 1, 0, 0
        self.line += self.text.count("\n", self.counted, at)
        last = self.text.rfind("\n", self.counted, at)
        if last >= 0:
            self.line_start = last + 1
        self.counted = at
        return self.line, at - self.line_start + 1

    def _error(self, at: int, what: str) -> ModelError:
        line, column = self._position(at)
        return ModelError(f"line {line}, column {column}: {what}")


def _unquoted(text: str) -> str:
    def escape(match: re.Match[str]) -> str:
        code = match.group(1)
        if code[0] in "01234567":
            return chr(int(code, 8))
        if code[0] == "x" and len(code) > 1:
            return chr(int(code[1:], 16))
        return {"n": "\n", "t": "\t", "r": "\r"}.get(code, code)

    return _ESCAPE.sub(escape, text[1:-1])
