"""Every error that a user can meet, and the exit status that it stands for.

OnnxgraftError
├── InputError                what the user gave is wrong or can't be used            exit 2
│   ├── ModelError            a model file can't be read, or holds what can't be
│   └── NotSupportedError     asked for something that onnxgraft does not do (yet)
└── MissingDependencyError    an optional package is not installed                    exit 3

A comparison that fails its tolerance is a result, not an exception: exit 1.
Messages say what, where and what to do, in one sentence or two.
"""

from __future__ import annotations

import difflib
import re
import textwrap
from collections.abc import Iterable
from typing import ClassVar

__all__ = [
    "EngineWarning",
    "InputError",
    "MissingDependencyError",
    "ModelError",
    "NotSupportedError",
    "OnnxgraftError",
    "advice_in",
    "nearest",
    "printable",
    "reason_in",
    "wrapped",
]


# Names are compared with what was given up to this product of its length and their number, which
# takes a second.
_COMPARED = 10_000_000
# What Python raises where code meets what it does not expect.
_UNEXPECTED = (AssertionError, AttributeError, LookupError, NameError, TypeError)


class OnnxgraftError(Exception):
    """Anything that onnxgraft tells the user in a sentence instead of a traceback."""

    exit_status: ClassVar[int] = 2

    def __init__(self, message: str = "") -> None:
        super().__init__(printable(message))


class InputError(OnnxgraftError):
    """What the user gave is wrong: a path, a name, a value."""


class ModelError(InputError):
    """A model file can't be read, or holds something that can't be used."""


class NotSupportedError(InputError):
    """The user asked for something that onnxgraft does not do (yet)."""


class MissingDependencyError(OnnxgraftError):
    """An optional package is not installed; the message has the line that installs it."""

    exit_status: ClassVar[int] = 3


class EngineWarning(UserWarning):
    """An engine was loaded that may compute something else than its graph says.

    It was built for a processor with other instructions, or it was not right when it was built.
    """


def printable(text: str, most: int = 2000) -> str:
    r"""Return ``text`` for a terminal: one line, no control characters, not endless.

    What messages tell of files are a stranger's words.

    >>> printable("a\x1b[2Jb\nc")
    'a\\x1b[2Jb c'
    """
    if not text.isprintable():
        line = " ".join(text.splitlines())
        text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in line)
    return text if len(text) <= most else f"{text[: most * 2 // 3]} ... {text[-most // 4 :]}"


def reason_in(error: BaseException, beside: re.Pattern[str] | None = None) -> str:
    r"""Return the line of a library's error that says what is wrong, for the end of a sentence.

    Of what Python raises where code meets what it does not expect, the text alone (a key, a number)
    says little: its type stands before it.

    Args:
        error: A library's, or Python's own.
        beside: What lines begin with that say something else.

    >>> reason_in(ValueError("\nbad magic\nat line 3")), reason_in(ValueError("Lost:\n weights"))
    ('bad magic', 'Lost: weights')
    >>> reason_in(KeyError("gone")), reason_in(EOFError())
    ("KeyError: 'gone'", 'EOFError')
    """
    text = str(getattr(error, "message", error))
    lines = [line for part in text.splitlines() if (line := part.strip())]
    if beside is not None:
        lines = [line for line in lines if not beside.match(line)]
    kind = type(error).__name__
    if not lines:
        return kind
    line = " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
    return f"{kind}: {line}" if isinstance(error, _UNEXPECTED) else line


def wrapped(text: str, width: int) -> str:
    """Return a line as lines of at most ``width`` columns, broken between words alone.

    What follows the first line stands a little to the right of it. A word that is longer, as a path
    may be, stays whole.

    >>> wrapped("wrote a/long/path/to/model.onnx and more", 16).splitlines()
    ['wrote', '  a/long/path/to/model.onnx', '  and more']
    """
    indent = text[: len(text) - len(text.lstrip())] + "  "
    return textwrap.fill(
        text, max(width, len(indent) + 1), subsequent_indent=indent, break_long_words=False,
        break_on_hyphens=False,
    )  # fmt: skip


def advice_in(sentence: str) -> str:
    """Return the part of a message that says what to do; empty where it has none.

    It stands behind the last semicolon that is not in brackets, or is the line that installs.

    >>> advice_in("m.onnx: is an engine (an old one; small), and no model; name the model")
    'name the model'
    >>> advice_in("Reading a SavedModel needs tensorflow: pip install 'onnxgraft[tensorflow]'")
    "pip install 'onnxgraft[tensorflow]'"
    """
    flat = sentence
    while (inner := re.search(r"\([^()]*\)", flat)) is not None:
        flat = flat[: inner.start()] + "_" * len(inner[0]) + flat[inner.end() :]
    place = max(flat.rfind("; "), flat.rfind(": pip install "))
    return sentence[place + 2 :] if place >= 0 else ""


def nearest(name: str, known: Iterable[str], most: int = 3) -> str:
    """Return a hint that names what ``name`` was probably meant to be.

    >>> nearest("prob:1", ["score:0", "prob:0"])
    'did you mean prob:0?'
    >>> nearest("mIoU", ["miou", "top1"])
    'did you mean miou?'
    >>> nearest("x", ["alpha", "beta"])
    'there are: alpha, beta'
    """
    names = sorted(set(known))
    few = len(name) * len(names) <= _COMPARED
    close = difflib.get_close_matches(name, names, n=most, cutoff=0.6) if few else []
    if few and not close:
        folded = {known.casefold(): known for known in names}
        found = difflib.get_close_matches(name.casefold(), folded, n=most, cutoff=0.6)
        close = [folded[known] for known in found]
    if close:
        return f"did you mean {' or '.join(close)}?"
    if not names:
        return "there are none"
    return f"there are: {', '.join(names[:8])}{', ...' if len(names) > 8 else ''}"
